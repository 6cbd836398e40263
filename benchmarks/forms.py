"""The closed forms that the book shows: what they answer to the mask of zeros, and how good the shortest one is.

Of all recorded setups, the KANs, their faithful and their short closed forms; of the digits the one short formula
of the front page as well, chosen as 03_symbolic chooses it.
"""

import torch

from benchmarks.runs import splits, surrogates, symbolic
from kanlib import claims, metrics
from kanlib.kan import KAN, fit
from kanlib.setups import Surrogate
from kanlib.symbolic import OneSum, SymbolicKAN, shortest_of_all

SETUPS = ("digits_resnet18", "cifar10_resnet18", "imagenet_deit_tiny")
FRONT = "digits_resnet18"
LENGTH = 30
COMMAND = claims.Command("python -m benchmarks.forms", device="2 CPU cores")


def shown(setup: str) -> tuple[KAN, list[SymbolicKAN]]:
    """KANs and closed forms of a setup's chapters."""
    p = symbolic(setup)
    closed = p.load("symbolic")
    forms = [one for which in ("faithful", "short") for one in SymbolicKAN.read(closed, which)]
    return KAN.read(p.load("surrogates")), forms


def at_rest(function: KAN | SymbolicKAN | OneSum, m: int) -> float:
    """The largest ``|ĝ(0)|``."""
    return float(function(torch.zeros(1, m)).abs().max())


def front() -> tuple[OneSum, list[claims.Claim], int]:
    """The formula of the front page, its rows, and how many components there are."""
    p = surrogates(FRONT)
    data, validation, test = splits(p.load("responses"), "fit", "validation", "test")
    kans = fit(data, validation, Surrogate(hidden=[1], seed=p.seed)).kan
    example, formula = shortest_of_all(kans, data, validation, LENGTH)
    predicted, true = formula(test.masks)[None], test.responses[example][None]
    of_linear = p.load("scores").table(metrics.SCORES).query(f"surrogate == 'linear' and example == {example + 1}")
    words = f"of the formula on the front page, of example {example + 1} of {FRONT}"
    rows = [
        COMMAND.claim("front.formula_length", f"Operations and leaves {words}", formula.length, f"<= {LENGTH}"),
        COMMAND.claim(
            "front.formula_nmse",
            f"Squared error over the variance of the responses to test masks, {words}",
            float(metrics.normalised_mse(predicted, true)),
            "<= 0.5",
        ),
        COMMAND.claim(
            "front.formula_pearson",
            f"Test Pearson {words}; that of COAR there is {float(of_linear['pearson'].iloc[0]):.2f}",
            metrics.pearson_estimate(predicted, true),
        ),
    ]
    return formula, rows, test.masks.shape[1]


def main() -> None:
    torch.set_num_threads(2)
    formula, rows, m = front()
    left = [at_rest(formula, m)]
    for setup in SETUPS:
        kan, forms = shown(setup)
        left += [at_rest(kan, kan.widths[0]), *(at_rest(one, kan.widths[0]) for one in forms)]
    words = "Largest |g(0)| of the KANs, the faithful and the short closed forms of all recorded setups, and the "
    words += "formula on the front page"
    claims.record([*rows, COMMAND.claim("forms.at_rest", words, max(left), "<= 1e-9", aim=True)])


if __name__ == "__main__":
    main()
