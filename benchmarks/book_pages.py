"""The built book as its readers get it: every page in headless Chromium, with all hosts but localhost blocked.

Needs the book (``make book``) and Chromium (Debian's package ``chromium``, or what ``CHROMIUM`` names).
"""

import random
import re
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urldefrag, urljoin, urlparse

import torch
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, ViewportSize

from book.browser import opened, settled
from kanlib import claims, store
from kanlib.masks import Split
from kanlib.networks import network
from kanlib.setups import Perturbation
from kanlib.symbolic import SymbolicKAN

SETUP = "digits_resnet18"
COMMAND = claims.Command("python -m benchmarks.book_pages", device="headless Chromium")
MIXER = f"setups/{SETUP}/04_interactions.html"
THEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
PHONE: ViewportSize = {"width": 375, "height": 700}
# What a page should show and does not, in words.
_EMPTY = """() => [
    ["chart", ".vega-chart", "svg .mark-group path"],
    ["formula", "div.math, span.math", "mjx-container"],
    ["mixer", ".mixer", "input"],
    ["story", ".story", "input"],
    ["filter", ".ledger-filter", "input"],
].flatMap(([kind, outer, inner]) =>
    [...document.querySelectorAll(outer)].filter((box) => !box.querySelector(inner))
        .map((box) => `${kind}: ${box.textContent.slice(0, 80)}`))"""

# Of the page's background: 0 is black, 1 is white.
_BRIGHTNESS = """() => getComputedStyle(document.body).backgroundColor.match(/[0-9.]+/g).slice(0, 3)
    .reduce((sum, part) => sum + Number(part) / 765, 0)"""

# Charts and tables of figures that have no number with a caption. The rows of the ledger stand under headings.
_UNCAPTIONED = """() => [
    ...document.querySelectorAll(".vega-chart, table.dataframe, table.rows, table.claims, table:has(.claim)")]
    .filter((shown) => !shown.closest("figure")?.querySelector(".caption-number"))
    .map((shown) => `${shown.className}: ${shown.textContent.trim().slice(0, 80)}`)"""

# What is wider than its box, where a reader has to move it sideways; a formula in a line measures itself.
_CUT = """(which) => [...document.querySelectorAll(which)]
    .filter((box) => box === document.documentElement || getComputedStyle(box).overflowX !== "visible")
    .filter((box) => box.clientWidth && box.scrollWidth > box.clientWidth + 2 && !box.closest("span.math"))
    .filter((box) => !box.parentElement?.closest("mjx-container"))
    .map((box) => `${box.scrollWidth} pixels: ${box.textContent.trim().slice(0, 80)}`)"""

# Legends that end beyond their chart.
_LEGENDS = """() => [...document.querySelectorAll(".vega-chart .role-legend")]
    .filter((legend) => legend.getBoundingClientRect().right
        > legend.closest(".vega-chart").getBoundingClientRect().right + 1)
    .map((legend) => `legend: ${legend.textContent.slice(0, 80)}`)"""


def pages(html: Path) -> list[str]:
    """Every page of the book, by its path."""
    return sorted(str(path.relative_to(html)) for path in html.rglob("*.html") if "_static" not in path.parts)


def looked_at(browser: BrowserContext, address: str) -> dict[str, list[str]]:
    """What is wrong with a page, by kind of fault.

    ``external`` and ``failed`` requests, errors on the ``console``, charts and formulas that are ``empty``, charts
    and tables of figures that are ``bare`` of a number and a caption, tables and code that are ``cut`` on a screen
    of 1,280 pixels, and what is too ``wide`` for a phone: a chart, or the page, which would scroll sideways.
    """
    kinds = ("external", "failed", "console", "empty", "bare", "cut", "wide")
    found: dict[str, list[str]] = {kind: [] for kind in kinds}
    page = browser.new_page()
    page.on("console", lambda m: found["console"].append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: found["console"].append(str(error)))
    page.on("requestfailed", lambda request: found["failed"].append(request.url))
    page.on("response", lambda r: found["failed"].append(r.url) if r.status >= 400 else None)

    def allow(route) -> None:
        if urlparse(route.request.url).hostname in {None, "localhost"}:
            route.continue_()
        else:
            found["external"].append(route.request.url)
            route.abort()

    page.route("**/*", allow)
    page.goto(address, wait_until="load")
    settled(page)
    found["empty"], found["bare"] = page.evaluate(_EMPTY), page.evaluate(_UNCAPTIONED)
    found["cut"] = page.evaluate(_CUT, ".bd-article *")
    page.set_viewport_size(PHONE)
    page.reload()
    settled(page)
    found["wide"] = page.evaluate(_CUT, "html, .vega-chart") + page.evaluate(_LEGENDS)
    page.close()
    return found


