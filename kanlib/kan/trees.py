"""Functions of many tensors at once: of corresponding ones in dataclasses and nested tuples of one kind."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor


def tree_map(function: Callable[..., Tensor], *trees: Any) -> Any:
    """``function`` of corresponding tensors; what is no tensor stays as it is in the first tree."""
    first: Any = trees[0]
    if isinstance(first, Tensor):
        return function(*trees)
    if isinstance(first, tuple):
        return tuple(tree_map(function, *parts) for parts in zip(*trees, strict=True))
    if not is_dataclass(first):
        return first
    kind: Any = type(first)
    return kind(*(tree_map(function, *(getattr(t, f.name) for t in trees)) for f in fields(kind)))


def tree_where(choice: Tensor, yes: Any, no: Any) -> Any:
    """Of each of a batch what ``yes`` or ``no`` holds of it, by ``choice`` ``[C]``; see :func:`tree_map`."""
    if choice.all():
        return yes
    return tree_map(lambda a, b: torch.where(choice.view(-1, *[1] * (a.ndim - 1)), a, b), yes, no)
