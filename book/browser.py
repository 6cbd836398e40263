"""Headless Chromium for the built book: what looks at its pages and what prints them."""

import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from playwright.sync_api import BrowserContext, Page, sync_playwright
from playwright.sync_api import TimeoutError as Waited

PATIENCE = 180_000  # milliseconds, for a busy machine
SETTLING = 300  # milliseconds, for what a page asks for late
# Not our pages' business: what Chromium itself asks its makers.
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
# Machines without a display have neither a GPU nor, in a container, much shared memory.
HEADLESS = ["--disable-gpu", "--disable-dev-shm-usage"]


def chromium() -> str | None:
    """Where Chromium is."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def opened(html: Path) -> Iterator[tuple[BrowserContext, str]]:
    """A browser, and the address on localhost where the book is."""
    handler = partial(_Silent, directory=str(html))
    with http.server.ThreadingHTTPServer(("localhost", 0), handler) as server, sync_playwright() as play:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        # Chromium refuses to sandbox what root runs.
        options = [*QUIET, *HEADLESS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        browser = play.chromium.launch(executable_path=chromium(), args=options)
        context = browser.new_context()
        context.set_default_timeout(PATIENCE)
        yield context, f"http://localhost:{server.server_port}/"
        browser.close()
        server.shutdown()


def settled(page: Page) -> bool:
    """Wait until charts are drawn and formulas are set; False if half a minute has passed in vain."""
    drawn = """() => [...document.querySelectorAll(".vega-chart")].every((c) => c.view)
        && [...document.querySelectorAll(".math")].every((f) => f.querySelector("mjx-container"))"""
    try:
        page.wait_for_function(drawn, timeout=PATIENCE // 6)
    except Waited:
        return False
    page.wait_for_timeout(SETTLING)
    return True


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass
