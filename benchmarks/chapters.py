"""How the chapters read: words to a line of code that is shown.

``python -m benchmarks.chapters`` looks at the notebooks of ``notebooks/``.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from kanlib import claims, sources, store

COMMAND = claims.Command("python -m benchmarks.chapters", cost="fast")
#: A cell with one of these shows no code, or folds it.
FOLDED = {"remove-cell", "remove-input", "hide-cell", "hide-input"}
_NO_WORDS = re.compile(r"\$\$.*?\$\$|\{[\w:]+\}`[^`]*`|\$[^$]*\$", re.DOTALL)


def cells(notebook: Path) -> Iterator[tuple[str, dict, str]]:
    """Kind, metadata and source of each cell."""
    for cell in json.loads(notebook.read_text(encoding="utf8"))["cells"]:
        yield cell["cell_type"], cell["metadata"], "".join(cell["source"])


def caption(metadata: dict) -> dict[str, str]:
    """What stands beside a cell's output: its ``name`` and its ``caption``; empty without one."""
    return metadata.get("mystnb", {}).get("figure", {})


def prose(notebook: Path) -> str:
    """What a reader reads: text and captions."""
    return "\n\n".join(
        text if kind == "markdown" else caption(metadata).get("caption", "")
        for kind, metadata, text in cells(notebook)
    )


def words(notebook: Path) -> int:
    """Words of its prose; what is pasted counts one, and so does a formula."""
    return len(re.findall(r"\w[\w’'-]*", _NO_WORDS.sub("x", prose(notebook))))


def visible_lines(notebook: Path) -> int:
    """Lines of code that are shown when the page opens, without empty ones."""
    return sum(
        sum(bool(line.strip()) for line in text.splitlines())
        for kind, metadata, text in cells(notebook)
        if kind == "code" and not FOLDED & set(metadata.get("tags", []))
    )


def main() -> None:
    counts = {n.stem: (words(n), visible_lines(n)) for n in sources.notebooks(store.NOTEBOOKS)}
    for name, (of_words, of_lines) in counts.items():
        print(f"{name}: {of_words} words, {of_lines} visible lines of code")
    total = sum(w for w, _ in counts.values()) / sum(v for _, v in counts.values())
    words_a_line = "Words of the chapters to a line of code that they show"
    claims.record([COMMAND.claim("book.words_per_code_line", words_a_line, total, ">= 15")])


if __name__ == "__main__":
    main()
