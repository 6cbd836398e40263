"""Claims on a setup, run where it has not been: accuracy of the classifier, test Pearson of every surrogate."""

import subprocess
import sys

import torch

from kanlib import claims, metrics
from kanlib.kan import KAN
from kanlib.setups import Surrogate, generator
from kanlib.surrogates import Linear
from kanlib.symbolic import SymbolicKAN

TARGETS = {"digits_resnet18": {"accuracy": ">= 0.98", "kan": ">= 0.93", "symbolic": ">= 0.90"}}
NAMES = {"linear": "COAR", "kan": "the KAN", "symbolic": "the symbolic surrogate"}


def main(setup: str) -> None:
    workflow = ["snakemake", "--quiet", "all", "--cores", "2", "--config", f"setups={setup}"]
    subprocess.run(workflow, cwd=claims.ROOT, check=True)
    p = Surrogate.from_setup(setup)
    recorded = p.load("responses")
    fitted = p.load("surrogates", responses=recorded)
    closed = p.load("symbolic", responses=recorded, surrogates=fitted)
    masks, true = recorded["masks.test"], recorded["responses.test"]
    linear = Linear(p)
    linear.weights, linear.bias = fitted["linear.weights"], fitted["linear.bias"]
    predicted = {
        "linear": linear.predict(masks),
        "kan": KAN.from_tensors(fitted.part("kan."))(masks),
        "symbolic": torch.stack([SymbolicKAN.from_json(value)(masks) for value in closed.content]),
    }
    draws = metrics.bootstrap_pearson(
        torch.stack([v.double() for v in predicted.values()]), true, p.n_bootstrap, generator(p.seed, "bootstrap")
    )
    command = f"python benchmarks/accuracy.py {setup}"
    device = f"{recorded.record['device']}, {p.threads} threads"
    accuracy = p.load("model").record["accuracy"]
    rows = [
        claims.Claim(
            id=f"{setup}.accuracy",
            statement=f"Test accuracy of the classifier of {setup}",
            value=accuracy,
            low=accuracy,
            high=accuracy,
            target=TARGETS.get(setup, {}).get("accuracy", ""),
            command=command,
            cost="fast",
            device=device,
        )
    ]
    for name, samples in zip(predicted, draws, strict=True):
        low, high = metrics.interval(samples)
        rows.append(
            claims.Claim(
                id=f"{setup}.{name}.pearson",
                statement=f"Test Pearson of {NAMES[name]} on {setup}, mean over {len(true)} examples "
                f"({recorded.record['parameters']['gate_site']} gates, {len(recorded['masks.fit'])} fit masks)",
                value=float(metrics.pearson(predicted[name], true).mean()),
                low=low,
                high=high,
                target=TARGETS.get(setup, {}).get(name, ""),
                command=command,
                cost="fast",
                device=device,
            )
        )
    claims.record(rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
