"""Interactions against the network's own derivatives, order by order: local at rest, smoothed over the masks.

Reads the artifacts of 01_perturbation and 03_symbolic (and makes them where they are missing).
"""

import sys

import pandas as pd
import torch
from torch import Tensor

from benchmarks.runs import symbolic
from kanlib import claims, metrics, store
from kanlib.attribution import bias_corrected, fidelity, of_symbolic, smoothed_of_network, smoothed_of_surrogate
from kanlib.kan import KAN
from kanlib.masks import Split, gaussian, subsets
from kanlib.networks import network
from kanlib.setups import Interactions, Perturbation, Symbolic
from kanlib.symbolic import SymbolicKAN

TARGETS = {1: 0.95, 2: 0.90, 3: 0.75}  # of Spearman, smoothed, where the reliability is above RELIABLE
RELIABLE, SIGNS = 0.9, 0.95
MORE = 2000  # reference masks
WORDS = {
    "local": "coefficients of order {} at rest with the network's local derivatives",
    "smoothed": "coefficients of order {} over the masks with the network's smoothed derivatives",
    "narrow": "coefficients of order {}, of polynomials fitted to gradients at narrow masks, with the network's "
    "local derivatives",
    "own": "the network's own smoothed derivatives of order {}, no surrogate's, with its local ones",
}


def main(setup: str = "digits_resnet18") -> None:
    p = symbolic(setup)
    torch.set_num_threads(p.threads)
    claims.record(measured(setup, p))


def measured(setup: str, p: Symbolic) -> list[claims.Claim]:
    """The rows, from the artifacts of a run of 03_symbolic with these parameters."""
    recorded = p.load("responses")
    faithful = SymbolicKAN.read(p.load("symbolic", responses=recorded), "faithful")
    kan = KAN.read(p.load("surrogates", responses=recorded))
    tables = fidelities(setup, recorded, kan, faithful, Interactions.from_setup(setup).max_order, p.seed)
    command = claims.Command(f"python -m benchmarks.interactions_fidelity {setup}", device="cpu")
    return compared(command, setup, tables, p.seed)


def fidelities(
    setup: str, recorded: store.Artifact, kan: KAN, faithful: list[SymbolicKAN], order: int, seed: int
) -> dict[str, pd.DataFrame]:
    """Tables of :func:`kanlib.attribution.fidelity`, by the references that are there."""
    index = subsets(len(recorded.record["names"]), order)
    tables = {}
    if (local := recorded.content.get("local")) is not None:
        at_rest = torch.stack([of_symbolic(one, order)[1] for one in faithful])
        tables["local"] = fidelity(at_rest, local[:, : len(index)], index).assign(reliability=1.0)
    if "gradient.reference" in recorded.content:
        data = Split.read(recorded, "fit")
        level, _ = smoothed_of_surrogate(kan, data.masks.shape[1], data.scale, order, seed=seed)
        at = reference_gradients(setup, recorded)
        found, _, sure = smoothed_of_network(kan, level, *at, data.scale, order)
        tables["smoothed"] = fidelity(bias_corrected(level, kan, data, order), found, index)
        tables["smoothed"]["reliability"] = sure.T.flatten().tolist()
        if local is not None:
            tables["own"] = fidelity(found, local[:, : len(index)], index).assign(reliability=1.0)
    return tables


def compared(
    command: claims.Command, setup: str, tables: dict[str, pd.DataFrame], seed: int
) -> list[claims.Claim]:
    """Rows of the ledger from these tables, by what :data:`WORDS` calls them."""
    rows = []
    for kind, table in tables.items():
        for r, of_order in table.groupby("order"):
            reliability = of_order["reliability"].mean()
            for measure, column, aim in (("spearman", "spearman", TARGETS[r]), ("sign_top10", "signs", SIGNS)):
                values = torch.tensor(of_order[column].to_list(), dtype=torch.float64)
                what = "Spearman" if measure == "spearman" else "Sign agreement of the ten largest"
                rows.append(
                    command.claim(
                        f"{setup}.interactions.{kind}.{measure}.{r}",
                        f"{what} of {WORDS[kind].format(r)} on {setup}, mean over {len(values)} "
                        f"examples (reliability {reliability:.2f})",
                        metrics.mean_estimate(values, seed=seed),
                        f">= {aim}" if reliability > RELIABLE and kind != "own" else "",
                        aim=True,
                    )
                )
    return rows


def reference_gradients(setup: str, recorded: store.Artifact) -> tuple[Tensor, Tensor]:
    """The network's gradients ``[E, N, m]`` and their masks: more than in the chapter, where it is at hand."""
    p = Perturbation.from_setup(setup)
    if p.source == "frozen":
        return recorded["gradient.reference"], recorded["masks.reference"]
    m = len(recorded.record["names"])
    masks = gaussian(MORE, m, p.scale, p.seed, "reference")
    answers = network(p)
    if not torch.equal(answers.positions, recorded["examples"]):
        raise ValueError(f"{setup} was run with other examples; run make book again")
    return answers.gradients(masks), masks


if __name__ == "__main__":
    main(*sys.argv[1:])
