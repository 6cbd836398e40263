"""Claims on closed forms, of the setups that were run: how faithful they are, how short, and what that costs.

Reads the artifacts of 03_symbolic (and makes them where they are missing). The control, short forms of polynomials
alone under the same cap, is computed here.
"""

import statistics
import sys

import torch

from benchmarks.recorded import shortened, symbolic
from kanlib import claims, metrics
from kanlib.interactions import derivative_errors
from kanlib.kan import KAN
from kanlib.setups import generator
from kanlib.symbolic import Batch, SymbolicKAN

TARGETS = {1: 0.02, 2: 0.05, 3: 0.1}


def main(setup: str = "digits_resnet18") -> None:
    p = symbolic(setup)
    recorded = p.load("responses")
    kan = KAN.from_tensors(p.load("surrogates", responses=recorded).part("kan."))
    closed = p.load("symbolic", responses=recorded)
    faithful, short = ([SymbolicKAN.from_json(v) for v in closed[kind]] for kind in ("faithful", "short"))
    control = shortened(p.model_copy(update={"backend": "polynomials"}), kan, recorded)
    masks, true = recorded["masks.test"], recorded["responses.test"]
    shared = {
        "command": f"python -m benchmarks.symbolic_fidelity {setup}",
        "cost": "fast" if setup == "digits_resnet18" else "long",
        "device": f"cpu, {p.threads} threads",
    }

    predicted = torch.stack(
        [Batch(short)(masks), kan(masks).double(), Batch(faithful)(masks), Batch(control)(masks)]
    )
    draws = metrics.bootstrap_pearson(predicted, true, 2000, generator(p.seed, "bootstrap"))
    pearson = metrics.pearson(predicted, true).mean(1)
    measured = [
        (
            f"{setup}.{name}.pearson",
            f"Test Pearson of the {words} closed form on {setup}, mean over {len(true)} examples",
            pearson[at].item(),
            metrics.interval(draws[at]),
            target,
        )
        for at, name, words, target in (
            (0, "short", "short", ""),
            (2, "symbolic", "faithful", ">= 0.90" if setup == "digits_resnet18" else ""),
        )
    ]
    measured += [
        (
            f"{setup}.symbolic_minus_kan",
            f"Test Pearson of the short closed form (at most {p.max_nodes} nodes an edge) less that of the KAN on "
            f"{setup}, mean over {len(true)} examples",
            (pearson[0] - pearson[1]).item(),
            metrics.interval(draws[0] - draws[1]),
            ">= -0.01",
        ),
        (
            f"{setup}.short_minus_polynomials",
            "Test Pearson of the short closed form less that of one of polynomials alone, under the same cap, "
            f"on {setup}, mean over {len(true)} examples",
            (pearson[0] - pearson[3]).item(),
            metrics.interval(draws[0] - draws[3]),
            "",
        ),
    ]
    r2 = [form.r2 for network in faithful for layer in network.edges for row in layer for form in row]
    nodes = [
        form.complexity
        for network in short
        for layer in network.edges
        for row in layer
        for form in row
        if form.template != 0
    ]
    prefix = "" if setup == "digits_resnet18" else f"{setup}."
    quartiles = [statistics.quantiles(values, n=4) for values in (r2, nodes)]
    measured += [
        (
            f"{prefix}symbolic.edge_r2_median",
            f"Median R² of the faithful form of an edge, {setup} (interval: quartiles of {len(r2)} edges)",
            statistics.median(r2),
            (quartiles[0][0], quartiles[0][2]),
            ">= 0.999",
        ),
        (
            f"{prefix}symbolic.edge_nodes_median",
            f"Median operations and leaves of an edge of the short form, of those that are kept, {setup} "
            f"(interval: quartiles of {len(nodes)} edges)",
            statistics.median(nodes),
            (quartiles[1][0], quartiles[1][2]),
            "<= 12",
        ),
    ]
    for r, error in derivative_errors(faithful, kan).items():
        each = [derivative_errors([form], kan.select(torch.tensor([e])))[r] for e, form in enumerate(faithful)]
        measured.append(
            (
                f"{prefix}symbolic.derivative_error.{r}",
                f"Median relative error of coefficients of order {r}, faithful form against KAN, {setup} "
                "(interval: least and largest median of an example)",
                error,
                (min(each), max(each)),
                f"<= {TARGETS[r]}",
            )
        )
    claims.record(
        [
            claims.Claim(id=key, statement=words, value=value, low=low, high=high, target=target, **shared)
            for key, words, value, (low, high), target in measured
        ]
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
