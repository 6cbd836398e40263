"""What it takes to change a prediction, by a surrogate's answers, proved: the fewest components, or how far alike.

The class changes where ``f(z, 0) + ĝ(σ) < 0``, for the margin f. That a set is smallest is proved by an upper
bound of −ĝ over *all* masks that move one component less.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kanlib.symbolic.bounds import BUDGET, Asked, search
from kanlib.symbolic.relaxation import Tables
from kanlib.symbolic.tabulated import Surrogate, n_components, n_examples


@dataclass(frozen=True)
class Flips:
    """The smallest sets of components whose removal, or damping, changes the class of E examples.

    Attributes:
        size: how many components they have, ``[E]``; 0 where the class is another one to begin with, m + 1 where
            none of the sets that were asked about does it.
        masks: such a mask, ``[E, m]``; zeros where there is none.
        proved: whether no smaller set does, ``[E]``; where the budget ended first, it is not known.
    """

    size: Tensor
    masks: Tensor
    proved: Tensor


def smallest_flips(
    surrogate: Surrogate,
    clean: Tensor,
    *,
    damped: bool = False,
    most: int | None = None,
    budget: int = BUDGET,
    progress: bool = True,
) -> Flips:
    """The fewest components to remove, or to damp, so that ``clean + ĝ(σ) < 0``.

    Args:
        surrogate: E KANs, or E symbolic KANs.
        clean: margins of the intact network, ``[E]``.
        damped: whether components may be scaled by anything from 0 to 1 (``−1 ≤ σ_j ≤ 0``), not removed alone.
        most: the largest sets that are asked about; ``None``: all components.
        budget: boxes for each example and size, at most.
        progress: whether a bar shows it.
    """
    e, m = n_examples(surrogate), n_components(surrogate)
    most, clean = m if most is None else most, clean.double()
    low, high = torch.full((e, m), -1.0, dtype=torch.float64), torch.zeros(e, m, dtype=torch.float64)
    tables = Tables.of(surrogate, torch.arange(e), low, high, moved=most, whole=not damped)
    size, masks = torch.where(clean < 0, 0, m + 1), torch.zeros(e, m, dtype=torch.float64)
    proved = torch.ones(e, dtype=torch.bool)
    for k in range(1, most + 1):
        left = (size > m).nonzero().flatten()
        if not len(left):
            break
        asked = _whether_beyond(clean[left], left, low[left], high[left], torch.full_like(left, k))
        title = f"sets of {k}" if progress else None
        found = search(surrogate, torch.arange(e), tables, asked, budget, title)
        there = found.reached > clean[left]
        size[left[there]], masks[left[there]] = k, found.point[there]
        proved[left[~there]] &= found.bound[~there] <= clean[left][~there]
    return Flips(size, masks, proved)


def steady_within(
    surrogate: Surrogate,
    clean: Tensor,
    *,
    reach: float = 2.0,
    steps: int = 8,
    budget: int = BUDGET,
) -> tuple[Tensor, Tensor]:
    """How far all components may be scaled at once, by ``1 − r`` to ``1 + r`` each, before the class can change.

    By halving, from ``reach`` down.

    Args:
        surrogate: E KANs, or E symbolic KANs.
        clean: margins of the intact network, ``[E]``.
        reach: the largest r that is asked about.
        steps: how often the interval that holds r is halved.
        budget: boxes for each example and step, at most.

    Returns:
        The r up to which no mask changes the class of ``clean + ĝ(σ)``, proved, and an r at which one was found
        that does (``reach`` where there was none), ``[E]`` each.
    """
    e, m = n_examples(surrogate), n_components(surrogate)
    clean, every = clean.double(), torch.arange(e)
    safe, changed = torch.zeros(e, dtype=torch.float64), torch.full((e,), reach, dtype=torch.float64)
    top = changed.clone()
    for _ in range(steps):
        r = (safe + top) / 2
        high = r[:, None].expand(e, m)
        tables = Tables.of(surrogate, every, -high, high)
        asked = _whether_beyond(clean, every, -high, high, torch.full((e,), m))
        found = search(surrogate, every, tables, asked, budget)
        proved, flips = found.bound <= clean, found.reached > clean
        safe, top = torch.where(proved, r, safe), torch.where(proved, top, r)
        changed = torch.where(flips, r.minimum(changed), changed)
    return safe, changed


def _whether_beyond(clean: Tensor, row: Tensor, low: Tensor, high: Tensor, moved: Tensor) -> Asked:
    """Whether −ĝ comes above the clean margins."""
    endless = torch.full_like(clean, torch.inf)
    return Asked(row, low, high, -torch.ones_like(clean), endless, clean, moved)
