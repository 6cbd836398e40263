"""Names of components: patterns over the modules of a network, and what each name stands for."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from kanlib.errors import BadInputError, shown
from kanlib.networks.parts import absent, n_parts

_SLICED = re.compile(r"(?P<module>.+?)(?P<rows>\.weight)?\[(?P<index>\*|[0-9]+)\]")
_GROUP, _NOT = "group:", "!"
_LISTED = 20


@dataclass(frozen=True)
class Member:
    """What one gate scales.

    Attributes:
        module: its name.
        part: number of the part of it that is scaled; ``None``: the whole module.
        rows: whether its parts are rows of its weights.
    """

    module: str
    part: int | None = None
    rows: bool = False

    def __str__(self) -> str:
        return self.module if self.part is None else f"{self.module}{'.weight' * self.rows}[{self.part}]"

    def around(self) -> Iterator["Member"]:
        """Modules that it is inside of, itself left out, from the innermost."""
        if self.part is not None:
            yield Member(self.module)
        name = self.module
        while name := name.rpartition(".")[0]:
            yield Member(name)


def find(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Names of the components that match any pattern, in the order of ``model.named_modules()``.

    =================================  ==========================================================================
    ``layer*.*``                       modules; a ``*`` stands for any characters within one level of names, so
                                       this finds ``layer1.0`` but not ``layer1.0.conv1``
    ``conv2[3]``, ``conv2[*]``         a part of a module, and all of them: the filters of a convolution
                                       (channels that it puts out), the output features of a linear layer (its
                                       neurons), the heads of an attention
    ``fc1.weight[*]``                  rows of the weights of a linear layer or a convolution: its output
                                       features before the bias
    ``group:conv2[*]``                 all that the rest finds as one component, which has the pattern as its
                                       name; several patterns may stand there, with spaces in between
    ``!layer1.0``                      leaves that out, wherever it stands among the patterns, with its parts
                                       and all that is inside
    =================================  ==========================================================================

    Raises:
        BadInputError: a pattern matches nothing, takes apart what has no parts, or leaves out what no other finds.
    """
    places = {name: place for place, (name, _) in enumerate(model.named_modules()) if name}
    groups = [pattern for pattern in patterns if pattern.startswith(_GROUP)]
    single = [pattern for pattern in patterns if not pattern.startswith(_GROUP)]
    found: dict[str, tuple] = {}
    if single:
        found = {str(member): _place(member, places) for member in _selected(model, places, single)}
    for group in groups:
        found[group] = min(_place(member, places) for member in _grouped(model, places, group))
    return sorted(found, key=lambda name: found[name])


def members(model: nn.Module, components: Sequence[str]) -> tuple[list[Member], list[int]]:
    """What components scale: members, and the component ``j`` that each belongs to; more than one in a group.

    Args:
        model: the network.
        components: names, as :func:`find` gives them.

    Raises:
        BadInputError: a component occurs twice, overlaps with another or itself, or is a pattern and no name.
    """
    if len(set(components)) < len(components):
        twice = next(name for name in components if components.count(name) > 1)
        raise BadInputError(f"component {plain(twice)} is listed twice; list it once.")
    places = [name for name, _ in model.named_modules() if name]
    found = [(_grouped(model, places, name) if name.startswith(_GROUP) else [_named(name)]) for name in components]
    flat = [member for one in found for member in one]
    owners = [j for j, one in enumerate(found) for _ in one]
    _check_apart(flat, [components[j] for j in owners])
    return flat, owners


def _named(name: str) -> Member:
    sliced = _SLICED.fullmatch(name)
    if not sliced:
        return Member(name)
    if sliced["index"] == "*":
        raise BadInputError(
            f"component {plain(name)} is a pattern, expected a name; find(model, patterns) gives them."
        )
    return Member(sliced["module"], _number(sliced["index"]), bool(sliced["rows"]))


def _grouped(model: nn.Module, modules: Collection[str], group: str) -> list[Member]:
    patterns = group.removeprefix(_GROUP).split()
    if not patterns or any(pattern.startswith(_GROUP) for pattern in patterns):
        raise BadInputError(
            f"components pattern {plain(group)} makes no group, expected {_GROUP} and patterns without it, with "
            "spaces in between; correct it."
        )
    return _selected(model, modules, patterns)


