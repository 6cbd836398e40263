"""Algorithm 3: interaction coefficients, mixed partial derivatives of the closed form at σ = 0.

A mixed partial over *different* components needs no derivative twice in the same direction. So the
expression is evaluated once in numbers ``a + Σ_S c_S ε_S`` with ``ε_j² = 0``, truncated at order k: the
coefficient ``c_S`` that comes out is ``L_S``, exactly, for all subsets at once.
"""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations
from math import factorial

import numpy as np
import pandas as pd
import sympy
import torch
from torch import Tensor

from kanlib import metrics, perturbation, references
from kanlib.closed_forms import ClosedForm, X, constants
from kanlib.errors import BadInputError
from kanlib.kan import KAN
from kanlib.references import Subset, subsets
from kanlib.symbolic import Batch, SymbolicKAN, paired

_MASKS = 2000  # at a time
_HIGHEST = 4  # order
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
    function = sympy.lambdify(symbols, expression, modules=[_FUNCTIONS, "math"], cse=True)
    with np.errstate(all="ignore"):
        return index, _read(function(*_units(len(symbols), max_order)), index)


def of_network(form: SymbolicKAN, max_order: int = 3) -> tuple[list[Subset], Tensor]:
    """:func:`coefficients` of a closed form, layer by layer.

    Written out as one expression, a form of three layers has every node of the first in it as often as later
    edges have their variable; so it is never written out.
    """
    nodes = _units(len(form.symbols), max_order)
    index = subsets(len(nodes), max_order)
    with np.errstate(all="ignore"):
        for edges, biases, q in zip(form.edges, form.biases, form.products, strict=True):
            sums = [
                sum((_edge(row[o])(h, *row[o].constants) for row, h in zip(edges, nodes, strict=True)), bias)
                for o, bias in enumerate(biases)
            ]
            nodes = paired(sums, q)
        return index, _read(nodes[0], index)


def derivative_errors(forms: Sequence[SymbolicKAN], kan: KAN, max_order: int = 3) -> dict[int, float]:
    """Median relative error of the forms' coefficients against the KANs' own exact ones, for each order.

    Over all E examples and those coefficients that are above 5 % of the largest of their example and order.

    Args:
        forms: E closed forms.
        kan: the E networks that they stand for.
        max_order: the highest order, at most 3 and at most the number of components.
    """
    m = kan.widths[0]
    zero = torch.zeros(1, m, dtype=kan.bias.dtype, device=kan.bias.device)
    exact = kan.derivatives(zero, max_order)
    errors: dict[int, list[Tensor]] = {r: [] for r in range(1, max_order + 1)}
    for e, form in enumerate(forms):
        index, values = of_network(form, max_order)
        for r, found in errors.items():
            of_order = [i for i, subset in enumerate(index) if len(subset) == r]
            true = torch.stack([exact[r][e, 0][index[i]] for i in of_order]).double().cpu()
            large = true.abs() > 0.05 * true.abs().max()
            found.append(((values[of_order] - true).abs() / true.abs())[large])
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
        at = part.clone().requires_grad_()
        # Where every edge is a constant there is nothing to go back through.
        responses = batch(at) + 0 * at.sum()
        slopes = [torch.autograd.grad(values.sum(), at, retain_graph=True)[0] for values in responses]
        rows.append(torch.stack(slopes))
    return torch.cat(rows, 1)


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


def _units(m: int, max_order: int) -> list["_Jet"]:
    """σ_1 … σ_m at 0."""
    algebra = _algebra(m, max_order)
    return [_Jet(row, algebra) for row in np.eye(1 + len(subsets(m, max_order)))[1 : 1 + m]]


def _edge(form: ClosedForm) -> Callable:
    return _lifted_template(form.template, len(form.constants))


@cache
def _lifted_template(template: sympy.Expr, n_constants: int) -> Callable:
    """``f(x, c_0, c_1, …)`` where x may be a :class:`_Jet`."""
    return sympy.lambdify([X, *constants(n_constants)], template, modules=[_FUNCTIONS, "math"], cse=True)


