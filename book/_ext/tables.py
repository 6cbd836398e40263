"""Tables as docutils has them, with columns whose widths are given, and rows that links can lead to."""

import re
from collections.abc import Sequence

from docutils import nodes

_MANY = 7  # columns


def table(widths: dict[str, int], rows: list[list], kind: str) -> nodes.table:
    """A table of the class ``kind``: a column of each name and width, and its rows, lists of cells or finished.

    With many columns it is of the class ``wide`` too.
    """
    group = nodes.tgroup(cols=len(widths))
    group += [nodes.colspec(colwidth=width) for width in widths.values()]
    group += nodes.thead("", row([nodes.Text(name) for name in widths]))
    group += nodes.tbody("", *[cells if isinstance(cells, nodes.row) else row(cells) for cells in rows])
    return nodes.table("", group, classes=[kind, *(["wide"] if len(widths) >= _MANY else [])])


def row(cells: list, ids: Sequence[str] = (), classes: Sequence[str] = ()) -> nodes.row:
    """A row of cells, each a node or a list of nodes."""
    paragraphs = [nodes.paragraph("", "", *(c if isinstance(c, list) else [c])) for c in cells]
    return nodes.row("", *[nodes.entry("", p) for p in paragraphs], ids=list(ids), classes=list(classes))


def cell(text: str) -> nodes.Node:
    """Words, which may break where a column is narrow, or a number, which may not."""
    number = re.fullmatch(r"[-−+\d.,e]+", text) is not None
    return nodes.inline(text=text, classes=["number"]) if number else nodes.Text(text)
