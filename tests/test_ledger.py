"""Rows of the ledger as the book shows them: quoted in sentences, in the tables of claims, and compared with 0."""

import io
import re
import sys
from dataclasses import replace

import pytest

pytest.importorskip("jupyter_book", reason="needs the extra book")
from sphinx.application import Sphinx

from kanlib import claims, store
from tests.test_claims import claim

sys.path.insert(0, str(store.ROOT / "book" / "_ext"))
import builds
import ledger

CLAIMS = "Claims\n======\n\n.. claims:: method\n\n.. claims:: software\n"


@pytest.mark.parametrize(
    ("value", "low", "high", "shown"),
    [
        (0.96881, 0.95, 0.98321, "0.969 [0.950, 0.983]"),
        (0.00292, -0.0101, 0.0141, "0.003 [−0.010, 0.014]"),
        (0.3, 0.0004, 0.6, "0.3000 [0.0004, 0.6000]"),
        (116.8, 112.0, 128.0, "117 [112, 128]"),
        (4e-6, 9.56e-7, 4.15e-6, "4e−06 [9.56e−07, 4.15e−06]"),
        (404200.0, 404200.0, 404200.0, "404,200"),
        (0.99444, 0.99444, 0.99444, "0.9944"),
    ],
)
def test_a_figure_has_two_digits_of_its_intervals_width(value, low, high, shown):
    assert ledger.figure(claim(value=value, low=low, high=high)) == shown


@pytest.mark.parametrize(
    ("low", "high", "standing"), [(0.1, 0.2, "ahead"), (0.0, 0.2, "level"), (-0.2, -0.1, "behind")]
)
def test_a_standing_is_the_side_of_0_on_which_the_interval_lies(low, high, standing):
    assert ledger.standing(claim(low=low, high=high)) == standing


@pytest.mark.parametrize(
    ("target", "missed", "met"),
    [("", False, "not promised"), (">= 0.5", False, "yes"), ("> 0.5", False, "no"), ("> 0.5", True, "no")],
)
def test_a_target_is_met_or_not(target, missed, met):
    assert ledger.met(claim(target=target, missed=missed)) == met


def test_every_miss_of_the_ledger_says_no_and_every_row_has_a_place_of_its_own():
    rows = ledger.rows_of()
    missed = {one.id for one in claims.read() if one.missed or not one.holds()}
    assert {name for name, row in rows.items() if ledger.met(row) == "no"} == missed
    assert all(row.target for row in rows.values() if row.missed)
    assert not any("the aim" in row.statement for row in rows.values())
    assert len({ledger.anchor(row) for row in rows.values()}) == len(rows)


@pytest.fixture
def build(tmp_path, monkeypatch):
    """A book of two pages, the front and the claims, over four rows; its folder and what was said of the pages."""
    rows = [claim("b.x", target=">= 0.4"), claim("a.lead", low=-0.1), claim("book.y", target=">= 9")]
    claims.record([*rows, replace(rows[0], id="c.miss", target=">= 9", missed=True)], tmp_path / "l.json")
    monkeypatch.setattr(ledger, "LEDGER", tmp_path / "l.json")

    def built(front):
        folder = tmp_path / "book"
        folder.mkdir()
        (folder / "index.rst").write_text(f"Front\n=====\n\n{front}\n", encoding="utf8")
        (folder / "claims.rst").write_text(f":orphan:\n\n{CLAIMS}", encoding="utf8")
        said = io.StringIO()
        settings = {"extensions": ["ledger", "builds"], "html_title": "A book"}
        Sphinx(
            folder, None, folder / "html", folder / "trees", "html", settings, status=None, warning=said
        ).build()
        return folder / "html", "".join(line for line in said.getvalue().splitlines(True) if ".rst" in line)

    return built


def text(html):
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", html))


def test_a_role_pastes_the_figure_and_leads_to_its_row(build):
    html, said = build("It is :claim:`b.x`; the lead is :verdict:`a.lead`.")
    front = (html / "index.html").read_text(encoding="utf8")
    assert said == ""
    assert "It is 0.50 [0.40, 0.60] ; the lead is level (0.50 [−0.10, 0.60]) ." in text(front)
    (place,) = re.findall(r'href="claims.html#([^"]*b-x)"', front)
    assert f'id="{place}"' in (html / "claims.html").read_text(encoding="utf8")


def test_claims_stand_by_family_the_missed_ones_first(build, tmp_path):
    claims.record([claim("b.a", target=">= 9", missed=True), claim("b.y")], tmp_path / "l.json")
    html, _ = build("")
    page = (html / "claims.html").read_text(encoding="utf8")
    families = re.findall(r'<section id="claims-(\w+)">(.*?</table>)', page, re.DOTALL)
    assert [name for name, _ in families] == ["a", "b", "c", "book"]
    rows = dict(families)["b"]
    assert re.findall(r"\bb\.\w+", text(rows)) == ["b.a", "b.x", "b.y"]
    assert re.findall(r"\b(no|yes|not promised)\b", text(rows)) == ["no", "yes", "not promised"]
    assert re.findall(r'<tr class="(met-[\w-]+) ', rows) == ["met-no", "met-yes", "met-not-promised"]
    assert "The book" in text(dict(families)["book"])
    assert all(f'href="#claims-{name}"' in page for name, _ in families)


