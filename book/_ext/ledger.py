"""What the scripts of ``benchmarks/`` left in ``data/``, and what ran for the book: in words, tables and charts.

The roles ``{claim}`` and ``{verdict}`` quote a row of the ledger of claims within a sentence, by its id. The
directives are ``{claims}``, ``{standings}``, ``{leads}``, ``{rows}``, ``{sweep}``, ``{panels}`` and ``{status}``.
"""

import json
import math
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import ClassVar

import pandas as pd
from docutils import nodes
from docutils.parsers.rst import Directive, directives
from offline import chart_html
from sphinx.addnodes import pending_xref
from sphinx.util.docutils import SphinxRole

from kanlib import charts, setups, sources, store
from kanlib.claims import Claim, read
from kanlib.errors import BadInputError, nearest

DATA = Path(__file__).parents[2] / "data"
LEDGER = DATA / "claims.json"
COLUMNS = {"claim": 44, "value": 17, "target": 11, "met?": 8, "measured": 20}
#: Families of claims about the software; all others are about the method.
SOFTWARE = {"book", "code", "explain", "faults", "safe"}
#: What a row's interval can say of a difference, the best first.
STANDINGS = ("ahead", "level", "behind")


def rows_of() -> dict[str, Claim]:
    """All rows of the ledger by id."""
    return {claim.id: claim for claim in read(LEDGER)}


def met(claim: Claim) -> str:
    """``yes`` or ``no``, or ``not promised`` where there is no target."""
    if not claim.target:
        return "not promised"
    return "yes" if claim.holds() and not claim.missed else "no"


def figure(claim: Claim) -> str:
    """Its value and interval, to two digits of the interval's width; a figure without interval to four digits.

    An end that is not 0 is not shown as 0.
    """
    ends = [abs(end) for end in (claim.high - claim.low, claim.low, claim.high) if end]
    if claim.low == claim.high:
        return _number(claim.value)
    digits = max(0, 1 - math.floor(math.log10(ends[0])), *(-math.floor(math.log10(end)) for end in ends[1:]))
    value, low, high = (
        f"{v:,.{digits}f}" if digits <= 6 else f"{v:.3g}" for v in (claim.value, claim.low, claim.high)
    )
    return f"{value} [{low}, {high}]".replace("-", "−")


def standing(claim: Claim) -> str:
    """What its interval says of a difference: ``ahead``, ``behind``, or ``level`` where it holds 0."""
    return "ahead" if claim.low > 0 else "behind" if claim.high < 0 else "level"


def anchor(claim: Claim) -> str:
    """Where its row stands on the page of claims."""
    return nodes.make_id(f"claim-{claim.id}")


def _link(claim: Claim, content: nodes.Node, page: str) -> pending_xref:
    """From a page to the row; resolved once all pages are read."""
    to = {"refdomain": "std", "reftype": "ref", "reftarget": anchor(claim), "refexplicit": True}
    return pending_xref("", content, refdoc=page, refwarn=True, **to)


def unknown_row(name: str, rows: dict[str, Claim]) -> BadInputError:
    return BadInputError(f"claim {name} is unknown to {LEDGER.name}; did you mean {nearest(name, rows)}?")


def _number(value: float) -> str:
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}").replace("-", "−")


class Quoted(SphinxRole):
    """``{claim}`id```: a row's figure with its interval, and a link to the row."""

    def words(self, claim: Claim) -> str:
        """What is printed."""
        return figure(claim)

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return the link."""
        self.env.note_dependency(str(LEDGER))
        rows = rows_of()
        if self.text not in rows:
            error = self.inliner.reporter.error(str(unknown_row(self.text, rows)), line=self.lineno)
            return [nodes.problematic(self.rawtext, self.rawtext)], [error]
        claim = rows[self.text]
        return [_link(claim, nodes.inline("", self.words(claim), classes=["claim"]), self.env.docname)], []


class Verdict(Quoted):
    """``{verdict}`id```: whether a difference is ahead, behind or level, and its figure."""

    def words(self, claim: Claim) -> str:
        """What is printed."""
        return f"{standing(claim)} ({figure(claim)})"


class Claims(Directive):
    """The ledger's rows about the ``method`` or the ``software``; those that miss their target first."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        env = self.state.document.settings.env
        env.note_dependency(str(LEDGER))
        software = directives.choice(self.arguments[0], ("method", "software")) == "software"
        rows = [claim for claim in rows_of().values() if (claim.id.split(".")[0] in SOFTWARE) == software]
        table = []
        for claim in sorted(rows, key=lambda claim: (("no", "yes", "not promised").index(met(claim)), claim.id)):
            place = anchor(claim)
            own = nodes.reference("", "", nodes.literal(text=claim.id), refid=place, internal=True)
            measured = [nodes.Text(f"{claim.date}, {claim.device}: "), nodes.literal(text=claim.command)]
            cells = [
                [own, nodes.Text(f" {claim.statement}.")],
                nodes.Text(figure(claim)),
                nodes.Text(claim.target or "none"),
                [nodes.strong(text="no")] if met(claim) == "no" else nodes.Text(met(claim)),
                measured,
            ]
            table.append(_row(cells, place))
            env.get_domain("std").note_hyperlink_target(place, env.docname, place, claim.id)
        return [_table(COLUMNS, table, "claims")]


