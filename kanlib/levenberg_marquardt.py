"""Levenberg–Marquardt for a batch of KANs: all but the last layer searched for, the last one solved for exactly.

Given its hidden nodes, a KAN is linear in its last layer. So that layer is always the solution of a small linear
system, over a grid that follows the hidden nodes, and the search runs over the other layers only (variable
projection). Masks are shared by all examples, and with them the first layer's features B: every block of its
Gauss–Newton matrix is ``Bᵀ diag(δ_o δ_o') B``, so one product of the ``δ_o δ_o'`` of all examples with the
products of pairs of features gives them all.
Sources: Golub and Pereyra (2003), *Separable nonlinear least squares*; Eilers and Marx (1996) for the penalty.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import torch
from torch import Tensor

from kanlib.kan import mixed, multiplied
from kanlib.splines import features, roughness, values_and_slopes

_MARGIN = 0.05  # a grid goes on for this much of its length on each side
_EVEN = 0.3  # share of even spacing in a grid; the rest follows the inputs' quantiles (pykan's grid_eps)
_QUANTILE_SAMPLE = 500  # about so many inputs place a grid's inner points
_LAST = 0.1  # penalty on the last layer, relative to the others'
_RIDGE = 1e-6  # on every coefficient, so that every system has a solution
_DAMPING = 0.1  # of a search's first step
_REGRID = 5  # steps between two looks at the grids of middle layers
_PAIRS = 2**26  # products of pairs of features that are kept
_TILE = 2**20  # of those that are made when they are needed, at a time
_SLICE = 2**17  # numbers of a Jacobian at a time
_LEAST = 128  # masks of it, at least
_ROWS = 256  # of a Gauss–Newton matrix at a time


@dataclass(frozen=True)
class Shape:
    """The shape of a KAN: inputs, ``(sums, products)`` of each hidden layer, grid intervals, spline order.

    ``outside`` is the share of a hidden node's values that lies beyond either end of its grid.
    """

    m: int
    hidden: tuple[tuple[int, int], ...]
    grid: int
    order: int
    outside: float = 0.0

    @property
    def products(self) -> tuple[int, ...]:
        """Product nodes of each layer, the last one included."""
        return (*(q for _, q in self.hidden), 0)

    @property
    def layers(self) -> list[tuple[int, int, int]]:
        """``(sums, in, features)`` of each layer."""
        nodes = (self.m, *(h + q for h, q in self.hidden))
        sums = (*(h + 2 * q for h, q in self.hidden), 1)
        return [(o, i, 1 + self.grid + self.order) for o, i in zip(sums, nodes, strict=True)]

    @property
    def n_parameters(self) -> int:
        """Coefficients of all edges, and the bias."""
        return sum(o * i * n for o, i, n in self.layers) + 1

    def numbers(self, n_masks: int) -> int:
        """How many numbers one search holds, about."""
        first = self.layers[0][0]
        hidden = sum(i * n for _, i, n in self.layers[1:])
        once = self.n_parameters * (_LEAST + 2 * self.n_parameters)
        return n_masks * (first * (first + 1) // 2 + 6 * hidden) + once


@dataclass(frozen=True)
class Problem:
    """First-layer features ``[p, N]`` of masks and the responses ``[C, N]`` to them."""

    features: Tensor
    y: Tensor

    def part(self, n: int) -> "Problem":
        """Its first ``n`` masks."""
        return Problem(self.features[:, :n], self.y[:, :n])


class Pairs:
    """Products of all pairs of features ``[p, N]``: kept where they are few, else made slice by slice."""

    def __init__(self, features: Tensor):
        self._features = features
        self._index = torch.triu_indices(len(features), len(features), device=features.device)
        self._slice = max(1, _TILE // self._index.shape[1])
        few = self._index.shape[1] * features.shape[1] <= _PAIRS
        self._kept = self._products(slice(None)) if few else None

    def weighed(self, weights: Tensor) -> Tensor:
        """``Σ_n w_rn B_pn B_qn`` for all pairs ``p ≤ q``, ``[R, p(p + 1)/2]``, from weights ``[R, N]``."""
        if self._kept is not None:
            return weights @ self._kept.T
        total = weights.new_zeros(len(weights), self._index.shape[1])
        for start in range(0, weights.shape[1], self._slice):
            part = slice(start, start + self._slice)
            total.addmm_(weights[:, part], self._products(part).T)
        return total

    def _products(self, masks: slice) -> Tensor:
        part = self._features[:, masks]
        return part[self._index[0]] * part[self._index[1]]


@dataclass(frozen=True)
class Point:
    """Where C searches stand. Sums are the hidden layers', features and slopes those of the nodes made of them."""

    coefs: tuple[Tensor, ...]
    grids: tuple[Tensor, ...]
    bias: Tensor
    sums: tuple[Tensor, ...]
    features: tuple[Tensor, ...]
    slopes: tuple[Tensor, ...]
    residual: Tensor
    loss: Tensor


