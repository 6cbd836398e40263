"""Components of a network and the gates that scale them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from kanlib.errors import BadInputError
from kanlib.machine import generator
from kanlib.networks.branches import Branch, Joins, branches, each_tensor, tensors_in
from kanlib.networks.outputs import answered, pieces
from kanlib.networks.parts import Parts
from kanlib.networks.patterns import find, members, plain
from kanlib.networks.soundness import apart, tolerance

__all__ = ["Gates", "Site", "find", "gated"]

Site = Literal["branch", "output"]
_NAMED = 8


@contextmanager
def gated(model: nn.Module, components: Sequence[str], site: Site = "branch") -> Iterator["Gates"]:
    """Scale components by ``1 + σ_j`` while the context is open.

    ``output``: all the component puts out, ``(1 + σ_j) y``. ``branch``: only what it adds to its input, so that
    σ_j = −1 removes the component and leaves the network standing:

    - in a block that adds a branch to a skip, ``skip(x) + (1 + σ_j) F(x)``, before any activation;
    - in a row of such blocks (an encoder layer), or a layer that adds nothing, ``y + σ_j (y − x)``; where the row
      changes the shape, each of its branches;
    - of a concatenation, what is new in it;
    - of what is only added to something else, or laid beside it, all: ``(1 + σ_j) y``.

    :func:`kanlib.networks.branches.branches` finds which. A part of a module is scaled alike at both sites, see
    :class:`kanlib.networks.parts.Parts`; a group scales each of its members. All are the identity at σ = 0, to the
    bit. The model is not edited, and on exit, also after an exception, the gates are gone.

    Yields:
        :class:`Gates`, called as ``gates(x, masks)``.

    Raises:
        BadInputError: there are no components, or one does not exist, occurs twice or is inside of another; at the
            first call, one whose output cannot be gated there.
    """
    if not components:
        raise BadInputError("there is no component to gate, expected some; find(model, patterns) gives them.")
    gates = Gates(model, components, site)
    handles: list[RemovableHandle] = []
    # Attention that torch computes in one piece rounds otherwise, and does not run where gates look on.
    in_one_piece = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for hooked in gates.by_module():
            handles += gates.attach(*hooked)
        yield gates
    finally:
        torch.backends.mha.set_fastpath_enabled(in_one_piece)
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


def _held(output: object) -> list[Tensor]:
    """The tensors in what a network puts out."""
    return [tensor for tensor in tensors_in(list(pieces(output).values())) if tensor.ndim]


def _close(shared: Tensor, apiece: Tensor) -> bool:
    """Whether two outputs differ by no more than kernels for another number of rows do.

    What no gate reaches has one row for all masks.
    """
    if len(shared) == 1:
        shared = shared.expand(len(apiece), *shared.shape[1:])
    return shared.shape == apiece.shape and apart(shared, apiece) <= 100 * tolerance(apiece)


def _all_there(found: Mapping[str, Branch | None]) -> dict[str, Branch]:
    """The same, refused if a component has no branch."""
    without = [name for name, branch in found.items() if branch is None]
    if without:
        more = f" and {len(without) - _NAMED} more" if len(without) > _NAMED else ""
        raise BadInputError(
            f"component {', '.join(without[:_NAMED])}{more} has no branch to gate, expected a block that adds to "
            "its input or at least keeps its shape; leave it out, or set gate_site to output."
        )
    return {name: branch for name, branch in found.items() if branch is not None}


class Gates:
    """A model whose components answer to masks; made by :func:`gated`."""

    def __init__(self, model: nn.Module, components: Sequence[str], site: Site):
        self.model = model
        #: Whether one example serves all masks up to the first gate; ``None`` before the first call.
        self.shares: bool | None = None
        self._n_components = len(components)
        # From here on each member of a group is gated, answers and is named by itself; only masks know of groups.
        self._members, self._owners = members(model, components)
        self._names = [str(member) for member in self._members]
        self._masks: Tensor | Sequence[Tensor] | None = None
        self._n_masks = 0
        self._answered: set[int] = set()
        self._inputs: dict[int, _Input] = {}
        self._open: list[Joins] = []
        self._whole = [str(member) for member in self._members if member.part is None]
        known = site == "output" or not self._whole
        self._branches = dict.fromkeys(self._whole, Branch(whole=True)) if known else None

    def __call__(self, x: Tensor, masks: Tensor | Sequence[Tensor]) -> Any:
        """What the model puts out under ``masks`` ``[B, m]``: logits ``[B, classes]``.

        Args:
            x: one example ``[1, ...]``, which all masks share: what comes before the first gate is then computed
                once and the gate broadcasts it over the masks, if the network answers to that as to an example for
                each mask (:attr:`shares`); or one example a mask ``[B, ...]``.
            masks: σ, on the device of ``x``, or its m columns ``[B]``; gradients flow through them.

        Raises:
            BadInputError: the forward pass fails, or a component cannot be gated in it.
        """
        if self._branches is None:
            found = branches(self.model, self._whole, x[:1].expand(2, *x.shape[1:]))
            self._branches = _all_there(found)
        if self.shares is None:
            self.shares = self._can_share(x[:1])
        return self._asked(x, masks, self.shares)

    def _asked(self, x: Tensor, masks: Tensor | Sequence[Tensor], shares: bool) -> Any:
        self._n_masks = len(masks) if isinstance(masks, Tensor) else len(masks[0])
        if not shares:
            x = x.expand(self._n_masks, *x.shape[1:])
        self._masks, self._answered, self._shared = masks, set(), shares
        try:
            found = answered(self.model, x, self._n_masks)
        finally:
            self._masks = None
            self._inputs.clear()
            while self._open:
                self._open.pop().__exit__(None, None, None)
        for j, name in enumerate(self._names):
            if j not in self._answered:
                raise BadInputError(
                    f"component {name} does not run in a forward pass of this model; leave it out, or gate the "
                    "plain model if this one is traced or compiled."
                )
        return found

    @torch.no_grad()
    def _can_share(self, x: Tensor) -> bool:
        """Whether two masks get the same answers with one example ``x`` ``[1, ...]`` for both as with two.

        They do not where the network reads how many examples there are, or lays masked and unmasked rows side by
        side, or keeps a name for what it then changes in place.
        """
        masks = torch.randn(2, self._n_components, generator=generator(0, "sharing"))
        masks = masks.to(x.device, x.dtype if x.is_floating_point() else masks.dtype)
        apiece = _held(self._asked(x, masks, shares=False))
        try:
            shared = _held(self._asked(x, masks, shares=True))
        except BadInputError:
            return False
        if len(shared) != len(apiece) or not all(map(_close, shared, apiece)):
            return False
        if shared and max(map(len, shared)) == 1:
            raise BadInputError(
                f"what the components put out does not reach the logits ({self._names[0]} …); choose others."
            )
        return True

    def by_module(self) -> list[tuple[str, list[int], Parts | None]]:
        """Modules to hook: name, which members are there and, unless it is gated as a whole, their parts."""
        found: dict[tuple[str, bool], list[int]] = {}
        for j, member in enumerate(self._members):
            found.setdefault((member.module, member.rows), []).append(j)
        hooked: list[tuple[str, list[int], Parts | None]] = []
        for (name, rows), columns in found.items():
            numbers = [part for j in columns if (part := self._members[j].part) is not None]
            hooked.append((name, columns, Parts(plain(name), numbers, rows) if numbers else None))
        return hooked

    def attach(self, name: str, columns: list[int], parts: Parts | None) -> list[RemovableHandle]:
        """Hook a module, as a whole or in parts, and return the handles that remove the hooks."""
        try:
            module = self.model.get_submodule(name)
        except AttributeError:
            raise BadInputError(
                f"component {plain(name)} is not a module of this model; see model.named_modules()."
            ) from None
        if parts is not None:
            return [parts.gate(module, lambda like: self._sigma(columns, like))]
        j = columns[0]
        return [
            module.register_forward_pre_hook(
                lambda _, args, kwargs: self._begin(j, name, args, kwargs), with_kwargs=True
            ),
            module.register_forward_hook(lambda _, args, y: self._end(j, name, y)),
        ]

    def _begin(self, j: int, name: str, args: tuple, kwargs: dict) -> None:
        if self._masks is None or self._branches is None:
            return
        self._once(j)
        branch = self._branches[name]
        if branch.scaled:
            self._open.append(Joins(partial(self._gate_join, j, branch)))
            self._open[-1].__enter__()
        elif not branch.whole:
            self._inputs[j] = _Input(next(tensors_in([args, kwargs])))

    def _end(self, j: int, name: str, y: object) -> object:
        if self._masks is None or self._branches is None:
            return y
        branch = self._branches[name]
        if branch.scaled:
            self._open.pop().__exit__(None, None, None)
            return y
        if len(list(tensors_in(y))) == 1:
            y = each_tensor(partial(self._gate_output, j, branch), y)
        if j not in self._answered:
            raise BadInputError(
                f"component {name} puts out a {type(y).__name__}, expected a tensor; gate a part of it."
            )
        return y

    def _gate_output(self, j: int, branch: Branch, y: Tensor) -> Tensor:
        if branch.whole:
            return self._scaled(j, y)
        return y + self._column(j, y) * (y - self._inputs.pop(j).as_it_was())

    def _gate_join(self, j: int, branch: Branch, k: int, join: partial[Tensor], args: tuple[Any, ...]) -> Tensor:
        """A join of a component, with what is scaled at it scaled."""
        new = [i for at, i in branch.scaled if at == k]
        if not new:
            return join(*args)
        if isinstance(args[0], list | tuple):
            rows = [part.expand(self._n_masks, *part.shape[1:]) for part in args[0]]
            for i in new:
                rows[i] = self._scaled(j, rows[i])
            return join(rows, *args[1:])
        (i,) = new
        if join.func is Tensor.add_:
            return self._gate_in_place(j, i, join, args)
        return join(*args[:i], self._scaled(j, args[i]), *args[i + 1 :])

    def _gate_in_place(self, j: int, i: int, join: partial[Tensor], args: tuple[Any, ...]) -> Tensor:
        """An addition in place; where one example is shared, its place has too few rows, and another is made."""
        # What is written over is copied first: the gradient of its scale is made of it.
        scaled = self._scaled(j, args[1] if i else args[0].clone())
        if self._shared:
            return torch.add(args[0] if i else scaled, scaled if i else args[1], **join.keywords)
        return join(args[0], scaled) if i else join(args[0].copy_(scaled), args[1])

    def _scaled(self, j: int, branch: Tensor) -> Tensor:
        return branch * (1 + self._column(j, branch))

    def _column(self, j: int, like: Tensor) -> Tensor:
        self._check_rows(j, like)
        self._answered.add(j)
        return self._taken([j]).to(like.dtype).view(-1, *[1] * (like.ndim - 1))

    def _sigma(self, columns: list[int], like: Tensor) -> Tensor | None:
        """σ of these members of one module ``[B, len(columns)]``, ``None`` while there are no masks."""
        if self._masks is None:
            return None
        self._answer(columns, like)
        return self._taken(columns).to(like.dtype)

    def _taken(self, columns: list[int]) -> Tensor:
        """σ of these members, ``[B, len(columns)]``."""
        masks: Any = self._masks  # gates are asked only while there are some
        owners = [self._owners[j] for j in columns]
        return masks[:, owners] if isinstance(masks, Tensor) else torch.stack([masks[j] for j in owners], 1)

    def _answer(self, columns: list[int], like: Tensor) -> None:
        self._once(columns[0])
        self._check_rows(columns[0], like)
        self._answered.update(columns)

    def _once(self, j: int) -> None:
        if j in self._answered:
            raise BadInputError(
                f"component {self._names[j]} runs more than once in a forward pass, so that it would be "
                "scaled more than once; leave it out."
            )

    def _check_rows(self, j: int, like: Tensor) -> None:
        if like.shape[0] not in (1, self._n_masks):
            raise BadInputError(
                f"component {self._names[j]} works on {like.shape[0]} rows for {self._n_masks} masks, expected "
                "one a mask: its first dimension is not the batch; leave it out."
            )
