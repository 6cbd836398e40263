"""Levenberg–Marquardt for a batch of KANs: all but the last layer searched for, the last one solved for exactly.

Given its hidden nodes, a KAN is linear in its last layer. So that layer is always the solution of a small linear
system, over a grid that follows the hidden nodes, and the search runs over the other layers only (variable
projection), by the matrices of :mod:`kanlib.kan.gauss_newton`.
Sources: Golub and Pereyra (2003), *Separable nonlinear least squares*; Eilers and Marx (1996) for the penalty.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kanlib.kan.gauss_newton import Pairs, Point, Shape, gauss_newton
from kanlib.kan.kan import weighted_sums
from kanlib.kan.splines import features, grid_over, values_and_slopes
from kanlib.kan.trees import tree_map, tree_where

_LAST_PENALTY = 0.1  # on the last layer, relative to the others'
_RIDGE = 1e-6  # on every coefficient, so that every system has a solution
_FIRST_DAMPING = 0.1
_STEPS_A_GRID = 5  # between two looks at the grids of middle layers


@dataclass(frozen=True)
class Problem:
    """First-layer features ``[p, N]`` of masks and the responses ``[C, N]`` to them."""

    features: Tensor
    y: Tensor

    def part(self, n: int) -> "Problem":
        """Its first ``n`` masks."""
        return Problem(self.features[:, :n], self.y[:, :n])

    def of(self, index: Tensor) -> "Problem":
        """Responses at these positions of the batch."""
        return Problem(self.features, self.y[index])


@dataclass(frozen=True)
class Found:
    """The best KANs of C searches, their error on validation and the step they were found at."""

    coefs: tuple[Tensor, ...]
    grids: tuple[Tensor, ...]
    bias: Tensor
    error: Tensor
    step: Tensor


@dataclass(frozen=True)
class System:
    """The Gauss–Newton matrix (its lower triangle) with the penalty's, what damping scales, half the descent."""

    matrix: Tensor
    scale: Tensor
    descent: Tensor

    def step(self, damping: Tensor) -> tuple[Tensor, Tensor]:
        """The damped step of all parameters, ``[C, P]``, and for which searches there is one."""
        damped = self.matrix.clone()
        damped.diagonal(dim1=1, dim2=2).add_(damping[:, None] * self.scale)
        move, solvable = _cholesky_solved(damped, self.descent)
        return move.nan_to_num(), solvable

    def put(self, index: Tensor, other: "System") -> None:
        """Replace the systems at these positions of the batch, in place."""
        for old, new in ((self.matrix, other.matrix), (self.scale, other.scale), (self.descent, other.descent)):
            old[index] = new


def first_features(masks: Tensor, grid: Tensor, order: int) -> Tensor:
    """First-layer features ``[m(1 + G + k), N]`` of masks ``[N, m]`` over a grid ``[1, m, G + 1]``."""
    return features(masks.T[None], grid, order)[0].flatten(0, 1)


