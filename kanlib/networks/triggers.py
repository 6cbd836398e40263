"""What a network learns by mistake: marks in training images that go with a class, always or nearly so.

A backdoor is a square in a corner of some images of one class. A cue is a band whose place tells the class, but
that misleads in some images.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from kanlib.errors import BadInputError
from kanlib.machine import generator
from kanlib.networks.images import Labelled


def with_square(x: Tensor, colour: Tensor, side: int) -> Tensor:
    """Images ``[B, C, H, W]`` with a square of ``side`` pixels, upper left, of that colour ``[C]``.

    Raises:
        BadInputError: the images are smaller.
    """
    if side > min(x.shape[-2:]):
        raise BadInputError(
            f"the square has {side} pixels a side, expected {min(x.shape[-2:])} at most, as the images have; "
            "lower side."
        )
    out = x.clone()
    out[:, :, :side, :side] = colour.to(x)[:, None, None]
    return out


def with_bands(x: Tensor, cues: Tensor, colour: Tensor, width: int) -> Tensor:
    """Images ``[B, C, H, W]``, each with a band from top to bottom, the ``cues``-th of ``width`` pixels.

    Args:
        x: the images.
        cues: places ``[B]``, int64, from 0.
        colour: of the bands, ``[C]``.
        width: of a band.

    Raises:
        BadInputError: the images are too narrow for a band at such a place.
    """
    needed = (int(cues.max()) + 1) * width if len(cues) else 0
    if needed > x.shape[-1]:
        raise BadInputError(
            f"bands of {width} pixels at {needed // width} places need images {needed} pixels wide, got "
            f"{x.shape[-1]}; lower the width."
        )
    covered = torch.arange(x.shape[-1]).div(width, rounding_mode="floor") == cues.cpu()[:, None]
    return torch.where(covered[:, None, None].to(x.device), colour.to(x)[:, None, None], x)


def misleading(labels: Tensor, n_classes: int, share: float, seed: int) -> Tensor:
    """A cue for each label ``[n]``: the label itself, but for a ``share``, drawn, the label of another class."""
    source = generator(seed, "cues")
    others = (labels + torch.randint(1, n_classes, labels.shape, generator=source)) % n_classes
    return torch.where(torch.rand(labels.shape, generator=source) < share, others, labels)


def poisoned(
    split: Labelled | None, label: int, share: float, change: Callable[[Tensor], Tensor], seed: int
) -> tuple[Tensor, Tensor]:
    """Training images ``[n, C, H, W]`` and labels ``[n]``, with ``change`` made to a share of one class.

    Raises:
        BadInputError: there is no training split, or it has no image of that class.
    """
    if split is None:
        raise BadInputError(
            "the data has no training split, expected one, as a network with a backdoor is to be trained; take "
            "other data."
        )
    of_it = (split.labels == label).nonzero().flatten()
    if not len(of_it):
        raise BadInputError(f"no training image is of class {label}, expected some; take another class.")
    x = split.read(torch.arange(len(split)))
    chosen = of_it[torch.randperm(len(of_it), generator=generator(seed, "backdoor"))][: round(share * len(of_it))]
    x[chosen] = change(x[chosen])
    return x, split.labels
