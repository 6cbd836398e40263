"""Which two blocks, removed together, hurt a prediction most? Scored before, then tried out.

Pairs are scored by the surrogate at the ablation itself, ``g(σ_i = σ_j = −1)``, by COAR's weights, ``−w_i − w_j``,
and by what removing one block does, measured, ``Δf_i + Δf_j``. Then all pairs are removed, one after the other:
how do scores and true margins correlate in rank over them, and does each method's first choice flip the
prediction, of those that some pair flips?

The surrogate is the KAN, of 64 examples of digits_resnet18, of 64 of cifar10_resnet18 and of the 12 that are
recorded of imagenet_deit_tiny.
"""

import torch
from torch import Tensor

from benchmarks import runs
from kanlib import claims, metrics, store
from kanlib.attribution.surrogates import Kan, Linear
from kanlib.kan.kan import KAN
from kanlib.masks import removals, subsets
from kanlib.networks import network
from kanlib.setups import Perturbation, Surrogate

#: Setups of which more examples are answered for here than in the book.
LIVE = {"digits_resnet18": runs.digits64, "cifar10_resnet18": runs.cifar64}
RECORDED = "imagenet_deit_tiny"
COMMAND = claims.Command("python -m benchmarks.flips")
METHODS = {"coar": "COAR's weights", "alone": "sums of what removing one does"}


def main() -> None:
    torch.set_num_threads(2)
    shares = []
    for setup in (*LIVE, RECORDED):
        scores, clean, together = tried(setup)
        rows = rank_correlations(setup, scores, clean + together)
        shares.append(flipped(scores, clean + together))
        show(rows + flips(f"{setup}.interactions", setup, shares[-1]))
    every = {name: torch.cat([share[name] for share in shares]) for name in shares[0]}
    show(flips("interactions", "all three setups", every))


def show(rows: list[claims.Claim]) -> None:
    """Print rows and add them to the ledger."""
    claims.record(rows)
    for row in rows:
        print(f"{row.id}: {row.value:.3f} [{row.low:.3f}, {row.high:.3f}]", flush=True)


def tried(setup: str) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Scores ``[E, pairs]`` of every method (low hurts), clean margins ``[E, 1]``, what removing pairs does."""
    data, surrogate = fitted(setup)
    fit, unseen = runs.splits(data, "fit", "validation")
    m = fit.masks.shape[1]
    index = subsets(m, 2)
    pairs, masks = torch.tensor(index[m:]), removals(m, index)
    asked = {"n_examples": len(fit.responses)} | ({"source": "live"} if setup in LIVE else {})
    answers = network(Perturbation.from_setup(setup, asked))
    if not torch.equal(answers.positions, data["examples"]):
        raise ValueError(f"other examples of {setup} were recorded; remove that run and run again")
    found, clean = answers.responses("ablation", masks)
    alone, together = found.split([m, len(pairs)], 1)
    linear = Linear(Surrogate.from_setup(setup)).fit(fit, unseen)
    scores = {
        "surrogate": surrogate(masks[m:]),
        "coar": linear.predict(masks[m:]) - linear.predict(torch.zeros(1, m)),
        "alone": alone[:, pairs].sum(2),
    }
    return scores, clean[:, None], together


def fitted(setup: str) -> tuple[store.Artifact, KAN]:
    """Responses and their KANs."""
    if setup in LIVE:
        data = LIVE[setup]()
        found = Kan(Surrogate.from_setup(setup)).fit(*runs.splits(data, "fit", "validation"))
        return data, found.kan
    p = runs.surrogates(setup)
    data = p.load("responses")
    return data, KAN.read(p.load("surrogates", responses=data))


def estimated(key: str, statement: str, values: Tensor, target: str = "", *, aim: bool = False) -> claims.Claim:
    """The mean of what was found for each example."""
    return COMMAND.claim(key, statement, metrics.mean_estimate(values), target, aim=aim)


def rank_correlations(setup: str, scores: dict[str, Tensor], margins: Tensor) -> list[claims.Claim]:
    """Of scores and true margins over all pairs, and how far the surrogate's is above the others'."""
    by = {name: metrics.spearman(score.double(), margins.double()) for name, score in scores.items()}
    what = f"true margins without two blocks and scores of the pairs, over all pairs of {setup}, mean over "
    what += f"{len(margins)} examples"
    rows = [estimated(f"{setup}.pairs.spearman", f"Spearman of {what}: by the surrogate", by["surrogate"])]
    for name, words in METHODS.items():
        rows.append(estimated(f"{setup}.pairs.spearman.{name}", f"Spearman of {what}: by {words}", by[name]))
    ahead = f"Spearman of {what}: by the surrogate less by COAR's weights"
    return [*rows, estimated(f"{setup}.pairs.spearman_minus_coar", ahead, by["surrogate"] - by["coar"], "low > 0")]


def flipped(scores: dict[str, Tensor], margins: Tensor) -> dict[str, Tensor]:
    """Whether each method's first choice flips the prediction, of the examples that some pair flips.

    ``chance`` is the share of all pairs that do; examples that none flips are no number.
    """
    by = margins < 0
    none = ~by.any(1)
    found = {name: by.gather(1, s.argmin(1, keepdim=True))[:, 0].double() for name, s in scores.items()}
    found["chance"] = by.double().mean(1)
    return {name: share.masked_fill(none, torch.nan) for name, share in found.items()}


def flips(key: str, where: str, found: dict[str, Tensor]) -> list[claims.Claim]:
    """Shares of predictions that methods' first choices flip."""
    can = found["chance"].isfinite()
    share = {name: values[can] for name, values in found.items()}
    by = {"surrogate": "the surrogate's first choice", "coar": "COAR's", "alone": "that of removing one"}
    by["chance"] = "a pair drawn by lot"
    what = f"Share flipped by removing two blocks, of the {int(can.sum())} of {len(can)} examples of {where} that "
    what += "some pair flips: "
    rows = [estimated(f"{key}.flip_share.{name}", what + words, share[name]) for name, words in by.items()]
    most = f"no method can be ahead by more than {1 - share['coar'].mean():.3f}"
    words = f"{what}the surrogate's first choice less COAR's ({most})"
    lead = share["surrogate"] - share["coar"]
    return [*rows, estimated(f"{key}.flip_share_minus_coar", words, lead, "low > 0", aim=True)]


if __name__ == "__main__":
    main()
