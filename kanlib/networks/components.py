"""Components of a network and the gates that scale them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torchvision.models.resnet import BasicBlock, Bottleneck

from kanlib.errors import BadInputError
from kanlib.networks.outputs import answered
from kanlib.networks.patterns import SLICED, find, n_parts, number, part, plain, projection

__all__ = ["Gates", "Site", "find", "gated"]

Site = Literal["branch", "output"]


@contextmanager
def gated(model: nn.Module, components: Sequence[str], site: Site = "branch") -> Iterator["Gates"]:
    """Scale components by ``1 + σ_j`` while the context is open.

    ``output``: all the component puts out, ``(1 + σ_j) y``. ``branch``: only what it adds to its input, so
    that σ_j = −1 removes the component: ``relu(shortcut(x) + (1 + σ_j) F(x))`` in a torchvision residual
    block, ``y + σ_j (y − x)`` in any other module that keeps its input's shape (an encoder layer). A part of
    a module is scaled alike at both sites: a filter's channel of its output, or a head's slice of what the
    output projection of its attention is given. All are the identity at σ = 0, to the bit. The model is not
    edited, and on exit, also after an exception, the gates are gone.

    Yields:
        :class:`Gates`, called as ``gates(x, masks)``.

    Raises:
        BadInputError: a component does not exist or occurs twice; at the first call, one whose output cannot
            be gated there.
    """
    if len(set(components)) < len(components):
        twice = next(name for name in components if components.count(name) > 1)
        raise BadInputError(f"component {plain(twice)} is listed twice; list it once.")
    gates = Gates(model, components)
    handles: list[RemovableHandle] = []
    try:
        for group in gates.groups():
            handles += gates.attach(*group, site)
        yield gates
    finally:
        for handle in handles:
            handle.remove()


class _Input:
    """What a module is given, and a copy of it, as the module may work on it in place."""

    def __init__(self, tensor: Tensor):
        self.tensor, self._copy = tensor, tensor.clone()
        self._version = None if tensor.is_inference() else tensor._version

    def as_it_was(self) -> Tensor:
        # The tensor itself wherever possible: autograd sums the gradients of a copy in another order.
        changed = self._version is None or self.tensor._version != self._version
        return self._copy if changed else self.tensor


class Gates:
    """A model whose components answer to masks; made by :func:`gated`."""

    def __init__(self, model: nn.Module, components: Sequence[str]):
        self.model = model
        self._names = list(components)
        self._masks: Tensor | Sequence[Tensor] | None = None
        self._n_masks = 0
        self._answered: set[int] = set()
        self._inputs: dict[int, _Input] = {}
        self._with_branch: set[int] = set()
        self._expands = False

    def __call__(self, x: Tensor, masks: Tensor | Sequence[Tensor]) -> Tensor:
        """Logits ``[B, classes]`` of the model under ``masks`` ``[B, m]``.

        Args:
            x: one example ``[1, ...]``, which all masks share: what comes before the first gate is then
                computed once and the gate broadcasts it over the masks; or one example a mask ``[B, ...]``.
            masks: σ, on the device of ``x``, or its m columns ``[B]``; gradients flow through them.

        Raises:
            BadInputError: the forward pass fails, or a component cannot be gated in it.
        """
        self._n_masks = len(masks) if isinstance(masks, Tensor) else len(masks[0])
        if self._expands:
            x = x.expand(self._n_masks, *x.shape[1:])
        self._masks, self._answered = masks, set()
        try:
            found: Any = answered(self.model, x, self._n_masks)
        finally:
            self._masks = None
            self._inputs.clear()
        for j, name in enumerate(self._names):
            if j not in self._answered:
                raise BadInputError(
                    f"component {name} does not run in a forward pass of this model; leave it out, or gate the "
                    "plain model if this one is traced or compiled."
                )
        if isinstance(found, Tensor) and found.ndim and len(found) == len(x) == 1 < self._n_masks:
            raise BadInputError(
                f"what the components put out does not reach the logits ({self._names[0]} …); choose others."
            )
        return found

    def groups(self) -> list[tuple[str, list[int], list[int] | None]]:
        """Modules to hook: name, columns of the masks and, unless it is gated as a whole, the parts' numbers."""
        parts: dict[str, tuple[list[int], list[int]]] = {}
        groups: list[tuple[str, list[int], list[int] | None]] = []
        for j, name in enumerate(self._names):
            sliced = SLICED.fullmatch(name)
            if not sliced:
                groups.append((name, [j], None))
                continue
            if sliced["module"] not in parts:
                parts[sliced["module"]] = ([], [])
                groups.append((sliced["module"], *parts[sliced["module"]]))
            columns, numbers = parts[sliced["module"]]
            columns.append(j)
            numbers.append(number(sliced["index"]))
        return groups

    def attach(self, name: str, columns: list[int], parts: list[int] | None, site: Site) -> list[RemovableHandle]:
        """Hook a module, as a whole or in parts, and return the handles that remove the hooks."""
        try:
            module = self.model.get_submodule(name)
        except AttributeError:
            raise BadInputError(
                f"component {plain(name)} is not a module of this model; see model.named_modules()."
            ) from None
        if parts is not None:
            return [self._attach_parts(module, name, columns, parts)]
        j = columns[0]
        parent, _, child = name.rpartition(".")
        if child == "downsample" and isinstance(self.model.get_submodule(parent), BasicBlock | Bottleneck):
            # The block adds its shortcut in place, so that its branch must have one row a mask as well.
            self._expands = True
        branch_end = {BasicBlock: "bn2", Bottleneck: "bn3"}.get(type(module))
        if site == "branch" and branch_end is None:
            return [
                module.register_forward_pre_hook(
                    lambda _, args, kwargs: self._keep(j, name, args, kwargs), with_kwargs=True
                ),
                module.register_forward_hook(lambda _, args, y: self._gate_difference(j, name, y)),
            ]
        target = module.get_submodule(branch_end) if site == "branch" and branch_end else module
        return [target.register_forward_hook(lambda _, args, y: self._gate_output(j, name, y))]

    def _attach_parts(self, module: nn.Module, name: str, columns: list[int], parts: list[int]) -> RemovableHandle:
        n = n_parts(module, name)
        part(name, str(max(parts)), n)
        if isinstance(module, nn.MultiheadAttention):
            return module.register_forward_hook(
                lambda attention, args, kwargs, y: self._gate_heads(attention, columns, parts, args, kwargs, y),
                with_kwargs=True,
            )
        if (inner := projection(module)) is not None:
            # What the projection is given has the heads side by side.
            return inner.register_forward_pre_hook(
                lambda _, args: (
                    args if self._masks is None else (args[0] * self._gains(columns, parts, n, args[0]),)
                )
            )
        axis = 1 if isinstance(module, nn.modules.conv._ConvNd) else -1
        return module.register_forward_hook(
            lambda _, args, y: y if self._masks is None else y * self._gains(columns, parts, n, y, axis)
        )

    def _gate_output(self, j: int, name: str, y: Tensor) -> Tensor:
        if not isinstance(y, Tensor):
            raise BadInputError(
                f"component {name} puts out a {type(y).__name__}, expected a tensor; gate a part of it."
            )
        return y if self._masks is None else y * (1 + self._column(j, y))

    def _gate_difference(self, j: int, name: str, y: Tensor) -> Tensor:
        if self._masks is None:
            return y
        given = self._inputs.pop(j)
        x = given.as_it_was()
        if not isinstance(y, Tensor) or x.shape[1:] != y.shape[1:]:
            raise BadInputError(
                f"component {name} changes the shape of its input, so it has no branch to gate; "
                "set gate_site to output."
            )
        if y.data_ptr() == given.tensor.data_ptr() and j not in self._with_branch:
            # Given the same memory back, only the values say whether it works in place or not at all.
            if torch.equal(x, y):
                raise BadInputError(
                    f"component {name} hands its input on, so it has no branch to gate; set gate_site to output."
                )
            self._with_branch.add(j)
        return y + self._column(j, y) * (y - x)

    def _gate_heads(self, attention, columns, parts, args, kwargs, output) -> tuple:
        """``y + Σ_h σ_h W_h head_h``: torch's attention never shows its heads, so they are computed again."""
        if self._masks is None:
            return output
        given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
        x = given["query"]
        masked = any(given.get(name) is not None for name in ("attn_mask", "key_padding_mask"))
        if masked or not (given["key"] is x and given["value"] is x and attention.batch_first):
            raise BadInputError(
                "the heads of this attention cannot be gated: expected self-attention, batch first and unmasked; "
                "gate the module as a whole."
            )
        h = attention.num_heads
        q, k, v = (
            part.unflatten(-1, (h, -1)).transpose(1, 2)
            for part in F.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
        )
        heads = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        change = heads * (self._gains(columns, parts, h, heads) - 1)
        return (output[0] + F.linear(change, attention.out_proj.weight), *output[1:])

    def _keep(self, j: int, name: str, args: tuple, kwargs: dict) -> None:
        """Keep what a module is given for as long as it runs: it may work on it in place."""
        if self._masks is None:
            return
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if not given:
            raise BadInputError(f"component {name} is given no tensor, so it has no branch to gate; leave it out.")
        self._inputs[j] = _Input(given[0])

    def _column(self, j: int, like: Tensor) -> Tensor:
        self._answer([j], like)
        return self._taken([j]).to(like.dtype).view(-1, *[1] * (like.ndim - 1))

    def _gains(self, columns: list[int], parts: list[int], n: int, like: Tensor, axis: int = -1) -> Tensor:
        """``1 + σ`` along ``axis`` of ``like``, where its ``n`` parts lie side by side; 1 for those not gated."""
        if like.shape[axis] % n:
            raise BadInputError(
                f"component {self._names[columns[0]]} works on {like.shape[axis]} channels, expected a multiple "
                f"of its {n} parts; gate the module as a whole."
            )
        self._answer(columns, like)
        where = torch.tensor(parts, device=like.device)
        gains = like.new_ones(self._n_masks, n).index_add(1, where, self._taken(columns).to(like.dtype))
        gains = gains.repeat_interleave(like.shape[axis] // n, 1)
        shape = [1] * like.ndim
        shape[0], shape[axis] = gains.shape
        return gains.view(shape)

    def _taken(self, columns: list[int]) -> Tensor:
        """σ of these components, ``[B, len(columns)]``."""
        masks: Any = self._masks  # gates are asked only while there are some
        return masks[:, columns] if isinstance(masks, Tensor) else torch.stack([masks[j] for j in columns], 1)

    def _answer(self, columns: list[int], like: Tensor) -> None:
        name = self._names[columns[0]]
        if columns[0] in self._answered:
            raise BadInputError(
                f"component {name} runs more than once in a forward pass, so that it would be "
                "scaled more than once; leave it out."
            )
        if like.shape[0] not in (1, self._n_masks):
            raise BadInputError(
                f"component {name} works on {like.shape[0]} rows for {self._n_masks} masks, expected one a "
                "mask: its first dimension is not the batch; leave it out."
            )
        self._answered.update(columns)
