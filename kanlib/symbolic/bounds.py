"""Between what a surrogate's answers lie over boxes of gates: proved bounds, as near as asked for.

Where the bound of a whole box is too loose, the box is cut in two, across the gate whose slope may vary most, and
the parts are bounded; parts that cannot hold anything higher than what was found are done with. That is branch and
bound, on all boxes of all examples at once. Bounds hold for real numbers: how far tables are from edges, and all
rounding, is added to them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm import tqdm

from kanlib.errors import BadInputError
from kanlib.kan.kan import KAN
from kanlib.kan.trees import tree_map
from kanlib.machine import generator
from kanlib.symbolic.relaxation import Part, Tables
from kanlib.symbolic.symbolic_kan import Batch
from kanlib.symbolic.tabulated import Surrogate, n_components, n_examples

_AT_ONCE = 128  # boxes that are cut at a time
_CLIMBERS, _STEPS = 16, 30  # masks that climb in each box, and how often they step
_STRIDE, _SHRINK = 0.3, 0.85  # of a box's width that the first step takes, and of a step that the next one does
#: Boxes that are looked at for each side of each box, at most.
BUDGET = 5_000


@dataclass(frozen=True)
class Bounds:
    """Bounds of E surrogates over R boxes, and the answers nearest to them that were found.

    Attributes:
        low, high: no answer in the box lies beyond them, ``[E, R]`` (fp64), in units of the response.
        lowest, highest: answers there are, ``[E, R]``; the true extremes lie between these and the bounds.
        at_lowest, at_highest: the masks that are answered so, ``[E, R, m]``.
        n_boxes: how many parts were looked at, ``[E, R]``.
    """

    low: Tensor
    high: Tensor
    lowest: Tensor
    highest: Tensor
    at_lowest: Tensor
    at_highest: Tensor
    n_boxes: Tensor

    @property
    def gap(self) -> Tensor:
        """How much narrower the true range may be on either side, ``[E, R]``."""
        return torch.maximum(self.high - self.highest, self.lowest - self.low)


def bounds(
    surrogate: Surrogate,
    low: Tensor,
    high: Tensor,
    *,
    gap: Tensor | float,
    budget: int = BUDGET,
    progress: bool = True,
) -> Bounds:
    """Bounds of ``ĝ(σ)`` for all σ with ``low ≤ σ ≤ high``, of E surrogates and R boxes.

    A component is free between two ends that differ, fixed where they are one, and removed where both are −1. What
    a KAN of fp32 computes differs from what is bounded by its own rounding.

    Args:
        surrogate: E KANs, or E symbolic KANs of one shape.
        low: lower ends of the boxes, ``[R, m]``, or ``[m]`` for one.
        high: their upper ends.
        gap: how far bounds may be from an answer that was found, in units of the response: a number, or ``[E]``.
        budget: parts that are looked at, for each side of each box, at most; then the bounds are what is proved.
        progress: whether a bar shows it.

    Raises:
        BadInputError: a box is empty, or of other components; or a form has a pole where a box may lead.
    """
    low, high = checked(surrogate, low, high)
    e, r = n_examples(surrogate), len(low)
    example = torch.arange(e).repeat_interleave(r)
    low, high = low.repeat(e, 1), high.repeat(e, 1)
    tables = Tables.of(surrogate, example, low, high)
    gap = torch.as_tensor(gap, dtype=torch.float64).expand(e).repeat_interleave(r)
    asked = Asked(
        row=torch.arange(e * r).repeat(2),
        low=low.repeat(2, 1),
        high=high.repeat(2, 1),
        sign=torch.tensor([1.0, -1.0], dtype=torch.float64).repeat_interleave(e * r),
        gap=gap.repeat(2),
    )
    found = search(surrogate, example, tables, asked, budget, "bounds" if progress else None)
    top, bottom = (v.unflatten(0, (2, e, r)) for v in (found.bound, found.reached))
    points = found.point.unflatten(0, (2, e, r))
    n_boxes = found.n_boxes.unflatten(0, (2, e, r)).sum(0)
    return Bounds(-top[1], top[0], -bottom[1], bottom[0], points[1], points[0], n_boxes)


@dataclass(frozen=True)
class Asked:
    """Questions, n of them: how high ``sign · ĝ`` comes in a box.

    Attributes:
        row: the tables' surrogate that each is about, ``[n]``.
        low, high: ends of the boxes ``[n, m]``, within those of the tables.
        sign: 1 or −1, ``[n]``.
        gap: how near the bound has to come to what is reached.
        threshold: where there is one, a question is settled once the bound is below it, or what is reached above.
        moved: gates that may leave 0 at once, at most; ``None``: all.
    """

    row: Tensor
    low: Tensor
    high: Tensor
    sign: Tensor
    gap: Tensor
    threshold: Tensor | None = None
    moved: Tensor | None = None


@dataclass(frozen=True)
class Found:
    """The answers to n questions.

    Attributes:
        bound: nothing in the box is above it, ``[n]``.
        reached: the highest that was found, ``[n]``.
        point: where, ``[n, m]``.
        n_boxes: how many parts were looked at, ``[n]``.
    """

    bound: Tensor
    reached: Tensor
    point: Tensor
    n_boxes: Tensor


def search(
    surrogate: Surrogate, example: Tensor, tables: Tables, asked: Asked, budget: int, title: str | None = None
) -> Found:
    """Branch and bound, best first, for all questions at once.

    Args:
        surrogate: what the tables are of.
        example: of each of the tables' surrogates.
        tables: see :class:`kanlib.symbolic.relaxation.Tables`.
        asked: the questions.
        budget: boxes for each question, at most.
        title: of the progress bar; ``None``: none.
    """
    n, m = asked.low.shape
    moved = torch.full((n,), m) if asked.moved is None else asked.moved
    threshold = asked.low.new_full((n,), -torch.inf) if asked.threshold is None else asked.threshold
    answers = answering(surrogate)
    reached, point = asked.low.new_full((n,), -torch.inf), asked.low.clone()
    settled, n_boxes = asked.low.new_full((n,), -torch.inf), torch.zeros(n, dtype=torch.long)

    def looked(of: Tensor, part: Part) -> tuple[Part, Tensor, Tensor]:
        """What is left of parts of these questions, their bounds, and where to cut; what is reached is noted."""
        rows, signs, most = asked.row[of], asked.sign[of], moved[of]
        top = tables.highest(rows, part, signs, most, enough()[of])
        at = _whole(top.point, part.low, part.high) if tables.whole else top.point
        possible = top.bound.isfinite()
        values = signs * answers(example[rows], at)
        values = values.masked_fill(~possible | values.isnan(), -torch.inf)
        best = reached.scatter_reduce(0, of, values, "amax")
        better = (values == best[of]) & (best[of] > reached[of])
        point[of[better]] = at[better]
        reached.copy_(best)
        n_boxes.index_add_(0, of, torch.ones_like(of))
        # Where a function rises with a gate all over the box, it is highest at that gate's upper end. On the way
        # there it does not come to what was left out, since that is lower.
        free, wide = (most >= m)[:, None], (part.low < part.high).any(1)
        low = torch.where(free & (top.slope.low >= 0), top.part.high, top.part.low)
        high = torch.where(free & (top.slope.high <= 0), low, top.part.high)
        bound, pinned = top.bound, wide & (low == high).all(1)
        if pinned.any():
            # Nothing is left to cut, so the one mask that is left is bounded itself.
            one = Part(low[pinned], low[pinned])
            alone = tables.highest(rows[pinned], one, signs[pinned], most[pinned]).bound
            bound = bound.masked_scatter(pinned, alone)
        # A plane is the further from the function, the more its slope may vary.
        doubt = (high - low) * (1e-9 + top.slope.high - top.slope.low)
        return replace(top.part, low=low, high=high), bound, doubt.argmax(-1)

    def enough() -> Tensor:
        """The bound that each question is content with."""
        # A little less than the gap, which the sum rounds.
        return torch.where(reached > threshold, reached + (1 - 1e-9) * asked.gap, threshold)

    of = torch.arange(n)
    if not tables.whole and (moved >= m).all():
        reached, point = _climbed(answers, example[asked.row], asked)
    part, bound, cut = looked(of, Part(asked.low, asked.high))
    with tqdm(desc=title, total=n, unit="bound", mininterval=1, disable=title is None) as bar:
        while True:
            splittable = (part.high - part.low).gather(1, cut[:, None])[:, 0] > 0
            left = (bound > enough()[of]) & splittable & (n_boxes[of] < budget)
            # What is left out of the others is not above what their questions are content with.
            settled.scatter_reduce_(0, of, torch.where(left, enough()[of], bound), "amax")
            part = tree_map(lambda v, left=left: v[left], part)
            of, bound, cut = of[left], bound[left], cut[left]
            bar.update(n - len(of.unique()) - bar.n)
            if not len(of):
                break
            now = (bound - enough()[of]).topk(min(_AT_ONCE, len(of))).indices
            later = torch.ones_like(of, dtype=torch.bool).index_fill(0, now, False)
            new = of[now].repeat(2)
            halves, new_bound, new_cut = looked(new, _halves(part, now, cut[now], tables.whole))
            new_bound = torch.minimum(new_bound, bound[now].repeat(2))
            part = tree_map(lambda a, b, later=later: torch.cat([a[later], b]), part, halves)
            of, bound, cut = (torch.cat([a[later], b]) for a, b in ((of, new), (bound, new_bound), (cut, new_cut)))
    return Found(torch.maximum(settled, reached), reached, point, n_boxes)


def _climbed(answers: Callable[[Tensor, Tensor], Tensor], example: Tensor, asked: Asked) -> tuple[Tensor, Tensor]:
    """The highest that is reached ``[n]``, and where ``[n, m]``, by masks that climb: the search begins there."""
    n, m = asked.low.shape
    low, high, sign = asked.low[:, None], asked.high[:, None], asked.sign[:, None, None]
    source = generator(0, "climbers")
    at = low + (high - low) * torch.rand(n, _CLIMBERS, m, generator=source, dtype=torch.float64)
    of = example.repeat_interleave(_CLIMBERS)
    for step in range(_STEPS):
        at = at.detach().requires_grad_()
        (slope,) = torch.autograd.grad(answers(of, at.flatten(0, 1)).sum(), at)
        at = (at.detach() + sign * _STRIDE * _SHRINK**step * (high - low) * slope.sign()).clamp(low, high)
    values = asked.sign[:, None] * answers(of, at.flatten(0, 1)).unflatten(0, (n, -1))
    best = values.nan_to_num(-torch.inf).max(1)
    return best.values, at[torch.arange(n), best.indices]


def answering(surrogate: Surrogate) -> Callable[[Tensor, Tensor], Tensor]:
    """``ĝ_e(σ)`` ``[B]`` (fp64) of examples ``[B]`` at masks ``[B, m]`` of their own."""
    e = n_examples(surrogate)
    function = surrogate.detached().to(torch.float64) if isinstance(surrogate, KAN) else Batch(surrogate)

    def answer(example: Tensor, masks: Tensor) -> Tensor:
        order = example.argsort(stable=True)
        counts = example.bincount(minlength=e)
        place = torch.arange(len(example)) - (counts.cumsum(0) - counts)[example[order]]
        packed = masks.new_zeros(e, int(counts.max()), masks.shape[1])
        packed[example[order], place] = masks[order]
        out = torch.empty(len(masks), dtype=torch.float64)
        out[order] = function(packed)[example[order], place]
        return out

    return answer


def _halves(part: Part, now: Tensor, cut: Tensor, whole: bool) -> Part:
    """The two parts of each of some boxes; where gates are whole, one has that end alone, the other this."""
    both = tree_map(lambda v: v[now].repeat(2, 1), part)
    at = cut[:, None]
    (low, others), (high, _) = both.low.chunk(2), both.high.chunk(2)
    first, last = low.gather(1, at), high.gather(1, at)
    below, above = (first, last) if whole else ((first + last) / 2,) * 2
    ends = torch.cat([low, others.scatter(1, at, above)]), torch.cat([high.scatter(1, at, below), high])
    return replace(both, low=ends[0], high=ends[1])


def _whole(point: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The nearer end of every gate's interval."""
    return torch.where(point - low < high - point, low, high)


def checked(surrogate: Surrogate, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The ends of boxes as ``[R, m]`` (fp64), which are not empty.

    Raises:
        BadInputError: one is, or they are of other components than the surrogate.
    """
    m = n_components(surrogate)
    low, high = (torch.as_tensor(v, dtype=torch.float64).reshape(-1, v.shape[-1]) for v in (low, high))
    if low.shape != high.shape or low.shape[1] != m:
        raise BadInputError(
            f"boxes have ends of {tuple(low.shape)} and {tuple(high.shape)}, expected (R, {m}) for both, as the "
            "surrogate has components; pass one row a box."
        )
    if not ((low <= high) & low.isfinite() & high.isfinite()).all():
        row, j = (~((low <= high) & low.isfinite() & high.isfinite())).nonzero()[0].tolist()
        raise BadInputError(
            f"box {row + 1} is empty or endless: component {j + 1} goes from {float(low[row, j]):g} to "
            f"{float(high[row, j]):g}; give finite ends, the lower one first."
        )
    return low, high
