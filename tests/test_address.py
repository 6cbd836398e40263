"""What a book at a public address has besides: built from two pages, with the address and without it."""

import re
import sys

import altair as alt
import pandas as pd
import pytest
from PIL import Image

pytest.importorskip("jupyter_book", reason="needs the extra book")
from sphinx.application import Sphinx

from kanlib import store

sys.path.insert(0, str(store.ROOT / "book" / "_ext"))
from offline import chart_html

ADDRESS = "https://example.org/book/"


def built(folder, **settings):
    chart = alt.Chart(pd.DataFrame({"x": [1, 2], "y": [1, 2]})).mark_line().encode(x="x", y="y")
    raw = chart_html(chart.to_dict()).replace("\n", " ")
    (folder / "index.rst").write_text(f"Front & page\n============\n\n.. raw:: html\n\n   {raw}\n")
    (folder / "other.rst").write_text(":orphan:\n\nOther\n=====\n")
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
    assert "og:image" not in other
    width, height = Image.open(html / "_static" / "card.png").size
    assert 1.7 < width / height < 2.1
    assert width > 1000


def test_pages_without_one_are_as_before(tmp_path):
    html = built(tmp_path)
    assert not (html / "sitemap.xml").exists()
    assert "og:" not in (html / "index.html").read_text(encoding="utf8")
