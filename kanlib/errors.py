"""What kanlib raises when its input, not its code, is at fault."""

import difflib
from collections.abc import Iterable


class BadInputError(ValueError):
    """One sentence: what was wrong, what was expected, what to do.

    In a notebook the sentence stands alone, without a traceback: the reader who mistyped a parameter
    has no use for the frames between the cell and the check.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is most like ``name``, to suggest."""
    return difflib.get_close_matches(name, list(known), n=1, cutoff=0)[0]


def unknown(what: str, name: object, known: Iterable[str], place: str) -> BadInputError:
    """That ``place`` knows no ``what`` of this name; the nearest known name is suggested, or all are listed."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    guess = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}."
    return BadInputError(f"{what} {name} is unknown to {place}; {guess}")
