"""A Sphinx extension for a book at a public address: a sitemap, and what is shown where its links are shared.

It does nothing until ``_config.yml`` names the address, ``html: {baseurl: ...}``.
"""

import json
import re
from html import escape, unescape
from pathlib import Path
from xml.sax.saxutils import escape as xml

import vl_convert
from sphinx.application import Sphinx

CARD = "_static/card.png"
CHART = re.compile(r'<div class="vega-chart"><script type="application/json">(.*?)</script>', re.DOTALL)
SIZE = {"width": 1000, "height": 460}  # with axes and title about 1200 by 630 pixels, as shared links are shown


def describe(app: Sphinx, pagename: str, templatename: str, context: dict, doctree: object) -> None:
    """Say in a page's head what a shared link to it shows; the front page's first chart is the card."""
    if not app.config.html_baseurl or doctree is None:  # an index or the search is nothing to share
        return
    shown = {
        "og:type": "article",
        "og:site_name": app.config.html_title,
        "og:title": unescape(re.sub("<.*?>", "", context["title"])),
        "og:url": at(app, pagename),
    }
    if chart := CHART.search(context.get("body", "")) if pagename == app.config.root_doc else None:
        spec = json.loads(chart[1]) | SIZE | {"title": app.config.html_title, "background": "white"}
        card = Path(app.outdir) / CARD
        card.parent.mkdir(parents=True, exist_ok=True)
        card.write_bytes(vl_convert.vegalite_to_png(spec))
        shown |= {"og:image": f"{root(app)}{CARD}", "twitter:card": "summary_large_image"}
    for name, content in shown.items():
        context["metatags"] += f'<meta property="{name}" content="{escape(content)}" />\n'


def list_pages(app: Sphinx, error: Exception | None) -> None:
    """Write ``sitemap.xml`` once all pages are."""
    if error or not app.config.html_baseurl or app.builder.name != "html":
        return
    urls = "\n".join(f"<url><loc>{xml(at(app, name))}</loc></url>" for name in sorted(app.env.found_docs))
    sitemap = f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{urls}\n</urlset>\n'
    (Path(app.outdir) / "sitemap.xml").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n' + sitemap, encoding="utf8"
    )


def at(app: Sphinx, pagename: str) -> str:
    """The public address of a page."""
    return root(app) + app.builder.get_target_uri(pagename)


def root(app: Sphinx) -> str:
    """The public address of the book, with a slash at its end."""
    return app.config.html_baseurl.rstrip("/") + "/"


def setup(app: Sphinx) -> dict:
    """Connect the steps above to the build."""
    app.connect("html-page-context", describe)
    app.connect("build-finished", list_pages)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