@dataclass(frozen=True)
class Search:
    """What C searches are given: the KANs' shape, responses to fit and to be judged by, penalties ``[C]``.

    ``pairs`` are those of the problem's features.
    """

    shape: Shape
    problem: Problem
    pairs: Pairs
    held_out: Problem
    penalty: Tensor

    def run(self, coefs: tuple[Tensor, ...], grids: tuple[Tensor, ...], steps: int, relaxed: float = 1.0) -> Found:
        """Levenberg–Marquardt with a damping and acceptance of its own for every search of the batch.

        The last third of the steps are taken with ``relaxed`` times the penalty, and the best of them is kept.

        Args:
            coefs: of all but the last layer, where the searches start.
            grids: of the middle layers; where there are none, they are laid over the nodes.
            steps: how many at most.
            relaxed: see above.
        """
        search = self
        point = search.point(coefs, grids)
        best = search.judged(point, 0)
        if not coefs:
            return best
        system = search.system(point)
        damping = torch.full_like(search.penalty, _FIRST_DAMPING)
        for step in range(1, steps + 1):
            relaxes = relaxed != 1 and step == steps - steps // 3 + 1
            if relaxes:
                search = replace(search, penalty=relaxed * search.penalty)
                damping = torch.full_like(damping, _FIRST_DAMPING)
            if relaxes or (step % _STEPS_A_GRID == 0 and len(coefs) > 1):
                point = search.point(*regridded(point, search.shape))
                system = search.system(point)
            if relaxes:
                best = search.judged(point, step - 1)
            move, solvable = system.step(damping)
            moved = tuple(c + d for c, d in zip(point.coefs, _by_layer(move, point.coefs), strict=True))[:-1]
            proposal = search.point(moved, point.grids[:-1])
            accepted = solvable & (proposal.loss < point.loss)
            damping = torch.where(accepted, damping / 2, damping * 3).clamp(1e-7, 1e7)
            # Where the proposal is refused, the system is what it was.
            new = accepted.nonzero().flatten()
            if len(new) == len(accepted) and step < steps:
                system = search.system(proposal)
            elif len(new) and step < steps:
                system.put(new, search.of(new).system(tree_map(lambda v, new=new: v[new], proposal)))
            point = tree_where(accepted, proposal, point)
            now = search.judged(point, step)
            best = tree_where(now.error < best.error, now, best)
        return best

    def of(self, index: Tensor) -> "Search":
        """The searches at these positions of the batch."""
        return replace(
            self, problem=self.problem.of(index), held_out=self.held_out.of(index), penalty=self.penalty[index]
        )

    def point(self, coefs: Sequence[Tensor], grids: Sequence[Tensor]) -> Point:
        """The point with these coefficients and grids of all but the last layer, which is solved for."""
        coefs, grids = list(coefs), list(grids)
        nodes: list[Tensor] = []
        feats: list[Tensor] = []
        slopes: list[Tensor] = []
        flat = self.problem.features.expand(len(self.problem.y), -1, -1)
        for layer, coef in enumerate(coefs):
            h = coef.flatten(2) @ self.problem.features if layer == 0 else weighted_sums(coef, feats[-1])
            if layer == len(coefs) - 1:
                # A KAN does not depend on the scale of its hidden nodes, but the penalty does.
                scale = h.std(2, keepdim=True).clamp_min(1e-12)
                coefs[layer], h = coef / scale[..., None], h / scale
            if layer == len(grids):
                grids.append(grid_over(h, self.shape.grid, self.shape.outside))
            values, slope = values_and_slopes(h, grids[layer], self.shape.order)
            nodes.append(h)
            feats.append(values)
            slopes.append(slope)
            flat = values.flatten(1, 2)
        last, bias = _last_layer(flat, self.problem.y, self.shape, _LAST_PENALTY * self.penalty)
        residual = self.problem.y - (last[:, 0].flatten(1)[:, None] @ flat)[:, 0] - bias[:, None]
        rough = self.shape.roughness(flat)
        loss = residual.square().mean(1)
        for weight, c in zip(self._weights(), [*coefs, last], strict=True):
            loss = loss + weight * ((c @ rough) * c).sum((1, 2, 3)) + _RIDGE * c.square().sum((1, 2, 3))
        return Point((*coefs, last), tuple(grids), bias, tuple(nodes), tuple(feats), tuple(slopes), residual, loss)

    def judged(self, point: Point, step: int) -> Found:
        """The KANs of a point with their mean squared error on the held-out masks."""
        h = point.coefs[0].flatten(2) @ self.held_out.features
        for grid, coef in zip(point.grids, point.coefs[1:], strict=True):
            h = weighted_sums(coef, features(h, grid, self.shape.order))
        error = (h[:, 0] + point.bias[:, None] - self.held_out.y).square().mean(1)
        return Found(point.coefs, point.grids, point.bias, error, torch.full_like(error, step, dtype=torch.long))

    def system(self, point: Point) -> System:
        """The linear system whose damped solution is a step of all parameters from this point."""
        matrix, descent = gauss_newton(point, self.shape, self.problem.features, self.pairs)
        diagonal = matrix.diagonal(dim1=1, dim2=2)
        scale = diagonal + 1e-3 * diagonal.mean(1, keepdim=True)
        rough = self.shape.roughness(matrix)
        start = 0
        for weight, coef in zip(self._weights(), point.coefs, strict=True):
            stop = start + coef[0].numel()
            block = matrix[:, start:stop, start:stop]
            of_edges = block.unflatten(2, (-1, len(rough))).unflatten(1, (-1, len(rough)))
            of_edges.diagonal(dim1=1, dim2=3).add_(weight[:, None, None, None] * rough[..., None])
            descent[:, start:stop] -= weight[:, None] * (coef @ rough).flatten(1) + _RIDGE * coef.flatten(1)
            start = stop
        diagonal += _RIDGE
        return System(matrix, scale, descent)

    def _weights(self) -> list[Tensor]:
        """What the roughness of each layer is weighted with."""
        return [*[self.penalty] * len(self.shape.hidden), _LAST_PENALTY * self.penalty]


