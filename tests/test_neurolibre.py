"""The submission to NeuroLibre: laid out of the sources, and built as NeuroLibre builds it."""

import re
import sys
from datetime import date

import pytest
import yaml

pytest.importorskip("jupyter_book", reason="needs the extra book")
from pybtex.database import parse_file

from book import neurolibre
from kanlib import store
from tests.small_project import run

sys.path.insert(0, str(store.ROOT / "book" / "_ext"))
from excluded import listed

CITED = {"title": "T", "date-released": date(2020, 3, 1)}


@pytest.fixture(scope="module")
def submission(tmp_path_factory):
    """One without executed notebooks, which a checkout has none of."""
    target = tmp_path_factory.mktemp("neurolibre") / "submission"
    neurolibre.lay_out(store.ROOT, (store.ROOT / "book/_toc.yml").read_text(encoding="utf8"), target)
    return target


def front_matter(paper):
    _, front, text = paper.split("---\n", 2)
    return yaml.safe_load(front), text


def test_every_page_of_its_contents_is_there(submission):
    toc = yaml.safe_load((submission / "content/_toc.yml").read_text(encoding="utf8"))
    pages = listed(toc["parts"]) | {toc["root"]}
    assert len(pages) > 10
    assert [page for page in pages if not (submission / f"content/{page}.md").exists()] == []


def test_what_pages_quote_and_settings_name_is_there(submission):
    for page in (submission / "content").glob("*.md"):
        quoted = re.findall(r"^```\{(?:literal)?include\} (\S+)", page.read_text(encoding="utf8"), re.MULTILINE)
        assert [name for name in quoted if not (page.parent / name).exists()] == []
    settings = yaml.safe_load((submission / "content/_config.yml").read_text(encoding="utf8"))
    for name, folder in settings["sphinx"]["local_extensions"].items():
        assert (submission / "content" / folder / f"{name}.py").exists()
    assert (submission / "content" / settings["html"]["favicon"]).exists()


def test_its_environment_is_binders_and_neurolibres(submission):
    lines = (submission / "binder/requirements.txt").read_text(encoding="utf8").splitlines()
    ours = (store.ROOT / "binder/requirements.txt").read_text(encoding="utf8").splitlines()
    assert lines == [*ours, neurolibre.REPO2DATA]
    assert (submission / "binder/postBuild").stat().st_mode & 0o111


def test_the_paper_cites_what_its_bibliography_holds(submission):
    front, text = front_matter((submission / "paper.md").read_text(encoding="utf8"))
    assert {"title", "tags", "authors", "affiliations", "date", "bibliography"} == front.keys()
    works = parse_file(submission / front["bibliography"], "bibtex").entries
    cited = set(re.findall(r"@([\w:-]+)", text))
    assert {"kanattribution", "shah2024decomposing"} <= cited
    assert cited <= set(works)


def test_authors_stand_with_their_affiliations():
    people = [
        {"given-names": "A.", "family-names": "One", "affiliation": "Here", "orcid": "https://orcid.org/0000-1"},
        {"name": "Others"},
        {"given-names": "B.", "family-names": "Two", "affiliation": "Here"},
    ]
    front, _ = front_matter(neurolibre.paper(CITED | {"authors": people}, "Text."))
    assert front["authors"] == [
        {"name": "A. One", "orcid": "0000-1", "affiliation": 1},
        {"name": "Others", "affiliation": 2},
        {"name": "B. Two", "affiliation": 1},
    ]
    assert front["affiliations"] == [{"name": "Here", "index": 1}, {"name": "none given", "index": 2}]
    assert front["date"] == "01 March 2020"


@pytest.mark.parametrize(
    ("page", "summary"),
    [
        ("# Title\n\nOne {cite}`a`, two {cite}`b, c`.\n\n## More\n\nThree.", "One [@a], two [@b; @c].\n\nThree."),
        ("Kept.\n\nIt is {glue:text}`x::y:.2f`.\n\nSee {doc}`page`.\n\n```{claims} method\n```", "Kept."),
    ],
)
def test_a_summary_is_what_can_stand_alone(page, summary):
    assert neurolibre.summary(page) == summary


def test_without_a_book_there_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(neurolibre, "ROOT", tmp_path)
    with pytest.raises(neurolibre.BadInputError, match=r"_build/toc.yml is missing, expected a built book"):
        neurolibre.main()


@pytest.mark.slow
def test_neurolibre_can_build_it(project):
    result = run(project, sys.executable, "-m", "book.neurolibre")
    assert result.returncode == 0, result.stdout + result.stderr
    laid_out = project / "_build/neurolibre"
    result = run(laid_out, "jupyter-book", "build", "content", "-W", "--keep-going", "-q")
    assert result.returncode == 0, result.stdout + result.stderr
    built = laid_out / "content/_build/html"
    pages = listed(yaml.safe_load((laid_out / "content/_toc.yml").read_text(encoding="utf8")))
    assert any(page.startswith("setups/") for page in pages)
    assert [page for page in pages if not (built / f"{page}.html").exists()] == []
