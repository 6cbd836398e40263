"""Prose of README, book, notebooks and captions types no result: a figure is pasted from a run or a ledger row."""

import re
import sys

import pytest

pytest.importorskip("jupyter_book", reason="needs the extra book")

from benchmarks import chapters
from kanlib import sources, store

sys.path.insert(0, str(store.ROOT / "book" / "_ext"))
import ledger

BOOK = store.ROOT / "book"
#: What is no prose: code, comments, formulas, addresses, and roles, which paste what a run or a row says.
NO_PROSE = re.compile(
    r"```.*?```|<!--.*?-->|\$\$.*?\$\$|\{[\w:-]+\}`[^`]*`|`[^`]*`|\$[^$]*\$|\]\([^)]*\)", re.DOTALL
)
FIGURE = re.compile(r"\d[\d,]*\.\d+|\d[\d,.]*\s*%")
ROLE = re.compile(r"\{(?:claim|verdict)\}`([^`]*)`")
QUOTED_IN_README = re.compile(r"\| ([^|]*) \| `([\w.]+)` \|$", re.MULTILINE)
#: Figures that are no results, and why they may be typed.
DEFINITIONS = {
    "README": {
        "3.11": "the oldest Python that is supported",
        "3.13": "the newest",
        "95 %": "the level of all intervals",
    },
    "index": {"95 %": "the level of all intervals"},
    "results": {"95 %": "the level of all intervals"},
    "claims": {"95 %": "the level of all intervals"},
    "components": {"95 %": "the level of all intervals"}
    | dict.fromkeys(("0.75", "0.52", "0.24", "0.11", "0.01"), "the authors' own, quoted beside ours"),
    "sparse_autoencoder": {"0.999": "the R² from which on two functions count as the same"},
    "language": {"95 %": "the level of all intervals"},
    "design": {"95 %": "the level of all intervals"},
    "reading": dict.fromkeys(("0.54", "0.06", "0.70", "0.04"), "the paper's own, quoted here alone"),
    "02_surrogate": {"95 %": "the level of all intervals"},
    "09_sparse_autoencoder": {"0.999": "the R² from which on two functions count as the same"},
    "03_symbolic": {"95 %": "the share above the quantile that is told", "5 %": "what counts as large"},
}


def pages():
    """Prose by the name of its page."""
    found = {path.stem: path.read_text(encoding="utf8") for path in [store.ROOT / "README.md", *BOOK.glob("*.md")]}
    return found | {path.stem: chapters.prose(path) for path in sources.notebooks(store.NOTEBOOKS)}


PAGES = pages()


def figures(text):
    return {re.sub(r"\s+", " ", found) for found in FIGURE.findall(NO_PROSE.sub("x", text))}


@pytest.mark.parametrize("name", PAGES)
def test_prose_has_no_typed_results(name):
    text = PAGES[name]
    if name == "README":
        text = QUOTED_IN_README.sub("", text)
    assert figures(text) == set(DEFINITIONS.get(name, {}))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It reaches 0.97.", {"0.97"}),
        ("And 63 % of 1,234.5 masks", {"63 %", "1,234.5"}),
        ("{claim}`a.b` of order 2 {glue:text}`x:.2f` %, `0.5`, $s = 0.5$ and [this](a-0.1.html)", set()),
        ("four of 1,000 masks in section 2", set()),
    ],
)
def test_a_figure_is_a_decimal_or_a_percentage(text, found):
    assert figures(text) == found


def test_every_row_that_prose_quotes_is_in_the_ledger():
    rows = ledger.rows_of()
    quoted = {(name, row) for name, text in PAGES.items() for row in ROLE.findall(text)}
    assert quoted
    assert {(name, row) for name, row in quoted if row not in rows} == set()


def test_figures_of_the_readme_are_their_rows():
    """A README has no roles: what it quotes stands beside the id of its row."""
    rows = ledger.rows_of()
    quoted = QUOTED_IN_README.findall(PAGES["README"])
    assert len(quoted) >= 5
    assert quoted == [(ledger.figure(rows[row]) if row in rows else "no row", row) for _, row in quoted]


@pytest.mark.parametrize("words", ["beyond doubt", "anonymous"])
def test_words_that_the_book_does_not_use(words):
    others = ("book/references.bib", "CITATION.cff")
    texts = PAGES | {name: (store.ROOT / name).read_text(encoding="utf8") for name in others}
    assert [name for name, text in texts.items() if words in text.lower()] == []


def test_the_front_page_answers_a_first_readers_questions_before_its_second_figure():
    contributing = (store.ROOT / "CONTRIBUTING.md").read_text(encoding="utf8")
    table = contributing.partition("<!-- the front page -->")[2].partition("<!-- the front page, end -->")[0]
    answers = [row.strip("| ").split(" | ") for row in table.strip().splitlines()[2:]]
    first_screens, _, rest = (BOOK / "index.md").read_text(encoding="utf8").partition(":name: fig-pairs")
    assert rest
    assert len(answers) == 5
    for question, answer in answers:
        assert answer in first_screens, question
