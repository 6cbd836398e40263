"""The ``library`` of closed forms: every family fitted to all edges of all examples at once.

A family is ``c·f(a·x + b)``, with a polynomial beside it or x before it, for the functions f in
:data:`FUNCTIONS`, or a polynomial alone. Given a and b the rest is linear, so it is solved for exactly; a and b
start from the best points of a grid and follow Levenberg and Marquardt. Deterministic.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import sympy
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from kanlib.symbolic.closed_forms import ClosedForm, X, constants, length
from kanlib.symbolic.edges import Edges

_STEPS = 10  # of Levenberg and Marquardt's method, on a and b
_STARTS = 2  # of a search, for each edge and family
_STEEPEST = 12.0  # |a| at most, over half the domain
_SMALLEST_FACTOR = 1e-100  # |c| as written, at least
_EDGES_AT_ONCE = 64  # matched against the grid of starts


@dataclass(frozen=True)
class Function:
    """``f`` and its derivative on tensors, the template of ``f(c_1·x + c_2)``, and where a search starts from.

    ``written`` turns c, a and b of ``c·f(a·x + b)`` into the constants of the template.
    """

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    template: sympy.Expr
    shifts: tuple[float, ...]
    mirrored: bool = False
    written: Callable[[Tensor, Tensor, Tensor], list[Tensor]] = lambda c, a, b: [c, a, b]


C0, C1, C2 = constants(3)
_AFFINE = C1 * X + C2
_PLACES = tuple(np.linspace(-1.5, 1.5, 13))

#: The f of the families. ``shifts`` are where the middle of f lies on a domain from −1 to 1; for sin, phases.
FUNCTIONS = {
    # A shift of exp is a factor before it.
    "exp": Function(torch.exp, torch.exp, sympy.exp(C1 * X), (0.0,), True, lambda c, a, b: [c * b.exp(), a]),
    "sin": Function(torch.sin, torch.cos, sympy.sin(_AFFINE), tuple(np.arange(8) * math.pi / 4)),
    "tanh": Function(torch.tanh, lambda z: 1 - z.tanh().square(), sympy.tanh(_AFFINE), _PLACES),
    # The bell with its square multiplied out, which is shorter.
    "gaussian": Function(
        lambda z: (-z * z).exp(),
        lambda z: -2 * z * (-z * z).exp(),
        sympy.exp(X * _AFFINE),
        _PLACES,
        written=lambda c, a, b: [c * (-b * b).exp(), -a * a, -2 * a * b],
    ),
    "lorentzian": Function(
        lambda z: 1 / (1 + z * z), lambda z: -2 * z / (1 + z * z).square(), 1 / (1 + _AFFINE**2), _PLACES
    ),
    "softplus": Function(F.softplus, torch.sigmoid, sympy.log(1 + sympy.exp(_AFFINE)), _PLACES, True),
}


def fronts(
    edges: Edges,
    max_degree: int,
    functions: bool = True,
    max_length: float = math.inf,
    progress: bool = True,
) -> list[list[ClosedForm]]:
    """Every family's best form for each edge, the constant first.

    Args:
        edges: what is to be met.
        max_degree: highest degree of the polynomials that stand alone.
        functions: whether there are others beside polynomials.
        max_length: families that are longer than this are left out.
        progress: whether a bar shows it.
    """
    fits = [_polynomial(edges, degree) for degree in range(max_degree + 1)]
    fits += [_power(edges, exponents) for exponents in ((2,), (3,), (1, 3))]
    families = [(name, *shape) for name in FUNCTIONS for shape in _SHAPES] if functions else []
    families = [family for family in families if length(_template(*family)) <= max_length]
    bar = tqdm(families, "closed forms", unit="family", mininterval=1, disable=not progress)
    fits += [_wrapped(edges, *family) for family in bar]
    return [list(forms) for forms in zip(*fits, strict=True)]


#: Degree of the polynomial beside ``c·f``, and whether x stands before it: x·(c·f + e), then without the e.
_SHAPES = ((0, False), (1, False), (0, True), (1, True), (3, False), (5, False))


def _template(name: str, tail: int, before: bool) -> sympy.Expr:
    template = C0 * FUNCTIONS[name].template
    n = len(template.free_symbols - {X})
    more = constants(n + tail)[n:]
    # A line beside x·f shares its x.
    return X * sum(more, template) if before else template + _horner(more)


def _horner(coefficients: list[sympy.Symbol]) -> sympy.Expr:
    """The polynomial without constant term whose coefficients these are, the highest first."""
    out = sympy.Integer(0)
    for c in coefficients:
        out = X * (out + c)
    return out


def _formed(
    edges: Edges, template: sympy.Expr, values: list[Tensor], offset: Tensor, fitted: Tensor
) -> Iterator[ClosedForm]:
    """A form for each edge from constants ``[n]`` each and the rows ``[n, R]`` that the fit comes to."""
    r2, misfit = edges.quality(fitted)
    usable = torch.stack([*values, offset, misfit]).isfinite().all(0)
    rows = torch.stack(values, 1).tolist() if values else [[]] * len(offset)
    for row, *rest, good in zip(rows, *(v.tolist() for v in (offset, r2, misfit)), usable.tolist(), strict=True):
        yield ClosedForm(template, tuple(row), *rest) if good else _UNUSABLE


_UNUSABLE = ClosedForm(sympy.Integer(0), (), 0.0, -math.inf, math.inf)


def _polynomial(edges: Edges, degree: int) -> Iterator[ClosedForm]:
    basis = edges.rows(_chebyshev(edges.u, degree))
    solution = least_squares(basis, edges.target)
    powers = _in_powers(edges, solution)
    template = _horner(constants(degree))
    return _formed(
        edges, template, list(powers[:, 1:].flip(1).unbind(1)), powers[:, 0], _combined(basis, solution)
    )


def _power(edges: Edges, exponents: tuple[int, ...]) -> Iterator[ClosedForm]:
    basis = edges.rows(torch.stack([edges.x**p for p in (*exponents, 0)], 2))
    solution = least_squares(basis, edges.target)
    template = C0 * X ** exponents[0] if len(exponents) == 1 else X * (C0 * X**2 + C1)
    return _formed(
        edges, template, list(solution[:, :-1].flip(1).unbind(1)), solution[:, -1], _combined(basis, solution)
    )


def _wrapped(edges: Edges, name: str, tail: int, before: bool) -> Iterator[ClosedForm]:
    f = FUNCTIONS[name]
    factor = edges.x if before else torch.ones_like(edges.x)
    beside = _chebyshev(edges.u, tail)

    def design(a: Tensor, b: Tensor) -> Tensor:
        wrapped = factor * f.value(a[:, None] * edges.u + b[:, None])
        return edges.rows(torch.cat([wrapped[..., None], beside], 2))

    starts = _grid(edges, f, factor, tail)
    ends = [_searched(edges, f, factor, design, *start) for start in starts]
    a, b, _ = (torch.stack(v) for v in zip(*ends, strict=True))
    best = torch.stack([error for *_, error in ends]).argmin(0)
    a, b = (v.gather(0, best[None])[0] for v in (a, b))
    basis = design(a, b)
    solution = least_squares(basis, edges.target)
    powers = _in_powers(edges, solution[:, 1:])
    amplitude, *inner = f.written(solution[:, 0], a / edges.half, b - a * edges.middle / edges.half)
    # Next to nothing is multiplied by what is next to infinite, and may be 0 by an overflow: no number at all.
    values = [amplitude.where(amplitude.abs() > _SMALLEST_FACTOR, torch.full_like(amplitude, math.nan)), *inner]
    template = _template(name, tail, before)
    return _formed(
        edges, template, [*values, *powers[:, 1:].flip(1).unbind(1)], powers[:, 0], _combined(basis, solution)
    )


def _grid(edges: Edges, f: Function, factor: Tensor, tail: int) -> list[tuple[Tensor, Tensor]]:
    """Points of a grid over a and b, ``[n]`` each, where ``c·f`` explains most of what a polynomial leaves."""
    slope = torch.logspace(-0.7, 1, 8, dtype=torch.float64)
    slope = torch.cat([slope, -slope]) if f.mirrored else slope
    a, b = (v.flatten() for v in torch.meshgrid(slope, torch.tensor(f.shifts, dtype=torch.float64), indexing="ij"))
    if f is not FUNCTIONS["sin"]:
        b = -a * b
    u = edges.u[0, : edges.n_points]
    candidates = f.value(a[:, None] * u + b[:, None])
    root, factor = edges.root, factor[:, : edges.n_points]
    span = torch.linalg.qr(root[..., None] * _chebyshev(u, tail)).Q
    rest = root * edges.y
    rest = rest - _combined(span, (span.mT @ rest[..., None])[..., 0])
    gains = []
    for part in torch.arange(len(rest)).split(_EDGES_AT_ONCE):
        value = (root * factor)[part, None] * candidates
        own = value - (value @ span[part]) @ span[part].mT
        size = own.square().sum(2)
        # Where a polynomial explains the candidate to rounding, it is no candidate.
        usable = size > 1e-9 * value.square().sum(2)
        gain = (own @ rest[part, :, None])[..., 0].square() / size.clamp_min(1e-300)
        gains.append(gain.where(usable, torch.zeros_like(gain)))
    best = torch.cat(gains).topk(_STARTS, 1).indices
    return [(a[column], b[column]) for column in best.unbind(1)]


def _searched(
    edges: Edges, f: Function, factor: Tensor, design: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """a, b and the error after some steps of Levenberg and Marquardt, each edge with a damping of its own."""
    damping = torch.full_like(a, 1e-2)
    basis = design(a, b)
    c = _quickly(basis, edges.target)
    residual = edges.target - _combined(basis, c)
    error = residual.square().sum(1)
    for _ in range(_STEPS):
        slope = c[:, :1] * factor * f.slope(a[:, None] * edges.u + b[:, None])
        moving = edges.rows(torch.stack([slope * edges.u, slope], 2))
        whole = torch.cat([moving, basis], 2)
        gram = whole.mT @ whole
        diagonal = gram.diagonal(dim1=1, dim2=2)
        ridge = 1e-11 * diagonal + 1e-300
        ridge[:, :2] += damping[:, None] * diagonal[:, :2]
        step = torch.linalg.solve(gram + ridge.diag_embed(), whole.mT @ residual[..., None])[:, :2, 0].clamp(-1, 1)
        new_a, new_b = (a + step[:, 0]).clamp(-_STEEPEST, _STEEPEST), b + step[:, 1]
        new_basis = design(new_a, new_b)
        new_c = _quickly(new_basis, edges.target)
        new_residual = edges.target - _combined(new_basis, new_c)
        new_error = new_residual.square().sum(1)
        better = new_error < error
        a, b, error = (torch.where(better, v, w) for v, w in ((new_a, a), (new_b, b), (new_error, error)))
        c, residual = (torch.where(better[:, None], v, w) for v, w in ((new_c, c), (new_residual, residual)))
        basis = torch.where(better[:, None, None], new_basis, basis)
        damping = torch.where(better, damping / 5, damping * 5).clamp(1e-9, 1e6)
    return a, b, error


def _quickly(basis: Tensor, target: Tensor) -> Tensor:
    """Least squares by the normal equations, good enough to follow."""
    gram = basis.mT @ basis
    ridge = (1e-12 * gram.diagonal(dim1=1, dim2=2) + 1e-300).diag_embed()
    return torch.linalg.solve(gram + ridge, basis.mT @ target[..., None])[..., 0]


def least_squares(basis: Tensor, target: Tensor) -> Tensor:
    """Least squares ``[n, K]`` of ``target [n, R]`` on ``basis [n, R, K]``, by orthogonal columns."""
    size = basis.norm(dim=1, keepdim=True).clamp_min(1e-150)
    q, r = torch.linalg.qr(basis / size)
    # A column that the others explain gets (almost) nothing.
    r = r + 1e-13 * torch.eye(r.shape[-1], dtype=r.dtype)
    return torch.linalg.solve_triangular(r, q.mT @ target[..., None], upper=True)[..., 0] / size[:, 0]


def _combined(basis: Tensor, coefficients: Tensor) -> Tensor:
    return (basis @ coefficients[..., None])[..., 0]


def _chebyshev(u: Tensor, degree: int) -> Tensor:
    """``[..., degree + 1]``."""
    out = [torch.ones_like(u), u]
    for _ in range(degree - 1):
        out.append(2 * u * out[-1] - out[-2])
    return torch.stack(out[: degree + 1], -1)


def _in_powers(edges: Edges, coefficients: Tensor) -> Tensor:
    """Coefficients ``[n, K]`` of powers of x, the constant first, from those of Chebyshev polynomials of u."""
    k = coefficients.shape[1]
    to_powers = torch.zeros(k, k, dtype=torch.float64)
    for degree in range(k):
        row = np.polynomial.chebyshev.cheb2poly([0] * degree + [1])
        to_powers[degree, : len(row)] = torch.from_numpy(row)
    of_u = coefficients @ to_powers
    power = torch.arange(k)
    binomial = torch.tensor([[math.comb(p, q) for q in range(k)] for p in range(k)], dtype=torch.float64)
    # u = (x − middle) / half, expanded.
    shift = (-edges.middle)[:, None, None] ** (power[:, None] - power).clamp_min(0)
    expand = binomial * shift / edges.half[:, None, None] ** power[:, None]
    return (of_u[:, None] @ expand)[:, 0]
