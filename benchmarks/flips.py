"""Which two blocks, removed together, hurt a prediction most? Scored before, then tried out.

Pairs are scored by the surrogate at the ablation itself, ``g(σ_i = σ_j = −1)``, by COAR's weights, ``−w_i − w_j``,
and by what removing one block does, measured, ``Δf_i + Δf_j``. Then all pairs are removed, one after the other:
how do scores and true margins correlate in rank over them, and does each method's first choice flip the
prediction, of those that some pair flips?

The surrogate is the KAN, of 64 examples of digits_resnet18 and of 12 of every recorded setup.
"""

import sys
from dataclasses import replace
from itertools import combinations

import torch
from torch import Tensor

from benchmarks import recorded
from kanlib import claims, metrics, networks, store
from kanlib.kan import KAN
from kanlib.setups import Perturbation, Surrogate, generator
from kanlib.surrogates import Kan, Linear

DIGITS = "digits_resnet18"
METHODS = {"coar": "COAR's weights", "alone": "sums of what removing one does"}


def main(*setups: str) -> None:
    torch.set_num_threads(2)
    for setup in setups or [DIGITS, *recorded.EXAMPLES]:
        scores, clean, together = tried(setup)
        rows = [*rank_correlations(setup, scores, clean + together), *flips(setup, scores, clean + together)]
        claims.record(rows)
        for row in rows:
            print(f"{row.id}: {row.value:.3f} [{row.low:.3f}, {row.high:.3f}]", flush=True)


def tried(setup: str) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Scores ``[E, pairs]`` of every method (low hurts), clean margins ``[E, 1]``, what removing pairs does."""
    name, data, surrogate = fitted(setup)
    fit, unseen = recorded.splits(data, "fit", "validation")
    m = fit.masks.shape[1]
    pairs = torch.tensor(list(combinations(range(m), 2)))
    singles = -torch.eye(m)
    masks = singles[pairs].sum(1)
    network = networks.network(Perturbation.from_setup(setup, {"n_examples": len(fit.responses)}))
    if not torch.equal(network.positions, data["examples"]):
        raise ValueError(f"{name} holds other examples; remove _artifacts/{name} and run again")
    found, clean = network.responses("ablation", torch.cat([singles, masks]))
    alone, together = found.split([m, len(pairs)], 1)
    linear = Linear(Surrogate.from_setup(setup)).fit(fit, unseen)
    scores = {
        "surrogate": surrogate(masks),
        "coar": linear.predict(masks) - linear.predict(torch.zeros(1, m)),
        "alone": alone[:, pairs].sum(2),
    }
    return scores, clean[:, None], together


def fitted(setup: str) -> tuple[str, store.Artifact, KAN]:
    """The run's name, its responses, and its KANs."""
    if setup == DIGITS:
        data = recorded.digits64()
        found = Kan(Surrogate.from_setup(DIGITS)).fit(*recorded.splits(data, "fit", "validation"))
        return "digits64", data, found.chosen.kan
    p = recorded.surrogates(setup)
    data = p.load("responses")
    return p.run, data, KAN.from_tensors(p.load("surrogates", responses=data).part("kan."))


def rank_correlations(setup: str, scores: dict[str, Tensor], margins: Tensor) -> list[claims.Claim]:
    """Of scores and true margins over all pairs, and how far the surrogate's is above the others'."""
    by = {name: metrics.spearman(score.double(), margins.double()) for name, score in scores.items()}
    what = f"true margins without two blocks and scores of the pairs, over all pairs of {setup}, mean over "
    what += f"{len(margins)} examples"
    rows = [claim(f"{setup}.pairs.spearman", f"Spearman of {what}: by the surrogate", by["surrogate"])]
    for name, words in METHODS.items():
        rows.append(claim(f"{setup}.pairs.spearman.{name}", f"Spearman of {what}: by {words}", by[name]))
    ahead = f"Spearman of {what}: by the surrogate less by COAR's weights"
    return [*rows, claim(f"{setup}.pairs.spearman_minus_coar", ahead, by["surrogate"] - by["coar"], "low > 0")]


def flips(setup: str, scores: dict[str, Tensor], margins: Tensor) -> list[claims.Claim]:
    """The share of predictions that each method's first choice flips."""
    flipped = margins < 0
    can = flipped.any(1)
    share = {n: flipped.gather(1, s.argmin(1, keepdim=True))[can, 0].double() for n, s in scores.items()}
    by = {"surrogate": "the surrogate's first choice", "coar": "COAR's", "alone": "that of removing one"}
    what = f"Share flipped by removing two blocks, of the {int(can.sum())} of {len(can)} examples of {setup} that "
    what += "some pair flips: "
    key = "interactions.flip_share" if setup == DIGITS else f"{setup}.interactions.flip_share"
    rows = [claim(f"{key}.{name}", what + words, share[name]) for name, words in by.items()]
    rows.append(claim(f"{key}.chance", f"{what}a pair drawn by lot", flipped[can].double().mean(1)))
    words = f"{what}the surrogate's first choice less COAR's"
    ahead = claim(f"{key}_minus_coar", words, share["surrogate"] - share["coar"])
    outcome = (
        "met" if ahead.low > 0 else f"missed; no method can be ahead by more than {1 - share['coar'].mean():.3f}"
    )
    return [*rows, replace(ahead, statement=f"{ahead.statement} (the aim, low > 0, is {outcome})")]


def claim(key: str, statement: str, values: Tensor, target: str = "") -> claims.Claim:
    low, high = metrics.interval(metrics.bootstrap_mean(values, 2000, generator(0, "bootstrap")))
    return claims.Claim(
        id=key,
        statement=statement,
        value=values.mean().item(),
        low=low,
        high=high,
        target=target,
        command="python -m benchmarks.flips",
        cost="long",
        device="cpu, 2 threads",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
