"""Cards of the features of a sparse autoencoder."""

import io
import json
import sys

import pytest

pytest.importorskip("jupyter_book", reason="needs the extra book")
from sphinx.application import Sphinx

from kanlib import store

sys.path.insert(0, str(store.ROOT / "book" / "_ext"))
import features

CARD = {
    "feature": 7,
    "density": 0.0123,
    "largest": 5.2,
    "histogram": [3, 0, 1],
    "contexts": [["Once <b>", " girl", "\nand", 5.2]],
    "raises": [[" Lily", 1.5]],
    "lowers": [["</script>", -2.0]],
    "moments": [0.0, 1.0, 3.5, 9.0],
    "features": [[8, 0.5], [99, 0.25]],
    "neurons": [[4, 0.75]],
    "rule": 0.9,
    "relu": 0.99991,
    "shape": [[-1.0, 0.0, 1.0], [0.0, 0.0, 1.0]],
}


def built(folder, whole, warning=None):
    (folder / "cards.json").write_text(json.dumps(whole), encoding="utf8")
    book = folder / "book"
    book.mkdir()
    (book / "index.rst").write_text("Front\n=====\n\n.. features:: cards.json\n", encoding="utf8")
    given = {"extensions": ["features"]}
    Sphinx(book, None, book / "html", book / "trees", "html", given, status=None, warning=warning).build()
    return (book / "html" / "index.html").read_text(encoding="utf8")


def test_every_feature_has_a_card_that_escapes_what_tokens_say(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "DATA", tmp_path)
    other = CARD | {"feature": 8, "contexts": [], "neurons": [], "features": []}
    page = built(tmp_path, {"features": [CARD, {k: v for k, v in other.items() if k not in ("relu", "shape")}]})
    assert page.count('<details class="feature-card"') == 2
    assert page.count('<div class="feature-filter"></div>') == 1
    assert "active on 1.23 % of tokens, rule 0.9" in page
    assert "Once &lt;b&gt;<mark> girl</mark>↵and" in page
    assert "&lt;/script&gt;</code>&nbsp;−2" in page
    # Links lead to cards that are there, and to no others.
    assert '<a href="#feature-8">feature 8</a> (0.5), feature 99 (0.25); neurons 4 (0.75)' in page
    assert "an R² of 0.9999" in page
    assert "no other feature" in page


def test_a_file_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "DATA", tmp_path / "nowhere")
    said = io.StringIO()
    built(tmp_path, {"features": []}, said)
    assert "data/cards.json is missing; a script of benchmarks/ writes it." in said.getvalue()
