"""An upper bound of surrogates over boxes of gates, by one straight line above each edge but those of the gates.

A node adds up edges. Where a later layer weighs nodes, its weights and the edges before them add up to a function
of each node before, again; a line above that function passes the weights on. At the gates nothing is left to be
relaxed: a sum of functions of one gate each is highest where each of them is. So the bound gives away no more than
how much the inner edges bend over the box, and that falls with the square of its width.

The lines are those of CROWN (Zhang et al., 2018, *Efficient neural network robustness certification*), with edges
of a KAN in place of activations. Any lines give a bound. It is convex in all of their slopes together, since it is
the Lagrangian dual of what a node is, the sum of its edges; so Newton steps find slopes that are about the best.
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

#: Of an interval, at which a line is laid above a function: of gates, of inner nodes, and of the last of these,
#: which lead to one output only.
_POINTS, _INNER_POINTS, _LAST_POINTS = 17, 25, 65
#: How smooth the bound is taken to be in each Newton step: shares of how much the last layer varies.
_SMOOTH = (0.03, 0.01, 0.003, 0.001, 3e-4)
_LENGTHS = (1.0, 0.4, 0.1)  # of a step, which are tried


@dataclass(frozen=True)
class Part:
    """B boxes, and what is known of the masks in them that matter.

    Attributes:
        low, high: ends of the boxes ``[B, m]``.
        nodes: ends of the intervals in which all inner nodes are, ``[B, n]`` each; ``None``: those of the tables.
    """

    low: Tensor
    high: Tensor
    nodes: tuple[Tensor, Tensor] | None = None


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
            bottom, top = known.reached(known.sampled(own, Part(low, high), most), most)
            layers.append(tabulated(surrogate, layer, example, bottom, top))
        return cls(layers, moved, whole)

    def highest(
        self,
        row: Tensor,
        part: Part,
        sign: Tensor,
        moved: Tensor,
        enough: Tensor | None = None,
    ) -> "Highest":
        """The bound of ``sign · ĝ`` over parts ``[B]`` of boxes, of the surrogates ``row [B]``.

        Args:
            row: which surrogate.
            part: see :class:`Part`.
            sign: 1 for an upper bound, −1 for a lower one.
            moved: gates that may leave 0 at once, at most, ``[B]``; no bound counts fewer than must.
            enough: values up to which nobody asks, ``[B]``; ``None``: all are asked about.
        """
        samples = self.sampled(row, part, moved)
        best = _lowered(samples, sign, moved)
        bound, lines = best.bound[:, 0], best.lines[:, 0]
        point = samples[0].x.gather(-1, best.index[:, 0, :, None])[..., 0]
        if enough is None:
            low, high, nodes = part.low, part.high, part.nodes
        else:
            # With few gates that may move, one that does keeps another from it.
            spare = (bound - enough).where(moved >= part.low.shape[1], torch.inf)
            low, high, nodes = self._narrowed(samples, sign, lines, spare)
        return Highest(bound, point, gradient(samples, sign), Part(low, high, nodes))

    def _narrowed(
        self, samples: Sequence[Sampled], sign: Tensor, lines: Tensor, spare: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Ends of gates' and inner nodes' intervals, but for what is below the bound by more than ``spare [B]``.

        A node that is held at a value lowers the bound by as much as its function there is below its highest.
        """
        ends = []
        for layer, (edges, function) in enumerate(zip(samples, _above(samples, sign, lines), strict=True)):
            x = edges.x
            need = function.amax(-1) - spare[:, None] - 1e-9 * (spare[:, None] + function.abs().amax(-1))
            # The last point of a gate stands apart, where it rests.
            n = x.shape[-1] - (not layer)
            ends.append(_ends(function[..., :n], x[..., :n], need, self.whole and not layer))
        (low, high), *inner = ends
        bottom, top = (torch.cat([one[side] for one in inner] or [low[:, :0]], -1) for side in (0, 1))
        return low, high, (bottom, top)

    def sampled(self, row: Tensor, part: Part, moved: Tensor) -> list[Sampled]:
        """The edges of every layer, on what the parts let each node be."""
        samples = [self._of_gates(row, part.low, part.high)]
        sizes = [table.low.shape[1] for table in self.layers[1:]]
        known = [ends.split(sizes, -1) for ends in part.nodes or self._of_nodes(row)]
        for table, low, high in zip(self.layers[1:], *known, strict=True):
            bottom, top = (v.clamp(low, high) for v in self.reached(samples, moved))
            n_points = _LAST_POINTS if table.curves.value.shape[1] == 1 else _INNER_POINTS
            samples.append(table.sample(row, torch.minimum(bottom, top), top, _shares(n_points)))
        return samples

    def _of_nodes(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """Ends of the intervals of all nodes ``[B, n]``; what is known of a whole box holds for its parts."""
        none = [self.layers[0].low[row, :0]]
        low, high = ([getattr(table, end)[row] for table in self.layers[1:]] for end in ("low", "high"))
        return torch.cat(low or none, -1), torch.cat(high or none, -1)

    def _of_gates(self, row: Tensor, low: Tensor, high: Tensor) -> Sampled:
        """The first layer; the last point is where a gate rests, or as near as its interval comes to that."""
        at = _shares(2 if self.whole else _POINTS)
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
        part: what is left to be asked about.
    """

    bound: Tensor
    point: Tensor
    slope: Interval
    part: Part


@dataclass(frozen=True)
class _Relaxed:
    """T bounds of each of B boxes.

    Attributes:
        bound: ``[B, T]``.
        index: at which of their points gates are for it, ``[B, T, m]``.
        lines: slopes of all inner nodes, ``[B, T, n]``.
    """

    bound: Tensor
    index: Tensor
    lines: Tensor

    def least(self) -> "_Relaxed":
        """The lowest of the T alone."""
        at = self.bound.argmin(1, keepdim=True)
        index, lines = (v.take_along_dim(at[..., None], 1) for v in (self.index, self.lines))
        return _Relaxed(self.bound.gather(1, at), index, lines)


def _shares(n_points: int) -> Tensor:
    return torch.linspace(0, 1, n_points, dtype=torch.float64)


def gradient(samples: Sequence[Sampled], sign: Tensor) -> Interval:
    """What ``sign · ∂ĝ/∂σ`` can be on the boxes, ``[B, m]``: slopes of edges, multiplied and added up."""
    out = Interval(sign[:, None], sign[:, None])
    for edges in reversed(samples):
        onward = Interval(out.low[..., None], out.high[..., None]) * edges.slope
        size = ROUNDING * onward.size.sum(1)
        out = Interval(onward.low.sum(1) - size, onward.high.sum(1) + size)
    return out


def _through(samples: Sequence[Sampled], weights: Tensor, moved: Tensor, lines: Tensor | None = None) -> _Relaxed:
    """Upper bounds of what ``weights [B, T, out]`` make of the last nodes.

    Lines have the slopes ``lines [B, T, n]``, or are parallel to chords.
    """
    bound, taken = weights.new_zeros(weights.shape[:2]), []
    given = () if lines is None else lines.split(_inner(samples), -1)
    for layer in range(len(samples) - 1, 0, -1):
        function, slack = _combined(samples[layer], weights)
        x = samples[layer].x[:, None]
        weights = given[layer - 1] if given else _slope(function, x)
        left = function - weights[..., None] * x
        top = left.amax(-1) + slack + ROUNDING * weights.abs() * x.abs().amax(-1)
        bound = bound + top.sum(-1) + ROUNDING * top.abs().sum(-1)
        taken.append(weights)
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
    index = torch.where(chosen, at, at.new_tensor(x.shape[-1] - 1))
    return _Relaxed(bound, index, torch.cat([bound.new_empty(*bound.shape, 0), *taken[::-1]], -1))


def _lowered(samples: Sequence[Sampled], sign: Tensor, moved: Tensor) -> _Relaxed:
    """About the lowest bound that lines give, from those of chords on."""
    weights = sign[:, None, None]
    best = _through(samples, weights, moved)
    if not sum(_inner(samples)):
        return best
    last = samples[-1].values
    varies = (last.amax(-1) - last.amin(-1)).sum((1, 2))
    lengths = torch.tensor(_LENGTHS, dtype=torch.float64)[:, None]
    for share in _SMOOTH:
        step = _newton(samples, sign, moved, best, share * varies)
        tried = best.lines + lengths * step[:, None]
        best = _least(best, _through(samples, weights.expand(-1, len(lengths), -1), moved, tried))
    return best


def _least(one: _Relaxed, other: _Relaxed) -> _Relaxed:
    both = (torch.cat(pair, 1) for pair in zip(vars(one).values(), vars(other).values(), strict=True))
    return _Relaxed(*both).least()


def _newton(samples: Sequence[Sampled], sign: Tensor, moved: Tensor, now: _Relaxed, smooth: Tensor) -> Tensor:
    """A Newton step of slopes ``[B, n]`` on the bound without slack, ``Σ max_p`` made ``τ log Σ_p exp(· / τ)``.

    What a node adds to the bound are linear functions of the slopes, one a point; their means and covariances,
    weighed by the softmax over points, are its gradient and, over τ, its curvature.

    Args:
        samples: see :func:`_through`.
        sign: see :meth:`Tables.highest`.
        moved: see there.
        now: where the step begins.
        smooth: τ of each box, ``[B]``.
    """
    ends = [0, *torch.tensor(_inner(samples)).cumsum(0).tolist()]
    gradient_ = smooth.new_zeros(len(smooth), ends[-1])
    curvature = smooth.new_zeros(len(smooth), ends[-1], ends[-1])
    smooth = smooth.clamp_min(1e-12)
    functions = _above(samples, sign, now.lines[:, 0])
    for layer, (edges, function) in enumerate(zip(samples, functions, strict=True)):
        last = layer == len(samples) - 1
        above = slice(0, 0) if last else slice(ends[layer], ends[layer + 1])
        share = torch.softmax(function / smooth[:, None, None], -1)
        if not layer:
            # A gate that may not move is where it rests.
            at_rest = (now.index[:, 0] == share.shape[-1] - 1) & (moved < share.shape[1])[:, None]
            resting = torch.zeros_like(share)
            resting[..., -1] = 1
            share = torch.where(at_rest[..., None], resting, share)
        if not last:
            mean = (share[:, None] * edges.values).sum(-1)
            off = (edges.values - mean[..., None]) * share.sqrt()[:, None]
            gradient_[:, above] += mean.sum(-1)
            curvature[:, above, above] += off.flatten(2) @ off.flatten(2).mT
        if layer:
            below = slice(ends[layer - 1], ends[layer])
            mean_x = (share * edges.x).sum(-1)
            off_x = (edges.x - mean_x[..., None]) * share.sqrt()
            gradient_[:, below] -= mean_x
            curvature[:, below, below] += torch.diag_embed(off_x.square().sum(-1))
            if not last:
                both = -(off * off_x[:, None]).sum(-1)
                curvature[:, above, below] += both
                curvature[:, below, above] += both.mT
    diagonal = curvature.diagonal(dim1=1, dim2=2)
    diagonal += 1e-6 * diagonal.mean(-1, keepdim=True) + 1e-12
    factor, failed = torch.linalg.cholesky_ex(curvature)
    step = -smooth[:, None] * torch.cholesky_solve(gradient_[..., None], factor)[..., 0]
    return step.where((failed == 0)[:, None] & step.isfinite(), 0.0)


def _above(samples: Sequence[Sampled], sign: Tensor, lines: Tensor) -> list[Tensor]:
    """What nodes that enter each layer add to the bound at each point, ``[B, in, P]``: what is above the lines."""
    slopes = lines.split(_inner(samples), -1)
    functions = [
        _combined(edges, weights[:, None])[0][:, 0]
        for edges, weights in zip(samples, [*slopes, sign[:, None]], strict=True)
    ]
    inner = zip(functions[1:], slopes, samples[1:], strict=True)
    return [functions[0], *(function - slope[..., None] * edges.x for function, slope, edges in inner)]


def _inner(samples: Sequence[Sampled]) -> list[int]:
    """How many nodes enter each layer but the first."""
    return [edges.x.shape[1] for edges in samples[1:]]


def _ends(function: Tensor, x: Tensor, need: Tensor, whole: bool) -> tuple[Tensor, Tensor]:
    """Between which values ``[B, in]`` a function of straight pieces is where it is ``need [B, in]`` or more.

    Args:
        function: at points, ``[B, in, P]``.
        x: the points.
        need: at most as much as the highest.
        whole: whether only points count, not what is between them.
    """
    n, found = x.shape[-1], []
    at = torch.arange(n)
    for sign in (1, -1):
        order = at if sign > 0 else at.flip(0)
        f, place = function[..., order], x[..., order]
        first = (f >= need[..., None]).int().argmax(-1, keepdim=True)
        here = place.gather(-1, first)[..., 0]
        if not whole:
            before = (first - 1).clamp_min(0)
            low, high = f.gather(-1, before)[..., 0], f.gather(-1, first)[..., 0]
            share = ((need - low) / (high - low)).nan_to_num(0.0, 0.0, 0.0).clamp(0, 1)
            here = place.gather(-1, before)[..., 0].lerp(here, share)
        found.append(here)
    return torch.minimum(*found), torch.maximum(*found)


def _slope(function: Tensor, x: Tensor) -> Tensor:
    """Of the chord from end to end; 0 on an interval without length."""
    run = x[..., -1] - x[..., 0]
    return ((function[..., -1] - function[..., 0]) / run).where(run > 0, 0.0)


def _combined(edges: Sampled, weights: Tensor) -> tuple[Tensor, Tensor]:
    """``Σ_o weights_o φ_oi`` at the points, ``[B, T, in, P]``, and by how much it may be off, ``[B, T, in]``."""
    b, _, n_in, n_points = edges.values.shape
    function = (weights @ edges.values.flatten(2)).view(b, -1, n_in, n_points)
    size = edges.values.abs().amax(-1)
    return function, weights.abs() @ (edges.slack + ROUNDING * size)
