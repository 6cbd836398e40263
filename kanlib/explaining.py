"""One call, ``kanlib.explain``: the steps of the notebooks, from a network and an example to coefficients.

Example: the residual blocks of a network of one's own, for an image ``[C, H, W]`` of class 3::

    found = kanlib.explain(model, image, 3, components="layer*.*")
    found.effects                            # a row for each component; found.pairs and found.triples are alike
    found.what_if(["layer3.0"])              # what the KAN says of it, and what the network itself
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import comb, inf
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from kanlib import knobs as checks
from kanlib.attribution.averages import bias_corrected, smoothed_of_surrogate
from kanlib.attribution.certainty import resampled
from kanlib.attribution.coefficients import of_symbolic
from kanlib.attribution.surrogates import Linear
from kanlib.errors import BadInputError, shown, unknown
from kanlib.explanation import Explanation
from kanlib.kan.fitting import fit
from kanlib.kan.gauss_newton import Shape
from kanlib.masks import Split, gaussian, subsets
from kanlib.networks.components import find
from kanlib.networks.outputs import OutputFunction, answered
from kanlib.networks.patterns import plain
from kanlib.networks.probe import Probe
from kanlib.setups import Interactions, Perturbation, Stage, Surrogate, Symbolic
from kanlib.symbolic.one_sum import OneSum, shortest_of_all
from kanlib.symbolic.shortening import replace_edges

#: What :func:`explain` takes beside its own arguments: knobs of the notebooks, see :mod:`kanlib.setups`.
KNOBS: dict[type[Stage], str] = {
    Perturbation: "gate_site output_function scale n_fit n_validation n_test precision batch_size",
    Surrogate: "hidden grid spline_order restarts members decays steps minibatch rate optimiser penalties "
    "finalists iterations contest relaxed outside",
    Symbolic: "backend r2 max_degree evaluations",
    Interactions: "max_order refits",
}
_MOST_COEFFICIENTS = 5000  # of an example, unless max_order asks for more
_ROUND = 100  # masks
_SAMPLED_ORDER = 3  # the highest whose errors are known
_Knobs = TypeVar("_Knobs", bound=Stage)


def explain(
    model: nn.Module,
    x: Tensor,
    label: int | Sequence[int] | Tensor,
    components: str | Sequence[str] = "layer*.*",
    *,
    output_function: str | OutputFunction | None = None,
    n_fit: int | None = None,
    max_order: int | None = None,
    progress: bool = True,
    **knobs: Any,
) -> Explanation:
    """How one output of a network answers to its components: effects, interactions, a formula, and a KAN to ask.

    Masks scale the components, the responses to them are recorded, a KAN is fitted to these and turned into closed
    forms, and coefficients are read off: equal knobs give the numbers of the notebooks. Nothing is written to
    disk, the network stays as it is, and no global random state is used.

    Args:
        model: in evaluation mode, on any device.
        x: floating; with one label an example, ``[C, H, W]`` or ``[1, C, H, W]``, else E of them, ``[E, ...]``.
        label: a class, or one for each example.
        components: a pattern over module names or several, see :func:`kanlib.networks.components.find`.
        output_function: see :class:`kanlib.networks.probe.Probe`.
        n_fit: masks that the KAN is fitted to. ``None``: as many as it has parameters, in hundreds. They grow as m
            does, and with fewer the choice of the decay says more than the masks.
        max_order: highest order of the coefficients, 2 to 4. ``None``: the notebooks', or less where an example
            would have more than 5,000 of them.
        progress: whether bars show how far it is.
        knobs: any of :data:`KNOBS`, and ``seed``; the notebooks' where they are not given.

    Raises:
        BadInputError: unknown knobs or components, a network in training mode, examples that it does not take, or
            labels that are none of its classes; or as :meth:`kanlib.networks.probe.Probe.check`,
            :meth:`kanlib.networks.probe.Probe.responses` and :func:`kanlib.kan.fitting.fit`.
    """
    named = None if callable(output_function) else output_function
    own = {"output_function": named, "n_fit": n_fit, "max_order": max_order}
    given = {name: value for name, value in (knobs | own).items() if value is not None}
    _check_known(knobs)
    p, of_fit, of_forms = _stage(Perturbation, given), _stage(Surrogate, given), _stage(Symbolic, given)
    of_orders = _stage(Interactions, given)
    probe = _probe(model, x, label, components, p, output_function or p.output_function)
    m = len(probe.components)
    if n_fit is None:
        p = p.model_copy(update={"n_fit": _enough(m, of_fit)})
    order = _highest(m, of_orders.max_order) if max_order is None else of_orders.max_order
    index = subsets(m, order)
    (data, validation, test), clean = _recorded(probe, p, progress)
    kan = fit(data, validation, of_fit, progress=progress).kan
    forms = replace_edges(kan, data.masks, of_forms, progress)
    level, _ = smoothed_of_surrogate(kan, m, p.scale, order, seed=p.seed)
    samples = None
    if of_orders.refits > 1:
        known, n = min(order, _SAMPLED_ORDER), of_orders.refits
        samples = resampled(data, validation, of_fit, known, n=n, seed=p.seed, progress=progress)
    return Explanation(
        probe=probe,
        fit=data,
        validation=validation,
        test=test,
        clean=clean,
        linear=torch.from_numpy(Linear(of_fit).fit(data, validation).model.coef_),
        kan=kan,
        symbolic=forms,
        formulas=_formulas(data, validation, p.seed, progress),
        index=index,
        at_rest=torch.stack([of_symbolic(one, order)[1] for one in forms]),
        averaged=bias_corrected(level, kan, data, order),
        samples=samples,
    )


def _check_known(given: Mapping[str, Any]) -> None:
    known = ["seed", *" ".join(KNOBS.values()).split()]
    for name in given.keys() - known:
        raise unknown("knob", checks.spelled(name), known, "explain")


def _stage(kind: type[_Knobs], given: Mapping[str, Any]) -> _Knobs:
    """Those of the given knobs that are this stage's, the rest being its defaults."""
    names = {"seed", *KNOBS[kind].split()}
    return checks.validated(kind, {name: given[name] for name in given.keys() & names}, "explain")


