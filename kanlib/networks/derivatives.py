"""Derivatives of a network's output in its masks, by backward passes and backward passes through these."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from kanlib.errors import BadInputError, cause
from kanlib.machine import enough_memory
from kanlib.masks import Subset


def partials(
    value: Tensor, sigma: Sequence[Tensor], order: int, of: Subset = ()
) -> Iterator[tuple[Subset, Tensor]]:
    """``∂_S value`` ``[E]`` for every S that prolongs ``of`` by 1 to ``order`` later components.

    Order r takes a backward pass for each subset of r − 1 components.

    Args:
        value: ``[E]``, or its derivative over ``of``.
        sigma: what it was computed from, one tensor ``[E]`` a component; each asks for gradients.
        order: how many more components at most.
        of: the components that ``value`` was differentiated by already.

    Raises:
        BadInputError: autograd cannot differentiate it so often, or memory runs out.
    """
    later = range(of[-1] + 1 if of else 0, len(sigma))
    if not later:
        return
    # What is linear in its masks has no graph left to go back through.
    found: Sequence[Tensor | None] = [None] * len(later)
    if value.requires_grad:
        found = slopes(value, [sigma[j] for j in later], len(of) + 1, "lower max_order", again=order > 1)
    for j, one in zip(later, found, strict=True):
        slope = torch.zeros_like(value) if one is None else one
        yield (*of, j), slope.detach()
        if order > 1:
            yield from partials(slope, sigma, order - 1, (*of, j))


def slopes(
    value: Tensor, sigma: Sequence[Tensor], order: int, remedy: str, *, again: bool = False
) -> Sequence[Tensor | None]:
    """``∂ Σ value / ∂σ_j`` of each tensor of ``sigma``, in its shape; ``None`` where there is no dependence.

    Args:
        value: ``[E]``.
        sigma: what it was computed from.
        order: of this derivative, for the sentence.
        remedy: what to do where it cannot be taken.
        again: whether it is to be differentiated in its turn.

    Raises:
        BadInputError: autograd cannot differentiate the network, or memory runs out.
    """
    try:
        with enough_memory(len(value)):
            return torch.autograd.grad(
                value.sum(), list(sigma), create_graph=again, retain_graph=again or order > 1, allow_unused=True
            )
    except RuntimeError as error:
        raise BadInputError(
            f"the network cannot be differentiated in its masks to order {order} ({cause(error)}); {remedy}."
        ) from error
