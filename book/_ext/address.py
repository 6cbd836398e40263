"""A Sphinx extension that says what a page is about, and what a book at a public address has besides.

Every page gets a description, its first sentences. The address, ``html: {baseurl: ...}`` in ``_config.yml`` or the
environment variable ``BOOK_URL``, brings a sitemap, and a card where links are shared. The address of the
repository, ``repository: {url: ...}`` or ``BOOK_REPOSITORY``, brings links that open the notebooks elsewhere: the
directive ``{elsewhere}`` lists them.
"""

import json
import os
import re
import textwrap
import unicodedata
from html import escape, unescape
from pathlib import Path
from urllib.parse import urlparse
from xml.sax.saxutils import escape as xml

import vl_convert
from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx
from sphinx.config import Config

from kanlib import sources, store
from kanlib.errors import BadInputError, shown

CARD = "_static/card.png"
LENGTH = 200  # characters of a description; search engines show some 160
SENTENCE = re.compile(r".*?[.?!:](?=\s|$)", re.DOTALL)
#: Where Jupyter Book says a book is whose repository nobody named.
NOT_OURS = "https://github.com/executablebooks/jupyter-book"
BRANCH = "main"
CHART = re.compile(r'<div class="vega-chart"><script type="application/json">(.*?)</script>', re.DOTALL)
SIZE = {"width": 1000, "height": 460}  # with axes and title about 1200 by 630 pixels, as shared links are shown


def take_addresses(app: Sphinx, config: Config) -> None:
    """Take addresses that ``_config.yml`` does not name from the environment, so that no file has to be edited.

    Raises:
        BadInputError: one is no address of the web.
    """
    book, repository = (os.environ.get(name, "") for name in ("BOOK_URL", "BOOK_REPOSITORY"))
    for name, address in {"BOOK_URL": book, "BOOK_REPOSITORY": repository}.items():
        if address and not re.fullmatch(r"https?://[^\s/]+(/\S*)?", address):
            raise BadInputError(f"{name} is {shown(address)}, expected what begins with https://; correct it.")
    config.html_baseurl = config.html_baseurl or book
    options = config.html_theme_options
    if repository and options.get("repository_url", NOT_OURS) == NOT_OURS:
        options |= {"repository_url": repository, "repository_branch": BRANCH}


def describe(app: Sphinx, pagename: str, templatename: str, context: dict, doctree: nodes.document | None) -> None:
    """Say in a page's head what it is about, and what a shared link shows; the front's first chart is the card."""
    if doctree is None:  # an index or the search is about nothing
        return
    about = description(doctree)
    if about:
        context["metatags"] += f'<meta name="description" content="{escape(about)}" />\n'
    if not app.config.html_baseurl:
        return
    said = {
        "og:type": "article",
        "og:site_name": app.config.html_title,
        "og:title": unescape(re.sub("<.*?>", "", context["title"])),
        "og:description": about,
        "og:url": at(app, pagename),
    }
    if chart := CHART.search(context.get("body", "")) if pagename == app.config.root_doc else None:
        spec = json.loads(chart[1]) | SIZE | {"title": app.config.html_title, "background": "white"}
        card = Path(app.outdir) / CARD
        card.parent.mkdir(parents=True, exist_ok=True)
        card.write_bytes(vl_convert.vegalite_to_png(spec))
        said |= {"og:image": f"{root(app)}{CARD}", "twitter:card": "summary_large_image"}
    for name, content in said.items():
        if content:
            context["metatags"] += f'<meta property="{name}" content="{escape(content)}" />\n'


def description(page: nodes.document) -> str:
    """The sentences with which a page's first paragraph begins, as long as they are plain; empty without one."""
    first = next((p for p in page.findall(nodes.paragraph) if isinstance(p.parent, nodes.section)), None)
    if first is None:
        return ""
    first = first.deepcopy()
    for cited in [node for node in first.findall(nodes.inline) if "bibtex-citation" in node["classes"]]:
        cited.parent.remove(cited)
    text = re.sub(r"\\([a-z]+)", _greek, " ".join(first.astext().split()))
    text = re.sub(r" (?=[.,;:])", "", text)
    sentences = SENTENCE.findall(text) or [text]
    taken = sentences[0]
    for sentence in sentences[1:]:
        if "\\" in sentence or len(taken + sentence) > LENGTH:
            break
        taken += sentence
    return textwrap.shorten(re.sub(":$", ".", taken), LENGTH, placeholder=" …")


def _greek(command: re.Match) -> str:
    """A letter that TeX names, as itself; other commands as they are."""
    try:
        return unicodedata.lookup(f"GREEK SMALL LETTER {command[1]}")
    except KeyError:
        return command[0]


class Elsewhere(Directive):
    """Links that open every notebook on Binder and Colab, after what the body says; nothing without a repository.

    They lead to the notebooks in the repository, which hold no outputs: executed ones are not in it, which is why
    the theme's own buttons, which would lead there, are off.
    """

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the body and the links."""
        options = self.state.document.settings.env.config.html_theme_options
        address = urlparse(options.get("repository_url") or NOT_OURS)
        if address.geturl() == NOT_OURS or address.netloc != "github.com":
            return []
        repository, branch = address.path.strip("/").removesuffix(".git"), options["repository_branch"]
        listed = nodes.bullet_list()
        for notebook in sources.notebooks(store.NOTEBOOKS):
            place = notebook.relative_to(store.ROOT).as_posix()
            links = {
                "Binder": f"https://mybinder.org/v2/gh/{repository}/{branch}?urlpath=lab/tree/{place}",
                "Colab": f"https://colab.research.google.com/github/{repository}/blob/{branch}/{place}",
            }
            words: list[nodes.Node] = [nodes.literal(text=notebook.stem)]
            for name, link in links.items():
                words += [nodes.Text(": " if len(words) == 1 else ", "), nodes.reference("", name, refuri=link)]
            listed += nodes.list_item("", nodes.paragraph("", "", *words))
        body = nodes.Element()
        self.state.nested_parse(self.content, self.content_offset, body)
        return [*body.children, listed]


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
    app.add_directive("elsewhere", Elsewhere)
    app.connect("config-inited", take_addresses)
    app.connect("html-page-context", describe)
    app.connect("build-finished", list_pages)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
