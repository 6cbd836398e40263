"""Leaves pages of setups out of the book that its table of contents does not list.

``only_build_toc_files`` looks for them by a pattern that holds the checkout's path, and finds none where that has
a bracket in it.
"""

from pathlib import Path
from typing import Any

import yaml
from sphinx.application import Sphinx
from sphinx.config import Config


def listed(toc: Any) -> set[str]:
    """Every file that a table of contents names, without suffix."""
    if isinstance(toc, list):
        return set().union(*map(listed, toc))
    if not isinstance(toc, dict):
        return set()
    own = {toc["file"]} if "file" in toc else set()
    return own.union(*map(listed, toc.values()))


def exclude(app: Sphinx, config: Config) -> None:
    toc = listed(yaml.safe_load(Path(config.external_toc_path).read_text(encoding="utf8")))
    pages = [page.relative_to(app.srcdir) for page in Path(app.srcdir).glob("setups/*/*") if page.is_file()]
    config.exclude_patterns = [
        *config.exclude_patterns,
        *(page.as_posix() for page in pages if page.with_suffix("").as_posix() not in toc),
    ]


def setup(app: Sphinx) -> dict:
    app.connect("config-inited", exclude)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
