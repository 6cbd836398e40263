"""What kanlib raises when its input, not its code, is at fault."""

import difflib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class BadInputError(ValueError):
    """One sentence: what was wrong, what was expected, what to do.

    In a notebook the sentence stands alone, without a traceback: the reader who mistyped a parameter
    has no use for the frames between the cell and the check.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def shown(value: object, most: int = 60) -> str:
    """A value that a stranger gave, as a sentence can bear it: its ``repr``, on one line and not too long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        # An integer of more digits, or a list of more depth, than Python writes out.
        text = f"a {type(value).__name__} beyond all bounds"
    return text if len(text) <= most else text[:most] + "…"


def cause(error: BaseException, most: int = 120) -> str:
    """What a library complained of, for a sentence of ours: its kind and the first line that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return said if len(said) <= most else said[:most] + "…"


@contextmanager
def spoken() -> Iterator[None]:
    """The door of a command: it ends with the sentence of a :class:`BadInputError` alone, and with status 1."""
    try:
        yield
    except BadInputError as error:
        sys.exit(str(error))


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is most like ``name``, to suggest."""
    return difflib.get_close_matches(name, list(known), n=1, cutoff=0)[0]


def unknown(what: str, name: object, known: Iterable[str], place: str) -> BadInputError:
    """That ``place`` knows no ``what`` of this name; the nearest known name is suggested, or all are listed."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    guess = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}."
    return BadInputError(f"{what} {name} is unknown to {place}; {guess}")
