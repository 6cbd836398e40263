"""Where the branch of a component meets what it is added to: found in a forward pass, not in a list of classes.

The graph that autograd makes of a pass is read from what a component puts out back to its input. The first
addition that every path goes through joins a *skip*, on which fewer steps lie, and a *branch*; a concatenation
joins what was there and what is new. Beyond it the search goes on along what is kept. A block of one such join is
gated at the join, one of several in a row (an encoder layer) as a whole, or at each of them if its shape changes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from kanlib.networks.graphs import Graph, is_embedding, is_example
from kanlib.networks.outputs import answered, pieces

_JOINS = {torch.add, Tensor.add, Tensor.add_, torch.cat, torch.concat, torch.concatenate}


@dataclass(frozen=True)
class Branch:
    """What of a component is scaled at the gate site ``branch``.

    Attributes:
        scaled: the joins, counted among the additions and concatenations of a forward pass of the component, each
            with the position of an operand that is scaled there; none: what the component puts out is scaled.
        whole: without a join, whether all that is put out is the branch, ``(1 + σ) y``, or what it has beyond the
            input, ``y + σ (y − x)``.
    """

    scaled: tuple[tuple[int, int], ...] = ()
    whole: bool = False


class Joins(TorchFunctionMode):
    """While it is entered, the k-th addition or concatenation is what ``join(k, function, args)`` gives."""

    def __init__(self, join: Callable[[int, Callable[..., Tensor], tuple[Any, ...]], Tensor]):
        super().__init__()
        self._join, self._n = join, 0

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        named = dict(kwargs or {})
        if func not in _JOINS:
            return func(*args, **named)
        self._n += 1
        operands = [named.pop(name) for name in ("input", "other", "tensors") if name in named]
        return self._join(self._n - 1, partial(func, **named), (*args, *operands))


def branches(model: nn.Module, components: Sequence[str], x: Tensor) -> dict[str, Branch | None]:
    """The branch of each component, from one forward pass of the model; ``None`` where it has none.

    Args:
        model: as it is; its weights may ask for gradients or not.
        components: names of whole modules. Those that do not run are left out.
        x: a few examples ``[B, ...]``.

    Raises:
        BadInputError: the forward pass fails.
    """
    trace = _Trace(model, components, x)
    return {name: trace.branch(name) for name in trace.ends}


class _Graded(TorchFunctionMode):
    """While it is entered, a network that switches gradients off leaves a graph all the same."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return None if func is torch._C._set_grad_enabled else func(*args, **(kwargs or {}))


class _Trace:
    """A forward pass, and where in its graph components begin, join and end."""

    def __init__(self, model: nn.Module, components: Sequence[str], x: Tensor):
        self.ends: dict[str, Node | None] = {}
        self._starts: dict[str, set[Node]] = {}
        self._keeps_shape: dict[str, bool] = {}
        self._joins: dict[str, dict[Node, int]] = {}
        self._open: list[Joins] = []
        # Not the caller's tensor: it may have been made where gradients are not.
        with torch.inference_mode(False), torch.enable_grad(), ExitStack() as stack:
            stack.enter_context(_Graded())
            stack.callback(self._close)
            for name in components:
                module = model.get_submodule(name)
                stack.callback(
                    module.register_forward_pre_hook(partial(self._begin, name), with_kwargs=True).remove
                )
                stack.callback(module.register_forward_hook(partial(self._end, name), with_kwargs=True).remove)
            given = x.clone()
            numbers = given.is_floating_point()
            for tensor in [given] if numbers else model.parameters():
                if tensor.is_floating_point() and not tensor.requires_grad and not tensor.is_inference():
                    stack.callback(tensor.requires_grad_, False)
                    tensor.requires_grad_()
            out = answered(model, given, len(x))
            ends = [one.grad_fn for one in tensors_in(list(pieces(out).values())) if one.grad_fn is not None]
        self._graph = Graph(ends, is_example if numbers else is_embedding)

    def branch(self, name: str) -> Branch | None:
        """What is scaled of a component; ``None`` if it has no branch."""
        end, keeps_shape = self.ends[name], self._keeps_shape[name]
        beyond = Branch() if keeps_shape else None
        if end is None:
            return beyond
        within = Graph([end], self._starts[name].__contains__)
        joins = within.joins(end)
        if not joins:
            if self._graph.only_joined(end) or within.laid_side_by_side(end):
                return Branch(whole=True)
            return None if within.hands_on(end) else beyond
        seen = self._joins[name]
        if (len(joins) > 1 and keeps_shape) or not joins.keys() <= seen.keys():
            return beyond
        return Branch(tuple((seen[join], i) for join, new in joins.items() for i in new))

    def _begin(self, name: str, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if name in self._starts:
            return None
        given = each_tensor(_marked, (args, kwargs))
        self._starts[name] = {one.grad_fn for one in tensors_in(given) if one.grad_fn is not None}
        self._joins[name] = {}
        self._open.append(Joins(partial(self._join, self._joins[name])))
        self._open[-1].__enter__()
        return given

    def _end(self, name: str, module: nn.Module, args: tuple, kwargs: dict, out: object) -> None:
        if name in self.ends:
            return
        self._open.pop().__exit__(None, None, None)
        given, made = next(tensors_in([args, kwargs]), None), list(tensors_in(out))
        alone = len(made) == 1
        self._keeps_shape[name] = alone and given is not None and given.shape == made[0].shape
        self.ends[name] = made[0].grad_fn if alone else None

    @staticmethod
    def _join(seen: dict[Node, int], k: int, function: Callable[..., Tensor], args: tuple[Any, ...]) -> Tensor:
        out = function(*args)
        # A part of a tensor that is added to in place: the addition is the tensor's.
        node = out.grad_fn if out._base is None else out._base.grad_fn
        if node is not None:
            seen[node] = k
        return out

    def _close(self) -> None:
        while self._open:
            self._open.pop().__exit__(None, None, None)


def tensors_in(value: object) -> Iterator[Tensor]:
    """The tensors in lists, tuples and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple | dict):
        for one in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(one)


def each_tensor(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """What a function makes of the tensors in lists, tuples and dicts, in lists, tuples and dicts."""
    if isinstance(value, Tensor):
        return function(value)
    if type(value) in (list, tuple):
        return type(value)(each_tensor(function, one) for one in value)
    if type(value) is dict:
        return {key: each_tensor(function, one) for key, one in value.items()}
    return value


def _marked(value: Tensor) -> Tensor:
    """A copy, which is a node of the graph of its own; of whole numbers there are none."""
    if not value.is_floating_point():
        return value
    return (value if value.requires_grad else value.detach().requires_grad_()).clone()
