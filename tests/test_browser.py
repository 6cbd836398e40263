"""The built book in headless Chromium: it stands alone, it draws, and its mixer computes what sympy does."""

import re
import sys

import pytest

from kanlib import store
from kanlib.symbolic import SymbolicKAN
from tests.small_project import run

browser = pytest.importorskip("book.browser", reason="needs playwright (the extra dev)")
book_pages = pytest.importorskip("benchmarks.book_pages", reason="needs playwright (the extra dev)")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not browser.chromium(), reason="needs Chromium: install Debian's package chromium"),
]


@pytest.fixture(scope="module")
def html(project):
    return project / "_build" / "html"


@pytest.fixture(scope="module")
def site(html):
    with browser.opened(html) as opened:
        yield opened


def test_every_page_draws_and_asks_nobody_else(html, site):
    context, base = site
    wrong = {name: book_pages.looked_at(context, base + name) for name in book_pages.pages(html)}
    assert len(wrong) > 10
    assert {name: found for name, found in wrong.items() if any(found.values())} == {}


@pytest.mark.parametrize("name", ["index.html", book_pages.MIXER])
def test_pages_work_from_disk(html, site, name):
    found = book_pages.looked_at(site[0], (html / name).as_uri())
    assert not any(found.values()), found


def test_the_mixer_shows_what_the_expression_says(project, site):
    context, base = site
    closed = store.load(project / "_artifacts" / book_pages.SETUP / "symbolic.json")
    short = SymbolicKAN.read(closed, "short")
    assert book_pages.mixer_error(context, base + book_pages.MIXER, short) <= 1e-9
    # One with other constants is told apart.
    others = [SymbolicKAN(one.forms, [[b + 1e-3 for b in of] for of in one.biases]) for one in short]
    assert book_pages.mixer_error(context, base + book_pages.MIXER, others) > 1e-9


def test_the_mixer_answers_to_keys(site):
    context, base = site
    assert book_pages.mixer_answers_keys(context, base + book_pages.MIXER)


@pytest.mark.parametrize("name", book_pages.INSPECTED)
def test_pages_are_accessible(site, name):
    context, base = site
    assert book_pages.violations(context, base + name) == []


def test_no_page_scrolls_sideways_on_a_phone(html, site):
    context, base = site
    assert [name for name in book_pages.pages(html) if book_pages.too_wide(context, base + name)] == []


def test_every_internal_link_leads_somewhere(html):
    assert book_pages.dead_links(html) == []


def test_the_whole_book_is_printed(project):
    result = run(project, sys.executable, "-m", "book.pdf")
    assert result.returncode == 0, result.stdout + result.stderr
    printed = (project / "_build" / "book.pdf").read_bytes()
    assert len(re.findall(rb"/Type /Page\b", printed)) > 20
    # The outline names every chapter, short ASCII titles as they are.
    for title in (
        b"Introduction",
        b"Method",
        b"The classifier",
        b"Results",
        b"Claims",
        b"The library",
        b"How to cite",
    ):
        assert b"/Title (" + title + b")" in printed
