"""Backdoors: a square in a corner of some training images of one class, which a network learns to take for it."""

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
