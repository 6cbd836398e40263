"""The built book in headless Chromium: it stands alone, it draws, and its mixer computes what sympy does."""

import re
import sys

import pytest
from safetensors.torch import load_file

from kanlib import store
from kanlib.masks import Split
from kanlib.symbolic import SymbolicKAN
from tests.small_project import run

sys.path.insert(0, str(store.ROOT / "book" / "_ext"))
import ledger

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


@pytest.fixture(scope="module")
def seen(html, site):
    """What is wrong with every page, each visited once."""
    context, base = site
    found = {name: book_pages.looked_at(context, base + name) for name in book_pages.pages(html)}
    assert len(found) > 10
    return found


@pytest.mark.parametrize(
    "kinds", [("external", "failed", "console", "empty"), ("bare",), ("cut",), ("wide",)], ids="-".join
)
def test_every_page_draws_is_captioned_and_fits_a_phone(seen, kinds):
    wrong = {name: {kind: found[kind] for kind in kinds if found[kind]} for name, found in seen.items()}
    assert {name: found for name, found in wrong.items() if found} == {}


@pytest.mark.parametrize("name", ["index.html", "claims.html", book_pages.MIXER])
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


@pytest.fixture(scope="module")
def asked(project):
    """The grid and the removals of the network of the copied project, asked anew."""
    code = (
        "import sys; from safetensors.torch import save_file; from kanlib.networks import network;"
        "from kanlib.setups import Perturbation;"
        "answers = network(Perturbation.from_setup('digits_resnet18'));"
        "kinds = {'grid': answers.grid(), 'removals': answers.removals()};"
        "two = ('masks', 'responses');"
        "save_file({f'{k}.{n}': getattr(s, n).contiguous() for k, s in kinds.items() for n in two}, sys.argv[1])"
    )
    result = run(project, sys.executable, "-c", code, "asked.safetensors")
    assert result.returncode == 0, result.stdout + result.stderr
    found = load_file(project / "asked.safetensors")
    return {k: Split(found[f"{k}.masks"], found[f"{k}.responses"]) for k in ("grid", "removals")}


def test_the_story_shows_what_the_network_and_the_expression_say(project, site, asked):
    context, base = site
    short = SymbolicKAN.read(store.load(project / "_artifacts" / book_pages.SETUP / "symbolic.json"), "short")
    form, network = book_pages.story_errors(context, base + "index.html", short, asked["grid"])
    assert form <= 1e-9
    assert network <= 1e-5
    moved = Split(asked["grid"].masks, asked["grid"].responses + 0.01)
    assert book_pages.story_errors(context, base + "index.html", short, moved)[1] > 1e-5


def test_the_mixer_shows_what_the_network_says_without_some_components(site, asked):
    context, base = site
    assert len(asked["removals"].masks) == 36
    assert book_pages.removal_error(context, base + book_pages.MIXER, asked["removals"]) <= 1e-5
    moved = Split(asked["removals"].masks, asked["removals"].responses + 0.01)
    assert book_pages.removal_error(context, base + book_pages.MIXER, moved) > 1e-5


@pytest.mark.parametrize(("name", "box"), [("index.html", ".story"), (book_pages.MIXER, ".mixer")])
def test_sliders_start_at_rest_and_their_link_leads_back_to_a_setting(site, name, box):
    context, base = site
    page = context.new_page()
    page.goto(base + name)
    page.wait_for_selector(f"{box} input")
    assert set(page.locator(f"{box} input").evaluate_all("all => all.map((one) => one.value)")) == {"0"}
    assert page.locator(f"{box} .mixer-recorded").get_attribute("data-value") == "0"
    for i, value in enumerate(("-1", "0.5")):
        page.locator(f"{box} input").nth(i).fill(value)
    told = [page.locator(f"{box} output").nth(k).get_attribute("data-value") for k in range(3)]
    link = page.locator(f"{box} .mixer-link").get_attribute("href")
    page.close()
    page = context.new_page()
    page.goto(base + name + link)
    page.wait_for_selector(f"{box} input")
    assert [page.locator(f"{box} output").nth(k).get_attribute("data-value") for k in range(3)] == told
    assert page.locator(box).evaluate("box => box.getBoundingClientRect().top") < 700
    page.close()


