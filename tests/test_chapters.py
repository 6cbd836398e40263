"""The notebooks as chapters: what is shown has a number and a caption, plumbing is folded, cells are short."""

import ast
import re
import sys

import pytest

from benchmarks import chapters
from kanlib import sources, store

sys.path.insert(0, str(store.ROOT / "book" / "_ext"))

NOTEBOOKS = sources.notebooks(store.NOTEBOOKS)
CELLS = [
    (n.stem, metadata, text) for n in NOTEBOOKS for kind, metadata, text in chapters.cells(n) if kind == "code"
]
CAPTIONS = [(name, chapters.caption(metadata)) for name, metadata, _ in CELLS if chapters.caption(metadata)]
#: Cells that show nothing.
SILENT = {"remove-cell", "remove-output"}
#: What is shown without a number: formulas, which stand in the text, and the mixer.
UNNUMBERED = {"Math", "display", "panel"}
#: What returns nothing.
NO_OUTPUT = {"charts.enable", "pd.set_option"}
#: Code that tells a reader nothing.
PLUMBING = re.compile(r"\bp\.save\(|\bglue\(|from_notebook\(|charts\.enable\(\)|store\.remove\(")


def shown(text):
    """What a cell's last line shows: a call or a name, ``…`` for anything else; nothing for a statement."""
    *_, last = ast.parse(text).body
    if not isinstance(last, ast.Expr):
        return None
    what = last.value.func if isinstance(last.value, ast.Call) else last.value
    return ast.unparse(what) if what is not last.value or isinstance(what, ast.Name) else "…"


@pytest.mark.parametrize("name", [n.stem for n in NOTEBOOKS])
def test_every_figure_and_table_has_a_name_and_a_caption(name):
    without = [
        text
        for notebook, metadata, text in CELLS
        if notebook == name
        and not SILENT & set(metadata.get("tags", []))
        and not chapters.caption(metadata)
        and shown(text) not in {None, *UNNUMBERED, *NO_OUTPUT}
    ]
    assert without == []


def test_names_of_captions_say_what_they_number():
    names = [caption["name"] for _, caption in CAPTIONS]
    assert len(names) > 30
    assert [name for name in names if not re.fullmatch(r"(fig|tab)-[a-z-]+", name)] == []
    assert sorted(names) == sorted(set(names))


def test_captions_are_sentences():
    assert [c["caption"] for _, c in CAPTIONS if not re.match(r"[A-Z].*[.`]$", c["caption"], re.DOTALL)] == []


def test_what_the_text_refers_to_is_there():
    for notebook in NOTEBOOKS:
        text = chapters.prose(notebook)
        known = {chapters.caption(metadata).get("name") for _, metadata, _ in chapters.cells(notebook)}
        known |= set(re.findall(r"\$\$ \((eq-[\w-]+)\)", text))
        assert set(re.findall(r"\{(?:numref|eq)\}`([\w-]+)`", text)) <= known, notebook.stem


def test_every_pasted_figure_was_glued():
    for notebook in NOTEBOOKS:
        code = "\n".join(text for kind, _, text in chapters.cells(notebook) if kind == "code")
        asked = {key.split(":")[0] for key in re.findall(r"\{glue:text\}`([^`]*)`", chapters.prose(notebook))}
        built = {key for key in asked if not re.search(rf"\b{key}\b", code)}
        # Some keys are put together from a place, or an order.
        assert {key for key in built if not re.search(rf'"{key.rsplit("_", 1)[0]}|f"[^"]*\{{', code)} == set()


@pytest.mark.parametrize("name", [n.stem for n in NOTEBOOKS])
def test_plumbing_is_out_of_sight(name):
    seen = [
        text
        for notebook, metadata, text in CELLS
        if notebook == name and not chapters.FOLDED & set(metadata.get("tags", [])) and PLUMBING.search(text)
    ]
    assert seen == []


def test_parameters_are_folded():
    folded = [metadata["tags"] for _, metadata, _ in CELLS if "parameters" in metadata.get("tags", [])]
    assert len(folded) == len(NOTEBOOKS)
    assert all("hide-input" in tags for tags in folded)


def test_chapters_are_read_not_deciphered():
    words, lines = (sum(map(count, NOTEBOOKS)) for count in (chapters.words, chapters.visible_lines))
    assert words / lines >= 15


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("x = 1\ncharts.bars(x)", "charts.bars"),
        ("x\nx.round(2)", "x.round"),
        ("a if a else None", "…"),
        ("x = 1", None),
    ],
)
def test_what_a_cell_shows_is_its_last_expression(text, what):
    assert shown(text) == what


def test_labels_are_those_of_a_setup():
    own = pytest.importorskip("chapters", reason="needs the extra book").own
    text = "{eq}`eq-fit`, {numref}`fig-pairs-one` and $$ (eq-fit), not config-free or big-table"
    assert own(text, "my_setup") == (
        "{eq}`eq-fit-my-setup`, {numref}`fig-pairs-one-my-setup` and $$ (eq-fit-my-setup), "
        "not config-free or big-table"
    )
