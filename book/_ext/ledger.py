"""The ledger of claims in words and in tables.

The roles ``{claim}`` and ``{verdict}`` quote a row within a sentence, by its id. The directives are ``{claims}``,
``{standings}`` and ``{leads}``.
"""

import math
import re
from fnmatch import fnmatchcase

import tables
from docutils import nodes
from docutils.parsers.rst import Directive, directives
from sphinx.addnodes import pending_xref
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxRole

from kanlib.claims import LEDGER, Claim, read
from kanlib.errors import BadInputError, nearest

COLUMNS = {"claim": 44, "value": 17, "target": 11, "met?": 8, "measured": 20}
#: The families of claims, by the first part of their ids, and what their sections are called. Any others are about
#: the method, and called what they are.
FAMILIES = {
    "method": {
        "digits_resnet18": "Digits, ResNet-18",
        "cifar10_resnet18": "CIFAR-10, ResNet-18",
        "imagenet_deit_tiny": "ImageNet, DeiT-tiny",
        "cifar10_miniresnet": "CIFAR-10, the small network of COAR's authors",
        "coar": "COAR of thousands of components",
        "edit": "Edits of a network",
        "stories260k": "A small Llama",
        "llama": "The Llama in plain torch",
        "sae": "Sparse autoencoders",
        "interactions": "Interactions, all setups",
        "sensitivity": "What the headline depends on",
        "kan": "Fitting KANs",
        "symbolic": "Closed forms of edges",
        "forms": "What holds at rest",
        "front": "The formula on the front page",
        "gating": "Gates",
        "bounds": "Guarantees",
        "views": "Three views of one prediction",
    },
    "software": {
        "book": "The book",
        "code": "The code",
        "explain": "One call",
        "evaluation": "The chapter of every regime",
        "scale": "Thousands of examples",
        "safe": "Files from others",
        "faults": "Damage, kills and bad inputs",
    },
}
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


def named(claim: Claim, page: str) -> list[nodes.Node]:
    """Its id, which leads from a page to its row, and its statement."""
    return [_link(claim, nodes.literal(text=claim.id), page), nodes.Text(f" {claim.statement}.")]


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
    """The ledger's rows about the ``method`` or the ``software``, a section for each family; misses come first."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        env = self.state.document.settings.env
        env.note_dependency(str(LEDGER))
        about = directives.choice(self.arguments[0], tuple(FAMILIES))
        families: dict[str, list[Claim]] = {}
        for claim in rows_of().values():
            families.setdefault(claim.id.split(".")[0], []).append(claim)
        known = {family for part in FAMILIES.values() for family in part}
        titles = FAMILIES[about] | (
            {} if about == "software" else {name: name for name in families if name not in known}
        )
        sections = []
        for family, title in titles.items():
            if not (rows := families.get(family, [])):
                continue
            rows.sort(key=lambda claim: (("no", "yes", "not promised").index(met(claim)), claim.id))
            section = nodes.section("", nodes.title(text=title), ids=[nodes.make_id(f"claims-{family}")])
            section += tables.table(COLUMNS, [self._row(claim, env) for claim in rows], "ledger")
            sections.append(section)
        return sections

    def _row(self, claim: Claim, env: BuildEnvironment) -> nodes.row:
        place = anchor(claim)
        env.get_domain("std").note_hyperlink_target(place, env.docname, place, claim.id)
        own = nodes.reference("", "", nodes.literal(text=claim.id), refid=place, internal=True)
        cells = [
            [own, nodes.Text(f" {claim.statement}.")],
            nodes.Text(figure(claim)),
            nodes.Text(claim.target or "none"),
            [nodes.strong(text="no")] if met(claim) == "no" else nodes.Text(met(claim)),
            [nodes.Text(f"{claim.date}, {claim.device}: "), nodes.literal(text=claim.command)],
        ]
        return tables.row(cells, [place], [nodes.make_id(f"met-{met(claim)}")])


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
            tables.row(
                [
                    nodes.Text(standing(claim)),
                    nodes.Text(figure(claim)),
                    named(claim, env.docname),
                ]
            )
            for claim in sorted(found, key=lambda claim: (STANDINGS.index(standing(claim)), claim.id))
        ]
        return [tables.table({"verdict": 12, "by": 20, "difference": 68}, table, "claims")]


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
            tables.row([*map(nodes.Text, place), *(self._cell(row.get(n), env.docname) for n in masks)])
            for place, row in sorted(found.items())
        ]
        widths = {"setup": 18, "gate site": 8, "members": 8} | {f"{n:,} masks": 16 for n in masks}
        return [tables.table(widths, table, "claims")]

    def _cell(self, claim: Claim | None, page: str) -> nodes.Node:
        if claim is None:
            return nodes.Text("")
        drawn = {"ahead": nodes.strong, "level": nodes.inline, "behind": nodes.emphasis}[standing(claim)]
        return drawn("", "", _link(claim, nodes.inline(text=figure(claim)), page))


def setup(app):
    app.add_role("claim", Quoted())
    app.add_role("verdict", Verdict())
    app.add_directive("claims", Claims)
    app.add_directive("standings", Standings)
    app.add_directive("leads", Leads)
    return {"version": "1", "parallel_read_safe": True}
