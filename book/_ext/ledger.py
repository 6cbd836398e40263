"""What the scripts of ``benchmarks/`` left in ``data/``, and what ran for the book, as tables and charts.

The directives are ``{claims}``, ``{rows}``, ``{sweep}``, ``{panels}`` and ``{status}``.
"""

import json
from pathlib import Path
from typing import ClassVar

import pandas as pd
from docutils import nodes
from docutils.parsers.rst import Directive, directives
from offline import chart_html

from kanlib import charts, setups, sources, store

DATA = Path(__file__).parents[2] / "data"
COLUMNS = {"claim": 46, "value": 18, "target": 12, "measured": 24}


class Claims(Directive):
    """Every row of the ledger, in the order of its ids."""

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        rows = []
        for claim in _read(self, "claims.json"):
            interval = "" if claim["low"] == claim["high"] else f" [{claim['low']:.3g}, {claim['high']:.3g}]"
            cells = [
                [nodes.literal(text=claim["id"]), nodes.Text(f" {claim['statement']}.")],
                nodes.Text(f"{claim['value']:.4g}{interval}"),
                nodes.Text(claim["target"] or "none"),
                [nodes.Text(f"{claim['date']}, {claim['device']}: "), nodes.literal(text=claim["command"])],
            ]
            rows.append(cells)
        return [_table(COLUMNS, rows, "claims")]


class Rows(Directive):
    """The rows of a JSON file as a table; numbers with three digits after the point."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        rows = _read(self, self.arguments[0])
        texts = [[v if isinstance(v, str) else f"{v:.3f}" for v in row.values()] for row in rows]
        widths = {name: max(map(len, [name, *column])) for name, *column in zip(rows[0], *texts, strict=True)}
        return [_table(widths, [[nodes.Text(text) for text in row] for row in texts], "rows")]


class Sweep(Directive):
    """A column of a JSON file's rows against the one that was varied."""

    required_arguments = 1
    option_spec: ClassVar = {
        "varied": directives.unchanged_required,
        "y": directives.unchanged_required,
        "linear": directives.flag,
    }

    def run(self) -> list[nodes.Node]:
        """Return the chart."""
        x, y = self.options["varied"], self.options["y"]
        frame = pd.DataFrame(_read(self, self.arguments[0])).query("varied == @x")
        charts.enable()
        chart = charts.sweep(frame, x=x, y=y, log="linear" not in self.options, describe=f"{y} against {x}.")
        return [nodes.raw("", chart_html(chart.to_dict()), format="html")]


class Panels(Directive):
    """A column of a JSON file's rows against another one, a curve for each ``color``, a panel for each pair."""

    required_arguments = 1
    option_spec: ClassVar = dict.fromkeys(("x", "y", "color", "row", "column"), directives.unchanged_required)
    option_spec["log"] = directives.flag

    def run(self) -> list[nodes.Node]:
        """Return the chart."""
        charts.enable()
        given = self.options | {"log": "log" in self.options}
        split = " and ".join(given[side] for side in ("color", "column", "row") if side in given)
        frame = pd.DataFrame(_read(self, self.arguments[0]))
        chart = charts.panels(frame, **given, describe=f"{given['y']} against {given['x']}, by {split}.")
        return [nodes.raw("", chart_html(chart.to_dict()), format="html")]


class Status(Directive):
    """Every notebook of the book: when, how long, with what and with which parameters it ran."""

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        env = self.state.document.settings.env
        rows = []
        for page in sorted(name for name in env.found_docs if name.startswith("setups/")):
            executed = Path(env.doc2path(page))
            if executed.suffix != ".ipynb":
                continue
            env.note_dependency(str(executed))
            setup, notebook = executed.parent.name, executed.stem
            kind = sources.artifacts(store.NOTEBOOKS / executed.name)[1][0]
            record = store.load(store.path(setup, kind)).record
            circumstances = json.loads(store.circumstances(store.path(setup, kind)).read_text(encoding="utf8"))
            took = json.loads(executed.read_text(encoding="utf8"))["metadata"]["papermill"]["duration"]
            fields = setups.of_notebook(notebook).model_fields
            changed = [
                f"{name}: {value}"
                for name, value in record["parameters"].items()
                if name in fields and name != "setup" and value != fields[name].default
            ]
            rows.append(
                [
                    [nodes.reference("", f"{setup}: {notebook}", refuri=f"{page}.html")],
                    nodes.Text(circumstances["date"]),
                    nodes.Text(f"{took:,.0f}\u00a0s"),
                    nodes.Text(f"{circumstances['device']}, torch {circumstances['torch']}"),
                    nodes.Text(", ".join(changed) or "defaults"),
                ]
            )
        return [_table({"notebook": 28, "ran": 15, "took": 10, "on": 22, "not by default": 25}, rows, "rows")]


def _read(directive: Directive, name: str) -> list[dict]:
    """The rows of a file in ``data/``; the page is made again when it changes."""
    directive.state.document.settings.env.note_dependency(str(DATA / name))
    return json.loads((DATA / name).read_text(encoding="utf8"))


def _table(widths: dict[str, int], rows: list[list], kind: str) -> nodes.table:
    group = nodes.tgroup(cols=len(widths))
    group += [nodes.colspec(colwidth=width) for width in widths.values()]
    group += nodes.thead("", _row([nodes.Text(name) for name in widths]))
    group += nodes.tbody("", *[_row(cells) for cells in rows])
    return nodes.table("", group, classes=[kind])


def _row(cells: list) -> nodes.row:
    paragraphs = [nodes.paragraph("", "", *(c if isinstance(c, list) else [c])) for c in cells]
    return nodes.row("", *[nodes.entry("", p) for p in paragraphs])


def setup(app):
    app.add_directive("claims", Claims)
    app.add_directive("rows", Rows)
    app.add_directive("sweep", Sweep)
    app.add_directive("panels", Panels)
    app.add_directive("status", Status)
    return {"version": "1", "parallel_read_safe": True}