def _selected(model: nn.Module, modules: Collection[str], patterns: Sequence[str]) -> list[Member]:
    """What the patterns find, less what those with ``!`` leave out."""
    matches = {pattern: _matched(model, modules, pattern.removeprefix(_NOT)) for pattern in patterns}
    found = {member: None for pattern in matches if not pattern.startswith(_NOT) for member in matches[pattern]}
    kept = set(found)
    for pattern in matches:
        if not pattern.startswith(_NOT):
            continue
        out = set(matches[pattern])
        gone = {member for member in found if member in out or not out.isdisjoint(member.around())}
        if not gone:
            raise BadInputError(
                f"components pattern {plain(pattern)} leaves out nothing that other patterns find; correct it, or "
                f"write it into its group, as in {_GROUP}layer*.* !layer1.0."
            )
        kept -= gone
    if not kept:
        raise BadInputError(
            f"components patterns {plain(' '.join(patterns))} leave no component; leave out fewer."
        )
    return [member for member in found if member in kept]


def _matched(model: nn.Module, modules: Collection[str], pattern: str) -> list[Member]:
    sliced = _SLICED.fullmatch(pattern)
    whole = sliced["module"] if sliced else pattern
    names = _matching(whole, modules)
    if not names:
        near = [name for name in modules if name.count(".") <= whole.count(".")]
        more = f" and {len(near) - _LISTED} more" if len(near) > _LISTED else ""
        raise BadInputError(
            f"components pattern {plain(pattern)} matches no module; at its level there are "
            f"{', '.join(near[:_LISTED])}{more}."
        )
    if not sliced:
        return [Member(name) for name in names]
    rows, index = bool(sliced["rows"]), sliced["index"]
    found = []
    for name in names:
        n = n_parts(model.get_submodule(name), plain(name), rows)
        if index != "*" and _number(index) >= n:
            raise absent(plain(name), rows, index, n)
        found += [Member(name, i, rows) for i in (range(n) if index == "*" else [_number(index)])]
    return found


def _matching(pattern: str, names: Collection[str]) -> list[str]:
    """The names in which ``*`` stands for any characters within one level."""
    first, *rest = re.split(r"\*+", pattern)
    if len(pattern.replace("*", "")) > max(map(len, names), default=0):
        return []
    # What follows a star is taken where it first comes, for good: no later place could fit where that one does
    # not, and trying them all takes forever.
    middle = "".join(f"(?>[^.]*?{re.escape(text)})" for text in rest[:-1])
    last = f"[^.]*{re.escape(rest[-1])}" if rest else ""
    expression = re.compile(re.escape(first) + middle + last)
    return [name for name in names if expression.fullmatch(name)]


def _place(member: Member, places: dict[str, int]) -> tuple:
    return places[member.module], member.rows, -1 if member.part is None else member.part


def _check_apart(found: Sequence[Member], components: Sequence[str]) -> None:
    """Refuse members that are the same, or inside of one another; each is of the component beside it."""
    # A row of weights and the feature that it gives are the same part.
    first: dict[tuple[str, int | None], int] = {}
    for i, member in enumerate(found):
        if (other := first.setdefault((member.module, member.part), i)) < i:
            raise _overlap(found, components, other, i)
    anywhere = {member.module: i for i, member in enumerate(found)}
    for i, member in enumerate(found):
        for outer in member.around():
            of_itself = outer.module == member.module
            other = first.get((outer.module, None), i) if of_itself else anywhere.get(outer.module, i)
            if other != i:
                raise _overlap(found, components, other, i)


def _overlap(found: Sequence[Member], components: Sequence[str], *pair: int) -> BadInputError:
    names = [
        plain(str(found[i])) + f" (of {plain(components[i])})" * (str(found[i]) != components[i]) for i in pair
    ]
    return BadInputError(
        f"components overlap, expected none inside of another: {names[0]} and {names[1]}; leave one of them out."
    )


def plain(name: str) -> str:
    """A name that may be a stranger's, as a sentence can bear it."""
    return shown(name, 100).strip("'")


def _number(text: str) -> int:
    """A part's number as it is written; no module has as many parts as ten digits say."""
    return int(text) if len(text) < 10 else 10**9
