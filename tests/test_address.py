"""What pages say of themselves, and what a book at a public address has besides: built from three small pages."""

import re
import sys

import altair as alt
import pandas as pd
import pytest
from docutils.core import publish_doctree
from PIL import Image

pytest.importorskip("jupyter_book", reason="needs the extra book")
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

from kanlib import sources, store

sys.path.insert(0, str(store.ROOT / "book" / "_ext"))
import address
from offline import chart_html

ADDRESS = "https://example.org/book/"
REPOSITORY = "https://github.com/owner/name"
FRONT = "Front & page\n============\n\n.. note:: Not this.\n\n*One* & two. Three :math:`\\sigma_j` four:\n\n"


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch):
    for name in ("BOOK_URL", "BOOK_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)


def built(folder, **settings):
    chart = alt.Chart(pd.DataFrame({"x": [1, 2], "y": [1, 2]})).mark_line().encode(x="x", y="y")
    raw = chart_html(chart.to_dict()).replace("\n", " ")
    (folder / "index.rst").write_text(f"{FRONT}.. raw:: html\n\n   {raw}\n")
    (folder / "other.rst").write_text(":orphan:\n\nOther\n=====\n\n.. elsewhere::\n\n   Run it elsewhere:\n")
    settings = {"extensions": ["address"], "html_title": "A book"} | settings
    Sphinx(folder, None, folder / "html", folder / "trees", "html", settings, status=None).build()
    return folder / "html"


def test_pages_with_an_address_say_it(tmp_path):
    html = built(tmp_path, html_baseurl=ADDRESS)
    locations = re.findall("<loc>(.*)</loc>", (html / "sitemap.xml").read_text(encoding="utf8"))
    assert locations == [f"{ADDRESS}index.html", f"{ADDRESS}other.html"]
    front, other = ((html / name).read_text(encoding="utf8") for name in ("index.html", "other.html"))
    assert '<meta property="og:title" content="Front &amp; page" />' in front
    assert f'<meta property="og:image" content="{ADDRESS}_static/card.png" />' in front
    assert f'<meta property="og:url" content="{ADDRESS}other.html" />' in other
    assert '<meta property="og:description" content="One &amp; two. Three σ_j four." />' in front
    assert "og:image" not in other
    assert "og:description" not in other
    width, height = Image.open(html / "_static" / "card.png").size
    assert 1.7 < width / height < 2.1
    assert width > 1000


def test_pages_without_one_say_what_they_are_about_and_no_more(tmp_path):
    html = built(tmp_path)
    assert not (html / "sitemap.xml").exists()
    front, other, search = (
        (html / name).read_text(encoding="utf8") for name in ("index.html", "other.html", "search.html")
    )
    assert "og:" not in front
    assert '<meta name="description" content="One &amp; two. Three σ_j four." />' in front
    assert 'name="description"' not in other + search
    assert "elsewhere" not in other
    assert "<title>Front &amp; page &#8212; A book</title>" in front
    assert "<title>Other &#8212; A book</title>" in other


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("One. " + "Two is long. " * 20, "One." + " Two is long." * 15),
        ("A first sentence " * 20 + ".", "A first sentence " * 11 + "A first …"),
        ("One. Then :math:`\\sum_j \\sigma_j` and more.", "One."),
        ("No end", "No end"),
    ],
)
def test_a_description_is_the_first_plain_sentences(words, said):
    document = publish_doctree(f"Title\n=====\n\n{words}\n", settings_overrides={"doctitle_xform": False})
    assert address.description(document) == said


def test_addresses_come_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("BOOK_URL", ADDRESS)
    monkeypatch.setenv("BOOK_REPOSITORY", REPOSITORY)
    html = built(tmp_path)
    assert f"<loc>{ADDRESS}index.html</loc>" in (html / "sitemap.xml").read_text(encoding="utf8")
    other = (html / "other.html").read_text(encoding="utf8")
    assert f'<link rel="canonical" href="{ADDRESS}other.html" />' in other
    assert "Run it elsewhere" in other
    links = re.findall('href="(https://(?:mybinder|colab)[^"]*)"', other)
    names = [f"notebooks/{path.name}" for path in sources.notebooks(store.NOTEBOOKS)]
    assert links[::2] == [f"https://mybinder.org/v2/gh/owner/name/main?urlpath=lab/tree/{name}" for name in names]
    there = "https://colab.research.google.com/github/owner/name/blob/main"
    assert links[1::2] == [f"{there}/{name}" for name in names]


def test_what_the_settings_name_is_not_overruled(tmp_path, monkeypatch):
    monkeypatch.setenv("BOOK_URL", "https://example.org/another/")
    html = built(tmp_path, html_baseurl=ADDRESS)
    assert "another" not in (html / "sitemap.xml").read_text(encoding="utf8")


@pytest.mark.parametrize("name", ["BOOK_URL", "BOOK_REPOSITORY"])
def test_what_is_no_address_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setenv(name, "example.org/book")
    with pytest.raises(ExtensionError, match=rf"{name} is 'example.org/book', expected what begins with https://"):
        built(tmp_path)