def mixer_error(browser: BrowserContext, address: str, symbolic: list[SymbolicKAN], n: int = 20) -> float:
    """Largest difference between the number that the mixer shows and the expression, at n random masks."""
    page = browser.new_page()
    page.goto(address)
    page.wait_for_selector(".mixer input")
    worst, source = 0.0, random.Random(0)  # noqa: S311 (no secret)
    for _ in range(n):
        e = source.randrange(len(symbolic))
        sigma = [round(source.uniform(-2, 2), 2) for _ in symbolic[e].symbols]
        page.locator(".mixer select").select_option(str(e))
        for i, value in enumerate(sigma):
            page.locator(".mixer input").nth(i).fill(str(value))
        shown = float(str(page.locator(".mixer-form").get_attribute("data-value")))
        true = symbolic[e].expression.evalf(30, subs=dict(zip(symbolic[e].symbols, sigma, strict=True)))
        worst = max(worst, abs(shown - float(true)) / max(1.0, abs(float(true))))
    page.close()
    return worst


def story_errors(
    browser: BrowserContext, address: str, symbolic: list[SymbolicKAN], grid: Split, n: int = 20
) -> tuple[float, float]:
    """Largest difference, relative, of the story's closed form to the expression, and of its network to the grid.

    The sliders are set to n random pairs of scales for the one and to n random points of the grid for the other.
    """
    page = browser.new_page()
    page.goto(address)
    page.wait_for_selector(".story input")
    pair = grid.masks.any(0).nonzero().flatten().tolist()
    source = random.Random(0)  # noqa: S311 (no secret)

    def shown(kind: str, e: int, values: list[float]) -> float:
        page.locator(".story-others button").nth(e).click()
        for k, value in enumerate(values):
            page.locator(".story input").nth(k).fill(str(value))
        return float(str(page.locator(f".story .mixer-{kind}").get_attribute("data-value")))

    form, network = 0.0, 0.0
    for _ in range(n):
        e = source.randrange(len(symbolic))
        values = [round(source.randrange(-40, 41) * 0.05, 2) for _ in pair]
        sigma = [values[pair.index(i)] if i in pair else 0.0 for i in range(grid.masks.shape[1])]
        true = float(symbolic[e].expression.evalf(30, subs=dict(zip(symbolic[e].symbols, sigma, strict=True))))
        form = max(form, abs(shown("form", e, values) - true) / max(1.0, abs(true)))
        at = source.randrange(len(grid.masks))
        true = float(grid.responses[e, at])
        found = shown("recorded", e, grid.masks[at, pair].tolist())
        network = max(network, abs(found - true) / max(1.0, abs(true)))
    page.close()
    return form, network


def removal_error(browser: BrowserContext, address: str, removals: Split) -> float:
    """Largest difference, relative, of the mixer's network to what it answered to sets removed (first image)."""
    page = browser.new_page()
    page.goto(address)
    page.wait_for_selector(".mixer input")
    worst = 0.0
    for mask, response in zip(removals.masks.tolist(), removals.responses[0].tolist(), strict=True):
        for i, value in enumerate(mask):
            page.locator(".mixer .mixer-row input").nth(i).fill(str(value))
        found = float(str(page.locator(".mixer .mixer-recorded").get_attribute("data-value")))
        worst = max(worst, abs(found - response) / max(1.0, abs(response)))
    page.close()
    return worst