def _read(value: "_Jet | float", index: Sequence[Subset]) -> Tensor:
    jet = value.parts[1:] if isinstance(value, _Jet) else np.zeros(len(index))
    if not np.isfinite(jet).all():
        worst = index[int(np.flatnonzero(~np.isfinite(jet))[0])]
        raise BadInputError(f"the derivative over components {worst} is not finite at 0; refit the closed form.")
    return torch.from_numpy(jet.copy())


def pair_matrix(index: Sequence[Subset], values: Tensor, m: int) -> Tensor:
    """The coefficients ``[n_S]`` of the pairs in ``index`` as a symmetric matrix ``[m, m]``, 0 on its diagonal."""
    matrix = torch.zeros(m, m, dtype=values.dtype)
    for position, subset in enumerate(index):
        if len(subset) == 2:
            i, j = subset
            matrix[i, j] = matrix[j, i] = values[position]
    return matrix


class _Jet:
    """``Σ_S parts_S ε_S`` over subsets S of at most k directions, the empty one first."""

    __slots__ = ("algebra", "parts")

    def __init__(self, parts: np.ndarray, algebra: tuple[np.ndarray, ...]):
        self.parts = parts
        self.algebra = algebra

    def __add__(self, other):
        if isinstance(other, _Jet):
            return _Jet(self.parts + other.parts, self.algebra)
        parts = self.parts.copy()
        parts[0] += other
        return _Jet(parts, self.algebra)

    def __mul__(self, other):
        if not isinstance(other, _Jet):
            return _Jet(self.parts * float(other), self.algebra)
        left, right, product = self.algebra
        terms = self.parts[left] * other.parts[right]
        return _Jet(np.bincount(product, weights=terms, minlength=len(self.parts)), self.algebra)

    def __pow__(self, exponent):
        return self.compose(("pow", exponent))

    def __rtruediv__(self, other):
        return self**-1 * other

    def __truediv__(self, other):
        return self * (other**-1 if isinstance(other, _Jet) else 1 / other)

    def __neg__(self):
        return self * -1

    def __sub__(self, other):
        return self + -other

    def __rsub__(self, other):
        return -self + other

    __radd__ = __add__
    __rmul__ = __mul__

    def compose(self, function) -> "_Jet":
        """``f(a + n) = Σ_r f^(r)(a) n^r / r!``, where n, without constant part, is nilpotent."""
        nilpotent = _Jet(np.concatenate([[0.0], self.parts[1:]]), self.algebra)
        out, power = _Jet(np.zeros_like(self.parts), self.algebra) + _value(function, 0, self.parts[0]), nilpotent
        for r in range(1, _HIGHEST + 1):
            if not power.parts.any():
                break
            out = out + power * (_value(function, r, self.parts[0]) / factorial(r))
            power = power * nilpotent
        return out


@cache
def _algebra(m: int, max_order: int) -> tuple[np.ndarray, ...]:
    """Which pairs of disjoint subsets multiply into which: three index arrays."""
    index = [(), *subsets(m, max_order)]
    position = {s: i for i, s in enumerate(index)}
    triples = [
        (position[a], position[tuple(x for x in s if x not in a)], i)
        for i, s in enumerate(index)
        for r in range(len(s) + 1)
        for a in combinations(s, r)
    ]
    return tuple(np.array(column) for column in zip(*triples, strict=True))


def _value(function, r: int, at: float) -> float:
    return float(_derivative(function, r)(at))


@cache
def _derivative(function, r: int) -> Callable:
    x = sympy.Symbol("x")
    f = x ** function[1] if isinstance(function, tuple) else getattr(sympy, function)(x)
    return sympy.lambdify(x, f.diff(x, r), "numpy")


def _lifted(name: str):
    return lambda z: z.compose(name) if isinstance(z, _Jet) else getattr(np, name)(z)


_FUNCTIONS = {name: _lifted(name) for name in ("exp", "log", "sin", "cos", "tanh", "sqrt")}
