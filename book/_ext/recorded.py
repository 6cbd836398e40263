"""What the scripts of ``benchmarks/`` left in ``data/``, as tables and charts, and what ran for the book.

The directives are ``{rows}``, ``{sweep}``, ``{panels}`` and ``{status}``.
"""

import json
from pathlib import Path
from typing import ClassVar

import pandas as pd
import tables
from docutils import nodes
from docutils.parsers.rst import Directive, directives
from offline import chart_html

from kanlib import charts, setups, sources, store

DATA = store.ROOT / "data"


class Rows(Directive):
    """The rows of a JSON file as a table, or some ``columns``; fractions with three digits after the point.

    A list of three is a figure with its interval. With ``mean`` there is a row for each value of that column, in
    their order, with means of all numbers. The highest value of the column ``best`` is bold among the rows that
    agree in the columns ``by``.
    """

    required_arguments = 1
    option_spec: ClassVar = dict.fromkeys(("columns", "mean", "best", "by"), directives.unchanged_required)

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        rows = _read(self, self.arguments[0])
        if "mean" in self.options:
            means = pd.DataFrame(rows).groupby(self.options["mean"], sort=False).mean(numeric_only=True)
            rows = means.astype(float).astype(object).where(means.notna(), "–").reset_index().to_dict("records")
        if "columns" in self.options:
            rows = [{name: row[name] for name in self._names("columns")} for row in rows]
        texts = [[_text(value) for value in row.values()] for row in rows]
        columns = zip(rows[0], *texts, strict=True)
        widths = {name: min(40, max(map(len, [name, *column]))) for name, *column in columns}
        cells = [[tables.cell(text) for text in row] for row in texts]
        if "best" in self.options:
            column = list(rows[0]).index(self.options["best"])
            for i in self._best(rows):
                cells[i][column] = nodes.strong("", "", cells[i][column])
        return [tables.table(widths, cells, "rows")]

    def _names(self, option: str) -> list[str]:
        return [name.strip() for name in self.options[option].split(",")]

    def _best(self, rows: list[dict]) -> list[int]:
        """Where the best of each group stands, by its value without what follows ``±``; one alone is not best."""
        frame = pd.DataFrame(rows)
        value = frame[self.options["best"]].astype(str).str.split(" ").str[0].astype(float)
        groups = value.groupby([frame[name] for name in self._names("by")])
        return groups.idxmax()[groups.size() > 1].tolist()


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
    option_spec: ClassVar = dict.fromkeys(
        ("x", "y", "title", "color", "row", "column"), directives.unchanged_required
    )
    option_spec["log"] = directives.flag

    def run(self) -> list[nodes.Node]:
        """Return the chart."""
        charts.enable()
        given = self.options | {"log": "log" in self.options}
        split = " and ".join(given[side] for side in ("color", "column", "row") if side in given)
        frame = pd.DataFrame(_read(self, self.arguments[0]))
        chart = charts.panels(
            frame, **given, describe=f"{given.get('title', given['y'])} against {given['x']}, by {split}."
        )
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
        return [
            tables.table({"notebook": 28, "ran": 15, "took": 10, "on": 22, "not by default": 25}, rows, "rows")
        ]


def _text(value: object) -> str:
    match value:
        case float():
            return f"{value:.3f}".replace("-", "−")
        case [float(), float(), float()]:
            found, low, high = map(_text, value)
            return f"{found} [{low}, {high}]"
        case None:
            return "none"
    return str(value)


def _read(directive: Directive, name: str) -> list[dict]:
    """The rows of a file in ``data/``; the page is made again when it changes."""
    directive.state.document.settings.env.note_dependency(str(DATA / name))
    return json.loads((DATA / name).read_text(encoding="utf8"))


def setup(app):
    app.add_directive("rows", Rows)
    app.add_directive("sweep", Sweep)
    app.add_directive("panels", Panels)
    app.add_directive("status", Status)
    return {"version": "1", "parallel_read_safe": True}