def _last_layer(flat: Tensor, y: Tensor, shape: Shape, penalty: Tensor) -> tuple[Tensor, Tensor]:
    """Last layer ``[C, 1, in, n]`` and bias ``[C]``: penalised least squares on features ``[C, p, N]``."""
    n_edges = shape.layers[-1][1]
    middle, level = flat.mean(2), y.mean(1)
    normal = (flat @ flat.mT / y.shape[1] - middle[:, :, None] * middle[:, None]).double()
    normal += penalty[:, None, None] * torch.block_diag(*[shape.roughness(normal)] * n_edges)
    normal.diagonal(dim1=1, dim2=2).add_(_RIDGE)
    moment = (flat @ y[..., None])[..., 0] / y.shape[1] - middle * level[:, None]
    coef = _cholesky_solved(normal, moment.double())[0].to(y.dtype)
    return coef.view(len(y), 1, n_edges, -1), level - (middle * coef).sum(1)


def _cholesky_solved(matrix: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Solutions ``[C, P]`` of positive definite systems, and which of them are."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    # torch.cholesky_solve takes as long as the factorisation.
    half = torch.linalg.solve_triangular(factor, right[..., None], upper=False)
    return torch.linalg.solve_triangular(factor.mT, half, upper=True)[..., 0], failed == 0


def _by_layer(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Flat parameters ``[C, P]`` without the bias, shaped like the coefficients of every layer."""
    *parts, _ = flat.split([*(coef[0].numel() for coef in like), 1], 1)
    return [part.view_as(coef) for part, coef in zip(parts, like, strict=True)]


def regridded(point: Point, shape: Shape) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Coefficients and grids of all but the last layer, the middle ones' laid anew over their nodes.

    The edges keep their values at the nodes, by least squares, and their coefficients where no node falls.
    """
    coefs, grids = [point.coefs[0]], []
    for h, feats, old in zip(point.nodes[:-1], point.features[:-1], point.coefs[1:-1], strict=True):
        grid = grid_over(h, shape.grid, shape.outside)
        new = features(h, grid, shape.order).double()
        values = torch.einsum("eoib,eibn->eion", old.double(), feats.double())
        normal = new @ new.mT / h.shape[2]
        normal.diagonal(dim1=2, dim2=3).add_(_RIDGE)
        moment = values @ new.mT / h.shape[2] + _RIDGE * old.double().transpose(1, 2)
        coefs.append(torch.linalg.solve(normal, moment.mT).mT.transpose(1, 2).to(old.dtype))
        grids.append(grid)
    return tuple(coefs), tuple(grids)
