"""Claims on closed forms, of the setups that were run: how faithful they are, how short, and what that costs.

Reads the artifacts of 03_symbolic (and makes them where they are missing). The control, short forms of polynomials
alone under the same cap, is computed here.
"""

import statistics
import sys
from typing import Literal

import torch

from benchmarks.runs import splits, symbolic
from kanlib import claims, metrics, store
from kanlib.attribution import derivative_errors
from kanlib.kan import KAN
from kanlib.masks import Split
from kanlib.setups import Symbolic
from kanlib.symbolic import Batch, ClosedForm, SymbolicKAN, shorten

DIGITS = "digits_resnet18"
TARGETS = {1: 0.02, 2: 0.05, 3: 0.1}


def main(setup: str = DIGITS) -> None:
    p = symbolic(setup)
    recorded, kan, _, short = read(p)
    fit, validation, test = splits(recorded, "fit", "validation", "test")
    control, _ = shorten(kan, fit, validation, p.model_copy(update={"backend": "polynomials"}))
    ahead = metrics.ahead(Batch(short)(test.masks), Batch(control)(test.masks), test.responses, seed=p.seed)
    words = "Test Pearson of the short closed form less that of one of polynomials alone, under the same cap, "
    row = command(setup, p).claim(f"{setup}.short_minus_polynomials", words + where(setup, test), ahead)
    claims.record([*measured(setup, p), row])


def command(setup: str, p: Symbolic) -> claims.Command:
    """What all the rows share."""
    cost: Literal["fast", "long"] = "fast" if setup == DIGITS else "long"
    return claims.Command(f"python -m benchmarks.symbolic_fidelity {setup}", cost, f"cpu, {p.threads} threads")


def read(p: Symbolic) -> tuple[store.Artifact, KAN, list[SymbolicKAN], list[SymbolicKAN]]:
    """Responses, KANs, and their faithful and short closed forms, of a run of 03_symbolic."""
    recorded = p.load("responses")
    closed = p.load("symbolic", responses=recorded)
    faithful, short = (SymbolicKAN.read(closed, which) for which in ("faithful", "short"))
    return recorded, KAN.read(p.load("surrogates", responses=recorded)), faithful, short


def measured(setup: str, p: Symbolic) -> list[claims.Claim]:
    """All rows but the control's, from the artifacts of a run of 03_symbolic with these parameters."""
    recorded, kan, faithful, short = read(p)
    test = Split.read(recorded, "test")
    predicted = {
        "kan": kan(test.masks),
        "symbolic": Batch(faithful)(test.masks),
        "short": Batch(short)(test.masks),
    }
    by = command(setup, p)
    return [
        *scores(by, setup, predicted, test, p.max_length, p.seed),
        *edges(by, setup, faithful, short),
        *derivatives(by, setup, faithful, kan),
    ]


def scores(
    command: claims.Command, setup: str, predicted: dict[str, torch.Tensor], test: Split, length: int, seed: int
) -> list[claims.Claim]:
    """Test Pearson of both closed forms, and the short one's less the KAN's."""
    rows = [
        command.claim(
            f"{setup}.{name}.pearson",
            f"Test Pearson of the {words} closed form {where(setup, test)}",
            metrics.pearson_estimate(predicted[name], test.responses, seed=seed),
            target,
        )
        for name, words, target in (
            ("short", "short", ""),
            ("symbolic", "faithful", ">= 0.90" if setup == DIGITS else ""),
        )
    ]
    ahead = metrics.ahead(predicted["short"], predicted["kan"], test.responses, seed=seed)
    words = f"Test Pearson of the short closed form (at most {length} nodes an edge) less that of the KAN "
    return [
        *rows,
        command.claim(f"{setup}.symbolic_minus_kan", words + where(setup, test), ahead, ">= -0.01"),
    ]


def where(setup: str, test: Split) -> str:
    """Of what a mean is, in the words of a statement."""
    return f"on {setup}, mean over {len(test.responses)} examples"


def edges(
    command: claims.Command, setup: str, faithful: list[SymbolicKAN], short: list[SymbolicKAN]
) -> list[claims.Claim]:
    """How well the faithful forms of edges fit, and how long the short ones are."""
    r2 = [form.r2 for form in forms_of(faithful) if form.r2 is not None]
    lengths = [form.length for form in forms_of(short) if form.template != 0]
    fits = f"Median R² of the faithful form of an edge, {setup} (interval: quartiles of {len(r2)} edges)"
    long = f"Median operations and leaves of an edge of the short form, of those that are kept, {setup} "
    long += f"(interval: quartiles of {len(lengths)} edges)"
    return [
        command.claim(f"{prefix(setup)}symbolic.edge_r2_median", fits, quartiles(r2), ">= 0.999"),
        command.claim(f"{prefix(setup)}symbolic.edge_nodes_median", long, quartiles(lengths), "<= 12"),
    ]


def derivatives(command: claims.Command, setup: str, faithful: list[SymbolicKAN], kan: KAN) -> list[claims.Claim]:
    """How far coefficients of the faithful closed forms are from the KANs' own."""
    rows = []
    for r, error in derivative_errors(faithful, kan).items():
        each = [derivative_errors([one], kan.select(torch.tensor([e])))[r] for e, one in enumerate(faithful)]
        words = f"Median relative error of coefficients of order {r}, faithful form against KAN, {setup} "
        words += "(interval: least and largest median of an example)"
        estimate = metrics.Estimate(error, min(each), max(each))
        key = f"{prefix(setup)}symbolic.derivative_error.{r}"
        rows.append(command.claim(key, words, estimate, f"<= {TARGETS[r]}"))
    return rows


def forms_of(symbolic: list[SymbolicKAN]) -> list[ClosedForm]:
    """Every edge of every one."""
    return [form for one in symbolic for layer in one.forms for row in layer for form in row]


def quartiles(values: list) -> metrics.Estimate:
    """The median, between the lower and the upper quartile."""
    low, _, high = statistics.quantiles(values, n=4)
    return metrics.Estimate(statistics.median(values), low, high)


def prefix(setup: str) -> str:
    """Of the ids of claims that only the default setup once had."""
    return "" if setup == DIGITS else f"{setup}."


if __name__ == "__main__":
    main(*sys.argv[1:])
