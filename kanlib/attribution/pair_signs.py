"""Bounds of pair coefficients over boxes: where in gate space the sign of an interaction holds.

``∂²ĝ/∂σ_a∂σ_b`` is a sum of products of edges' derivatives (the chain rule). Each derivative lies in an interval
over a box, and so do sums and products of intervals; the box is cut into parts, and each of them bounded.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kanlib.masks import Subset, subsets
from kanlib.symbolic.bounds import checked
from kanlib.symbolic.intervals import Interval
from kanlib.symbolic.relaxation import Part, Tables
from kanlib.symbolic.tabulated import ROUNDING, Sampled, Surrogate, n_components, n_examples

_AT_ONCE = 64  # parts


def pair_bounds(
    surrogate: Surrogate, low: Tensor, high: Tensor, *, cuts: int | None = None
) -> tuple[list[Subset], Tensor, Tensor]:
    """Between what the mixed second derivatives of ĝ lie over a box.

    Args:
        surrogate: E KANs, or E symbolic KANs.
        low: lower ends of the box, ``[m]``.
        high: its upper ends.
        cuts: how often all parts are halved, each across its widest gate; ``None``: as often as there are gates.

    Returns:
        The pairs, and the bounds ``[E, pairs]`` (fp64).

    Raises:
        BadInputError: as :func:`kanlib.symbolic.bounds.bounds`.
    """
    low, high = checked(surrogate, low, high)
    e, m = n_examples(surrogate), n_components(surrogate)
    tables = Tables.of(surrogate, torch.arange(e), low.expand(e, m), high.expand(e, m))
    for _ in range(m if cuts is None else cuts):
        at = (high - low).argmax(1, keepdim=True)
        middle = (low.gather(1, at) + high.gather(1, at)) / 2
        low, high = torch.cat([low, low.scatter(1, at, middle)]), torch.cat([high.scatter(1, at, middle), high])
    pairs = subsets(m, 2)[m:]
    first, second = torch.tensor(pairs).unbind(1)
    least, most = [], []
    for one in range(e):
        parts = []
        for lows, highs in zip(low.split(_AT_ONCE), high.split(_AT_ONCE), strict=True):
            row, moved = torch.full((len(lows),), one), torch.full((len(lows),), m)
            parts.append(_mixed(tables.sampled(row, Part(lows, highs), moved), first, second))
        least.append(torch.stack([part.low.amin(0) for part in parts]).amin(0))
        most.append(torch.stack([part.high.amax(0) for part in parts]).amax(0))
    return pairs, torch.stack(least), torch.stack(most)


def sign_holds_within(
    surrogate: Surrogate, widths: Sequence[float], *, cuts: int | None = None
) -> tuple[list[Subset], Tensor]:
    """The largest of these half widths of a box around σ = 0 in which the sign of each pair is proved to hold.

    Args:
        surrogate: E KANs, or E symbolic KANs.
        widths: half widths r; the box is ``−r ≤ σ_j ≤ r`` for all j.
        cuts: see :func:`pair_bounds`.

    Returns:
        The pairs, and r ``[E, pairs]``; 0 where it is proved for none of them.
    """
    m = n_components(surrogate)
    pairs = subsets(m, 2)[m:]
    found = torch.zeros(n_examples(surrogate), len(pairs), dtype=torch.float64)
    for r in sorted(widths):
        end = torch.full((m,), r, dtype=torch.float64)
        _, low, high = pair_bounds(surrogate, -end, end, cuts=cuts)
        found = found.masked_fill((low > 0) | (high < 0), r)
    return pairs, found


def _mixed(samples: Sequence[Sampled], first: Tensor, second: Tensor) -> Interval:
    """What ``∂²ĝ/∂σ_a∂σ_b`` can be, ``[B, pairs]``, where edges have these slopes and bends."""
    slope = samples[0].slope
    none = torch.zeros(len(slope.low), slope.low.shape[1], len(first), dtype=torch.float64)
    mixed = Interval(none, none)
    for edges in samples[1:]:
        a, b = (Interval(slope.low[..., k], slope.high[..., k]) for k in (first, second))
        mixed = _sum(edges.bend, a * b) + _sum(edges.slope, mixed)
        slope = _sum(edges.slope, slope)
    return Interval(mixed.low[:, 0], mixed.high[:, 0])


def _sum(edges: Interval, nodes: Interval) -> Interval:
    """``Σ_i edges_oi nodes_i``: ``[B, out, in]`` and ``[B, in, n]`` to ``[B, out, n]``."""
    each = Interval(edges.low[..., None], edges.high[..., None]) * Interval(
        nodes.low[:, None], nodes.high[:, None]
    )
    rounding = ROUNDING * each.size.sum(2)
    return Interval(each.low.sum(2) - rounding, each.high.sum(2) + rounding)
