"""Figures of the front page: dots from the ledger, scores against the scale of masks, numbered captions."""

import io
import json
import re
import sys

import pandas as pd
import pytest

pytest.importorskip("jupyter_book", reason="needs the extra book")
from sphinx.application import Sphinx

from kanlib import claims, store
from tests.test_claims import claim

sys.path.insert(0, str(store.ROOT / "book" / "_ext"))
import ledger

DOTS = ".. intervals::\n   :kinds: KAN, COAR\n   :of: Spearman\n\n   digits: a.kan, a.coar\n"


@pytest.fixture
def build(tmp_path, monkeypatch):
    """A book of one page over two rows of a ledger and one evaluation; the page, and what was said of it."""
    rows = [claim("a.kan", value=0.9, low=0.8, high=0.95), claim("a.coar")]
    claims.record(rows, tmp_path / "l.json")
    monkeypatch.setattr(ledger, "LEDGER", tmp_path / "l.json")
    monkeypatch.setattr(store, "ARTIFACTS", tmp_path)
    scores = [
        {"trained": f"scale {a}", "tested": f"scale {b}", "method": k, "example": e, "pearson": a * b * e / 8}
        for k in ("linear", "kan")
        for a, b in ((0.5, 0.5), (1.0, 1.0), (1.0, 0.5))
        for e in (1, 3)
    ]
    store.save(store.path("s", "evaluation"), pd.DataFrame(scores), kind="evaluation", parameters={}, inputs={})

    def built(front):
        folder = tmp_path / "book"
        folder.mkdir()
        (folder / "index.rst").write_text(f"Front\n=====\n\n{front}\n", encoding="utf8")
        said = io.StringIO()
        settings = {
            "extensions": ["offline", "ledger", "figures", "chapters"],
            "numfig": True,
            "html_title": "A book",
        }
        Sphinx(
            folder, None, folder / "html", folder / "trees", "html", settings, status=None, warning=said
        ).build()
        page = (folder / "html" / "index.html").read_text(encoding="utf8")
        return page, "".join(line for line in said.getvalue().splitlines(True) if ".rst" in line)

    return built


def data(page):
    (chart,) = re.findall(r'"vega-chart"><script type="application/json">(.*?)</script>', page, re.DOTALL)
    (rows,) = json.loads(chart)["datasets"].values()
    return rows


def test_a_dot_is_a_row_of_the_ledger_with_its_interval(build):
    page, said = build(DOTS)
    assert said == ""
    assert data(page) == [
        {"Spearman": 0.9, "network": "digits", "by": "KAN", "low": 0.8, "high": 0.95},
        {"Spearman": 0.5, "network": "digits", "by": "COAR", "low": 0.4, "high": 0.6},
    ]


def test_a_row_that_is_not_there_is_named(build):
    assert "claim a.kam is unknown to l.json; did you mean a.kan?" in build(DOTS.replace("a.kan", "a.kam"))[1]


def test_scores_are_means_where_a_method_was_fitted(build):
    page, said = build(".. scales:: s")
    assert said == ""
    assert data(page) == [
        {"method": method, "scale of the masks": scale, "pearson": scale**2 / 4}
        for method in ("COAR (linear)", "KAN")
        for scale in (0.5, 1.0)
    ]


def test_figures_are_numbered_and_their_last_paragraph_is_the_caption(build):
    figure = "\n".join(f"   {line}" for line in f"{DOTS}\nWhat is seen.".splitlines())
    page, said = build(f"See :numref:`one`.\n\n.. captioned::\n   :name: one\n\n{figure}\n")
    assert said == ""
    text = re.sub(r"\s+", " ", re.sub("<script.*?</script>|<[^>]*>", " ", page, flags=re.DOTALL))
    assert "See Fig. 1 ." in text
    assert "Fig. 1 What is seen." in text
    assert re.search(r'<figure[^>]*id="one".*vega-chart.*<figcaption', page, re.DOTALL)


def test_the_caption_of_a_table_stands_above_it_and_tables_are_counted_by_themselves(build):
    table = ".. csv-table::\n\n   a, b"
    body = "\n".join(f"   {line}".rstrip() for line in f"{table}\n\nWhat it says.".splitlines())
    page, said = build(f"See :numref:`tab-one`.\n\n.. captioned::\n   :name: tab-one\n\n{body}\n")
    assert said == ""
    seen = re.sub(r"\s+", " ", re.sub("<script.*?</script>|<[^>]*>", " ", page, flags=re.DOTALL))
    assert "See Table 1 ." in seen
    assert "Table 1 What it says." in seen
    assert re.search(r'<figure[^>]*id="tab-one".*<figcaption.*</figcaption>.*<table', page, re.DOTALL)


@pytest.mark.parametrize("body", ["Only words.", DOTS])
def test_a_figure_without_caption_or_content_is_refused(build, body):
    inside = "\n".join(f"   {line}" for line in body.splitlines())
    assert "is something to see, then a paragraph, its caption" in build(f".. captioned::\n\n{inside}\n")[1]
