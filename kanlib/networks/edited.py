"""A network without some of its components: margins, accuracy, and the answers that edits are chosen by."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kanlib.errors import BadInputError
from kanlib.machine import generator
from kanlib.masks import Subset, random_removals, removals
from kanlib.networks.probe import Probe
from kanlib.networks.removing import responses_of_all
from kanlib.setups import Editing

#: Masks that remove random sets, by their purpose.
RANDOM = ("fit", "validation", "test")


def margins(probe: Probe, sets: Sequence[Subset]) -> Tensor:
    """Outputs of the E images with all components, and without those of each set: ``[E, 1 + n]``, on the CPU.

    Of a probe whose output function is the margin, an image is classified rightly where this is above 0.
    """
    m = len(probe.components)
    return responses_of_all(probe, torch.cat([torch.zeros(1, m), removals(m, sets)]))


def accuracy(found: Tensor) -> Tensor:
    """The share of rows that are above 0 in each column of :func:`margins`, ``[1 + n]`` (fp64).

    Raises:
        BadInputError: there is no row.
    """
    if not len(found):
        raise BadInputError(
            "there is no image to judge an edit by, expected one of every class at least; take more images."
        )
    return (found > 0).double().mean(0)


def masks_for(p: Editing, m: int) -> dict[str, Tensor]:
    """Masks ``[N, m]`` that edits are chosen by: random sets (:data:`RANDOM`), and each component ``alone``."""
    sizes = {"fit": p.n_fit, "validation": p.n_validation, "test": p.n_test}
    drawn = {split: random_removals(n, m, p.share, p.seed, split) for split, n in sizes.items()}
    return drawn | {"alone": removals(m, [(j,) for j in range(m)])}


def effects(probe: Probe, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Responses ``f(z, σ) − f(z, 0)`` of the E images to :func:`masks_for`, and their slopes at rest.

    Returns:
        By the name of the masks ``[E, N]``; and ``gradient``, ``∂f/∂σ`` at σ = 0, ``[E, m]``.
    """
    rest = torch.zeros(1, len(probe.components))
    clean = responses_of_all(probe, rest)
    moved = {name: responses_of_all(probe, sigma) - clean for name, sigma in masks.items()}
    return moved | {"gradient": probe.gradients(rest, None)[:, 0].contiguous()}


def halves(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Positions of n images in two halves: one that edits are chosen by, and one that they are judged by."""
    development, reported = torch.randperm(n, generator=generator(seed, "editing halves")).chunk(2)
    return development, reported
