"""Interactions against the network's own derivatives, order by order: local at rest, smoothed over the masks.

Reads the artifacts of 01_perturbation and 03_symbolic (and makes them where they are missing).
"""

import sys

import pandas as pd
import torch
from torch import Tensor

from benchmarks.recorded import symbolic
from kanlib import claims, interactions, metrics, networks, perturbation, store
from kanlib.setups import Interactions, Perturbation, generator
from kanlib.symbolic import Batch, SymbolicKAN

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
    recorded = p.load("responses")
    closed = p.load("symbolic", responses=recorded)
    forms = [SymbolicKAN.from_json(value) for value in closed["faithful"]]
    order, scale = Interactions.from_setup(setup).max_order, recorded.record["parameters"]["scale"]
    index = interactions.subsets(len(recorded.record["names"]), order)
    tables = {}
    if (local := recorded.content.get("local")) is not None:
        at_rest = torch.stack([interactions.of_network(form, order)[1] for form in forms])
        tables["local"] = interactions.fidelity(at_rest, local[:, : len(index)], index).assign(reliability=1.0)
    if "gradient.reference" in recorded.content:
        level, _ = interactions.smoothed(forms, scale, order, seed=p.seed)
        at = reference_gradients(setup, recorded)
        found, _, sure = interactions.reference(forms, level, *at, scale, order)
        masks, responses = recorded["masks.fit"], recorded["responses.fit"]
        residual = responses - Batch(forms)(masks)
        averaged = interactions.corrected(level, residual, masks, scale, order)
        tables["smoothed"] = interactions.fidelity(averaged, found, index)
        tables["smoothed"]["reliability"] = sure.T.flatten().tolist()
        if local is not None:
            tables["own"] = interactions.fidelity(found, local[:, : len(index)], index).assign(reliability=1.0)
    claims.record(compared(setup, tables, f"python -m benchmarks.interactions_fidelity {setup}", p.seed))


def compared(setup: str, tables: dict[str, pd.DataFrame], command: str, seed: int) -> list[claims.Claim]:
    """Rows of the ledger from tables of :func:`kanlib.interactions.fidelity`, by what :data:`WORDS` calls them."""
    rows = []
    for kind, table in tables.items():
        for r, of_order in table.groupby("order"):
            reliability = of_order["reliability"].mean()
            for measure, column, aim in (("spearman", "spearman", TARGETS[r]), ("sign_top10", "signs", SIGNS)):
                values = torch.tensor(of_order[column].to_list(), dtype=torch.float64)
                low, high = metrics.interval(metrics.bootstrap_mean(values, 2000, generator(seed, "bootstrap")))
                met = kind == "own" or reliability <= RELIABLE or values.mean() >= aim
                what = "Spearman" if measure == "spearman" else "Sign agreement of the ten largest"
                rows.append(
                    claims.Claim(
                        id=f"{setup}.interactions.{kind}.{measure}.{r}",
                        statement=f"{what} of {WORDS[kind].format(r)} on {setup}, mean over {len(values)} "
                        f"examples (reliability {reliability:.2f}"
                        + ("" if met else f"; the aim, {aim}, is missed")
                        + ")",
                        value=values.mean().item(),
                        low=low,
                        high=high,
                        target=f">= {aim}" if met and reliability > RELIABLE and kind != "own" else "",
                        command=command,
                        cost="long",
                        device="cpu",
                    )
                )
                print(rows[-1].id, round(rows[-1].value, 3), round(low, 3), round(high, 3), flush=True)
    return rows


def reference_gradients(setup: str, recorded: store.Artifact) -> tuple[Tensor, Tensor]:
    """The network's gradients ``[E, N, m]`` and their masks: more than in the chapter, where it is at hand."""
    p = Perturbation.from_setup(setup)
    if p.source == "frozen":
        return recorded["gradient.reference"], recorded["masks.reference"]
    m = len(recorded.record["names"])
    masks = perturbation.masks(MORE, m, p.scale, p.seed, "reference")
    network = networks.network(p)
    if not torch.equal(network.positions, recorded["examples"]):
        raise ValueError(f"{setup} was run with other examples; run make book again")
    return network.gradients(masks), masks


if __name__ == "__main__":
    main(*sys.argv[1:])
