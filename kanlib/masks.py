"""Masks σ: sets of components, the designs that masks are drawn by, and masks with the responses to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor
from torch.distributions import Normal
from torch.quasirandom import SobolEngine

from kanlib.errors import BadInputError, shown
from kanlib.machine import generator
from kanlib.memory import room_for
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

    def joined(self, other: "Split") -> "Split":
        """Its masks and then those of another one, of the same examples."""
        responses = torch.cat([self.responses, other.responses], 1)
        return Split(torch.cat([self.masks, other.masks]), responses, self.scale)

    def distinct(self) -> "Split":
        """Each of its masks once, where it first stands."""
        _, kind = self.masks.unique(dim=0, return_inverse=True)
        place = torch.arange(len(kind))
        first = place.new_full((int(kind.max()) + 1,), len(kind)) if len(kind) else place
        return self.drawn(first.scatter_reduce(0, kind, place, "amin").sort().values)

    def apart(self, sizes: Sequence[int], seed: int, purpose: str = "apart") -> list["Split"]:
        """Its distinct masks in parts of these sizes, by a seeded permutation: no mask is in two parts.

        Raises:
            BadInputError: there are fewer distinct masks than the parts have together.
        """
        once = self.distinct()
        if sum(sizes) > len(once.masks):
            raise BadInputError(
                f"parts of {', '.join(map(str, sizes))} masks were asked for, and {len(once.masks)} are distinct; "
                "ask for fewer."
            )
        order = torch.randperm(len(once.masks), generator=generator(seed, "masks", purpose))
        return [once.drawn(index) for index in order[: sum(sizes)].split(list(sizes))]

    def at(self, masks: Tensor) -> "Split":
        """These masks ``[n, m]`` and the responses to them, which it must hold.

        Raises:
            BadInputError: one of them is not among its masks.
        """
        place = {tuple(row): i for i, row in enumerate(self.masks.tolist())}
        rows = [tuple(row) for row in masks.tolist()]
        if missing := [row for row in rows if row not in place]:
            raise BadInputError(
                f"{len(missing)} of {len(rows)} masks are not among the {len(place)} whose responses are known; "
                "ask for others, or record these too."
            )
        return self.drawn(torch.tensor([place[row] for row in rows], dtype=torch.long))

    def with_rest(self) -> "Split":
        """And the mask of zeros, one in a hundred, to which every response is 0: nothing is scaled there.

        Gaussian masks of many components never come near it; without it a surrogate would be told nothing of the
        one point that is known for sure.
        """
        n, m = self.masks.shape
        share = -(-n // 100)
        rest = Split(self.masks.new_zeros(share, m), self.responses.new_zeros(len(self.responses), share))
        return self.joined(rest)

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


def pair_grid(names: Sequence[str], pair: Sequence[str], reach: float = 2.0, points: int = 17) -> Tensor:
    """Masks ``[points², m]`` that scale two of the named components from ``−reach`` to ``reach``, and no others.

    Row ``points · a + b`` has the a-th value of the first of the pair and the b-th of the second.

    Raises:
        BadInputError: the pair is not two of the components.
    """
    if len(pair) != 2 or len(set(pair) & set(names)) != 2:
        raise BadInputError(
            f"grid is {shown(list(pair))}, expected the names of two of the {len(names)} components; correct grid."
        )
    masks, steps = torch.zeros(points**2, len(names)), torch.linspace(-reach, reach, points)
    first, second = (names.index(name) for name in pair)
    masks[:, first], masks[:, second] = steps.repeat_interleave(points), steps.repeat(points)
    return masks


def removals(m: int, removed: Sequence[Subset]) -> Tensor:
    """Masks ``[n, m]``, each of which removes one set of components: σ_j = −1 for j in it, else 0."""
    masks = torch.zeros(len(removed), m)
    for row, subset in zip(masks, removed, strict=True):
        row[list(subset)] = -1
    return masks


def every_removal(m: int) -> Tensor:
    """The masks ``[2^m, m]`` of all sets of components that can be removed, that of none first: σ_j = −1 or 0.

    Raises:
        BadInputError: ``m`` is above 12.
    """
    if m > 12:
        raise BadInputError(
            f"all sets of {m} components are {2**m:,}, expected at most 12 components; draw sets at random."
        )
    removed = torch.arange(2**m)[:, None] >> torch.arange(m) & 1
    return 0 - removed.float()


def random_removals(n: int, m: int, share: float, seed: int, split: str) -> Tensor:
    """``n`` masks ``[n, m]``, each component removed (σ_j = −1) with probability ``share``: COAR's design.

    The paper draws sets of exactly ``share · m`` components, its code each component by itself, as here.
    Source: Shah, Ilyas and Madry (2024), section 3.

    Raises:
        BadInputError: ``share`` is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise BadInputError(f"share is {share:g}, expected more than 0 and less than 1; set share.")
    drawn = torch.rand(n, m, generator=generator(seed, "masks", "removal", split))
    return 0 - (drawn < share).float()


def ablations(n: int, m: int, seed: int) -> Tensor:
    """``n`` masks ``[n, m]`` that remove each component, each pair, then random sets, their share uniform."""
    source = generator(seed, "masks", "ablation")
    share, drawn = torch.rand(n, 1, generator=source), torch.rand(n, m, generator=source)
    return torch.cat([removals(m, subsets(m, min(2, m))), -(drawn < share).float()])[:n]
