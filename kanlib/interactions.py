"""Algorithm 3: interaction coefficients, mixed partial derivatives of the closed form at σ = 0.

All of them at once, exactly, see :mod:`kanlib.jets`. How far they are from the network's own derivatives, and how
far chance alone moves them.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import sympy
import torch
from scipy import stats
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from torch import Tensor
from tqdm import tqdm

from kanlib import fitting, metrics, perturbation, references
from kanlib.errors import BadInputError
from kanlib.jets import FUNCTIONS, Jet, lifted, units
from kanlib.kan import KAN
from kanlib.references import Subset, subsets
from kanlib.setups import generator
from kanlib.symbolic import Batch, SymbolicKAN, paired

_MASKS = 2000  # at a time
_NUMBERS = 2**23  # in the derivatives of KANs at a time
_TOP = 10  # coefficients whose signs and places are compared


def coefficients(
    expression: sympy.Expr, symbols: Sequence[sympy.Symbol], max_order: int = 3
) -> tuple[list[Subset], Tensor]:
    """``L_S = ∂^|S| ĝ / ∏_{j∈S} ∂σ_j`` at ``σ = 0`` (equation 3) for all ``|S| ≤ max_order``.

    Args:
        expression: ĝ, of sums, products, constant powers, exp, log, sin and tanh.
        symbols: σ_1 … σ_m, in the order of the components.
        max_order: the highest order k, 1 to 4 and at most m.

    Returns:
        The subsets and their coefficients (fp64), in units of the response.

    Raises:
        BadInputError: ``max_order`` out of range, or ĝ has no finite derivative at 0.
    """
    index = subsets(len(symbols), max_order)
    function = sympy.lambdify(symbols, expression, modules=[FUNCTIONS, "math"], cse=True)
    with np.errstate(all="ignore"):
        return index, _read(function(*units(len(symbols), max_order)), index)


def of_network(form: SymbolicKAN, max_order: int = 3) -> tuple[list[Subset], Tensor]:
    """:func:`coefficients` of a closed form, layer by layer.

    Written out as one expression, a form of three layers has every node of the first in it as often as later
    edges have their variable; so it is never written out.
    """
    nodes = units(len(form.symbols), max_order)
    index = subsets(len(nodes), max_order)
    with np.errstate(all="ignore"):
        for edges, biases, q in zip(form.edges, form.biases, form.products, strict=True):
            sums = list(biases)
            for row, h in zip(edges, nodes, strict=True):
                for o, edge in enumerate(row):
                    sums[o] += lifted(edge.template, len(edge.constants))(h, *edge.constants)
            nodes = paired(sums, q)
        return index, _read(nodes[0], index)


def of_kan(kan: KAN, max_order: int = 3, masks: Tensor | None = None) -> tuple[list[Subset], Tensor]:
    """The same of E KANs, ``[E, n_S]`` (fp64), from their splines' own derivatives.

    Args:
        kan: E networks.
        max_order: the highest order, at most 3 and at most the number of components.
        masks: where derivatives are averaged, ``[N, m]``; ``None``: at σ = 0 alone.
    """
    m, like = kan.widths[0], kan.bias
    index = subsets(m, max_order)
    masks = torch.zeros(1, m) if masks is None else masks
    total = torch.zeros(len(like), len(index), dtype=torch.float64)
    for part in masks.to(like).split(max(1, _NUMBERS // (len(like) * m**max_order))):
        parts = [derivative.sum(1).double().cpu() for derivative in kan.derivatives(part, max_order)]
        total += torch.stack([parts[len(subset)][(slice(None), *subset)] for subset in index], 1)
    return index, total / len(masks)


def derivative_errors(forms: Sequence[SymbolicKAN], kan: KAN, max_order: int = 3) -> dict[int, float]:
    """Median relative error of the forms' coefficients against the KANs' own exact ones, for each order.

    Over all E examples and those coefficients that are above 5 % of the largest of their example and order.

    Args:
        forms: E closed forms.
        kan: the E networks that they stand for.
        max_order: the highest order, at most 3 and at most the number of components.
    """
    index, exact = of_kan(kan, max_order)
    orders = torch.tensor([len(s) for s in index])
    errors: dict[int, list[Tensor]] = {r: [] for r in range(1, max_order + 1)}
    for form, of_example in zip(forms, exact, strict=True):
        _, values = of_network(form, max_order)
        for r, found in errors.items():
            one, true = values[orders == r], of_example[orders == r]
            large = true.abs() > 0.05 * true.abs().max()
            found.append(((one - true).abs() / true.abs())[large])
    return {r: torch.cat(found).median().item() for r, found in errors.items()}


def smoothed(
    forms: Sequence[SymbolicKAN], scale: float, max_order: int = 3, *, n_masks: int = 20_000, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """``E[∂_S ĝ(σ)]`` over σ ~ N(0, s² I) of E closed forms, by the estimator that the network's are found by.

    At masks of their own: with the network's, both would share what chance adds.

    Args:
        forms: E closed forms.
        scale: s.
        max_order: the highest order, 1 to 4 and at most m.
        n_masks: how many of them.
        seed: of those masks.

    Returns:
        Estimates and their standard errors, see :func:`kanlib.references.smoothed`.
    """
    masks = perturbation.masks(n_masks, len(forms[0].symbols), scale, seed, "smoothed")
    return references.smoothed(gradients(forms, masks), masks, scale, max_order)


def gradients(forms: Sequence[SymbolicKAN], masks: Tensor) -> Tensor:
    """``∂ĝ(σ)/∂σ`` of E closed forms at masks ``[N, m]``: ``[E, N, m]`` (fp64)."""
    batch, rows = Batch(forms), []
    for part in masks.double().split(_MASKS):
        at = part.expand(len(forms), -1, -1).clone().requires_grad_()
        # Where every edge is a constant there is nothing to go back through.
        total = (batch(at) + 0 * at.sum(2)).sum()
        rows.append(torch.autograd.grad(total, at)[0])
    return torch.cat(rows, 1)


def corrected(level: Tensor, residual: Tensor, masks: Tensor, scale: float, max_order: int) -> Tensor:
    """``E[∂_S f] = E[∂_S g] + E[(f − g) ∏_{j ∈ S} σ_j] / s^{2|S|}``: what a surrogate g misses of it is added.

    Args:
        level: ``E[∂_S g(σ)]`` of E surrogates, ``[E, n_S]``.
        residual: what they leave of recorded responses, ``f − g`` ``[E, N]``.
        masks: to these masks, ``[N, m]``.
        scale: s.
        max_order: the highest order.
    """
    return level + references.smoothed_from_values(residual, masks, scale, max_order)[0]


def reference(
    forms: Sequence[SymbolicKAN],
    of_forms: Tensor,
    gradient: Tensor,
    masks: Tensor,
    scale: float,
    max_order: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """``E[∂_S f(σ)]`` of E networks, steadied by closed forms of theirs as control variates.

    Only what the closed form leaves of the gradient, ``∂f − ∂ĝ``, is averaged over the masks, and ``E[∂_S ĝ]``,
    known from many more of them, is added. On average that is right whatever ĝ is, so long as it was not fitted on
    these masks; the closer ĝ is, the less is left to chance.

    Args:
        forms: E closed forms.
        of_forms: ``E[∂_S ĝ(σ)]`` ``[E, n_S]``, as :func:`smoothed` gives them.
        gradient: ``∂f(σ)/∂σ`` of the networks, ``[E, N, m]``.
        masks: at these masks, ``[N, m]``.
        scale: s.
        max_order: the highest order.

    Returns:
        Estimates and their standard errors ``[E, n_S]``, and their reliability ``[E, max_order]``: the correlation
        over subsets of one order between the estimates from even and from odd masks, corrected for their being
        halves (Spearman and Brown, ``2r / (1 + r)``).
    """
    left = gradient.double() - gradients(forms, masks)
    correction, error = references.smoothed(left, masks, scale, max_order)
    halves = [references.smoothed(left[:, h::2], masks[h::2], scale, max_order)[0] + of_forms for h in (0, 1)]
    orders = torch.tensor([len(s) for s in subsets(masks.shape[1], max_order)])
    of_order = [orders == k for k in range(1, max_order + 1)]
    r = torch.stack([metrics.pearson(*(half[:, chosen] for half in halves)) for chosen in of_order], 1)
    return of_forms + correction, error, 2 * r / (1 + r)


def fidelity(found: Tensor, reference: Tensor, index: Sequence[Subset]) -> pd.DataFrame:
    """How close coefficients are to a reference: a row for each example and order.

    Columns: ``example``, ``order``, ``pearson`` and ``spearman`` over the subsets of that order, ``signs``: share
    of the reference's ten largest whose sign is right, ``overlap``: share of them that are among the ten largest.

    Args:
        found: coefficients ``[E, n_S]``.
        reference: ``[E, n]``, of the first n subsets.
        index: the subsets.
    """
    rows = []
    orders = torch.tensor([len(s) for s in index[: reference.shape[1]]])
    for r in orders.unique().tolist():
        f, t = (v[:, : len(orders)][:, orders == r].double() for v in (found, reference))
        top, ours = (v.abs().topk(min(_TOP, v.shape[1])).indices for v in (t, f))
        columns = {
            "pearson": metrics.pearson(f, t),
            "spearman": metrics.spearman(f, t),
            "signs": (f.gather(1, top).sign() == t.gather(1, top).sign()).double().mean(1),
            "overlap": (top[:, :, None] == ours[:, None]).any(2).double().mean(1),
        }
        table = pd.DataFrame({name: values.tolist() for name, values in columns.items()})
        table.insert(0, "example", range(1, len(table) + 1))
        rows.append(table.assign(order=r))
    return pd.concat(rows, ignore_index=True)


def _read(value: Jet | float, index: Sequence[Subset]) -> Tensor:
    jet = value.parts[1:] if isinstance(value, Jet) else np.zeros(len(index))
    if not np.isfinite(jet).all():
        worst = index[int(np.flatnonzero(~np.isfinite(jet))[0])]
        raise BadInputError(f"the derivative over components {worst} is not finite at 0; refit the closed form.")
    return torch.from_numpy(jet.copy())


def resampled(
    x: Tensor,
    y: Tensor,
    x_validation: Tensor,
    y_validation: Tensor,
    scale: float,
    max_order: int = 3,
    *,
    n: int = 10,
    seed: int = 0,
    **options,
) -> tuple[Tensor, Tensor]:
    """Coefficients of KANs fitted anew to ``n`` resamples of the fit masks: at σ = 0, and over the masks.

    Resamples are drawn with replacement, and each KAN starts elsewhere, too: they differ by all that chance has a
    part in, the masks that were drawn and where the search ended. What every such KAN gets wrong does not show.

    Args:
        x: fit masks ``[N, m]``.
        y: responses ``[E, N]``.
        x_validation: ``[V, m]``, where derivatives are averaged.
        y_validation: ``[E, V]``.
        scale: s.
        max_order: the highest order, at most 3 and at most m.
        n: how many resamples.
        seed: of resamples and starts.
        options: see :func:`kanlib.fitting.fit`.

    Returns:
        Both ``[n, E, n_S]`` (fp64); the second :func:`corrected` by what the KAN leaves of its resample.
    """
    at_rest, over_masks = [], []
    for b in tqdm(range(n), "resamples", unit="fit", mininterval=1):
        source = generator(seed, "resample", b)
        drawn = torch.randint(len(x), (len(x),), generator=source)
        masks, responses = x[drawn], y[:, drawn]
        start = int(torch.randint(2**31, (), generator=source))
        kan = fitting.fit(masks, responses, x_validation, y_validation, seed=start, progress=False, **options).kan
        at_rest.append(of_kan(kan, max_order)[1])
        level = of_kan(kan, max_order, x_validation)[1]
        over_masks.append(corrected(level, responses - kan(masks), masks, scale, max_order))
    return torch.stack(at_rest), torch.stack(over_masks)


def significance(values: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
    """How sure coefficients are: standard errors, and p-values of their being 0, both ``[E, n_S]``.

    Student's t with as many degrees of freedom as there are resamples less one, corrected for how many
    coefficients an example has (Benjamini and Hochberg: of those called significant at p ≤ q, at most a share of q
    is false, on average).

    Args:
        values: coefficients ``[E, n_S]``.
        samples: the same of KANs fitted anew, ``[n, E, n_S]``, see :func:`resampled`.
    """
    error = samples.std(0)
    ratio = (values.double().abs() / error).nan_to_num(0.0)
    p = 2 * stats.t.sf(ratio.numpy(), len(samples) - 1)
    return error, torch.from_numpy(stats.false_discovery_control(p, axis=1))


def certainty(values: Tensor, samples: Tensor, index: Sequence[Subset], level: float = 0.05) -> pd.DataFrame:
    """What :func:`significance` finds, a row for each order.

    Columns: ``coefficients`` of all examples, their median ``standard error / mean |L|``, and the share of them
    that are ``significant`` at this level.

    Args:
        values: coefficients ``[E, n_S]``.
        samples: of KANs fitted anew, ``[n, E, n_S']``, of the first subsets.
        index: the subsets.
        level: expected share of false ones among those called significant.
    """
    values = values[:, : samples.shape[2]]
    error, doubt = significance(values, samples)
    orders = torch.tensor([len(s) for s in index[: samples.shape[2]]])
    rows = []
    for r in orders.unique().tolist():
        found, spread, p = (v[:, orders == r] for v in (values, error, doubt))
        rows.append(
            {
                "order": r,
                "coefficients": found.numel(),
                "standard error / mean |L|": (spread.median() / found.abs().mean()).item(),
                "significant": (p <= level).double().mean().item(),
            }
        )
    return pd.DataFrame(rows).set_index("order")


def pair_matrix(index: Sequence[Subset], values: Tensor, m: int) -> Tensor:
    """The coefficients ``[n_S]`` of the pairs in ``index`` as a symmetric matrix ``[m, m]``, 0 on its diagonal."""
    matrix = torch.zeros(m, m, dtype=values.dtype)
    for position, subset in enumerate(index):
        if len(subset) == 2:
            i, j = subset
            matrix[i, j] = matrix[j, i] = values[position]
    return matrix


def alike(profiles: Tensor) -> tuple[list[int], Tensor]:
    """Examples by how their coefficients ``[E, n_S]`` correlate: an order in which the alike are neighbours.

    The order is that of the leaves of average linkage on ``1 − r`` (scipy). Returns it, and the correlations r
    ``[E, E]`` in that order, fp64.
    """
    similarity = torch.corrcoef(profiles.double()).view(len(profiles), -1)
    if len(profiles) == 1:
        return [0], similarity
    distance = squareform((1 - similarity).numpy(), checks=False)
    order = leaves_list(linkage(distance, "average", optimal_ordering=True)).tolist()
    return order, similarity[order][:, order]