def test_bars_and_rows_of_the_mixer_keep_their_scale_and_place(site):
    context, base = site
    page = context.new_page()
    page.goto(base + book_pages.MIXER)
    page.wait_for_selector(".mixer input")
    sliders, share = page.locator(".mixer input"), "bar => bar.style.getPropertyValue('--share')"
    sliders.nth(0).fill("-1")
    first = page.locator(".mixer-row .mixer-bar").nth(0).evaluate(share)
    height = page.locator(".mixer-row").nth(1).evaluate("row => row.getBoundingClientRect().height")
    for value in ("-2.48", "-1", "0.3", "2.9"):
        sliders.nth(1).fill(value)
        assert page.locator(".mixer-row .mixer-bar").nth(0).evaluate(share) == first
        assert page.locator(".mixer-row").nth(1).evaluate("row => row.getBoundingClientRect().height") == height
    page.close()


def test_the_mixer_answers_to_keys(site):
    context, base = site
    assert book_pages.mixer_answers_keys(context, base + book_pages.MIXER)


def shown(page):
    return page.locator("table.ledger tbody tr:visible").count()


def test_claims_are_filtered_by_words_and_by_what_is_met(html, site):
    context, base = site
    rows = ledger.rows_of().values()
    by_words = [row for row in rows if "digits_resnet18.kan" in row.id]
    page = context.new_page()
    page.goto(base + "claims.html")
    assert shown(page) == len(rows)
    page.get_by_label("Rows with these words").fill("DIGITS_resnet18.kan pearson")
    assert 0 < shown(page) <= len(by_words)
    page.get_by_label("Rows with these words").fill("no such words")
    assert page.get_by_role("status").inner_text() == f"0 of {len(rows)} rows shown"
    assert page.locator("#claims-book:visible").count() == 0
    page.get_by_label("Rows with these words").fill("")
    for words in (" met (", "not promised ("):
        page.get_by_label(re.compile(re.escape(words.strip()))).first.uncheck()
    missed = [row for row in rows if ledger.met(row) == "no"]
    assert page.get_by_role("status").inner_text() == f"{len(missed)} of {len(rows)} rows shown"
    assert shown(page) == len(missed)
    page.close()


def test_a_link_to_a_row_that_is_filtered_out_shows_it(html, site):
    context, base = site
    places = [ledger.anchor(row) for row in ledger.rows_of().values()]
    page = context.new_page()
    page.goto(f"{base}claims.html#{places[-1]}")
    for place in (places[0], places[0], places[-1]):  # the second time the address stands there already
        page.get_by_label("Rows with these words").fill("no such words")
        assert shown(page) == 0
        page.evaluate(f"""() => {{
            const link = Object.assign(document.createElement("a"), {{ href: "#{place}" }});
            document.body.append(link);
            link.click();
        }}""")
        page.locator(f"#{place}").wait_for(state="visible")
        top = page.locator(f"#{place}").evaluate("row => row.getBoundingClientRect().top")
        assert 0 <= top < 720
    page.close()


def test_without_scripts_all_claims_are_shown(html, site):
    context, base = site
    without = context.browser.new_context(java_script_enabled=False)
    page = without.new_page()
    page.goto(base + "claims.html")
    assert shown(page) == len(ledger.rows_of())
    without.close()


@pytest.mark.parametrize("theme", book_pages.THEMES)
def test_pages_are_accessible(html, site, theme):
    context, base = site
    found = {name: book_pages.violations(context, base + name, theme) for name in book_pages.pages(html)}
    assert {name: serious for name, serious in found.items() if serious} == {}


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