def _probe(
    model: nn.Module,
    x: Tensor,
    label: int | Sequence[int] | Tensor,
    components: str | Sequence[str],
    p: Perturbation,
    output_function: str | OutputFunction,
) -> Probe:
    """What is asked, checked by a few forward passes, with what was adapted of it."""
    _check_network(model)
    examples, labels = _examples(x, label)
    names = find(model, [components] if isinstance(components, str) else components)
    device = next((weight.device for weight in model.parameters()), torch.device("cpu"))
    examples, labels = examples.to(device), labels.to(device)
    with torch.inference_mode():
        answered(model, examples[:1], 1, "give x as the network's own transform makes it")
    probe = Probe(model, names, examples, labels, p.gate_site, output_function, p.batch_size, p.precision)
    return replace(probe, adapted=probe.check())


def _check_network(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise BadInputError(f"the model is {shown(model)}, expected a torch.nn.Module; give the network itself.")
    for name, module in model.named_modules():
        # Asked as it is, it would change its own running statistics.
        if module.training:
            which = f"module {plain(name)}" if name else "the network"
            raise BadInputError(f"{which} is in training mode, expected evaluation mode; call model.eval().")


def _examples(x: Tensor, label: int | Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
    """Examples ``[E, ...]`` and labels ``[E]``, from one or several."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        what = f"a tensor of {x.dtype}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise BadInputError(
            f"x is {what}, expected a floating tensor; give it as the network's own transform makes it."
        )
    try:
        labels = torch.as_tensor(label)
    except (TypeError, ValueError, RuntimeError):
        labels = torch.empty(0)
    if labels.ndim == 0:
        labels = labels[None]
        # One image, or one vector, that is not yet a batch.
        x = x[None] if x.ndim in (1, 3) else x
    if labels.is_floating_point() or labels.dtype == torch.bool or not x.ndim or labels.shape != x.shape[:1]:
        raise BadInputError(
            f"label is {shown(label)} for x of shape {list(x.shape)}, expected the number of a class for each "
            "example; give one label with one example, or a list of E labels with examples [E, ...]."
        )
    return x, labels.long()


def _enough(m: int, of_fit: Surrogate) -> int:
    """As many masks as a KAN has parameters, in hundreds."""
    shape = Shape(m, tuple(of_fit.hidden), of_fit.grid, of_fit.spline_order)
    return -(-shape.n_parameters // _ROUND) * _ROUND


def _highest(m: int, most: int) -> int:
    """The highest order, at most ``most``, up to which there are few enough coefficients."""
    orders = range(1, min(m, most) + 1)
    return max(r for r in orders if r == 1 or sum(comb(m, k) for k in orders[:r]) <= _MOST_COEFFICIENTS)


def _recorded(probe: Probe, p: Perturbation, progress: bool) -> tuple[list[Split], Tensor]:
    """Responses to masks that fit, validate and test, and clean outputs ``[E]``."""
    splits, clean = [], torch.empty(0)
    for name, n in (("fit", p.n_fit), ("validation", p.n_validation), ("test", p.n_test)):
        masks = gaussian(n, len(probe.components), p.scale, p.seed, name)
        responses, clean = probe.responses(masks, name if progress else None)
        splits.append(Split(masks, responses, p.scale))
    return splits, clean


def _formulas(data: Split, validation: Split, seed: int, progress: bool) -> list[OneSum]:
    """The formula of one sum that is best of each example, however long."""
    kans = fit(data, validation, Surrogate(hidden=[1], seed=seed), progress=progress).kan
    parts = [slice(e, e + 1) for e in range(len(data.responses))]
    return [
        shortest_of_all(kans.select(torch.tensor([part.start])), data.of(part), validation.of(part), inf)[1]
        for part in parts
    ]
