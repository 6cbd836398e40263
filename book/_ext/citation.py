"""How works are cited: the directive ``{citation}`` for this one, and labels that name authors and year.

What is cited is in ``CITATION.cff`` alone. The bibliography style ``names`` has an author and a year in place of
initials.
"""

from pathlib import Path

import yaml
from docutils import nodes
from docutils.parsers.rst import Directive
from pybtex.database import Entry
from pybtex.plugin import register_plugin
from pybtex.style.formatting.alpha import Style as Alpha
from pybtex.style.labels.alpha import LabelStyle
from sphinx.application import Sphinx

CITATION = Path(__file__).parents[2] / "CITATION.cff"


def bibtex(cited: dict, address: str) -> str:
    """What ``CITATION.cff`` holds as a BibTeX entry, with its ``url`` or else the book's ``address``, if any."""
    authors = [
        f"{one['family-names']}, {one['given-names']}" if "family-names" in one else f"{{{one['name']}}}"
        for one in cited["authors"]
    ]
    fields = {
        "title": f"{{{cited['title']}}}",
        "author": " and ".join(authors),
        "version": cited["version"],
        "year": str(cited["date-released"])[:4],
        "url": cited.get("url") or address,
        "doi": cited.get("doi", ""),
    }
    lines = [f"  {name:<7} = {{{value}}},\n" for name, value in fields.items() if value]
    return f"@software{{kanlib,\n{''.join(lines)}}}"


class Citation(Directive):
    """The BibTeX entry of this book."""

    def run(self) -> list[nodes.Node]:
        """Return it as a block to be copied."""
        env = self.state.document.settings.env
        env.note_dependency(str(CITATION))
        text = bibtex(yaml.safe_load(CITATION.read_text(encoding="utf8")), env.config.html_baseurl)
        return [nodes.literal_block(text, text, language="bibtex")]


class Labels(LabelStyle):
    """Such as ``Shah et al., 2024``; works that would share a label are told apart by a letter."""

    def format_label(self, entry: Entry) -> str:
        """The label of a work: its field ``shorttitle`` where nobody is named, else its authors; and its year."""
        first, *others = [" ".join(person.prelast_names + person.last_names) for person in entry.persons["author"]]
        if len(others) == 1 and others != ["others"]:
            first += f" and {others[0]}"
        elif others:
            first += " et al."
        return f"{entry.fields.get('shorttitle', first)}, {entry.fields['year']}"


class Names(Alpha):
    """Works in the order of their authors, under these labels."""

    default_label_style = "names"


def setup(app: Sphinx) -> dict:
    """Make directive and style known."""
    register_plugin("pybtex.style.labels", "names", Labels)
    register_plugin("pybtex.style.formatting", "names", Names)
    app.add_directive("citation", Citation)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
