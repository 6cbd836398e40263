"""How the book is cited, and how it cites."""

import sys
import tomllib

import pytest
import yaml

pytest.importorskip("jupyter_book", reason="needs the extra book")
from pybtex.database import parse_file, parse_string
from sphinx.application import Sphinx

from kanlib import store

sys.path.insert(0, str(store.ROOT / "book" / "_ext"))
import citation

CITED = yaml.safe_load(citation.CITATION.read_text(encoding="utf8"))


def entry(address="", **changes):
    return parse_string(citation.bibtex(CITED | changes, address), "bibtex").entries["kanlib"]


def test_the_entry_holds_what_the_citation_file_says():
    found = entry()
    assert found.type == "software"
    assert found.fields["title"].strip("{}") == CITED["title"]
    assert [str(person).strip("{}") for person in found.persons["author"]] == [
        one["name"] for one in CITED["authors"]
    ]
    assert found.fields["version"] == CITED["version"]
    assert found.fields["year"] == str(CITED["date-released"].year)
    assert "url" not in found.fields


def test_an_address_and_people_are_named_where_they_are_known():
    assert entry("https://example.org/book/").fields["url"] == "https://example.org/book/"
    assert entry("https://example.org/book/", url="https://example.org/").fields["url"] == "https://example.org/"
    people = [{"family-names": "Byron", "given-names": "Ada"}, {"name": "The others of us"}]
    first, second = entry(authors=people).persons["author"]
    assert (first.last_names, first.first_names) == (["Byron"], ["Ada"])
    assert str(second).strip("{}") == "The others of us"


def test_the_version_is_the_projects():
    project = tomllib.loads((store.ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
    assert CITED["version"] == project["version"]


@pytest.mark.parametrize(
    ("authors", "label"),
    [
        ("Levenberg, Kenneth", "Levenberg, 1944"),
        ("Eilers, Paul and Marx, Brian", "Eilers and Marx, 1944"),
        ("van der Waals, J. and Kamerlingh Onnes, H. and Third, A.", "van der Waals et al., 1944"),
        ("Kang, Justin and others", "Kang et al., 1944"),
    ],
)
def test_a_label_is_authors_and_year(authors, label):
    work = parse_string(f"@misc{{a, author = {{{authors}}}, year = {{1944}}}}", "bibtex").entries["a"]
    assert citation.Labels().format_label(work) == label


def test_every_work_of_the_book_has_a_label_of_its_own():
    works = parse_file(store.ROOT / "book/references.bib", "bibtex").entries
    labels = list(citation.Labels().format_labels(list(works.values())))
    assert len(set(labels)) == len(labels)
    assert {"KAN component attribution, 2025", "Shah et al., 2024", "Eilers and Marx, 1996"} <= set(labels)


def test_the_page_shows_the_entry_and_labels(tmp_path):
    text = "A\n=\n\n:cite:`x`\n\n.. citation::\n\n.. bibliography::\n"
    (tmp_path / "index.rst").write_text(text, encoding="utf8")
    (tmp_path / "r.bib").write_text("@misc{x, author={Byron, Ada}, title={T}, year={1843}}", encoding="utf8")
    settings = {
        "extensions": ["sphinxcontrib.bibtex", "citation"],
        "bibtex_bibfiles": ["r.bib"],
        "bibtex_default_style": "names",
    }
    Sphinx(tmp_path, None, tmp_path / "html", tmp_path / "trees", "html", settings, status=None).build()
    page = (tmp_path / "html/index.html").read_text(encoding="utf8")
    assert page.count("Byron, 1843") == 2
    assert "@software" in page
