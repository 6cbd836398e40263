"""Components of a network and the gates that scale them."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torchvision.models.resnet import BasicBlock, Bottleneck

from kanlib.errors import BadInputError

Site = Literal["branch", "output"]


def find(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Names of the modules that match any pattern, in the order of ``model.named_modules()``.

    A ``*`` stands for any characters within one level: ``layer*.*`` finds ``layer1.0`` but not
    ``layer1.0.conv1``.

    Raises:
        BadInputError: a pattern matches nothing.
    """
    modules = [name for name, _ in model.named_modules() if name]
    found: set[str] = set()
    for pattern in patterns:
        expression = re.compile(re.escape(pattern).replace(r"\*", r"[^.]*"))
        matches = {name for name in modules if expression.fullmatch(name)}
        if not matches:
            top = ", ".join(name for name in modules if name.count(".") <= pattern.count("."))
            raise BadInputError(f"components pattern {pattern} matches no module; at its level there are {top}.")
        found |= matches
    return [name for name in modules if name in found]


@contextmanager
def gated(model: nn.Module, components: Sequence[str], site: Site = "branch") -> Iterator["Gates"]:
    """Scale components by ``1 + σ_j`` while the context is open.

    ``output``: all the component puts out, ``(1 + σ_j) y``. ``branch``: only what it adds to its input, so
    that σ_j = −1 removes the component: ``relu(shortcut(x) + (1 + σ_j) F(x))`` in a torchvision residual
    block, ``y + σ_j (y − x)`` in any other module that keeps its input's shape (an encoder layer). Both are
    the identity at σ = 0, to the bit. The model is not edited, and on exit, also after an exception, the
    gates are gone.

    Yields:
        :class:`Gates`, called as ``gates(x, masks)``.

    Raises:
        BadInputError: a component does not exist; at the first call, one whose output cannot be gated there.
    """
    gates = Gates(model)
    handles = []
    try:
        for name in components:
            handles.append(gates.attach(name, site))
        yield gates
    finally:
        for handle in handles:
            handle.remove()


class Gates:
    """A model whose components answer to masks; made by :func:`gated`."""

    def __init__(self, model: nn.Module):
        self.model = model
        self._names: list[str] = []
        self._masks: Tensor | None = None
        self._answered: set[int] = set()
        self._expands = False

    def __call__(self, x: Tensor, masks: Tensor) -> Tensor:
        """Logits ``[B, classes]`` of the model under ``masks`` ``[B, m]``.

        Args:
            x: one example ``[1, ...]``, which all masks share: what comes before the first gate is then
                computed once and the gate broadcasts it over the masks; or one example a mask ``[B, ...]``.
            masks: σ, on the device of ``x``; gradients flow through it.
        """
        if self._expands:
            x = x.expand(len(masks), *x.shape[1:])
        self._masks, self._answered = masks, set()
        try:
            logits = self.model(x)
        finally:
            self._masks = None
        for j, name in enumerate(self._names):
            if j not in self._answered:
                raise BadInputError(
                    f"component {name} does not run in a forward pass of this model; leave it out."
                )
        return logits

    def attach(self, name: str, site: Site) -> RemovableHandle:
        """Hook the next component and return the handle that removes the hook."""
        j = len(self._names)
        try:
            module = self.model.get_submodule(name)
        except AttributeError:
            raise BadInputError(
                f"component {name} is not a module of this model; see model.named_modules()."
            ) from None
        parent, _, child = name.rpartition(".")
        if child == "downsample" and isinstance(self.model.get_submodule(parent), BasicBlock | Bottleneck):
            # The block adds its shortcut in place, so that its branch must have one row a mask as well.
            self._expands = True
        self._names.append(name)
        branch_end = {BasicBlock: "bn2", Bottleneck: "bn3"}.get(type(module))
        if site == "branch" and branch_end is None:
            return module.register_forward_hook(lambda _, args, y: self._gate_difference(j, name, args[0], y))
        target = module.get_submodule(branch_end) if site == "branch" else module
        return target.register_forward_hook(lambda _, args, y: self._gate_output(j, name, y))

    def _gate_output(self, j: int, name: str, y: Tensor) -> Tensor:
        if not isinstance(y, Tensor):
            raise BadInputError(
                f"component {name} puts out a {type(y).__name__}, expected a tensor; gate a part of it."
            )
        return y if self._masks is None else y * (1 + self._column(j, y))

    def _gate_difference(self, j: int, name: str, x: Tensor, y: Tensor) -> Tensor:
        if not isinstance(y, Tensor) or x.shape[1:] != y.shape[1:]:
            raise BadInputError(
                f"component {name} changes the shape of its input, so it has no branch to gate; "
                "set gate_site to output."
            )
        if x.data_ptr() == y.data_ptr():
            raise BadInputError(
                f"component {name} hands its input on or changes it in place, so it has no branch to gate; "
                "set gate_site to output."
            )
        return y if self._masks is None else y + self._column(j, y) * (y - x)

    def _column(self, j: int, like: Tensor) -> Tensor:
        if j in self._answered:
            raise BadInputError(
                f"component {self._names[j]} runs more than once in a forward pass, so that it would be "
                "scaled more than once; leave it out."
            )
        self._answered.add(j)
        return self._masks[:, j].to(like.dtype).view(-1, *[1] * (like.ndim - 1))
