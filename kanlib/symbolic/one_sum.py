"""A formula that is taken in at a glance: one function of one weighted sum, whose components share weights."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, product

import numpy as np
import sympy
import torch
from scipy.optimize import least_squares
from torch import Tensor

from kanlib.kan.kan import KAN
from kanlib.masks import Split
from kanlib.symbolic.closed_forms import ClosedForm, X, compiled, constants, length

_SCALES = (-1.0, -0.3, 0.3, 1.0)  # of the sum, over its standard deviation, that a search starts from
_SHIFTS = (-1.0, 0.0, 1.0)
_STARTS = 2  # the best of these, which are searched from
_EVALUATIONS = 100  # of a search
_MOST_GROUPS = 3
_C0, _C1 = constants(2)
_U = sympy.Symbol("u", real=True)
#: Every ``Φ(u)`` that is tried; the weights within u give it its scale.
OUTER = (X, _C0 * X * (X + _C1), _C0 * sympy.exp(X))
Groups = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class OneSum:
    """``ĝ(σ) = Φ(u) − Φ(0)`` with ``u = Σ_k w_k Σ_{i ∈ G_k} σ_i``.

    Attributes:
        outer: ``Φ``.
        groups: ``G_k``, the components that share a weight, counted from 0; one that is in none has no part in it.
        weights: ``w_k``.
    """

    outer: ClosedForm
    groups: Groups
    weights: tuple[float, ...]

    def __call__(self, masks: Tensor) -> Tensor:
        """``ĝ(σ)`` ``[N]`` (fp64) at masks ``[N, m]``."""
        u = _sums(masks, self.groups) @ torch.tensor(self.weights, dtype=torch.float64)
        return self.outer.values(u) - self.outer.values(torch.zeros_like(u))

    @property
    def of_sum(self) -> sympy.Expr:
        """``Φ(u) − Φ(0)`` in the symbol u."""
        at_rest = float(self.outer.values(torch.zeros((), dtype=torch.float64)))
        return self.outer.expression.xreplace({X: _U}) - sympy.Float(at_rest)

    @property
    def expression(self) -> sympy.Expr:
        """``ĝ(σ)`` in the symbols σ_1, σ_2, …, the sum written out."""
        terms = [
            weight * sympy.Symbol(f"sigma_{i + 1}", real=True)
            for weight, group in zip(self.weights, self.groups, strict=True)
            for i in group
        ]
        return self.of_sum.xreplace({_U: sympy.Add(*terms)})

    @property
    def length(self) -> int:
        """Operations and leaves of ``ĝ(σ)``, with the sum in the place of u."""
        # A group of n: its components and the signs between them, its weight and a sign of multiplication.
        of_groups = sum(2 * len(group) + 1 for group in self.groups)
        return length(self.of_sum) - 1 + of_groups + len(self.groups) - 1


def shortest_of_all(kan: KAN, data: Split, validation: Split, most: float) -> tuple[int, OneSum]:
    """An example and its formula: of all that are short enough, the one of lowest normalised validation error.

    To each example every ``Φ`` of :data:`OUTER` is fitted with a weight for each component, beginning at the sum
    that the KAN found; then again with one to three weights, which components share whose weights were alike, and
    without the component whose weight was the least.

    Args:
        kan: E KANs with one hidden node.
        data: fit masks and responses.
        validation: others.
        most: operations and leaves of the formula; where none is so short, it is the shortest one.
    """
    found = [
        (e, formula)
        for e, sums in enumerate(kan.activations(data.masks)[1][:, 0])
        for formula in _formulas(sums, data.masks, data.responses[e])
    ]
    limit = max(most, min(formula.length for _, formula in found))
    variance = validation.responses.double().var(1).tolist()

    def error(pair: tuple[int, OneSum]) -> float:
        e, formula = pair
        off = formula(validation.masks) - validation.responses[e].double()
        return float(off.square().mean()) / variance[e]

    return min((pair for pair in found if pair[1].length <= limit), key=error)


def _formulas(sums: Tensor, masks: Tensor, responses: Tensor) -> Iterator[OneSum]:
    """All formulas of one example, whose KAN takes the fit masks ``[N, m]`` to these sums ``[N]``."""
    direction = torch.linalg.lstsq(masks.double(), (sums - sums.mean()).double()[:, None]).solution[:, 0]
    direction /= (masks.double() @ direction).std()
    alone = tuple((i,) for i in range(len(direction)))
    for template in OUTER:
        starts = [(scale * direction, shift) for scale, shift in product(_SCALES, _SHIFTS)]
        free = _fitted(template, alone, masks, responses, starts)
        each = torch.tensor(free.weights)
        for groups in _groupings(each):
            shared = torch.stack([each[list(group)].mean() for group in groups])
            yield _fitted(template, groups, masks, responses, [(shared, *free.outer.constants[1:])])


def _groupings(weights: Tensor) -> Iterator[Groups]:
    """One to three groups of components whose weights are alike; then the same without the lightest component."""
    order = weights.argsort(descending=True)
    for kept in (order, order[order != weights.abs().argmin()]):
        for k in range(1, min(_MOST_GROUPS, len(kept)) + 1):
            cuts = [(0, *cut, len(kept)) for cut in combinations(range(1, len(kept)), k - 1)]
            ways = [[kept[first:last] for first, last in pairwise(cut)] for cut in cuts]
            spreads = [sum(float(weights[g].var(correction=0)) * len(g) for g in way) for way in ways]
            yield tuple(tuple(sorted(g.tolist())) for g in ways[spreads.index(min(spreads))])


def _fitted(
    template: sympy.Expr,
    groups: Groups,
    masks: Tensor,
    responses: Tensor,
    starts: Sequence[tuple[Tensor, *tuple[float, ...]]],
) -> OneSum:
    """The formula of least squared error that a search finds from starts of weights and, in Φ, of the shift."""
    n_groups, n_inner = len(groups), len(template.free_symbols - {X})
    function, *slopes = (
        compiled(part, n_inner) for part in (template, *(template.diff(v) for v in (X, *constants(n_inner))))
    )
    sums, y = _sums(masks, groups), responses.double()
    y = y / y.std()
    rest = torch.zeros((), dtype=torch.float64)

    def values(numbers: np.ndarray) -> Tensor:
        given = torch.from_numpy(numbers)
        inner = given[n_groups:]
        return function(sums @ given[:n_groups], *inner) - function(rest, *inner)

    def residual(numbers: np.ndarray) -> np.ndarray:
        return _bounded(values(numbers) - y)

    def jacobian(numbers: np.ndarray) -> np.ndarray:
        given = torch.from_numpy(numbers)
        u, inner = sums @ given[:n_groups], given[n_groups:]
        of_sum, *of_inner = (torch.as_tensor(slope(u, *inner)).expand_as(u) for slope in slopes)
        at_rest = [torch.as_tensor(slope(rest, *inner)) for slope in slopes[1:]]
        columns = [of_sum[:, None] * sums, *((s - s0)[:, None] for s, s0 in zip(of_inner, at_rest, strict=True))]
        return _bounded(torch.cat(columns, 1))

    def begun(weights: Tensor, *shift: float) -> np.ndarray:
        """A start, with the factor before Φ that is best there."""
        inner = [1.0, *shift][:n_inner]
        numbers = np.array([*weights.tolist(), *inner])
        if inner:
            unit = values(numbers)
            numbers[n_groups] = float(unit @ y / (unit @ unit).clamp_min(1e-300))
        return numbers

    ranked = sorted(
        (begun(*start) for start in starts), key=lambda numbers: float(np.square(residual(numbers)).sum())
    )
    ends = [
        least_squares(residual, start, jacobian, method="lm", x_scale="jac", max_nfev=_EVALUATIONS)
        for start in ranked[:_STARTS]
    ]
    best = min(ends, key=lambda end: end.cost).x.tolist()
    weights, inner = best[:n_groups], best[n_groups:]
    # What was fitted is the response over its standard deviation.
    scale = float(responses.double().std())
    if inner:
        inner[0] *= scale
    else:
        weights = [weight * scale for weight in weights]
    return OneSum(ClosedForm(template, tuple(inner)), groups, tuple(weights))


def _bounded(values: Tensor) -> np.ndarray:
    return values.nan_to_num(1e6, 1e6, -1e6).clamp(-1e6, 1e6).numpy()


def _sums(masks: Tensor, groups: Groups) -> Tensor:
    return torch.stack([masks[:, list(group)].double().sum(1) for group in groups], 1)
