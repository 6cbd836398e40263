"""Fitting KANs: candidates are trained from several starts, validation chooses, and all answer 0 at rest."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from kanlib.errors import BadInputError
from kanlib.kan.descent import Observed, Schedule, best_of
from kanlib.kan.first_order import EvenKANs
from kanlib.kan.gauss_newton import Shape
from kanlib.kan.kan import KAN, averaged
from kanlib.kan.knobs import Knobs
from kanlib.kan.second_order import contest
from kanlib.machine import generator
from kanlib.masks import Split

#: In the features of one batch of KANs, which a processor's cache should hold, and a GPU be busy with.
_BATCH_NUMBERS = {"cpu": 2**21, "cuda": 2**27}


@dataclass(frozen=True)
class Fit:
    """What :func:`fit` found of each example: penalty or decay, restart and step are those of the best member."""

    kan: KAN
    validation_mse: Tensor
    penalty: Tensor
    restart: Tensor
    steps: Tensor


def fit(data: Split, validation: Split, knobs: Knobs, *, seed: int | None = None, progress: bool = True) -> Fit:
    """Minimise equation 2, ``mean_i (g(σ_i; θ) − y_i)²``, for all examples, with ``g(0) = 0``.

    By minibatch descent (:mod:`kanlib.kan.first_order`) with decaying weights, or by second-order steps
    (:func:`kanlib.kan.second_order.contest`) with a penalty on roughness, from ``restarts`` starts for each. The
    best on validation is the result, or the mean of the ``members`` best, which is a KAN again.

    Args:
        data: masks ``[N, m]`` and responses ``[E, N]``, fp32 or fp64, on the device that fits. The response at
            rest, which is 0, is added to them, see :meth:`kanlib.masks.Split.with_rest`.
        validation: others, of the same examples.
        knobs: see :class:`kanlib.kan.knobs.Knobs`.
        seed: of the random starts; ``None``: the knobs'.
        progress: whether a bar shows it.

    Raises:
        BadInputError: responses that are constant or not finite (the example is named), or shapes that differ.
    """
    members, choice, step = best_members(data, validation, knobs, seed=seed, progress=progress)
    n = len(choice) // len(data.responses)
    kan = averaged(members, n)
    error = (kan(validation.masks) - validation.responses).square().mean(1)
    penalty = error.new_tensor(_penalties(knobs))[choice[::n] // knobs.restarts]
    return Fit(kan, error, penalty, choice[::n] % knobs.restarts, step[::n])


def best_members(
    data: Split, validation: Split, knobs: Knobs, *, seed: int | None = None, progress: bool = True
) -> tuple[KAN, Tensor, Tensor]:
    """The KANs that :func:`fit` averages, ``members`` of each example, the best first.

    Returns:
        KANs ``[E · members]``, the number of each candidate, by penalty and then by start, and its step.
    """
    _check(data, validation)
    shape = Shape(data.masks.shape[1], tuple(knobs.hidden), knobs.grid, knobs.spline_order, knobs.outside)
    if len(data.masks) < shape.n_parameters:
        warnings.warn(
            f"a KAN of {shape.n_parameters} parameters is fitted to {len(data.masks)} masks, so the penalty "
            "decides much of it; record more masks or make it smaller.",
            stacklevel=3,
        )
    data = data.with_rest()
    mean, deviation = data.responses.mean(1, keepdim=True), data.responses.std(1, keepdim=True)
    seen, unseen = (Split(s.masks, (s.responses - mean) / deviation, s.scale) for s in (data, validation))
    search = _descended if knobs.optimiser == "adamw" else contest
    seed = knobs.seed if seed is None else seed
    found, choice, step = search(seen, unseen, shape, knobs, _penalties(knobs), seed, progress)
    scale, level = (v.repeat_interleave(len(choice) // len(v), 0) for v in (deviation, mean))
    last = found.coefs[-1] * scale[:, :, None, None]
    bias = found.bias * scale[:, 0] + level[:, 0]
    return KAN(found.grids, (*found.coefs[:-1], last), bias, found.order).through_rest(), choice, step


def _penalties(knobs: Knobs) -> list[float]:
    return list(knobs.decays if knobs.optimiser == "adamw" else knobs.penalties)


def _descended(
    data: Split,
    validation: Split,
    shape: Shape,
    knobs: Knobs,
    decays: Sequence[float],
    seed: int,
    progress: bool,
) -> tuple[KAN, Tensor, Tensor]:
    """By minibatch descent, the ``members`` best KANs of each example, which candidates they are, their steps."""
    kans = EvenKANs(shape, data.masks)
    observed, unseen = (Observed(kans.inputs(s.masks), s.responses) for s in (data, validation))
    starts = [kans.start(generator(seed, "kan", restart)) for restart in range(knobs.restarts)]
    schedule = Schedule(knobs.steps, knobs.minibatch, knobs.rate)
    at_once = max(1, _BATCH_NUMBERS[data.masks.device.type] // (knobs.minibatch * shape.n_features))
    label = "KAN fits" if progress else ""
    trained, choice = best_of(
        kans, starts, observed, unseen, decays, knobs.members, schedule, seed, label, at_once
    )
    return kans.kan(trained.parameters, trained.bias[:, 0]), choice, trained.step


def _check(data: Split, validation: Split) -> None:
    x, y, unseen, truth = data.masks, data.responses, validation.masks, validation.responses
    if y.shape[1] != len(x) or truth.shape != (len(y), len(unseen)):
        raise BadInputError(
            f"responses are {tuple(y.shape)} and {tuple(truth.shape)}, expected {len(y)} examples by "
            f"{len(x)} and {len(unseen)} masks; use the responses recorded with these masks."
        )
    if unseen.shape[1] != x.shape[1]:
        raise BadInputError(
            f"validation masks have {unseen.shape[1]} components, expected {x.shape[1]} as the fit masks."
        )
    for i in (~x.isfinite().all(1)).nonzero().flatten().tolist():
        raise BadInputError(f"mask {i + 1} is not finite, expected numbers; record the responses again.")
    for e in (~(y.std(1) > 0) | ~truth.isfinite().all(1)).nonzero().flatten().tolist():
        raise BadInputError(
            f"responses of example {e + 1} are constant or not finite, so there is nothing to fit; leave it out."
        )
