"""How far a network is from its surrogate at masks that neither has seen: split conformal radii, by region.

Of masks that were not fitted on, the absolute errors ``|f(z, σ) − f(z, 0) − ĝ(σ)|`` are sorted. A further mask
that is drawn like them has an error below the ⌈(n + 1)(1 − δ)⌉-th of n with a probability of at least 1 − δ,
whatever network and surrogate are. As errors grow with the length of a mask, masks are sorted by it into regions,
each with a radius of its own. Source: Vovk, Gammerman and Shafer (2005), *Algorithmic Learning in a Random World*,
section 2.2 and, for regions, section 4.6.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kanlib.errors import BadInputError


@dataclass(frozen=True)
class Radii:
    """Radii of E surrogates.

    Attributes:
        ends: lengths ``|σ|`` where regions end, ``[regions]``; the last one is the longest mask that was used.
        radius: ``[E, regions]``, in units of the response.
    """

    ends: Tensor
    radius: Tensor

    @classmethod
    def of(cls, errors: Tensor, masks: Tensor, *, delta: float = 0.05, regions: int = 4) -> "Radii":
        """Radii that cover ``1 − delta`` of the masks of each region.

        Args:
            errors: responses less predictions, of masks that nothing was fitted to or chosen on, ``[E, N]``.
            masks: these masks, ``[N, m]``.
            delta: share of further masks that may be missed.
            regions: how many, of equally many masks each.

        Raises:
            BadInputError: a region has too few masks for a radius.
        """
        n = len(masks) // regions
        place = math.ceil((n + 1) * (1 - delta))
        if place > n:
            raise BadInputError(
                f"{len(masks)} masks are {n} for each of {regions} regions, expected {math.ceil(1 / delta) - 1} "
                "or more; ask for fewer regions, or more masks."
            )
        order = masks.double().norm(dim=1).argsort()
        parts = order.tensor_split(regions)
        ends = torch.stack([masks[part].double().norm(dim=1).amax() for part in parts])
        sizes = errors.double().abs()
        radius = [sizes[:, part].kthvalue(math.ceil((len(part) + 1) * (1 - delta)), 1).values for part in parts]
        return cls(ends, torch.stack(radius, 1))

    def at(self, masks: Tensor) -> Tensor:
        """The radius at each mask, ``[E, N]``; infinite beyond the longest mask that was used."""
        region = torch.searchsorted(self.ends, masks.double().norm(dim=1))
        beyond = torch.full_like(self.radius[:, :1], torch.inf)
        return torch.cat([self.radius, beyond], 1)[:, region]

    def over(self, low: Tensor, high: Tensor) -> Tensor:
        """The largest radius of the regions that boxes ``[R, m]`` reach into, ``[E, R]``.

        It is infinite where a box reaches beyond the longest mask that was used: bounds of ĝ hold there, but
        nothing is known of the network.
        """
        nearest = torch.zeros_like(low).clamp(low, high).norm(dim=1)
        farthest = torch.maximum(low.abs(), high.abs()).norm(dim=1)
        first, last = (torch.searchsorted(self.ends, length.double()) for length in (nearest, farthest))
        known = torch.cat([self.radius, torch.full_like(self.radius[:, :1], torch.inf)], 1)
        region = torch.arange(known.shape[1])
        inside = (region >= first[:, None]) & (region <= last[:, None])
        return known[:, None].masked_fill(~inside, -torch.inf).amax(2)
