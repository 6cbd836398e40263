"""An upper bound of surrogates over boxes of gates, by one straight line above each edge but those of the gates.

A node adds up edges. Where a later layer weighs nodes, its weights and the edges before them add up to a function
of each node before, again; a line above that function passes the weights on. At the gates nothing is left to be
relaxed: a sum of functions of one gate each is highest where each of them is. So the bound gives away no more than
how much the inner edges bend over the box, and that falls with the square of its width.

The lines are those of CROWN (Zhang et al., 2018, *Efficient neural network robustness certification*), with edges
of a KAN in place of activations.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kanlib.symbolic.intervals import Interval
from kanlib.symbolic.tabulated import (
    ROUNDING,
    Sampled,
    Surrogate,
    Table,
    n_components,
    n_layers,
    tabulated,
)

_AGAIN = 1  # times that lines are laid anew
_POINTS = 13  # of an interval, at which a line is laid above a function


@dataclass(frozen=True)
class Tables:
    """Tables of Q surrogates, each within a box of its own.

    Attributes:
        layers: one a layer.
        moved: gates that may leave 0 at once, at most.
        whole: whether gates are at an end of their interval, not between.
    """

    layers: Sequence[Table]
    moved: int
    whole: bool

    @classmethod
    def of(
        cls,
        surrogate: Surrogate,
        example: Tensor,
        low: Tensor,
        high: Tensor,
        *,
        moved: int | None = None,
        whole: bool = False,
    ) -> "Tables":
        """Those of the surrogates of these examples ``[Q]`` within the boxes from ``low`` to ``high``, ``[Q, m]``.

        Raises:
            BadInputError: as :func:`kanlib.symbolic.tabulated.tabulated`.
        """
        moved = n_components(surrogate) if moved is None else moved
        layers = [tabulated(surrogate, 0, example, low, high)]
        most, own = torch.full((len(low),), moved), torch.arange(len(low))
        for layer in range(1, n_layers(surrogate)):
            known = cls(layers, moved, whole)
            bottom, top = known.reached(known.sampled(own, low, high, most), most)
            layers.append(tabulated(surrogate, layer, example, bottom, top))
        return cls(layers, moved, whole)

    def highest(self, row: Tensor, low: Tensor, high: Tensor, sign: Tensor, moved: Tensor) -> "Highest":
        """The bound of ``sign · ĝ`` over boxes from ``low`` to ``high`` ``[B, m]``, of the surrogates ``row [B]``.

        Args:
            row: which surrogate.
            low: lower ends of the boxes, each within that of its surrogate's tables.
            high: their upper ends.
            sign: 1 for an upper bound, −1 for a lower one.
            moved: gates that may leave 0 at once, at most, ``[B]``; no bound counts fewer than must.
        """
        samples = self.sampled(row, low, high, moved)
        weights, slope = sign[:, None, None], gradient(samples, sign)
        best = _through(samples, weights, moved)
        bound = best.bound
        for _ in range(_AGAIN):
            # Lines that touch where the relaxed function was highest bring it down there.
            best = _through(samples, weights, moved, _answers(samples, best.index))
            bound = torch.minimum(bound, best.bound)
        point = samples[0].x.gather(-1, best.index[..., None])[..., 0]
        return Highest(bound[:, 0], point, slope)

    def sampled(self, row: Tensor, low: Tensor, high: Tensor, moved: Tensor) -> list[Sampled]:
        """The edges of every layer, on what the boxes let each node be."""
        samples = [self._of_gates(row, low, high)]
        for table in self.layers[1:]:
            # What is known of the whole box holds for its parts.
            ends = (table.low[row], table.high[row])
            bottom, top = (v.clamp(*ends) for v in self.reached(samples, moved))
            samples.append(table.sample(row, torch.minimum(bottom, top), top, _shares()))
        return samples

    def _of_gates(self, row: Tensor, low: Tensor, high: Tensor) -> Sampled:
        """The first layer; the last point is where a gate rests, or as near as its interval comes to that."""
        at = _shares().round() if self.whole else _shares()
        edges = self.layers[0].sample(row, low, high, at, not self.whole)
        rest = torch.zeros_like(low).clamp(low, high)
        there = self.layers[0].sample(row, rest, rest, at.new_zeros(1), False)
        return Sampled(
            torch.cat([edges.x, there.x], -1),
            torch.cat([edges.values, there.values], -1),
            torch.maximum(edges.slack, there.slack),
            edges.slope,
            edges.bend,
        )

    def reached(self, samples: Sequence[Sampled], moved: Tensor) -> tuple[Tensor, Tensor]:
        """Between what ``[B, out]`` the nodes lie that these layers lead to."""
        n = samples[-1].values.shape[1]
        unit = torch.eye(n, dtype=torch.float64)
        both = torch.cat([unit, -unit]).expand(len(moved), -1, -1)
        top, bottom = _through(samples, both, moved).bound.split(n, 1)
        return -bottom, top


@dataclass(frozen=True)
class Highest:
    """What is known of how high functions come in B boxes.

    Attributes:
        bound: none is above it, ``[B]``.
        point: where the relaxed function is highest, ``[B, m]``: a good place to look.
        slope: what the derivative by each gate can be, ``[B, m]``.
    """

    bound: Tensor
    point: Tensor
    slope: Interval


@dataclass(frozen=True)
class _Relaxed:
    """Bounds ``[B, T]``, and where among their points ``[B, m]`` gates have the first of the T."""

    bound: Tensor
    index: Tensor


def _shares() -> Tensor:
    return torch.linspace(0, 1, _POINTS, dtype=torch.float64)


def gradient(samples: Sequence[Sampled], sign: Tensor) -> Interval:
    """What ``sign · ∂ĝ/∂σ`` can be on the boxes, ``[B, m]``: slopes of edges, multiplied and added up."""
    out = Interval(sign[:, None], sign[:, None])
    for edges in reversed(samples):
        onward = Interval(out.low[..., None], out.high[..., None]) * edges.slope
        size = ROUNDING * onward.size.sum(1)
        out = Interval(onward.low.sum(1) - size, onward.high.sum(1) + size)
    return out


def _through(samples: Sequence[Sampled], weights: Tensor, moved: Tensor, touch: Sequence[Tensor] = ()) -> _Relaxed:
    """Upper bounds of what ``weights [B, T, out]`` make of the last nodes.

    Lines are parallel to chords, or touch the function at ``touch``, a value ``[B, in]`` of each node of the inner
    layers. A touching line is the lowest there is at that value.
    """
    bound = weights.new_zeros(weights.shape[:2])
    for layer in range(len(samples) - 1, 0, -1):
        function, slack = _combined(samples[layer], weights)
        x = samples[layer].x[:, None]
        weights = _supporting(function, x, touch[layer - 1]) if touch else _slope(function, x)
        left = function - weights[..., None] * x
        top = left.amax(-1) + slack + ROUNDING * weights.abs() * x.abs().amax(-1)
        bound = bound + top.sum(-1) + ROUNDING * top.abs().sum(-1)
    function, slack = _combined(samples[0], weights)
    best, at = function.max(-1)
    rest, x = function[..., -1], samples[0].x
    # A gate that cannot rest has moved already.
    must = ((x[..., :-1].amin(-1) > 0) | (x[..., :-1].amax(-1) < 0))[:, None]
    spare = moved[:, None] - must.sum(-1)
    place = (best - rest).masked_fill(must, 0).argsort(-1, descending=True).argsort(-1)
    chosen = must | (place < spare[..., None])
    value = torch.where(chosen, best, rest)
    bound = bound + (value + slack).sum(-1) + ROUNDING * value.abs().sum(-1)
    bound = bound.masked_fill(spare < 0, -torch.inf)
    return _Relaxed(bound, torch.where(chosen, at, at.new_tensor(x.shape[-1] - 1))[:, 0])


def _slope(function: Tensor, x: Tensor) -> Tensor:
    """Of the chord from end to end; 0 on an interval without length."""
    run = x[..., -1] - x[..., 0]
    return ((function[..., -1] - function[..., 0]) / run).where(run > 0, 0.0)


def _supporting(function: Tensor, x: Tensor, at: Tensor) -> Tensor:
    """Slope of the lowest line above the points that is lowest at ``at [B, in]``: a side of their upper hull."""
    left, right = torch.triu_indices(x.shape[-1], x.shape[-1], 1)
    run = (x[..., right] - x[..., left]).clamp_min(1e-300)
    slope = (function[..., right] - function[..., left]) / run
    there = at[:, None, :, None]
    height = function[..., left] + slope * (there - x[..., left])
    outside = (x[..., left] > there) | (x[..., right] < there)
    best = height.masked_fill(outside, -torch.inf).argmax(-1, keepdim=True)
    return slope.gather(-1, best)[..., 0].where(x[..., -1] > x[..., 0], 0.0)


def _answers(samples: Sequence[Sampled], index: Tensor) -> list[Tensor]:
    """Values of the inner nodes ``[B, in]`` where gates are at these points of theirs, about."""
    out = []
    values = samples[0].values.gather(-1, index[:, None, :, None].expand(-1, samples[0].values.shape[1], -1, 1))
    for edges in samples[1:]:
        h = values[..., 0].sum(-1).clamp(edges.x[..., 0], edges.x[..., -1])
        out.append(h)
        n = edges.x.shape[-1] - 1
        place = ((h - edges.x[..., 0]) / (edges.x[..., -1] - edges.x[..., 0]) * n).nan_to_num(0.0).clamp(0, n)
        first = place.floor().long().clamp_max(n - 1)
        cell = first[:, None, :, None].expand(-1, edges.values.shape[1], -1, 1)
        values = edges.values.gather(-1, cell).lerp(
            edges.values.gather(-1, cell + 1), (place - first)[:, None, :, None]
        )
    return out


def _combined(edges: Sampled, weights: Tensor) -> tuple[Tensor, Tensor]:
    """``Σ_o weights_o φ_oi`` at the points, ``[B, T, in, P]``, and by how much it may be off, ``[B, T, in]``."""
    b, _, n_in, n_points = edges.values.shape
    function = (weights @ edges.values.flatten(2)).view(b, -1, n_in, n_points)
    size = edges.values.abs().amax(-1)
    return function, weights.abs() @ (edges.slack + ROUNDING * size)
