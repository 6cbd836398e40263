"""Figures of the prose pages: rows of the ledger as dots, scores against the scale of the masks; and captions.

The directives are ``{intervals}``, ``{scales}`` and ``{captioned}``, which makes a numbered figure or table of any
content, on any page.
"""

from typing import ClassVar

import ledger
import pandas as pd
from docutils import nodes
from docutils.parsers.rst import Directive, directives
from offline import chart_html

from kanlib import charts, store
from kanlib.metrics import TITLES


class Intervals(Directive):
    """Rows of the ledger as dots with their intervals: a line of the body for each row of the chart.

    A line is ``title: id, id, …``; the option ``kinds`` names what the ids of a line are, one after the other, and
    ``of`` the number on the axis.
    """

    has_content = True
    option_spec: ClassVar = {"kinds": directives.unchanged_required, "of": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """Return the chart."""
        self.state.document.settings.env.note_dependency(str(ledger.LEDGER))
        rows, found = ledger.rows_of(), []
        for line in self.content:
            title, _, names = line.partition(":")
            for kind, name in zip(_listed(self.options["kinds"]), _listed(names), strict=True):
                if name not in rows:
                    raise self.error(str(ledger.unknown_row(name, rows)))
                claim = rows[name]
                ends = {self.options["of"]: claim.value, "low": claim.low, "high": claim.high}
                found.append({"network": title.strip(), "by": kind, **ends})
        charts.enable()
        chart = charts.dots(
            pd.DataFrame(found), x=self.options["of"], y="network", color="by", low="low", high="high",
            describe=f"{self.options['of']} by {self.options['kinds']}, for each network.",
        )  # fmt: skip
        return [nodes.raw("", chart_html(chart.to_dict()), format="html")]


class Scales(Directive):
    """How every surrogate of a setup's 05_evaluation does where it was fitted, against the scale of the masks."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the chart."""
        artifact = store.path(self.arguments[0], "evaluation")
        self.state.document.settings.env.note_dependency(str(artifact))
        scores = store.load(artifact).content.query("trained == tested and trained.str.startswith('scale ')")
        scores = scores.assign(scale=scores["trained"].str.removeprefix("scale ").astype(float))
        means = scores.groupby(["method", "scale"], sort=False)["pearson"].mean(skipna=False).reset_index()
        charts.enable()
        chart = charts.learning(
            means.replace({"method": TITLES}).rename(columns={"scale": "scale of the masks"}),
            x="scale of the masks",
            y="pearson",
            color="method",
            describe="Mean test Pearson of every surrogate against the scale of the masks.",
        )
        return [nodes.raw("", chart_html(chart.to_dict()), format="html")]


class Captioned(Directive):
    """A numbered figure of what the body shows; its last paragraph is the caption.

    As in the chapters, one whose name begins with ``tab-`` is a table.
    """

    has_content = True
    option_spec: ClassVar = {"name": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """Return the figure."""
        body = nodes.Element()
        self.state.nested_parse(self.content, self.content_offset, body)
        *shown, last = body.children
        if not (shown and isinstance(last, nodes.paragraph)):
            raise self.error("a captioned figure is something to see, then a paragraph, its caption.")
        figure = nodes.figure("", *shown, nodes.caption(last.rawsource, "", *last.children))
        self.add_name(figure)
        return [figure]


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def setup(app):
    app.add_directive("intervals", Intervals)
    app.add_directive("scales", Scales)
    app.add_directive("captioned", Captioned)
    return {"version": "1", "parallel_read_safe": True}
