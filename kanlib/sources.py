"""What a file depends on, read off its text: modules by its imports, artifacts by what it loads and saves.

Nothing is executed. The Snakefile, the API page and the test of the layers ask here, so that no list is kept.
"""

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from kanlib.errors import BadInputError

PACKAGE = Path(__file__).resolve().parent
_NOTEBOOK = re.compile(r"\d\d_[a-z_]+")


def modules(package: Path = PACKAGE) -> dict[str, Path]:
    """Every module of a package by its dotted name; a wing's face stands under the wing's name."""
    found = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imported(file: Path, package: Path = PACKAGE) -> set[str]:
    """The modules that a ``.py`` file or a notebook imports, by their dotted names.

    What a wing's face hands on counts as imported from the module that it comes from.
    """
    known = modules(package)
    return {target for name, what in _imports(file) for target in _targets(name, what, known)}


def reached(file: Path, package: Path = PACKAGE) -> list[Path]:
    """The files of all modules that a file imports, directly or through others."""
    known = modules(package)
    waiting, found = imported(file, package), set()
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting |= imported(known[name], package) - found
    return [known[name] for name in sorted(found)]


def notebooks(folder: Path) -> list[Path]:
    """The notebooks of the paper in their order, ``NN_section.ipynb``; a reader's own beside them do not count."""
    return [file for file in sorted(folder.glob("*.ipynb")) if _NOTEBOOK.fullmatch(file.stem)]


def artifacts(notebook: Path) -> tuple[list[str], list[str]]:
    """The kinds of artifacts that a notebook loads, ``p.load("…")``, and those that it saves, ``p.save("…")``."""
    found: dict[str, list[str]] = {"load": [], "save": []}
    for node in ast.walk(_parsed(notebook)):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="p"), attr="load" | "save" as verb),
                args=[ast.Constant(value=str(kind)), *_],
            ):
                found[verb].append(kind)
    saved = list(dict.fromkeys(found["save"]))
    return [kind for kind in dict.fromkeys(found["load"]) if kind not in saved], saved


def sections(notebook: Path, stages: Mapping[str, type]) -> list[str]:
    """Sections of a setup whose knobs a notebook reads beside its own, ``Surrogate.from_setup(…)`` say.

    Args:
        notebook: the file.
        stages: section → the class of its knobs.
    """
    asked = {
        node.value.id
        for node in ast.walk(_parsed(notebook))
        if isinstance(node, ast.Attribute) and node.attr == "from_setup" and isinstance(node.value, ast.Name)
    }
    return [section for section, stage in stages.items() if stage.__name__ in asked]


def _parsed(file: Path) -> ast.Module:
    text = file.read_text(encoding="utf8")
    if file.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    try:
        return ast.parse(text)
    except SyntaxError as error:
        raise BadInputError(
            f"{file.name} is not plain Python ({error.msg}: {(error.text or '').strip()[:40]}), expected code "
            "without magics; mend it."
        ) from error


def _imports(file: Path) -> Iterator[tuple[str, str | None]]:
    """``(module, name)`` of every ``from module import name``, ``(module, None)`` of every ``import module``."""
    for node in ast.walk(_parsed(file)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)


def _targets(name: str, what: str | None, known: dict[str, Path]) -> Iterator[str]:
    if f"{name}.{what}" in known:
        yield f"{name}.{what}"
    elif name in known and known[name].name == "__init__.py":
        yield from (module for module, alias in _imports(known[name]) if alias == what and module in known)
    elif name in known:
        yield name