class Standings(Directive):
    """Differences between the KAN and others: the rows whose ids match the patterns, a ``*`` for any letters.

    Wins come first, then ties, whose interval holds 0, then losses.
    """

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        env = self.state.document.settings.env
        env.note_dependency(str(LEDGER))
        rows, patterns = rows_of(), self.arguments[0].split()
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in rows):
                raise self.error(str(unknown_row(pattern, rows)))
        found = [claim for name, claim in rows.items() if any(fnmatchcase(name, p) for p in patterns)]
        table = [
            _row(
                [
                    nodes.Text(standing(claim)),
                    nodes.Text(figure(claim)),
                    [
                        _link(claim, nodes.literal(text=claim.id), env.docname),
                        nodes.Text(f" {claim.statement}."),
                    ],
                ]
            )
            for claim in sorted(found, key=lambda claim: (STANDINGS.index(standing(claim)), claim.id))
        ]
        return [_table({"KAN is": 10, "by": 20, "difference": 70}, table, "claims")]


class Leads(Directive):
    """The rows ``<setup>.<gate site>.<lead>.<masks>``, and ``….single`` of one member, by number of masks."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table: bold where the KAN is ahead, in italics where it is behind."""
        env = self.state.document.settings.env
        env.note_dependency(str(LEDGER))
        lead = self.arguments[0]
        name = re.compile(rf"(\w+)\.(\w+)\.{re.escape(lead)}\.(\d+)(\.single)?")
        found: dict[tuple[str, str, str], dict[int, Claim]] = {}
        for claim in rows_of().values():
            if parts := name.fullmatch(claim.id):
                place = parts[1], parts[2], "one" if parts[4] else "all"
                found.setdefault(place, {})[int(parts[3])] = claim
        if not found:
            raise self.error(str(unknown_row(lead, rows_of())))
        masks = sorted({n for row in found.values() for n in row})
        table = [
            _row([*map(nodes.Text, place), *(self._cell(row.get(n), env.docname) for n in masks)])
            for place, row in sorted(found.items())
        ]
        widths = {"setup": 18, "gate site": 8, "members": 8} | {f"{n:,} masks": 16 for n in masks}
        return [_table(widths, table, "claims")]

    def _cell(self, claim: Claim | None, page: str) -> nodes.Node:
        if claim is None:
            return nodes.Text("")
        drawn = {"ahead": nodes.strong, "level": nodes.inline, "behind": nodes.emphasis}[standing(claim)]
        return drawn("", "", _link(claim, nodes.inline(text=figure(claim)), page))


class Rows(Directive):
    """The rows of a JSON file as a table, or some ``columns``; fractions with three digits after the point."""

    required_arguments = 1
    option_spec: ClassVar = {"columns": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        rows = _read(self, self.arguments[0])
        if "columns" in self.options:
            names = [name.strip() for name in self.options["columns"].split(",")]
            rows = [{name: row[name] for name in names} for row in rows]
        texts = [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
        columns = zip(rows[0], *texts, strict=True)
        widths = {name: min(40, max(map(len, [name, *column]))) for name, *column in columns}
        return [_table(widths, [[_cell(text) for text in row] for row in texts], "rows")]


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


def _cell(text: str) -> nodes.Node:
    """Words, which may break where a column is narrow, or a number, which may not."""
    number = re.fullmatch(r"[-−+\d.,e]+", text) is not None
    return nodes.inline(text=text, classes=["number"]) if number else nodes.Text(text)


def _table(widths: dict[str, int], rows: list[list], kind: str) -> nodes.table:
    group = nodes.tgroup(cols=len(widths))
    group += [nodes.colspec(colwidth=width) for width in widths.values()]
    group += nodes.thead("", _row([nodes.Text(name) for name in widths]))
    group += nodes.tbody("", *[cells if isinstance(cells, nodes.row) else _row(cells) for cells in rows])
    return nodes.table("", group, classes=[kind])


def _row(cells: list, *ids: str) -> nodes.row:
    paragraphs = [nodes.paragraph("", "", *(c if isinstance(c, list) else [c])) for c in cells]
    return nodes.row("", *[nodes.entry("", p) for p in paragraphs], ids=list(ids))


def setup(app):
    app.add_role("claim", Quoted())
    app.add_role("verdict", Verdict())
    app.add_directive("claims", Claims)
    app.add_directive("standings", Standings)
    app.add_directive("leads", Leads)
    app.add_directive("rows", Rows)
    app.add_directive("sweep", Sweep)
    app.add_directive("panels", Panels)
    app.add_directive("status", Status)
    return {"version": "1", "parallel_read_safe": True}
