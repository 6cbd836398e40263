"""Setups as files: how they are called, where they lie, and what they extend."""

import re
from pathlib import Path
from typing import Any

from kanlib import plain_yaml
from kanlib.errors import BadInputError, cause, shown, unknown

#: What a setup or a run may be called, as a regular expression: names are parts of paths and of command lines.
NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9_-])?"
#: The same in words.
NAMED = (
    "a name of at most 64 ASCII letters, digits, _ . and -, which begins with a letter, digit or _ and does not "
    "end with a point"
)
_MOST_BYTES = 100_000
_MOST_FILES = 10
_MOST_PATH = 4096


def names(folder: Path) -> list[str]:
    """The setups of a folder: the stems of its ``.yaml`` files."""
    return sorted(file.stem for file in folder.glob("*.yaml") if re.fullmatch(NAME, file.stem) and file.is_file())


def stem(setup: object) -> str | None:
    """The name of a setup: itself, or the stem of the path of a ``.yaml`` file; ``None``: it has none."""
    if not (isinstance(setup, str) and len(setup) <= _MOST_PATH and setup.isprintable()):
        return None
    name = Path(setup).stem if setup.endswith(".yaml") else setup
    return name if re.fullmatch(NAME, name) else None


def name_of(setup: object, what: str = "setup") -> str:
    """The same.

    Raises:
        BadInputError: it has none; ``what`` is what the sentence calls it.
    """
    if name := stem(setup):
        return name
    raise BadInputError(f"{what} is {shown(setup)}, expected {NAMED}, or a file <name>.yaml; correct it.")


def chain(setup: str, folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Name and content of the file of a setup, after those of the files that it extends, the first of them first.

    Args:
        setup: a name in ``folder``, or the path of a ``.yaml`` file.
        folder: of the setups that are known by their names.

    Raises:
        BadInputError: there is no such file, it is not plain YAML, or it extends itself.
    """
    found: dict[str, dict[str, Any]] = {}
    what = "setup"
    while True:
        name = name_of(setup, what)
        if name in found or len(found) == _MOST_FILES:
            raise BadInputError(
                f"setup {next(iter(found))} extends itself, or more than {_MOST_FILES} others "
                f"({', '.join(found)}), expected few; remove that line from one of them."
            )
        found[name] = content = _content(name, _file(setup, name, folder))
        if "extends" not in content:
            return list(found.items())[::-1]
        setup, what = content.pop("extends"), f"extends of setup {name}"


def _file(setup: str, name: str, folder: Path) -> bytes:
    known = folder / f"{name}.yaml"
    file = Path(setup) if setup.endswith(".yaml") else known
    try:
        if not file.exists() and file == known:
            raise unknown("setup", name, names(folder), "notebooks/setups")
        if not file.is_file():
            raise BadInputError(
                f"setup {shown(setup)} is no file, expected one of YAML; put it there or correct the name."
            )
        if known.is_file() and file.resolve() != known.resolve():
            raise BadInputError(
                f"setup {name} has the name of one in notebooks/setups, as would its results; rename it."
            )
        with file.open("rb") as stream:
            raw = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise BadInputError(
            f"setup {name} cannot be read ({cause(error)}), expected a file; mend its path or permissions."
        ) from error
    if len(raw) > _MOST_BYTES:
        raise BadInputError(f"setup {name} is larger than {_MOST_BYTES // 1000} kB, expected a page; shorten it.")
    return raw


def _content(name: str, raw: bytes) -> dict[str, Any]:
    try:
        whole = plain_yaml.parsed(raw)
    except ValueError as error:
        raise BadInputError(
            f"setup {name} is not YAML as people write it ({error}), expected sections of name: value lines; "
            f"mend {name}.yaml."
        ) from error
    if not isinstance(whole, dict | None):
        raise BadInputError(
            f"setup {name} is a {type(whole).__name__}, expected sections of name: value lines; mend {name}.yaml."
        )
    return whole or {}
