"""``{claims}``: the ledger ``data/claims.json`` as a table."""

import json
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive

LEDGER = Path(__file__).parents[2] / "data" / "claims.json"
COLUMNS = {"claim": 46, "value": 18, "target": 12, "measured": 24}


class Claims(Directive):
    """Every row of the ledger, in the order of its ids."""

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        group = nodes.tgroup(cols=len(COLUMNS))
        group += [nodes.colspec(colwidth=width) for width in COLUMNS.values()]
        group += nodes.thead("", _row([nodes.Text(name) for name in COLUMNS]))
        body = nodes.tbody()
        for claim in json.loads(LEDGER.read_text(encoding="utf8")):
            interval = "" if claim["low"] == claim["high"] else f" [{claim['low']:.3g}, {claim['high']:.3g}]"
            cells = [
                [nodes.literal(text=claim["id"]), nodes.Text(f" {claim['statement']}.")],
                nodes.Text(f"{claim['value']:.4g}{interval}"),
                nodes.Text(claim["target"] or "none"),
                [nodes.Text(f"{claim['date']}, {claim['device']}: "), nodes.literal(text=claim["command"])],
            ]
            body += _row(cells)
        group += body
        return [nodes.table("", group, classes=["claims"])]


def _row(cells: list) -> nodes.row:
    paragraphs = [nodes.paragraph("", "", *(c if isinstance(c, list) else [c])) for c in cells]
    return nodes.row("", *[nodes.entry("", p) for p in paragraphs])


def setup(app):
    app.add_directive("claims", Claims)
    return {"version": "1", "parallel_read_safe": True}