def mixer_answers_keys(browser: BrowserContext, address: str) -> bool:
    """Whether an arrow key on a slider changes the answer."""
    page = browser.new_page()
    page.goto(address)
    slider = page.locator(".mixer input").first
    before = page.locator(".mixer-form").get_attribute("data-value")
    slider.focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    after = page.locator(".mixer-form").get_attribute("data-value")
    page.close()
    return before != after


def violations(browser: BrowserContext, address: str, theme: Literal["light", "dark"]) -> list[str]:
    """What axe-core calls serious or critical on a page in this theme, by rule and element."""
    page = browser.new_page()
    page.emulate_media(color_scheme=theme)
    page.goto(address)
    settled(page)
    bright = page.evaluate(_BRIGHTNESS)
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    page.close()
    if (bright > 0.5) != (theme == "light"):
        return [f"theme: the page is not {theme}, its background has {bright:.2f} of white's brightness"]
    return [
        f"{rule['id']}: {node['html'][:200]}"
        for rule in found
        if rule["impact"] in {"serious", "critical"}
        for node in rule["nodes"]
    ]


def dead_links(html: Path) -> list[str]:
    """Internal links whose page or anchor does not exist."""
    texts = {name: (html / name).read_text(encoding="utf8") for name in pages(html)}
    anchors = {name: {unquote(a) for a in re.findall(r'\bid="([^"]+)"', text)} for name, text in texts.items()}
    dead = []
    for name, text in texts.items():
        for link in re.findall(r'<a\b[^>]*?\bhref="([^"]*)"', text):
            if urlparse(link).scheme or link in {"", "#"}:
                continue
            target, anchor = urldefrag(urljoin(name, link))
            target = unquote(target)
            if not (html / target).is_file() or (
                anchor and target in anchors and unquote(anchor) not in anchors[target]
            ):
                dead.append(f"{name}: {link}")
    return dead


def main() -> None:
    torch.set_num_threads(1)
    html = store.ROOT / "_build" / "html"
    names = pages(html)
    short = SymbolicKAN.read(store.load(store.path(SETUP, "symbolic")), "short")
    sizes = [(html / name).stat().st_size / 1e6 for name in names]
    with opened(html) as (browser, base):
        seen = {name: looked_at(browser, base + name) for name in names}
        error = mixer_error(browser, base + MIXER, short)
        answers = network(Perturbation.from_setup(SETUP))
        form, grid = story_errors(browser, base + "index.html", short, answers.grid())
        removed = removal_error(browser, base + MIXER, answers.removals().part(40))
        serious = [
            f"{name}, {theme}: {found}"
            for name in names
            for theme in THEMES
            for found in violations(browser, base + name, theme)
        ]
    for name, found in seen.items():
        print(name, {kind: what for kind, what in found.items() if what} or "is well", flush=True)
    print(*serious, sep="\n")
    external, console, bare = (
        sum(len(found[kind]) for found in seen.values()) for kind in ("external", "console", "bare")
    )
    rows = [
        ("external_requests", "Requests of all pages to other hosts", external, "<= 0"),
        ("console_errors", "Errors on the console, of all pages", console, "<= 0"),
        ("mixer_error", "Number in the mixer against the expression, relative, at 20 masks", error, "<= 1e-9"),
        ("story_error", "Closed form in the story against the expression, relative, at 20 masks", form, "<= 1e-9"),
        ("story_truth", "Network in the story against its recorded grid, relative, at 20 points", grid, "<= 0"),
        ("mixer_truth", "Network in the mixer against its recorded removals, relative, of 40", removed, "<= 0"),
        ("axe_serious", "Serious findings of axe-core, all pages, light and dark", len(serious), "<= 0"),
        ("captioned", "Charts and tables of figures without a number and a caption, all pages", bare, "<= 0"),
        ("mean_page_mb", f"Size of a page in MB, mean over {len(names)}", sum(sizes) / len(sizes), "<= 2"),
        ("largest_page_mb", "Size of the largest page in MB", max(sizes), "<= 5"),
    ]
    claims.record([COMMAND.claim(f"book.{name}", words, value, target) for name, words, value, target in rows])


if __name__ == "__main__":
    main()
