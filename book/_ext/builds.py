"""What this build measured beside what the ledger says of the same: the directive ``{builds}``."""

import sys
from fnmatch import fnmatchcase
from typing import ClassVar

import ledger
import tables
from docutils import nodes
from docutils.parsers.rst import Directive, directives

from kanlib import setups, store
from kanlib.claims import Claim

sys.path.append(str(store.ROOT))  # the scripts that measured the rows are no installed package
from benchmarks import accuracy, interactions_fidelity, symbolic_fidelity

#: Artifacts that the rows are measured from.
KINDS = ("responses", "surrogates", "curve", "symbolic")


def measured(setup: str, recorded: dict[str, Claim]) -> list[Claim]:
    """The rows of a setup that its artifacts hold, measured by the scripts that measured the recorded ones.

    None if the row of the KAN's score says other examples, masks or gates than the recorded one.
    """
    rows = accuracy.measured(setup, setups.Surrogate.from_setup(setup))
    of_kan = f"{setup}.kan.pearson"
    if of_kan not in recorded or [r for r in rows if r.id == of_kan and r.statement != recorded[of_kan].statement]:
        return []
    p = setups.Symbolic.from_setup(setup)
    return [*rows, *symbolic_fidelity.measured(setup, p), *interactions_fidelity.measured(setup, p)]


class Builds(Directive):
    """Rows of a setup as recorded and as this build has them; some of them, by patterns such as ``*.pearson``."""

    required_arguments = 1
    option_spec: ClassVar = {"rows": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """Return the table; a sentence where this build has other settings than the recorded rows."""
        env = self.state.document.settings.env
        setup, recorded = self.arguments[0], ledger.rows_of()
        for file in [ledger.LEDGER, *(store.path(setup, kind) for kind in KINDS)]:
            env.note_dependency(str(file))
        patterns = self.options["rows"].split()
        found = [
            row
            for row in measured(setup, recorded)
            if row.id in recorded and any(fnmatchcase(row.id, f"{setup}.{pattern}") for pattern in patterns)
        ]
        if not found:
            return [nodes.paragraph(text="This build has other examples, masks or gates than the recorded rows.")]
        table = [
            [ledger.named(row, env.docname), *(nodes.Text(ledger.figure(c)) for c in (recorded[row.id], row))]
            for row in found
        ]
        return [tables.table({"row": 56, "recorded": 22, "this build": 22}, table, "claims")]


def setup(app):
    app.add_directive("builds", Builds)
    return {"version": "1", "parallel_read_safe": True}
