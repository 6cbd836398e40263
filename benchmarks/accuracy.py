"""Claims on a setup, run where it has not been: accuracy of a classifier trained here, Pearson of surrogates."""

import sys

import torch

from benchmarks.recorded import surrogates
from kanlib import claims, metrics
from kanlib.setups import generator

TARGETS = {
    "digits_resnet18": {"accuracy": ">= 0.98", "kan": ">= 0.96", "ahead": ">= 0"},
    "cifar10_resnet18": {"accuracy": ">= 0.92", "kan": ">= 0.90", "ahead": ">= 0"},
    "imagenet_deit_tiny": {"kan": ">= 0.82", "ahead": ">= 0"},
}
NAMES = {"linear": "COAR", "kan": "the KAN"}
PEERS = ("cubic", "trees", "mlp")


def main(setup: str) -> None:
    p = surrogates(setup)
    recorded = p.load("responses")
    fitted = p.load("surrogates", responses=recorded)
    curve = p.load("curve", responses=recorded).content
    targets = TARGETS.get(setup, {})
    shared = {
        "command": f"python -m benchmarks.accuracy {setup}",
        "cost": "fast" if setup == "digits_resnet18" else "long",
        "device": f"{recorded.record['device']}, {p.threads} threads",
    }

    rows = []
    if "accuracy" in targets:
        accuracy = recorded.record["accuracy"]
        rows.append(
            claims.Claim(
                id=f"{setup}.accuracy",
                statement=f"Test accuracy of the classifier of {setup}",
                value=accuracy,
                low=accuracy,
                high=accuracy,
                target=targets["accuracy"],
                **shared,
            )
        )

    true = recorded["responses.test"]
    predicted = fitted.part("predicted.")
    pearson = {name: float(metrics.pearson(predicted[name], true).mean()) for name in NAMES}
    draws = metrics.bootstrap_pearson(
        torch.stack([predicted[name].double() for name in NAMES]),
        true,
        p.n_bootstrap,
        generator(p.seed, "bootstrap"),
    )
    for (name, words), samples in zip(NAMES.items(), draws, strict=True):
        low, high = metrics.interval(samples)
        rows.append(
            claims.Claim(
                id=f"{setup}.{name}.pearson",
                statement=f"Test Pearson of {words} on {setup}, mean over {len(true)} examples "
                f"({recorded.record['parameters']['gate_site']} gates, {len(recorded['masks.fit'])} fit masks)",
                value=pearson[name],
                low=low,
                high=high,
                target=targets.get(name, ""),
                **shared,
            )
        )

    gain = draws[list(NAMES).index("kan")] - draws[list(NAMES).index("linear")]
    low, high = metrics.interval(gain)
    rows.append(
        claims.Claim(
            id=f"{setup}.kan_minus_linear",
            statement=f"Test Pearson of the KAN less COAR's on {setup}, mean over {len(true)} examples",
            value=pearson["kan"] - pearson["linear"],
            low=low,
            high=high,
            target="low > 0",
            **shared,
        )
    )

    for n, at_n in curve[curve["masks"] >= 1000].groupby("masks"):
        pearson = at_n.pivot(index="example", columns="surrogate", values="pearson")
        best = pearson[list(PEERS)].mean().idxmax()
        ahead = torch.tensor((pearson["kan"] - pearson[best]).to_list(), dtype=torch.float64)
        draws = metrics.bootstrap_mean(ahead, p.n_bootstrap, generator(p.seed, "bootstrap"))
        low, high = metrics.interval(draws)
        rows.append(
            claims.Claim(
                id=f"{setup}.kan_ahead.{n}",
                statement=f"Test Pearson of the KAN less that of {metrics.TITLES[best]}, the best of "
                f"{', '.join(metrics.TITLES[name] for name in PEERS)}, on {setup} with {n} fit masks "
                "(interval over examples)",
                value=float(ahead.mean()),
                low=low,
                high=high,
                target=targets.get("ahead", ""),
                **shared,
            )
        )
    claims.record(rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
