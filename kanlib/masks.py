"""Masks σ: sets of components, the designs that masks are drawn by, and masks with the responses to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor
from torch.distributions import Normal
from torch.quasirandom import SobolEngine

from kanlib.errors import BadInputError
from kanlib.machine import generator, room_for
from kanlib.setups import Perturbation
from kanlib.store import Artifact

#: Indices of some of the m components, rising.
Subset = tuple[int, ...]


def subsets(m: int, max_order: int) -> list[Subset]:
    """All subsets of ``{0, …, m − 1}`` of size 1 to ``max_order``, by size, then in lexicographic order.

    Raises:
        BadInputError: ``max_order`` is not between 1 and ``min(m, 4)``.
    """
    if not 1 <= max_order <= min(m, 4):
        raise BadInputError(
            f"max_order is {max_order}, expected 1 to {min(m, 4)} for {m} components; set max_order."
        )
    return [s for r in range(1, max_order + 1) for s in combinations(range(m), r)]


@dataclass(frozen=True)
class Split:
    """Masks that are used for one purpose, and the responses of E examples to them.

    Attributes:
        masks: ``[N, m]``, shared by all examples.
        responses: ``[E, N]``, in units of the output function.
        scale: s of the distribution N(0, s² I) that the masks were drawn from.
    """

    masks: Tensor
    responses: Tensor
    scale: float = 1.0

    @classmethod
    def read(cls, recorded: Artifact, name: str) -> "Split":
        """The split of that name of what 01_perturbation wrote: ``fit``, ``validation`` or ``test``.

        Raises:
            BadInputError: masks, responses, and names of components and examples do not fit each other; or an
                example whose output does not move, so that there is nothing to explain.
        """
        names, label_names = recorded.said("names", list), recorded.said("label_names", list)
        if not all(isinstance(text, str) for text in [*names, *label_names]):
            raise recorded.wrong("its record names components or examples by something else than text")
        masks = recorded.tensor(f"masks.{name}", (None, len(names)))
        responses = recorded.tensor(f"responses.{name}", (len(label_names), len(masks)))
        for e in (responses.amax(1) == responses.amin(1)).nonzero().flatten().tolist() if len(masks) > 1 else ():
            raise BadInputError(
                f"the responses of example {e + 1} to the {name} masks are all {float(responses[e, 0]):g}, "
                "expected some that differ; choose another output_function, other components or other examples."
            )
        return cls(masks, responses, Perturbation.of(recorded).scale)

    def part(self, n: int) -> "Split":
        """Its first ``n`` masks."""
        return Split(self.masks[:n], self.responses[:, :n], self.scale)

    def drawn(self, index: Tensor) -> "Split":
        """The masks at these positions, which may repeat."""
        return Split(self.masks[index], self.responses[:, index], self.scale)

    def of(self, examples: Tensor | slice) -> "Split":
        """The same masks, and the responses of some of the examples."""
        return Split(self.masks, self.responses[examples], self.scale)

    def to(self, place: torch.device | torch.dtype) -> "Split":
        """Masks and responses on that device, or in that precision."""
        return Split(self.masks.to(place), self.responses.to(place), self.scale)


def gaussian(n: int, m: int, scale: float, seed: int, split: str) -> Tensor:
    """``n`` masks ``σ ~ N(0, s² I_m)`` as ``[n, m]`` (fp32); each split has a stream of its own.

    Growing one split therefore leaves the others as they are, and appends to it.

    Raises:
        BadInputError: they are more than memory holds.
    """
    room_for(8 * n * m, f"{n} masks of {m} components", f"lower n_{split}")
    # In whole blocks of 16, as torch draws Gaussians; it would draw a shorter last block anew.
    flat = torch.randn(-(n * m) // 16 * -16, generator=generator(seed, "masks", split))
    return scale * flat[: n * m].view(n, m)


def sobol(n: int, m: int, seed: int) -> Tensor:
    """``n`` masks ``[n, m]`` that fill N(0, I) evenly: scrambled Sobol points, as Gaussians (fp32)."""
    points = SobolEngine(m, scramble=True, seed=seed).draw(n, dtype=torch.float64)
    return Normal(0.0, 1.0).icdf(points.clamp(1e-9, 1 - 1e-9)).float()


def two_scales(n: int, m: int, seed: int) -> Tensor:
    """``n`` masks ``[n, m]``, half of scale 1, half of scale 1.5."""
    scales = torch.tensor([1.0, 1.5]).repeat_interleave(n // 2)[:, None]
    return scales * gaussian(n, m, 1.0, seed, "mixture")


def one_at_a_time(m: int, reach: float = 3.0, points: int = 61) -> Tensor:
    """Masks ``[m · points, m]`` that scale one component at a time, from ``−reach`` to ``reach``."""
    sweep = torch.linspace(-reach, reach, points)
    return torch.cat([sweep[:, None] * row for row in torch.eye(m)])


def removals(m: int, removed: Sequence[Subset]) -> Tensor:
    """Masks ``[n, m]``, each of which removes one set of components: σ_j = −1 for j in it, else 0."""
    masks = torch.zeros(len(removed), m)
    for row, subset in zip(masks, removed, strict=True):
        row[list(subset)] = -1
    return masks


def ablations(n: int, m: int, seed: int) -> Tensor:
    """``n`` masks ``[n, m]`` that remove each component, each pair, then random sets, their share uniform."""
    source = generator(seed, "masks", "ablation")
    share, drawn = torch.rand(n, 1, generator=source), torch.rand(n, m, generator=source)
    return torch.cat([removals(m, subsets(m, min(2, m))), -(drawn < share).float()])[:n]
