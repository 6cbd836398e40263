"""Names of components: patterns over the modules of a network, and the parts of a module."""

import re
from collections.abc import Sequence

from torch import nn

from kanlib.errors import BadInputError, shown

#: A part of a module, ``name[3]``, or all its parts, ``name[*]``.
SLICED = re.compile(r"(?P<module>.+)\[(?P<index>\*|[0-9]+)\]")
_LISTED = 20


def find(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Names of the components that match any pattern, in the order of ``model.named_modules()``.

    A ``*`` stands for any characters within one level: ``layer*.*`` finds ``layer1.0`` but not
    ``layer1.0.conv1``. ``[*]`` after it takes the module apart, and ``[3]`` is one of its parts:
    ``layer4.1.conv2[*]`` are the filters of a convolution (the channels it puts out), ``blocks.*.attn[*]``
    the heads of every attention.

    Raises:
        BadInputError: a pattern matches nothing, or takes apart what has no parts.
    """
    modules = [name for name, _ in model.named_modules() if name]
    found: dict[str, set[int | None]] = {}
    for pattern in patterns:
        sliced = SLICED.fullmatch(pattern)
        whole = sliced["module"] if sliced else pattern
        matches = _matching(whole, modules)
        if not matches:
            near = [name for name in modules if name.count(".") <= whole.count(".")]
            more = f" and {len(near) - _LISTED} more" if len(near) > _LISTED else ""
            raise BadInputError(
                f"components pattern {plain(pattern)} matches no module; at its level there are "
                f"{', '.join(near[:_LISTED])}{more}."
            )
        for name in matches:
            parts: set[int | None] = {None}
            if sliced:
                n = n_parts(model.get_submodule(name), name)
                parts = set(range(n)) if sliced["index"] == "*" else {part(name, sliced["index"], n)}
            found.setdefault(name, set()).update(parts)
    return [
        name if i is None else f"{name}[{i}]"
        for name in modules
        for i in sorted(found.get(name, ()), key=lambda i: -1 if i is None else i)
    ]


def _matching(pattern: str, names: Sequence[str]) -> list[str]:
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


def plain(name: str) -> str:
    """A name that may be a stranger's, as a sentence can bear it."""
    return shown(name, 100).strip("'")


def number(text: str) -> int:
    """A part's number as it is written; no module has as many parts as ten digits say."""
    return int(text) if len(text) < 10 else 10**9


def part(name: str, text: str, n: int) -> int:
    """The number of a part of module ``name``, which has ``n``.

    Raises:
        BadInputError: there is no such part.
    """
    if number(text) >= n:
        raise BadInputError(f"component {name}[{text[:20]}] does not exist, expected 0 to {n - 1}.")
    return number(text)


def projection(module: nn.Module) -> nn.Linear | None:
    """That of an attention in timm's manner, which has its heads side by side before it; ``None`` for all else."""
    found = getattr(module, "proj", None)
    return found if hasattr(module, "num_heads") and isinstance(found, nn.Linear) else None


def n_parts(module: nn.Module, name: str) -> int:
    """How many filters, units or heads a module has.

    Raises:
        BadInputError: it has none.
    """
    if isinstance(module, nn.MultiheadAttention) or projection(module) is not None:
        return int(getattr(module, "num_heads"))  # noqa: B009 (torch takes every attribute for a tensor)
    n = getattr(module, "out_channels" if isinstance(module, nn.modules.conv._ConvNd) else "out_features", None)
    if not isinstance(n, int):
        raise BadInputError(
            f"component {name} is a {type(module).__name__}, which has neither filters nor heads; "
            "expected a convolution, a linear layer or an attention."
        )
    return n
