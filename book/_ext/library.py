"""The API page: a section for each module that kanlib has, so that no list of them has to be kept."""

import importlib

from pydantic import BaseModel
from sphinx.application import Sphinx

from kanlib import sources

PAGE, PLACE = "api", "<!-- the modules of kanlib -->"
WINGS = ("networks", "kan", "symbolic", "attribution", "sae")
TOP = ("looks", "charts", "coefficient_charts", "mixer", "explanation", "explaining")


def fill_in(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the sections where the page asks for them."""
    if docname == PAGE:
        source[0] = source[0].replace(PLACE, "\n".join(sections()))


def sections() -> list[str]:
    """Each wing with its face, the ground floor, and what stands on top, as MyST."""
    floors: dict[str, list[str]] = {floor: [] for floor in (*WINGS, "the ground floor", "on top")}
    for name in sources.modules():
        _, *parts = name.split(".")
        if len(parts) == 2:
            floors[parts[0]].append(name)
        elif parts and parts[0] not in WINGS:
            floors["on top" if parts[0] in TOP else "the ground floor"].append(name)
    lines = []
    for floor, names in floors.items():
        lines += [f"## {floor}", ""]
        if floor in WINGS:
            lines += [*documented(f"kanlib.{floor}"), f"It hands on {handed_on(floor)}.", ""]
        for name in names:
            lines += [f"### {name.rpartition('.')[2]}", "", *documented(name, "   :members:")]
    return lines


def documented(name: str, *options: str) -> list[str]:
    """A module's docstring, or with the right option all that is public in it."""
    return ["```{eval-rst}", f".. automodule:: {name}", *options, "```", ""]


def handed_on(wing: str) -> str:
    """What a wing's face exports, in words."""
    *names, last = (f"`{name}`" for name in importlib.import_module(f"kanlib.{wing}").__all__)
    return f"{', '.join(names)} and {last}"


def unsigned(app: Sphinx, what: str, name: str, obj: object, *_: object) -> tuple[str, str] | None:
    """No signature for the sections of a setup, whose annotations are bounds a screen long."""
    return ("", "") if isinstance(obj, type) and issubclass(obj, BaseModel) else None


def left_out(app: Sphinx, what: str, name: str, *_: object) -> bool | None:
    """Leave out what pydantic adds to every class."""
    return True if name == "model_config" else None


def setup(app: Sphinx) -> dict:
    """Connect it to the build."""
    app.connect("source-read", fill_in)
    app.connect("autodoc-process-signature", unsigned)
    app.connect("autodoc-skip-member", left_out)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
