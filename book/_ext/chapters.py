"""What makes an executed notebook a chapter: numbers for its figures and tables, and names that are its own.

A cell's output gets its caption from the cell's metadata, ``mystnb: figure: {name, caption}``, which MyST-NB wraps
in a figure. Sphinx numbers figures through the book; those whose name begins with ``tab-`` are tables, and their
captions stand above them.
"""

import json
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

#: What one template's pages share, and each must have under a name of its own.
LABEL = re.compile(r"\b(?:eq|fig|tab)-[a-z0-9-]+")


class captioned_table(nodes.figure):  # noqa: N801 (docutils names a node's visitors after its class)
    """A figure that is numbered among the tables: its caption, then what is :class:`tabled`."""


class tabled(nodes.General, nodes.Element):  # noqa: N801
    """What stands under the caption of a table; docutils would put it into the ``figcaption``."""


class NumberTables(SphinxTransform):
    """Tell tables from figures before Sphinx numbers both, and set their captions above them."""

    default_priority = 100

    def apply(self, **kwargs: Any) -> None:
        """Put a table's node in the place of each figure that is one."""
        for figure in list(self.document.findall(nodes.figure)):
            if any(name.startswith("tab-") for name in figure["names"]):
                (caption,) = (child for child in figure.children if isinstance(child, nodes.caption))
                shown = tabled("", *(child for child in figure.children if child is not caption))
                table = captioned_table("", caption, shown, **figure.attributes)
                figure.replace_self(table)
                self.document.ids |= dict.fromkeys(table["ids"], table)


def prepare(app: Sphinx, docname: str, source: list[str]) -> None:
    """Before a notebook is parsed: labels of its own, and papermill's cell left out."""
    path = Path(app.env.doc2path(docname))
    if path.suffix != ".ipynb":
        return
    notebook = json.loads(source[0])
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = own("".join(cell["source"]), path.parent.name)
        if "injected-parameters" in cell["metadata"].get("tags", []):
            cell["metadata"]["tags"].append("remove-cell")
        if figure := cell["metadata"].get("mystnb", {}).get("figure"):
            figure |= {key: own(text, path.parent.name) for key, text in figure.items()}
    source[0] = json.dumps(notebook)


def own(text: str, setup: str) -> str:
    """The labels in a text as those of one setup's page: one template makes a page for each setup."""
    return LABEL.sub(rf"\g<0>-{setup.replace('_', '-')}", text)


def setup(app: Sphinx) -> dict:
    """Connect it to the build."""
    whole = (lambda self, node: self.visit_figure(node), lambda self, node: self.body.append("</figure>\n"))
    under = (lambda self, node: self.body.append("</figcaption>\n"), lambda self, node: None)
    app.add_enumerable_node(captioned_table, "table", html=whole)
    app.add_node(tabled, html=under)
    app.add_transform(NumberTables)
    app.connect("source-read", prepare)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