@dataclass(frozen=True)
class Found:
    """The best KANs of C searches, their error on validation and the step they were found at."""

    coefs: tuple[Tensor, ...]
    grids: tuple[Tensor, ...]
    bias: Tensor
    error: Tensor
    step: Tensor


def first_features(x: Tensor, grid: Tensor, order: int) -> Tensor:
    """First-layer features ``[m(1 + G + k), N]`` of masks ``[N, m]`` over a grid ``[1, m, G + 1]``."""
    return features(x.T[None], grid, order)[0].flatten(0, 1)


def search(
    shape: Shape,
    coefs: tuple[Tensor, ...],
    grids: tuple[Tensor, ...],
    problem: Problem,
    pairs: Pairs,
    held_out: Problem,
    penalty: Tensor,
    steps: int,
    relaxed: float = 1.0,
) -> Found:
    """Levenberg–Marquardt with a damping and acceptance of its own for every search of a batch.

    The last third of the steps are taken with ``relaxed`` times the penalty, and the best of them is kept.
    """
    point = _at(coefs, grids, shape, problem, penalty)
    best = _judged(point, shape, held_out, 0)
    if not coefs:
        return best
    system = _system(point, shape, problem, pairs, penalty)
    damping = torch.full_like(penalty, _DAMPING)
    for step in range(1, steps + 1):
        relaxes = relaxed != 1 and step == steps - steps // 3 + 1
        if relaxes:
            penalty, damping = relaxed * penalty, torch.full_like(damping, _DAMPING)
        if relaxes or (step % _REGRID == 0 and len(coefs) > 1):
            point = _at(*_relaid(point, shape), shape, problem, penalty)
            system = _system(point, shape, problem, pairs, penalty)
        if relaxes:
            best = _judged(point, shape, held_out, step - 1)
        move, solvable = _solved_for(system, damping)
        moved = tuple(c + d for c, d in zip(point.coefs, _shaped(move, point.coefs), strict=False))[:-1]
        proposal = _at(moved, point.grids[:-1], shape, problem, penalty)
        accepted = solvable & (proposal.loss < point.loss)
        damping = torch.where(accepted, damping / 2, damping * 3).clamp(1e-7, 1e7)
        # Where the proposal is refused, the system is what it was.
        new = accepted.nonzero().flatten()
        if len(new) == len(accepted) and step < steps:
            system = _system(proposal, shape, problem, pairs, penalty)
        elif len(new) and step < steps:
            of_new = mapped(lambda v, new=new: v[new], proposal), shape, Problem(problem.features, problem.y[new])
            for old, fresh in zip(system, _system(*of_new, pairs, penalty[new]), strict=True):
                old[new] = fresh
        point = where(accepted, proposal, point)
        now = _judged(point, shape, held_out, step)
        best = where(now.error < best.error, now, best)
    return best


