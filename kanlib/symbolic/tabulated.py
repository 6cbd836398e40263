"""Edges as tables: piecewise linear functions that an edge is never further from than a proved distance.

On a cell of width h a function differs from its chord by ``h² max|φ''| / 8`` at most. The curvature of a form is
bounded by interval arithmetic, that of a spline by its own derivatives; both on every cell of the table.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kanlib.errors import BadInputError
from kanlib.kan.kan import KAN
from kanlib.kan.splines import features, knots
from kanlib.symbolic.closed_forms import ClosedForm
from kanlib.symbolic.intervals import Interval, at_points, on_cells
from kanlib.symbolic.symbolic_kan import SymbolicKAN

#: E of them.
Surrogate = KAN | Sequence[SymbolicKAN]
#: Of the size of what is added up, this share is more than fp64 rounds off in sums of a hundred terms.
ROUNDING = 2.0**-42
_CELLS = 256  # of a table
_THIRD_OF_SILU = 0.5  # |silu'''| is below it


@dataclass(frozen=True)
class Curves:
    """What edges are known by on cells: values at the ends, and what slope and curvature can be between them.

    Attributes:
        value: ``[Q, out, in, K]`` at K evenly spaced points.
        error: by which these may be off.
        slope, bend: on the K − 1 cells between them.
    """

    value: Tensor
    error: Tensor
    slope: Interval
    bend: Interval


@dataclass(frozen=True)
class Sampled:
    """Edges at a few points of an interval of each node, for B boxes.

    Attributes:
        x: the points ``[B, in, P]``, ends of the interval among them.
        values: ``[B, out, in, P]``; between the points edges are taken for straight.
        slack: ``[B, out, in]``, by which that may be off.
        slope: what derivatives of the edges can be on the whole interval, ``[B, out, in]``.
        bend: the same of second derivatives.
    """

    x: Tensor
    values: Tensor
    slack: Tensor
    slope: Interval
    bend: Interval


@dataclass(frozen=True)
class Table:
    """The edges of one layer of Q surrogates, each node on its own interval.

    Attributes:
        low, high: the intervals ``[Q, in]``.
        curves: what is known of the edges there.
        slack: ``[Q, out, in, K − 1]``, how far an edge may be from the chord of each cell.
        runs: the largest ``φ'``, ``−φ'``, ``φ''`` and ``−φ''`` of 2^level cells from each on,
            ``[4, Q, out, in, levels, K − 1]``.
    """

    low: Tensor
    high: Tensor
    curves: Curves
    slack: Tensor
    runs: Tensor

    @classmethod
    def of(cls, curves: Curves, low: Tensor, high: Tensor) -> "Table":
        """The table of these edges on these intervals."""
        step = (high - low)[:, None, :, None] / (curves.value.shape[-1] - 1)
        error = torch.maximum(curves.error[..., 1:], curves.error[..., :-1])
        rounding = ROUNDING * curves.value.abs().amax(-1, keepdim=True)
        slack = error + curves.bend.size * (1 + 1e-9) * step.square() / 8 + rounding
        known = torch.stack([curves.slope.high, -curves.slope.low, curves.bend.high, -curves.bend.low])
        return cls(low, high, curves, slack, highest_of_runs(known))

    def sample(self, row: Tensor, low: Tensor, high: Tensor, at: Tensor, straight: bool = True) -> Sampled:
        """The edges of surrogates ``row [B]`` on intervals ``[B, in]``, at shares ``at`` of their lengths.

        Args:
            row: which surrogate each box is of.
            low: lower ends of the intervals, within those of the table.
            high: their upper ends.
            at: shares, from 0 to 1, evenly spaced where ``straight``.
            straight: whether values between the points are asked for, not these alone.
        """
        n_cells = self.slack.shape[-1]
        x = low[..., None] + (high - low)[..., None] * at
        x = x.clamp(low[..., None], high[..., None])
        start, step = self.low[row][..., None], ((self.high - self.low) / n_cells)[row][..., None]
        place = ((x - start) / step).nan_to_num(0.0, 0.0, 0.0).clamp(0, n_cells)
        cell = place.floor().long().clamp_max(n_cells - 1)
        share = (place - cell)[:, None]
        edge = torch.arange(self.slack[0, ..., 0].numel()).view(self.slack.shape[1:3])
        edge = (row[:, None, None] * edge.numel() + edge)[..., None]
        of_cell, of_point = edge * n_cells + cell[:, None], edge * (n_cells + 1) + cell[:, None]
        flat = self.curves.value.flatten()
        left, right = flat[of_point], flat[of_point + 1]
        slack = self.slack.flatten()[of_cell].amax(-1)
        runs = highest_from_to(self.runs, edge[..., 0], cell)
        slope, bend = Interval(-runs[1], runs[0]), Interval(-runs[3], runs[2])
        if straight:
            between = (high - low)[:, None] / (len(at) - 1)
            slack = slack + bend.size * (1 + 1e-9) * between.square() / 8
        return Sampled(x, left + share * (right - left), slack, slope, bend)


def highest_of_runs(values: Tensor) -> Tensor:
    """Of ``[..., n]`` the highest of 2^level from each on, ``[..., levels, n]``: any run is two of them."""
    out = [values]
    for level in range(int(math.log2(values.shape[-1]))):
        before = out[-1]
        out.append(
            torch.cat(
                [torch.maximum(before[..., : -(2**level)], before[..., 2**level :]), before[..., -(2**level) :]],
                -1,
            )
        )
    return torch.stack(out, -2)


def highest_from_to(runs: Tensor, edge: Tensor, cell: Tensor) -> Tensor:
    """The highest from the first to the last of ``cell [B, in, P]``, for each ``edge [B, out, in]``.

    Args:
        runs: ``[kinds, Q, out, in, levels, n]``, see :func:`highest_of_runs`.
        edge: which of the edges, counted through Q, out and in.
        cell: cells of each node.

    Returns:
        ``[kinds, B, out, in]``.
    """
    first, last = cell.amin(-1)[:, None], cell.amax(-1)[:, None]
    level = (last - first + 1).double().log2().floor().long()
    n_levels, n = runs.shape[-2:]
    flat, base = runs.flatten(1), (edge * n_levels + level) * n
    return torch.maximum(flat[:, base + first], flat[:, base + last + 1 - 2**level])


def n_components(surrogate: Surrogate) -> int:
    """M."""
    return surrogate.widths[0] if isinstance(surrogate, KAN) else len(surrogate[0].forms[0])


def n_examples(surrogate: Surrogate) -> int:
    """E."""
    return len(surrogate.bias) if isinstance(surrogate, KAN) else len(surrogate)


def n_layers(surrogate: Surrogate) -> int:
    """How many layers of edges they have."""
    return len(surrogate.coefs) if isinstance(surrogate, KAN) else len(surrogate[0].forms)


def tabulated(surrogate: Surrogate, layer: int, example: Tensor, low: Tensor, high: Tensor) -> Table:
    """One layer of the surrogates of these examples ``[Q]``, on intervals ``[Q, in]``; biases are among its edges.

    Raises:
        BadInputError: a form has a pole there, or grows beyond fp64.
    """
    share = torch.linspace(0, 1, _CELLS + 1, dtype=torch.float64)
    x = (low[..., None] + (high - low)[..., None] * share).clamp(low[..., None], high[..., None])
    curves = (
        _of_splines(surrogate, layer, example, x)
        if isinstance(surrogate, KAN)
        else _of_forms(surrogate, layer, example, x)
    )
    known = curves.value.isfinite()[..., 1:] & curves.bend.size.isfinite() & curves.slope.size.isfinite()
    if not known.all():
        q, _, i, k = (~known).nonzero()[0].tolist()
        node, ends = f"{'h' if layer else 'σ'}_{i + 1}", x[q, i, k : k + 2].tolist()
        raise BadInputError(
            f"an edge of layer {layer + 1} of example {int(example[q]) + 1} has a pole, or no bound, at {node} "
            f"between {ends[0]:.3g} and {ends[1]:.3g}, where the box may lead; choose a smaller box."
        )
    return Table.of(curves, low, high)


def _of_forms(symbolic: Sequence[SymbolicKAN], layer: int, example: Tensor, x: Tensor) -> Curves:
    """Forms at points ``x [Q, in, K]`` and on the cells between them, a group of one template at a time."""
    groups: dict = defaultdict(list)
    for q, e in enumerate(example.tolist()):
        for i, row in enumerate(symbolic[e].forms[layer]):
            for o, form in enumerate(row):
                groups[form.template, len(form.constants)].append((q, o, i, form))
    out = _empty(x, len(symbolic[0].biases[layer]))
    for (template, n), edges in groups.items():
        place = torch.tensor([edge[:3] for edge in edges]).unbind(1)
        forms: list[ClosedForm] = [edge[3] for edge in edges]
        values = torch.tensor([form.constants for form in forms], dtype=torch.float64).reshape(len(forms), n)
        given = [values[:, k : k + 1] for k in range(n)]
        points = x[place[0], place[2]]
        exact = at_points(template, given, points)
        cells = on_cells(template, given, points[:, :-1], points[:, 1:])
        out.value[place] = (exact.low + exact.high) / 2
        out.error[place] = (exact.high - exact.low) / 2
        for ours, theirs in ((out.slope, cells.slope), (out.bend, cells.bend)):
            ours.low[place], ours.high[place] = theirs.low, theirs.high
    biases = torch.tensor([symbolic[e].biases[layer] for e in example.tolist()], dtype=torch.float64)
    return _biased(out, biases)


def _of_splines(kan: KAN, layer: int, example: Tensor, x: Tensor) -> Curves:
    """Splines at points ``x [Q, in, K]`` and on the cells between them."""
    kan = kan.detached().to(torch.float64)
    grid, coef, order = kan.grids[layer][example], kan.coefs[layer][example], kan.order

    def edges(derivative: int) -> Tensor:
        return torch.einsum("qoib,qibk->qoik", coef, features(x, grid, order, derivative))

    t, c = knots(grid, order)[:, None], coef[..., 1:]
    for degree in (order, order - 1, order - 2):
        # A derivative's coefficients, whose largest bounds it: B-splines are shares of 1.
        c = torch.cat([c, torch.zeros_like(c[..., :1])], -1) - torch.cat([torch.zeros_like(c[..., :1]), c], -1)
        t_of = t[..., : c.shape[-1] + degree]
        c = c * degree / (t_of[..., degree:] - t_of[..., :-degree])
    jerk = c.abs().amax(-1) + _THIRD_OF_SILU * coef[..., 0].abs()
    value = edges(0)
    nearest = knots(grid, order).diff().amin(-1)
    condition = 1 + (x.abs().amax(-1) + knots(grid, order).abs().amax(-1)) / nearest
    error = ROUNDING * condition[:, None] * (coef.abs().sum(-1) * (1 + x.abs().amax(-1))[:, None])
    half = (x[..., 1:] - x[..., :-1])[:, None] / 2

    def between(ends: Tensor, steepest: Tensor) -> Interval:
        """From values at the ends of cells, of what rises by so much at most."""
        low, high = torch.minimum(ends[..., 1:], ends[..., :-1]), torch.maximum(ends[..., 1:], ends[..., :-1])
        margin = steepest * half + error[..., None] * condition[:, None, :, None] ** 2
        return Interval(low - margin, high + margin)

    bend = between(edges(2), jerk[..., None])
    slope = between(edges(1), bend.size)
    curves = Curves(value, error[..., None].expand_as(value), slope, bend)
    last = layer == len(kan.coefs) - 1
    return _biased(curves, kan.bias[example][:, None]) if last else curves


def _empty(x: Tensor, n_out: int) -> Curves:
    shape = (len(x), n_out, *x.shape[1:])
    ends = [x.new_zeros(*shape[:-1], shape[-1] - 1) for _ in range(4)]
    return Curves(x.new_zeros(shape), x.new_zeros(shape), Interval(*ends[:2]), Interval(*ends[2:]))


def _biased(curves: Curves, bias: Tensor) -> Curves:
    """With the nodes' biases ``[Q, out]`` on their first edges."""
    value = curves.value.clone()
    value[:, :, 0] += bias[..., None]
    return replace(curves, value=value)
