"""Roles of HTML that assistive technology understands, where docutils writes others."""

from sphinx.application import Sphinx


def items(app: Sphinx, pagename: str, templatename: str, context: dict, doctree: object) -> None:
    """Entries of a bibliography are items of the list around them: ``doc-biblioentry`` is deprecated in ARIA."""
    if "body" in context:
        context["body"] = context["body"].replace(' role="doc-biblioentry"', ' role="listitem"')


def setup(app: Sphinx) -> dict:
    """Connect it to the build."""
    app.connect("html-page-context", items)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
