"""The Gauss–Newton matrices of a batch of KANs that share their masks, all but the penalty's share of them.

With the masks, the first layer's features B are shared: every block of its Gauss–Newton matrix is
``Bᵀ diag(δ_o δ_o') B``, so one product of the ``δ_o δ_o'`` of all examples with the products of pairs of features
gives them all.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from kanlib.kan.splines import roughness

_KEPT_PAIRS = 2**26  # products of pairs of features that are kept
_PAIRS_AT_ONCE = 2**20  # of those that are made when they are needed
_JACOBIAN_NUMBERS = 2**17  # at a time
_MIN_MASKS = 128  # of a Jacobian at a time, even so
_ROWS_AT_ONCE = 256  # of a Gauss–Newton matrix


@dataclass(frozen=True)
class Shape:
    """The shape of a KAN: inputs, nodes of each hidden layer, grid intervals, spline order.

    ``outside`` is the share of a hidden node's values that lies beyond either end of its grid.
    """

    m: int
    hidden: tuple[int, ...]
    grid: int
    order: int
    outside: float = 0.0

    @property
    def layers(self) -> list[tuple[int, int, int]]:
        """``(out, in, features)`` of each layer."""
        n = 1 + self.grid + self.order
        return [(o, i, n) for o, i in zip((*self.hidden, 1), (self.m, *self.hidden), strict=True)]

    @property
    def n_features(self) -> int:
        """Features of all hidden nodes."""
        return max(1, sum(i * n for _, i, n in self.layers[1:]))

    @property
    def n_parameters(self) -> int:
        """Coefficients of all edges, and the bias."""
        return sum(o * i * n for o, i, n in self.layers) + 1

    def numbers(self, n_masks: int) -> int:
        """How many numbers one search holds, about."""
        first = self.layers[0][0]
        hidden = sum(i * n for _, i, n in self.layers[1:])
        once = self.n_parameters * (_MIN_MASKS + 2 * self.n_parameters)
        return n_masks * (first * (first + 1) // 2 + 6 * hidden) + once

    def roughness(self, like: Tensor) -> Tensor:
        """:func:`kanlib.kan.splines.roughness` of an edge, in the precision of ``like`` and on its device."""
        return roughness(self.grid, self.order, dtype=like.dtype, device=like.device)


class Pairs:
    """Products of all pairs of features ``[p, N]``: kept where they are few, else made slice by slice."""

    def __init__(self, features: Tensor):
        self._features = features
        self._index = torch.triu_indices(len(features), len(features), device=features.device)
        self._slice = max(1, _PAIRS_AT_ONCE // self._index.shape[1])
        few = self._index.shape[1] * features.shape[1] <= _KEPT_PAIRS
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
    """Where C searches stand. Features and slopes are those of the hidden layers' nodes."""

    coefs: tuple[Tensor, ...]
    grids: tuple[Tensor, ...]
    bias: Tensor
    nodes: tuple[Tensor, ...]
    features: tuple[Tensor, ...]
    slopes: tuple[Tensor, ...]
    residual: Tensor
    loss: Tensor


def gauss_newton(point: Point, shape: Shape, first: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """``JJᵀ/N`` ``[C, P, P]`` of the Jacobian J ``[C, P, N]``, and ``J·residual/N``.

    Only the lower triangle is filled, which is all that a Cholesky factorisation reads. J is made a few masks at a
    time, so that it stays in the processor's cache; its first rows are ``δ_o B_p``.
    """
    c, n = point.residual.shape
    o, p = shape.layers[0][0], len(first)
    normal = first.new_zeros(c, shape.n_parameters, shape.n_parameters)
    gradient = first.new_zeros(c, shape.n_parameters)
    late, deltas = o * p, []
    size = max(_MIN_MASKS, _JACOBIAN_NUMBERS // (c * shape.n_parameters))
    for start in range(0, n, size):
        part = slice(start, start + size)
        delta, rest = _jacobian(point, part)
        early = (delta[:, :, None] * first[:, part]).flatten(1, 2)
        jacobian = torch.cat([early, rest], 1)
        for row in range(late, shape.n_parameters, _ROWS_AT_ONCE):
            rows = jacobian[:, row : row + _ROWS_AT_ONCE]
            stop = row + rows.shape[1]
            normal[:, row:stop, :stop].baddbmm_(rows, jacobian[:, :stop].mT)
        gradient += (jacobian @ point.residual[:, part, None])[..., 0]
        deltas.append(delta)
    delta = torch.cat(deltas, 2)
    one, other = torch.triu_indices(o, o, device=delta.device)
    blocks = pairs.weighed((delta[:, one] * delta[:, other]).flatten(0, 1)).view(c, -1)
    # gather is ten times as fast as an index.
    normal[:, :late, :late] = blocks.gather(1, _place_in_blocks(o, p, delta.device).expand(c, -1)).view(
        c, late, late
    )
    return normal.div_(n), gradient.div_(n)


def _jacobian(point: Point, masks: slice) -> tuple[Tensor, Tensor]:
    """How the output answers to the first layer's nodes, ``[C, o, N]``, and to later parameters, ``[C, P, N]``."""
    one = torch.ones_like(point.residual[:, None, masks])
    delta, rows = one, [one]
    for layer in reversed(range(len(point.nodes))):
        later = point.coefs[layer + 1]
        rows.insert(0, (delta[:, :, None, None] * point.features[layer][:, None, ..., masks]).flatten(1, 3))
        # Σ_b c_b B_b'(h) for every edge, then the sum over what it leads to.
        rates = later.transpose(1, 2) @ point.slopes[layer][..., masks]
        delta = (rates * delta[:, None]).sum(2)
    return delta, torch.cat(rows, 1)


@cache
def _place_in_blocks(o: int, p: int, device: torch.device) -> Tensor:
    """Where in the blocks of pairs, one after the other, each entry of the whole matrix stands: ``[(op)²]``."""

    def place(n: int) -> Tensor:
        i, j = torch.triu_indices(n, n)
        whole = torch.empty(n, n, dtype=torch.long)
        whole[i, j] = whole[j, i] = torch.arange(len(i))
        return whole

    blocks, within = place(o), place(p)
    index = blocks[:, None, :, None] * (p * (p + 1) // 2) + within[None, :, None, :]
    return index.flatten().to(device)
