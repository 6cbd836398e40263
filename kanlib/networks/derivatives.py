"""Mixed partial derivatives of a network's output by backward passes through backward passes."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from kanlib.errors import BadInputError
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
        BadInputError: autograd cannot differentiate it so often.
    """
    later = range(of[-1] + 1 if of else 0, len(sigma))
    if not later:
        return
    asked = [sigma[j] for j in later]
    try:
        # What is linear in its masks has no graph left to go back through.
        slopes: Sequence[Tensor | None] = (
            torch.autograd.grad(value.sum(), asked, create_graph=order > 1, retain_graph=True, allow_unused=True)
            if value.requires_grad
            else [None] * len(asked)
        )
    except RuntimeError as error:
        raise BadInputError(
            f"the network cannot be differentiated in its masks to order {len(of) + 1} "
            f"({str(error).splitlines()[0]}); lower max_order."
        ) from error
    for j, found in zip(later, slopes, strict=True):
        slope = torch.zeros_like(value) if found is None else found
        yield (*of, j), slope.detach()
        if order > 1:
            yield from partials(slope, sigma, order - 1, (*of, j))