def _at(
    coefs: Sequence[Tensor], grids: Sequence[Tensor], shape: Shape, problem: Problem, penalty: Tensor
) -> Point:
    """The point with these coefficients and grids of all but the last layer, which is solved for."""
    coefs, grids, sums, feats, slopes = list(coefs), list(grids), [], [], []
    flat = problem.features.expand(len(problem.y), -1, -1)
    for layer, coef in enumerate(coefs):
        s = coef.flatten(2) @ problem.features if layer == 0 else mixed(coef, feats[-1])
        if layer == len(coefs) - 1:
            # A KAN does not depend on the scale of its hidden nodes, but the penalty does.
            scale = s.std(2, keepdim=True).clamp_min(1e-12)
            coefs[layer], s = coef / scale[..., None], s / scale
        h = multiplied(s, shape.products[layer])
        if layer == len(grids):
            grids.append(laid(h, shape.grid, shape.outside))
        values, slope = values_and_slopes(h, grids[layer], shape.order)
        sums.append(s)
        feats.append(values)
        slopes.append(slope)
        flat = values.flatten(1, 2)
    last, bias = _solved(flat, problem.y, shape, _LAST * penalty)
    residual = problem.y - (last[:, 0].flatten(1)[:, None] @ flat)[:, 0] - bias[:, None]
    rough = roughness(shape.grid, shape.order, dtype=flat.dtype, device=flat.device)
    loss = residual.square().mean(1)
    for weight, c in zip(_weights(penalty, shape), [*coefs, last], strict=True):
        loss = loss + weight * ((c @ rough) * c).sum((1, 2, 3)) + _RIDGE * c.square().sum((1, 2, 3))
    return Point((*coefs, last), tuple(grids), bias, tuple(sums), tuple(feats), tuple(slopes), residual, loss)


def _weights(penalty: Tensor, shape: Shape) -> list[Tensor]:
    """What the roughness of each layer is weighted with."""
    return [*[penalty] * len(shape.hidden), _LAST * penalty]


def _solved(flat: Tensor, y: Tensor, shape: Shape, penalty: Tensor) -> tuple[Tensor, Tensor]:
    """Last layer ``[C, 1, in, n]`` and bias ``[C]``: penalised least squares on features ``[C, p, N]``."""
    edges = shape.layers[-1][1]
    rough = roughness(shape.grid, shape.order, dtype=torch.float64, device=y.device)
    middle, level = flat.mean(2), y.mean(1)
    normal = (flat @ flat.mT / y.shape[1] - middle[:, :, None] * middle[:, None]).double()
    normal += penalty[:, None, None] * torch.block_diag(*[rough] * edges)
    normal.diagonal(dim1=1, dim2=2).add_(_RIDGE)
    moment = (flat @ y[..., None])[..., 0] / y.shape[1] - middle * level[:, None]
    coef = _solution(normal, moment.double())[0].to(y.dtype)
    return coef.view(len(y), 1, edges, -1), level - (middle * coef).sum(1)


def _judged(point: Point, shape: Shape, held_out: Problem, step: int) -> Found:
    s = point.coefs[0].flatten(2) @ held_out.features
    for layer, grid in enumerate(point.grids):
        s = mixed(point.coefs[layer + 1], features(multiplied(s, shape.products[layer]), grid, shape.order))
    error = (s[:, 0] + point.bias[:, None] - held_out.y).square().mean(1)
    return Found(point.coefs, point.grids, point.bias, error, torch.full_like(error, step, dtype=torch.long))