def test_every_row_of_the_ledger_belongs_to_a_family_with_a_title():
    titled = {family for part in ledger.FAMILIES.values() for family in part}
    assert {name.split(".")[0] for name in ledger.rows_of()} <= titled


def test_standings_list_the_rows_of_their_patterns_wins_first(build):
    html, said = build(".. standings:: a.* b.*")
    assert said == ""
    front = text((html / "index.html").read_text(encoding="utf8"))
    assert re.findall(r"ahead|level|b\.x|a\.lead", front) == ["ahead", "b.x", "level", "a.lead"]


def test_leads_are_a_table_by_setup_and_number_of_masks(build, tmp_path):
    leads = [
        claim("s.branch.lead.1000", value=0.2, low=0.1, high=0.3),
        claim("s.branch.lead.2000.single", value=-0.2, low=-0.3, high=-0.1),
        claim("s.output.lead.2000", value=0.0, low=-0.1, high=0.1),
        claim("s.output.other.4000"),
    ]
    claims.record(leads, tmp_path / "l.json")
    html, said = build(".. leads:: lead")
    assert said == ""
    (table,) = re.findall(r"<table.*?</table>", (html / "index.html").read_text(encoding="utf8"), re.DOTALL)
    rows = [re.sub(r"\s+", " ", text(row)).strip() for row in re.findall(r"<tr.*?</tr>", table, re.DOTALL)]
    assert rows[0] == "setup gate site members 1,000 masks 2,000 masks"
    assert rows[1:] == [
        "s branch all 0.20 [0.10, 0.30]",
        "s branch one −0.20 [−0.30, −0.10]",
        "s output all 0.00 [−0.10, 0.10]",
    ]
    assert [re.sub("<[^>]*>", "", bold) for bold in re.findall("<strong>.*?</strong>", table)] == [
        "0.20 [0.10, 0.30]"
    ]
    assert [re.sub("<[^>]*>", "", one) for one in re.findall("<em>.*?</em>", table)] == ["−0.20 [−0.30, −0.10]"]


def rows_of_table(page):
    (table,) = re.findall(r"<table.*?</table>", page, re.DOTALL)
    return [re.sub(r"\s+", " ", text(row)).strip() for row in re.findall(r"<tr.*?</tr>", table, re.DOTALL)]


BUILDS = ".. builds:: s\n   :rows: kan.* lead.*"


def test_what_a_build_measured_stands_beside_what_is_recorded(build, tmp_path, monkeypatch):
    recorded = [claim("s.kan.pearson"), claim("s.lead.1000", statement="Over the MLP"), claim("s.other")]
    claims.record(recorded, tmp_path / "l.json")
    now = [replace(row, value=0.7, low=0.6, high=0.8) for row in recorded]
    now[1] = replace(now[1], statement="Over trees")
    monkeypatch.setattr(builds.accuracy, "measured", lambda setup, p: now)
    monkeypatch.setattr(builds.symbolic_fidelity, "measured", lambda setup, p: [claim("s.kan.unknown")])
    monkeypatch.setattr(builds.interactions_fidelity, "measured", lambda setup, p: [])
    monkeypatch.setattr(builds.setups.Stage, "from_setup", lambda setup: None)
    html, said = build(BUILDS)
    assert said == ""
    head, *rows = rows_of_table((html / "index.html").read_text(encoding="utf8"))
    assert head == "row recorded this build"
    assert [re.findall(r"^\S+|0\.\d+ \[.*?\]", row) for row in rows] == [
        ["s.kan.pearson", "0.50 [0.40, 0.60]", "0.70 [0.60, 0.80]"],
        ["s.lead.1000", "0.50 [0.40, 0.60]", "0.70 [0.60, 0.80]"],
    ]


def test_a_build_with_other_settings_has_nothing_to_compare(build, tmp_path, monkeypatch):
    claims.record([claim("s.kan.pearson", statement="Of 8 examples")], tmp_path / "l.json")
    now = [claim("s.kan.pearson", statement="Of 2 examples")]
    monkeypatch.setattr(builds.accuracy, "measured", lambda setup, p: now)
    monkeypatch.setattr(builds.setups.Stage, "from_setup", lambda setup: None)
    html, said = build(BUILDS)
    assert said == ""
    assert "This build has other examples" in text((html / "index.html").read_text(encoding="utf8"))


@pytest.mark.parametrize("front", [":claim:`b.z`", ":verdict:`b.z`", ".. standings:: b.z"])
def test_a_row_that_is_not_there_ends_in_one_sentence(build, front):
    _, said = build(front)
    assert "claim b.z is unknown to l.json; did you mean b.x?" in said
