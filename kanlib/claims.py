"""The ledger of claims: every number that README or book promises, with its target and the command that gives it.

``data/claims.json`` is a list of rows, written only by the code that measured them (:func:`record`).
``python -m kanlib.claims fast`` runs the commands of the fast rows again and fails where a target no longer
holds; ``fast long`` runs the long ones too.
"""

import json
import math
import operator
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from kanlib.errors import BadInputError
from kanlib.files import write_json
from kanlib.metrics import Estimate
from kanlib.store import ROOT

LEDGER = ROOT / "data" / "claims.json"
COSTS = ("fast", "long")
_COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "==": operator.eq}
_TARGET = re.compile(r"(?:(value|low|high) )?(>=|<=|==|>|<) (-?[\d.]+(?:e[+-]?\d+)?)")


@dataclass(frozen=True)
class Claim:
    """One row: a measured ``value`` with its 95 % interval ``low`` to ``high`` and what it must satisfy.

    Attributes:
        id: dotted name, the key of the row.
        statement: what was measured, in words, with its unit.
        target: ``">= 0.93"`` compares the value; ``"low > 0"`` an end of the interval; ``""`` nothing.
        command: measures it anew and records it, from the project's root.
        cost: ``fast``, or ``long`` for what ``make claims`` leaves out.
        device: what it was measured on, in general terms.
        date: of the measurement, ISO.
        missed: that the target is an aim which was missed, as the row says itself.
    """

    id: str
    statement: str
    value: float
    low: float
    high: float
    target: str
    command: str
    cost: Literal["fast", "long"]
    device: str
    date: str = field(default_factory=lambda: time.strftime("%Y-%m-%d", time.gmtime()))
    missed: bool = False

    def holds(self) -> bool:
        """Whether the row meets its target, or says itself that it is missed; a row without one holds.

        Raises:
            BadInputError: the target is not of the form described above.
        """
        if not self.target or self.missed:
            return True
        match = _TARGET.fullmatch(self.target)
        if match is None:
            raise BadInputError(
                f"target {self.target!r} of claim {self.id} is malformed, expected such as '>= 0.93'."
            )
        end, comparison, bound = match.groups()
        return bool(_COMPARE[comparison](getattr(self, end or "value"), float(bound)))


@dataclass(frozen=True)
class Command:
    """What the claims that one command measures share.

    Attributes:
        line: measures them anew, from the project's root.
        cost: see :class:`Claim`.
        device: see :class:`Claim`.
    """

    line: str
    cost: Literal["fast", "long"] = "long"
    device: str = "cpu, 2 threads"

    def claim(
        self, key: str, statement: str, found: float | Estimate, target: str = "", *, aim: bool = False
    ) -> Claim:
        """A row of this command; a figure without an interval is exact.

        Where the target is an ``aim``, a row that misses it is recorded as missed, instead of failing.
        """
        value, low, high = found if isinstance(found, Estimate) else (found, found, found)
        row = Claim(key, statement, value, low, high, target, self.line, self.cost, self.device)
        return replace(row, missed=aim and not row.holds())


def read(ledger: Path = LEDGER) -> list[Claim]:
    """All rows, by id; none if there is no ledger yet."""
    if not ledger.exists():
        return []
    try:
        return [Claim(**row) for row in json.loads(ledger.read_text(encoding="utf8"))]
    except (ValueError, TypeError) as error:
        raise BadInputError(f"{ledger.name} is damaged ({error}); restore it from git.") from error


def record(claims: Sequence[Claim], ledger: Path = LEDGER) -> None:
    """Put freshly measured rows into the ledger, in place of those with the same id.

    Raises:
        BadInputError: a figure is not finite.
    """
    for claim in claims:
        if not all(map(math.isfinite, (claim.value, claim.low, claim.high))):
            raise BadInputError(
                f"claim {claim.id} is {claim.value} [{claim.low}, {claim.high}], expected finite numbers; "
                f"mend what {claim.command} measures."
            )
    rows = {claim.id: claim for claim in [*read(ledger), *claims]}
    write_json(ledger, [asdict(rows[key]) for key in sorted(rows)])


def recompute(costs: Sequence[str], ledger: Path = LEDGER) -> list[str]:
    """Run the commands of all rows of these costs, each once; the sentences that say what failed.

    A command must write every one of its rows anew: a row that it left alone counts as a failure.
    """
    for cost in costs:
        if cost not in COSTS:
            raise BadInputError(f"cost {cost} is unknown, expected {' or '.join(COSTS)}; correct the command.")
    before = [claim for claim in read(ledger) if claim.cost in costs]
    if not before:
        raise BadInputError(
            f"{ledger.name} holds no row of cost {' or '.join(costs)}; run a script of benchmarks/."
        )
    failures = []
    for command in dict.fromkeys(claim.command for claim in before):
        print(f"$ {command}", flush=True)
        rows = {claim.id for claim in before if claim.command == command}
        _forget(rows, ledger)
        try:
            status = subprocess.run(command, shell=True, cwd=ROOT, check=False).returncode  # noqa: S602
        finally:
            after = {claim.id: claim for claim in read(ledger)}
            record([claim for claim in before if claim.id in rows - after.keys()], ledger)
        if status or rows - after.keys():
            failures.append(
                f"`{command}` ended with status {status} and did not measure {sorted(rows - after.keys())}."
            )
        for claim in (after[key] for key in sorted(rows & after.keys())):
            verdict = "holds" if claim.holds() else "FAILS"
            print(f"{verdict}  {claim.id} = {claim.value:.4g} [{claim.low:.4g}, {claim.high:.4g}]  {claim.target}")
            if not claim.holds():
                failures.append(f"{claim.id} is {claim.value:.4g}, expected {claim.target}.")
    return failures


def _forget(ids: set[str], ledger: Path) -> None:
    write_json(ledger, [asdict(claim) for claim in read(ledger) if claim.id not in ids])


if __name__ == "__main__":
    try:
        problems = recompute(sys.argv[1:] or ["fast"])
    except BadInputError as error:
        problems = [str(error)]
    print("\n".join(problems) or "every claim holds")
    sys.exit(1 if problems else 0)
