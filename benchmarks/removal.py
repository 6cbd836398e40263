"""Masks that remove: the KAN against what a reader would have taken, the same forward passes for all.

The twelve recorded examples of each setup, at the gate site ``branch``. Every third of the recorded sets tests; of
the others, single components and then random sets are fitted and validated, 64 or 128 of them. KAN and MLP are
means of four members of six, as in :mod:`benchmarks.peers`; that so few masks want as wide a KAN was seen on the
development examples of the digits. ``data/removal.json`` has every method; one that fails on an example is said
to. ``python -m benchmarks.removal <setup> …`` leaves rows of other setups as they are.
"""

import json
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import get_args

import torch
from torch import Tensor

from benchmarks.peers import CONTEST, GRID
from kanlib import claims, files, metrics, store
from kanlib.attribution import BASELINES, SURROGATES, budgeted, held_out, of_size
from kanlib.errors import BadInputError
from kanlib.masks import Split, ablations, every_removal
from kanlib.networks import network
from kanlib.setups import Perturbation, Recording, RemovalModel, Surrogate, SurrogateName

TARGET = store.ROOT / "data" / "removal.json"
SETUPS = ("digits_resnet18", "cifar10_resnet18", "imagenet_deit_tiny")
EXAMPLES = 12
BUDGETS = (64, 128)
CLAIMED = 128
PEERS = {"coar": "linear", "proxyspex": "proxyspex", "leave_one_out": "leave_one_out"}
#: SPEX chooses its own sets, of which most were not recorded.
METHODS = [m for m in (*get_args(SurrogateName), *get_args(RemovalModel)) if m not in ("pykan", "spex")]


def removals(setup: str) -> Split:
    """The recorded responses to sets of removed components, each set once and none of them empty."""
    p = Perturbation.from_setup(setup, {"n_examples": EXAMPLES, "run": "removal"})
    answers = network(p)
    m = len(answers.components)
    recording = Recording.from_setup(setup)
    if recording.all_sets:
        masks, name = every_removal(m), "removal"
    else:
        masks, name = ablations(recording.n_ablation, m, p.seed), "ablation"
    return of_size(Split(masks, answers.responses(name, masks)[0]).distinct(), 1)


def predictions(
    setup: str, data: Split, validation: Split, test: Split
) -> tuple[dict[str, Tensor], dict[str, float], dict[str, str]]:
    """Test predictions ``[E, N]`` of every method, the seconds of each fit, and why some cannot be asked."""
    knobs = Surrogate.from_setup(setup, CONTEST | {"grid": GRID["branch"]})
    out, seconds, absent = {}, {}, {}
    for name in METHODS:
        start = time.process_time()
        try:
            model = (SURROGATES | BASELINES)[name](knobs).fit(data, validation)
        except BadInputError as error:
            absent[name] = str(error)
            continue
        seconds[name] = (time.process_time() - start) / len(data.responses)
        out[name] = model.predict(test.masks).double()
    return out, seconds, absent


def rows(
    setup: str, budget: int, predicted: Mapping[str, Tensor], seconds: Mapping[str, float], true: Tensor
) -> list[dict]:
    """A row for each method."""
    out = []
    for name, values in predicted.items():
        scores = metrics.scores({name: values}, true)
        row = {"setup": setup, "masks": budget, "method": metrics.TITLES[name]}
        row |= {"members": 4 if name in ("kan", "mlp") else 1, "CPU seconds an example": round(seconds[name], 2)}
        for key in ("spearman", "pearson", "normalised_mse"):
            failed = int(scores[key].isna().sum())
            row[metrics.TITLES[key]] = f"failed on {failed} of {len(true)}" if failed else scores[key].mean()
        out.append(row)
        print(*row.values(), sep=" | ", flush=True)
    return out


def leads(setup: str, predicted: Mapping[str, Tensor], true: Tensor) -> list[claims.Claim]:
    """How far the KAN is ahead of COAR, of ProxySPEX, of the sums of single removals, and of the best of all."""
    command = claims.Command(f"python -m benchmarks.removal {setup}", device="2 CPU cores")
    scores = {name: metrics.pearson(values, true).mean().nan_to_num(-1) for name, values in predicted.items()}
    best = max(scores.keys() - {"kan"}, key=scores.__getitem__)
    return [
        command.claim(
            f"{setup}.removal.kan_minus_{words}",
            f"Test Pearson of the KAN, a mean of four members, less that of {metrics.TITLES[peer]} on removals "
            f"that were not seen before, {CLAIMED} forward passes each, on {setup}, {len(true)} examples",
            metrics.ahead(predicted["kan"], predicted[peer], true),
        )
        for words, peer in (*PEERS.items(), ("best", best))
    ]


def main(asked: Sequence[str]) -> None:
    torch.set_num_threads(2)
    warnings.filterwarnings("ignore", message="a KAN of")
    for setup in asked:
        pool = removals(setup)
        rest, test = held_out(pool, len(pool.masks), seed=0)
        found = []
        for budget in BUDGETS:
            predicted, seconds, absent = predictions(setup, *budgeted(rest, budget), test)
            found += rows(setup, budget, predicted, seconds, test.responses)
            print(absent or "nothing is absent", flush=True)
        kept = json.loads(TARGET.read_text(encoding="utf8")) if TARGET.exists() else []
        order = {name: i for i, name in enumerate(SETUPS)}
        of_others = [row for row in kept if row["setup"] != setup]
        files.write_json(TARGET, sorted(of_others + found, key=lambda row: order[row["setup"]]))
        claims.record(leads(setup, predicted, test.responses))


if __name__ == "__main__":
    main(sys.argv[1:] or SETUPS)
