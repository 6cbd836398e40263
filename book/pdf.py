"""The whole book as one PDF, printed by headless Chromium, without LaTeX: ``make pdf`` calls it.

Reads the book as a single page, ``_build/single``, and writes ``_build/book.pdf``.
"""

import sys
from pathlib import Path

from book.browser import chromium, opened, settled

BUILD = Path(__file__).parents[1] / "_build"


def main() -> None:
    """Print it."""
    if not chromium():
        sys.exit(
            "Chromium, which prints the book, is missing; install it, or say where it is: CHROMIUM=<its path>"
        )
    with opened(BUILD / "single" / "_build" / "singlehtml") as (browser, base):
        page = browser.new_page()
        page.emulate_media(media="print", color_scheme="light")
        page.goto(base + "index.html")
        if not settled(page):
            sys.exit("charts or formulas of the single page were not drawn; look at _build/single")
        margin = dict.fromkeys(("top", "bottom", "left", "right"), "18mm")
        looks = {"format": "A4", "margin": margin, "print_background": True}
        page.pdf(path=BUILD / "book.pdf", outline=True, tagged=True, **looks)


if __name__ == "__main__":
    main()
