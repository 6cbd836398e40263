"""The whole book as one PDF, printed by headless Chromium, without LaTeX: ``make pdf`` calls it.

Builds the book that ``_build/toc.yml`` lists as a single page, ``_build/single``, and writes ``_build/book.pdf``.
"""

import subprocess
import sys
from pathlib import Path

from book.browser import chromium, opened, settled

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "_build"
MARGIN = 18  # millimetres on every side
SCALE = 0.7  # so that a line of code fits a line


def main() -> None:
    """Build and print it."""
    if not chromium():
        sys.exit(
            "Chromium, which prints the book, is missing; install it, or say where it is: CHROMIUM=<its path>"
        )
    page = "jupyter-book build book --config _config.yml --path-output _build/single --builder singlehtml --all -q"
    built = subprocess.run(  # noqa: S603 (nothing of it is anybody's input)
        [*page.split(), "--keep-going", "--toc", BUILD / "toc.yml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        sys.exit(f"the book could not be made a single page; Jupyter Book says:\n{built.stdout}{built.stderr}")
    printed(BUILD / "single" / "_build" / "singlehtml", BUILD / "book.pdf")


def printed(html: Path, to: Path) -> None:
    """Print a folder's ``index.html`` on A4."""
    with opened(html) as (browser, base):
        page = browser.new_page()
        # Charts are drawn for the window, and are to be as wide as the paper's text.
        page.set_viewport_size({"width": round((210 - 2 * MARGIN) / 25.4 * 96 / SCALE), "height": 1200})
        page.emulate_media(media="print", color_scheme="light")
        page.goto(base + "index.html")
        if not settled(page):
            sys.exit("charts or formulas of the single page were not drawn; look at _build/single")
        margin = dict.fromkeys(("top", "bottom", "left", "right"), f"{MARGIN}mm")
        looks = {"format": "A4", "margin": margin, "scale": SCALE, "print_background": True}
        page.pdf(path=to, outline=True, tagged=True, **looks)


if __name__ == "__main__":
    main()
