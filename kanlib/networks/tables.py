"""A folder of pictures that are listed in a table, ``labels.csv``."""

import csv
import io
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kanlib.errors import BadInputError, cause
from kanlib.memory import room_for
from kanlib.networks.folders import USED, Found, counted, files_of, some
from kanlib.networks.patterns import plain
from kanlib.networks.pictures import named

COLUMNS = ("file", "class_index", "class_name", "split")
LARGEST = 99_999


@dataclass(frozen=True)
class _Row:
    """A picture, as one row of the table has it."""

    line: int
    file: str
    label: int
    name: str
    split: str


def listed(table: Path) -> Found:
    """What a ``labels.csv`` lists: columns ``file``, ``class_index`` and, if any, ``class_name`` and ``split``.

    A picture without a split is in ``test``; a class without a name is called by its number.

    Args:
        table: CSV in UTF-8, separated by commas; files are named relative to its folder.

    Raises:
        BadInputError: another encoding, no such columns, a row (its line is named) that is short, long or has no
            file, a file outside of the folder, a class that is no number from 0 to 99,999, two names for a class
            or two classes for a name or for a file.
    """
    header, lines = _parsed(table)
    rows = [_row(table, line, dict(zip(header, values, strict=True))) for line, values in lines]
    classes = _classes(table, rows)
    twice = list(_twice(table, rows))
    splits: dict[str, list[_Row]] = {}
    for row in rows:
        splits.setdefault(row.split or "test", []).append(row)
    kept = {
        split: files_of((table.parent / row.file, row.label) for row in members)
        for split, members in splits.items()
        if split in USED
    }
    others = {split: len(members) for split, members in splits.items() if split not in USED}
    strange = [name for name in header if name not in COLUMNS]
    blank = sum(not row.split for row in rows) if any(row.split for row in rows) else 0
    notes = [f"Columns of {table.name} that are not used: {some(strange)}."] if strange else []
    notes += [f"In split test, as their split is blank: {counted(blank, 'picture', 'pictures')}."] if blank else []
    return Found(kept, classes, others, (*notes, *twice))


def _parsed(table: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and each row with the number of its first line."""
    rows = csv.reader(io.StringIO(_text(table), newline=""), strict=True)
    lines: list[tuple[int, list[str]]] = []
    before = 0
    try:
        for row in rows:
            # A blank line holds no picture, but a blank first one is no header.
            if row or not lines:
                lines.append((before + 1, row))
            before = rows.line_num
    except csv.Error as error:
        raise BadInputError(
            f"{named(table)} is no CSV from line {before + 1} on ({cause(error)}); mend it, or save it anew."
        ) from error
    header = lines[0][1] if lines else []
    if len(lines) < 2 or not {"file", "class_index"} <= set(header):
        has = "no rows" if len(lines) < 2 else plain(", ".join(header)) if header else "a blank first line"
        raise BadInputError(
            f"{named(table)} has {has}, expected the columns file and class_index, separated by commas."
        )
    for name in header:
        if header.count(name) > 1:
            raise BadInputError(f"{named(table)} has the column {plain(name)} twice; leave one out.")
    for line, row in lines[1:]:
        if len(row) != len(header):
            raise BadInputError(
                f"{named(table)} has {len(row)} values in line {line}, expected {len(header)} "
                f"({plain(', '.join(header))}); mend it."
            )
    return header, lines[1:]


def _text(table: Path) -> str:
    try:
        room_for(20 * table.stat().st_size, f"the rows of {named(table)}", "list fewer pictures")
        text = table.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise BadInputError(
            f"{named(table)} is not UTF-8 in line {line}, expected UTF-8; save it as UTF-8."
        ) from error
    except OSError as error:
        raise BadInputError(f"{named(table)} cannot be read ({cause(error)}); allow it, or replace it.") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise BadInputError(f"{named(table)} has a NUL byte in line {line}, expected UTF-8; save it as UTF-8.")
    return text


def _row(table: Path, line: int, values: dict[str, str]) -> _Row:
    file, index = values["file"], values["class_index"]
    inside = os.path.normpath(file) if file.strip() else ""
    if not inside:
        raise BadInputError(f"{named(table)} names no file in line {line}; mend it, or leave the line out.")
    if Path(file).anchor or Path(inside).parts[:1] == ("..",):
        raise BadInputError(
            f"{named(table)} names {named(file)} in line {line}, expected a file in its own folder; move it there."
        )
    if not re.fullmatch("[0-9]{1,5}", index):
        raise BadInputError(
            f"{named(table)} gives {named(file)} the class_index {plain(index)}, "
            f"expected 0, 1, 2 … to {LARGEST:,}; mend line {line}."
        )
    return _Row(line, inside, int(index), values.get("class_name") or "", values.get("split") or "")


def _classes(table: Path, rows: list[_Row]) -> tuple[str, ...]:
    """Names by number; one name for a number and one number for a name."""
    names: dict[int, _Row] = {}
    for row in rows:
        known = names.setdefault(row.label, row)
        if row.name and not known.name:
            names[row.label] = row
        elif row.name and row.name != known.name:
            raise BadInputError(
                f"{named(table)} calls class {row.label} {plain(known.name)} in line {known.line} and "
                f"{plain(row.name)} in line {row.line}, expected one name; mend one."
            )
    said = {label: row.name or str(label) for label, row in names.items()}
    numbers: dict[str, int] = {}
    for label, name in sorted(said.items()):
        if numbers.setdefault(name, label) != label:
            raise BadInputError(
                f"{named(table)} calls both class {numbers[name]} and class {label} {plain(name)}, expected one "
                "number for a name; mend one."
            )
    return tuple(said.get(k, str(k)) for k in range(max(said) + 1))


def _twice(table: Path, rows: Iterable[_Row]) -> Iterator[str]:
    """What to say of files that are listed more than once."""
    first: dict[str, _Row] = {}
    within: list[str] = []
    across: list[str] = []
    for row in rows:
        known = first.setdefault(row.file, row)
        if known.label != row.label:
            raise BadInputError(
                f"{named(table)} gives {named(row.file)} class {known.label} in line {known.line} and class "
                f"{row.label} in line {row.line}, expected one; mend one."
            )
        if known is not row:
            (within if (known.split or "test") == (row.split or "test") else across).append(row.file)
    for files, where in ((within, "twice in a split"), (across, "in more than one split")):
        if files:
            yield f"Listed {where}: {some(files)}."
