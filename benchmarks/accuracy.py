"""Claims on a setup, run where it has not been: accuracy of a classifier trained here, Pearson of surrogates."""

import sys

import pandas as pd
import torch
from torch import Tensor

from benchmarks.runs import surrogates
from kanlib import claims, metrics, store
from kanlib.masks import Split
from kanlib.setups import Surrogate

TARGETS = {
    "digits_resnet18": {"accuracy": ">= 0.98", "kan": ">= 0.96", "ahead": ">= 0"},
    "cifar10_resnet18": {"accuracy": ">= 0.92", "kan": ">= 0.90", "ahead": ">= 0"},
    "imagenet_deit_tiny": {"kan": ">= 0.82", "ahead": ">= 0"},
}
NAMES = {"linear": "COAR", "kan": "the KAN"}
PEERS = ("cubic", "trees", "mlp")


def main(setup: str) -> None:
    claims.record(measured(setup, surrogates(setup)))


def measured(setup: str, p: Surrogate) -> list[claims.Claim]:
    """The rows, from the artifacts of a run of 02_surrogate with these parameters."""
    recorded = p.load("responses")
    predicted = p.load("surrogates", responses=recorded).part("predicted.")
    curve = p.load("curve", responses=recorded).content
    command = claims.Command(
        f"python -m benchmarks.accuracy {setup}",
        "fast" if setup == "digits_resnet18" else "long",
        f"{recorded.record['device']}, {p.threads} threads",
    )
    return [
        *classifier(command, setup, recorded),
        *scores(command, setup, recorded, predicted, p.n_bootstrap, p.seed),
        *(ahead(command, setup, n, at_n, p.n_bootstrap, p.seed) for n, at_n in larger(curve)),
    ]


def classifier(command: claims.Command, setup: str, recorded: store.Artifact) -> list[claims.Claim]:
    """Accuracy, of a classifier that is trained here."""
    target = TARGETS.get(setup, {}).get("accuracy")
    words = f"Test accuracy of the classifier of {setup}"
    return [command.claim(f"{setup}.accuracy", words, recorded.record["accuracy"], target)] if target else []


def scores(
    command: claims.Command, setup: str, recorded: store.Artifact, predicted: dict[str, Tensor], n: int, seed: int
) -> list[claims.Claim]:
    """Test Pearson of COAR and of the KAN, and their difference."""
    true, fit = recorded["responses.test"], Split.read(recorded, "fit")
    site, targets = recorded.record["parameters"]["gate_site"], TARGETS.get(setup, {})
    over = f"mean over {len(true)} examples"
    rows = [
        command.claim(
            f"{setup}.{name}.pearson",
            f"Test Pearson of {words} on {setup}, {over} ({site} gates, {len(fit.masks)} fit masks)",
            metrics.pearson_estimate(predicted[name], true, n, seed),
            targets.get(name, ""),
        )
        for name, words in NAMES.items()
    ]
    lead = metrics.ahead(predicted["kan"], predicted["linear"], true, n, seed)
    words = f"Test Pearson of the KAN less COAR's on {setup}, {over}"
    return [*rows, command.claim(f"{setup}.kan_minus_linear", words, lead, "low > 0")]


def larger(curve: pd.DataFrame) -> list[tuple[int, pd.DataFrame]]:
    """The scores at each number of fit masks that is not small."""
    return list(curve[curve["masks"] >= 1000].groupby("masks"))


def ahead(
    command: claims.Command, setup: str, n_masks: int, at_n: pd.DataFrame, n: int, seed: int
) -> claims.Claim:
    """How far the KAN is above the best peer at one number of fit masks."""
    pearson = at_n.pivot(index="example", columns="surrogate", values="pearson")
    best = pearson[list(PEERS)].mean().idxmax()
    lead = torch.tensor((pearson["kan"] - pearson[best]).to_list(), dtype=torch.float64)
    return command.claim(
        f"{setup}.kan_ahead.{n_masks}",
        f"Test Pearson of the KAN less that of {metrics.TITLES[best]}, the best of "
        f"{', '.join(metrics.TITLES[name] for name in PEERS)}, on {setup} with {n_masks} fit masks "
        "(interval over examples)",
        metrics.mean_estimate(lead, n, seed),
        TARGETS.get(setup, {}).get("ahead", ""),
        aim=True,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
