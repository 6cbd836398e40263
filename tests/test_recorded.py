"""Tables of what the scripts of ``benchmarks/`` left in ``data/``."""

import json
import re
import sys

import pytest

pytest.importorskip("jupyter_book", reason="needs the extra book")
from sphinx.application import Sphinx

from kanlib import store

sys.path.insert(0, str(store.ROOT / "book" / "_ext"))
import recorded

ROWS = [
    {"setup": "a", "way": "one", "Pearson": "0.5 ± 0.1"},
    {"setup": "a", "way": "two", "Pearson": "0.45 ± 0.3"},
    {"setup": "b", "way": "one", "Pearson": "0.9 ± 0.1"},
    {"setup": "c", "way": "one", "Pearson": "-0.2"},
    {"setup": "c", "way": "two", "Pearson": "-0.1"},
]


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """The texts of the rows of a table with these options, bold ones in stars."""
    monkeypatch.setattr(recorded, "DATA", tmp_path)

    def shown(options=""):
        (tmp_path / "rows.json").write_text(json.dumps(ROWS))
        folder = tmp_path / "book"
        folder.mkdir()
        (folder / "index.rst").write_text(f"Front\n=====\n\n.. rows:: rows.json\n{options}")
        Sphinx(
            folder, None, folder / "html", folder / "trees", "html", {"extensions": ["recorded"]}, status=None
        ).build()
        page = (folder / "html" / "index.html").read_text(encoding="utf8")
        table = re.sub("</?strong>", "*", re.search("<table.*?</table>", page, re.DOTALL)[0])
        rows = re.findall("<tr.*?</tr>", table, re.DOTALL)
        return [re.sub(r"\s+", " ", re.sub("<.*?>", " ", row)).strip() for row in rows]

    return shown


def test_the_best_of_a_group_is_bold_but_not_one_alone(shown):
    rows = shown("   :best: Pearson\n   :by: setup\n")
    assert rows == [
        "setup way Pearson",
        "a one *0.5 ± 0.1*",
        "a two 0.45 ± 0.3",
        "b one 0.9 ± 0.1",
        "c one -0.2",
        "c two * -0.1 *",
    ]


def test_a_row_may_be_the_mean_of_those_of_one_kind(shown, monkeypatch):
    rows = [
        {"draw": 1, "way": "b", "of": "x", "k": 1, "net": -0.5},
        {"draw": 1, "way": "a", "of": "y", "k": 2, "net": 0.25},
        {"draw": 2, "way": "b", "of": "z", "k": 2, "net": 0.0},
    ]
    monkeypatch.setattr(sys.modules[__name__], "ROWS", rows)
    assert shown("   :mean: way\n   :columns: way, k, net\n") == [
        "way k net",
        "b 1.500 −0.250",
        "a 2.000 0.250",
    ]


def test_a_figure_may_have_an_interval_or_be_none(shown, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROWS", [{"net": [0.5, -0.1, 1.0], "k": None}])
    assert shown() == ["net k", "0.500 [−0.100, 1.000] none"]


def test_a_table_may_have_some_of_the_columns(shown):
    assert shown("   :columns: way, setup\n")[:2] == ["way setup", "one a"]
