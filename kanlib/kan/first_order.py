"""KANs trained by minibatch descent, in coordinates that suit it: an edge's slope is a parameter of its own.

A straight line is the sum of all B-splines of an edge, each weighed with the place of its middle. Descent would
have to move all of their weights together to tilt an edge; given the slope as one more parameter, which is added
to them, it moves that one. Grids are even and stay where they are.
"""

from collections.abc import Sequence
from math import comb, factorial
from typing import Any

import torch
from torch import Tensor

from kanlib.kan.gauss_newton import Shape
from kanlib.kan.kan import KAN, weighted_sums

_SPLINES_AT_START = 0.3  # standard deviation of their weights, over the square root of an edge's neighbours


class EvenKANs:
    """C KANs of one shape on even grids, as a function of their parameters; see :mod:`kanlib.kan.descent`.

    The first layer's grids cover the masks; hidden nodes' have intervals of length 1 around 0.

    Args:
        shape: of all.
        masks: ``[N, m]``, that are fitted.
    """

    def __init__(self, shape: Shape, masks: Tensor):
        self._shape = shape
        at = torch.linspace(0, 1, shape.grid + 1, dtype=masks.dtype, device=masks.device)
        low, high = masks.amin(0)[:, None], masks.amax(0)[:, None]
        pad = (0.02 * (high - low)).clamp_min(1e-6)
        self._first = low - pad + (high - low + 2 * pad) * at
        self._later = shape.grid * (at - 0.5)
        #: Of an edge's B-splines, in intervals of its grid from its middle.
        self._middles = torch.arange(shape.grid + shape.order, dtype=masks.dtype, device=masks.device)
        self._middles = self._middles - self._middles.mean()

    def start(self, source: torch.Generator) -> list[Tensor]:
        """Random parameters of one KAN: of each edge the weight of silu, the slope, and the splines' weights."""
        layers: list[Tensor] = []
        for n_out, n_in, n in self._shape.layers:
            edges = torch.randn(n_out, n_in, 1 + n, generator=source) / n_in**0.5
            edges[..., 2:] *= _SPLINES_AT_START
            edges[..., 1] *= not layers
            layers.append(edges.to(self._middles))
        return layers

    def inputs(self, masks: Tensor) -> Tensor:
        """First-layer features ``[m · n, N]`` of masks ``[N, m]``."""
        return even_features(masks.T[None], self._first[None], self._shape.order)[0].flatten(0, 1)

    def __call__(self, parameters: Sequence[Tensor], inputs: Tensor) -> Tensor:
        """Outputs ``[C, N]`` without the bias."""
        first, *later = (self._weights(p) for p in parameters)
        h = first.flatten(2) @ inputs
        for coef in later:
            h = weighted_sums(coef, even_features(h, self._later, self._shape.order))
        return h[:, 0]

    def kan(self, parameters: Sequence[Tensor], bias: Tensor) -> KAN:
        """What they are as KANs, with biases ``[C]``."""
        n_nodes = self._shape.hidden
        grids = [self._first, *(self._later.expand(n, -1) for n in n_nodes)]
        coefs = tuple(self._weights(p) for p in parameters)
        return KAN(tuple(g.expand(len(bias), -1, -1).contiguous() for g in grids), coefs, bias, self._shape.order)

    def _weights(self, parameters: Tensor) -> Tensor:
        """Weights ``[C, out, in, n]`` of silu and the B-splines."""
        return torch.cat([parameters[..., :1], parameters[..., 2:] + parameters[..., 1:2] * self._middles], -1)


class _EvenFeatures(torch.autograd.Function):
    """Features ``[C, in, n, N]`` at ``x`` ``[C, in, N]``; their slopes are kept for the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, middles: Tensor, interval: Tensor, order: int) -> Tensor:
        away = (x / interval)[:, :, None] - middles[..., None]
        feats = x.new_empty(*x.shape[:2], 1 + away.shape[2], x.shape[2])
        spline, slope = feats[:, :, 1:], torch.zeros_like(away)
        inside = ((order + 1) / 2 - away.abs()).clamp_min_(0)
        for j in range((order + 1) // 2):
            weight = (-1) ** j * comb(order + 1, j) / factorial(order)
            if j:
                inside = inside.sub_(1).clamp_min_(0)
            power = inside ** (order - 1)
            slope.add_(power, alpha=weight * order)
            if j:
                spline.addcmul_(power, inside, value=weight)
            else:
                torch.mul(power.mul_(weight), inside, out=spline)
        s = torch.sigmoid(x)
        torch.mul(x, s, out=feats[:, :, 0])
        ctx.save_for_backward(s * (1 + x * (1 - s)), slope.copysign_(away), interval)
        return feats

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        rate, slope, interval = ctx.saved_tensors
        of_silu, of_splines = gradients[0][:, :, 0], gradients[0][:, :, 1:]
        return rate * of_silu - (slope * of_splines).sum(2) / interval, None, None, None


def even_features(x: Tensor, grid: Tensor, order: int) -> Tensor:
    """:func:`kanlib.kan.splines.features` on even grids ``[…, G + 1]``, in closed form and once differentiable.

    A B-spline of order k, u intervals from its middle, is ``Σ_j (−1)^j C(k + 1, j) ((k + 1)/2 − j − |u|)₊^k / k!``
    over j from 0 to (k − 1)/2.
    Source: Schoenberg (1946), *Contributions to the problem of approximation of equidistant data by analytic
    functions*.
    """
    interval = (grid[..., -1:] - grid[..., :1]) / (grid.shape[-1] - 1)
    n = grid.shape[-1] - 1 + order
    steps = torch.arange(n, dtype=grid.dtype, device=grid.device) - (order - 1) / 2
    return _EvenFeatures.apply(x, grid[..., :1] / interval + steps, interval, order)