def _system(
    point: Point, shape: Shape, problem: Problem, pairs: Pairs, penalty: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The Gauss–Newton matrix (its lower triangle) with the penalty's, what damping scales, half the descent."""
    normal, gradient = _normal(point, shape, problem.features, pairs)
    diagonal = normal.diagonal(dim1=1, dim2=2)
    scale = diagonal + 1e-3 * diagonal.mean(1, keepdim=True)
    rough = roughness(shape.grid, shape.order, dtype=normal.dtype, device=normal.device)
    start = 0
    for weight, coef in zip(_weights(penalty, shape), point.coefs, strict=True):
        stop = start + coef[0].numel()
        edges = normal[:, start:stop, start:stop].unflatten(2, (-1, len(rough))).unflatten(1, (-1, len(rough)))
        edges.diagonal(dim1=1, dim2=3).add_(weight[:, None, None, None] * rough[..., None])
        gradient[:, start:stop] -= weight[:, None] * (coef @ rough).flatten(1) + _RIDGE * coef.flatten(1)
        start = stop
    diagonal += _RIDGE
    return normal, scale, gradient


def _solved_for(system: tuple[Tensor, Tensor, Tensor], damping: Tensor) -> tuple[Tensor, Tensor]:
    """The damped step of all parameters, ``[C, P]``, and for which searches there is one."""
    normal, scale, gradient = system
    damped = normal.clone()
    damped.diagonal(dim1=1, dim2=2).add_(damping[:, None] * scale)
    move, solvable = _solution(damped, gradient)
    return move.nan_to_num(), solvable


def _solution(matrix: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Solutions ``[C, P]`` of positive definite systems, and which of them are."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    # torch.cholesky_solve takes as long as the factorisation.
    half = torch.linalg.solve_triangular(factor, right[..., None], upper=False)
    return torch.linalg.solve_triangular(factor.mT, half, upper=True)[..., 0], failed == 0


def _shaped(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Flat parameters ``[C, P]`` without the bias, shaped like the coefficients of every layer."""
    *parts, _ = flat.split([*(coef[0].numel() for coef in like), 1], 1)
    return [part.view_as(coef) for part, coef in zip(parts, like, strict=True)]


def _normal(point: Point, shape: Shape, first: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """``JJᵀ/N`` ``[C, P, P]`` of the Jacobian J ``[C, P, N]``, and ``J·residual/N``.

    Only the lower triangle is filled, which is all that a Cholesky factorisation reads. J is made a few masks at a
    time, so that it stays in the processor's cache; its first rows are ``δ_o B_p``.
    """
    c, n = point.residual.shape
    o, p = shape.layers[0][0], len(first)
    normal = first.new_zeros(c, shape.n_parameters, shape.n_parameters)
    gradient = first.new_zeros(c, shape.n_parameters)
    late, deltas = o * p, []
    for start in range(0, n, size := max(_LEAST, _SLICE // (c * shape.n_parameters))):
        part = slice(start, start + size)
        delta, rest = _jacobian(point, shape, part)
        early = (delta[:, :, None] * first[:, part]).flatten(1, 2)
        jacobian = torch.cat([early, rest], 1)
        for row in range(late, shape.n_parameters, _ROWS):
            rows = jacobian[:, row : row + _ROWS]
            stop = row + rows.shape[1]
            normal[:, row:stop, :stop].baddbmm_(rows, jacobian[:, :stop].mT)
        gradient += (jacobian @ point.residual[:, part, None])[..., 0]
        deltas.append(delta)
    delta = torch.cat(deltas, 2)
    one, other = torch.triu_indices(o, o, device=delta.device)
    blocks = pairs.weighed((delta[:, one] * delta[:, other]).flatten(0, 1)).view(c, -1)
    # gather is ten times as fast as an index.
    normal[:, :late, :late] = blocks.gather(1, _spread(o, p, delta.device).expand(c, -1)).view(c, late, late)
    return normal.div_(n), gradient.div_(n)


def _jacobian(point: Point, shape: Shape, masks: slice) -> tuple[Tensor, Tensor]:
    """How the output answers to the first layer's sums, ``[C, o, N]``, and to later parameters, ``[C, P, N]``."""
    one = torch.ones_like(point.residual[:, None, masks])
    delta, rows = one, [one]
    for layer in reversed(range(len(point.sums))):
        later = point.coefs[layer + 1]
        rows.insert(0, (delta[:, :, None, None] * point.features[layer][:, None, ..., masks]).flatten(1, 3))
        # Σ_b c_b B_b'(h) for every edge, then the sum over what it leads to.
        rates = later.transpose(1, 2) @ point.slopes[layer][..., masks]
        delta = _apart((rates * delta[:, None]).sum(2), point.sums[layer][..., masks], shape.products[layer])
    return delta, torch.cat(rows, 1)


def _apart(delta: Tensor, sums: Tensor, q: int) -> Tensor:
    """From how the output answers to nodes to how it answers to the sums they are made of."""
    if q == 0:
        return delta
    alone = sums.shape[1] - 2 * q
    other = sums[:, alone:].unflatten(1, (q, 2)).flip(2).flatten(1, 2)
    return torch.cat([delta[:, :alone], delta[:, alone:].repeat_interleave(2, 1) * other], 1)


@cache
def _spread(o: int, p: int, device: torch.device) -> Tensor:
    """Where in the blocks of pairs, one after the other, each entry of the whole matrix stands: ``[(op)²]``."""

    def place(n: int) -> Tensor:
        i, j = torch.triu_indices(n, n)
        whole = torch.empty(n, n, dtype=torch.long)
        whole[i, j] = whole[j, i] = torch.arange(len(i))
        return whole

    blocks, within = place(o), place(p)
    index = blocks[:, None, :, None] * (p * (p + 1) // 2) + within[None, :, None, :]
    return index.flatten().to(device)


def _relaid(point: Point, shape: Shape) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Coefficients and grids of all but the last layer, the middle ones' laid anew over their nodes.

    The edges keep their values at the nodes, by least squares, and their coefficients where no node falls.
    """
    coefs, grids = [point.coefs[0]], []
    for layer, old in enumerate(point.coefs[1:-1]):
        h = multiplied(point.sums[layer], shape.products[layer])
        grid = laid(h, shape.grid, shape.outside)
        new = features(h, grid, shape.order).double()
        values = torch.einsum("eoib,eibn->eion", old.double(), point.features[layer].double())
        normal = new @ new.mT / h.shape[2]
        normal.diagonal(dim1=2, dim2=3).add_(_RIDGE)
        moment = values @ new.mT / h.shape[2] + _RIDGE * old.double().transpose(1, 2)
        coefs.append(torch.linalg.solve(normal, moment.mT).mT.transpose(1, 2).to(old.dtype))
        grids.append(grid)
    return tuple(coefs), tuple(grids)


def laid(h: Tensor, grid: int, outside: float = 0.0) -> Tensor:
    """Grids ``[C, in, G + 1]`` over inputs ``[C, in, N]``, spaced in part evenly, in part by their quantiles.

    Of the inputs a share of about ``outside`` < 1/G is left beyond either end, where a grid is extended.
    """
    some = h[:, :, :: max(1, h.shape[2] // _QUANTILE_SAMPLE)].sort(2).values
    beyond = round(outside * (some.shape[2] - 1))
    ends = some[:, :, beyond : some.shape[2] - beyond] if beyond else h
    low, high = ends.amin(2, keepdim=True), ends.amax(2, keepdim=True)
    pad = _MARGIN * (high - low).clamp_min(1e-6)
    low, high = low - pad, high + pad
    at = torch.linspace(0, 1, grid + 1, dtype=h.dtype, device=h.device)
    inner = some[:, :, (at[1:-1] * some.shape[2]).long()]
    return _EVEN * (low + (high - low) * at) + (1 - _EVEN) * torch.cat([low, inner, high], 2)


def mapped(function: Callable[..., Tensor], *trees: Any) -> Any:
    """``function`` of corresponding tensors of dataclasses or nested tuples of one kind."""
    first = trees[0]
    if isinstance(first, Tensor):
        return function(*trees)
    if isinstance(first, tuple):
        return tuple(mapped(function, *parts) for parts in zip(*trees, strict=True))
    return type(first)(*(mapped(function, *(getattr(t, f.name) for t in trees)) for f in fields(first)))


def where(choice: Tensor, yes: Any, no: Any) -> Any:
    """Of each search of a batch what ``yes`` or ``no`` holds of it, by ``choice`` ``[C]``; see :func:`mapped`."""
    if choice.all():
        return yes
    return mapped(lambda a, b: torch.where(choice.view(-1, *[1] * (a.ndim - 1)), a, b), yes, no)
