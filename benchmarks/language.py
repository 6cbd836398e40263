"""The KAN against its peers on a language model: heads and feed-forward networks of a small Llama.

No text that it was trained on is at hand, so it writes stories itself (temperature 1). A prompt is the beginning
of one, cut at a place drawn by the seed; what is explained is the margin of the token that comes next in the
story, of prompts on which the model's first choice is that token. Each of the 40 heads and 5 feed-forward
networks is scaled (``branch``). Every surrogate has the same masks; KAN and MLP have as many starts, decays and
averaged members, each chosen by validation, and as many shapes and rates, which the development prompts choose
(``--development``, ``data/language_development.json``); results are of the reported ones, asked once. ``python -m
benchmarks.language <folder>`` takes the weights from elsewhere than ``../shared/weights/stories260K``.
``data/language.json`` has the table.
"""

import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers import in_order, mlp_of, of_kans, of_mlps
from benchmarks.runs import hardware
from kanlib import claims, files, machine, metrics, store
from kanlib.attribution import SURROGATES
from kanlib.masks import Split
from kanlib.networks import find
from kanlib.networks.language import next_token
from kanlib.networks.outputs import OutputFunction
from kanlib.networks.probe import Probe
from kanlib.networks.prompting import designs, prompts
from kanlib.networks.speakers import Speaker, speaker
from kanlib.networks.texts import Texts
from kanlib.setups import Language, Surrogate

TARGET = store.ROOT / "data" / "language.json"
TRIED = store.ROOT / "data" / "language_development.json"
WEIGHTS = store.ROOT.parent / "shared" / "weights" / "stories260K"
SETUP = "stories260k"
REPORTED, DEVELOPMENT = 64, 8
#: The setup's own prompts and masks, of more prompts than its chapter shows.
P = Language.from_setup(SETUP, {"n_examples": REPORTED, "n_development": DEVELOPMENT, "batch_size": 500})
CONTEST: dict[str, Any] = {"decays": [0.1, 0.3, 1.0], "restarts": 2, "members": 4}
#: The KAN's nodes, intervals and rate, and the MLP's widths and rate: as many of one as of the other.
KANS: list[dict[str, Any]] = [
    {"hidden": hidden, "grid": grid, "steps": steps, "rate": rate}
    for hidden, grid, steps, rates in (
        ([24, 24, 12], 6, 1600, (0.01, 0.02)),
        ([48, 24], 6, 3200, (0.005, 0.01)),
        ([64, 64, 32], 4, 3200, (0.005, 0.01)),
    )
    for rate in rates
]
MLPS: list[dict[str, Any]] = [
    {"widths": (width,) * 3, "steps": steps, "rate": rate}
    for width, steps, rates in (
        (128, 1600, (0.005, 0.01)),
        (256, 1600, (0.005, 0.01)),
        (256, 3200, (0.0025, 0.005)),
    )
    for rate in rates
]
ALONE = ("linear", "quadratic", "trees")


def prompted(folder: Path, *, development: bool = False) -> tuple[Speaker, Texts]:
    """The model, on the device that asks, and its prompts: those to be reported, or those of development."""
    speaks = speaker(f"llama2c:{folder}")
    device = machine.device(P.device)
    speaks.model.to(device)
    chosen = slice(REPORTED, None) if development else slice(REPORTED)
    return speaks, prompts(speaks, P).of(chosen)


def probe(
    model: nn.Module,
    texts: Texts,
    components: Sequence[str],
    read: Callable[[Texts], OutputFunction],
    device: torch.device | None = None,
) -> Probe:
    """These components of the model, whose output on these texts is read so; ``None``: on the device that asks."""
    there = texts.to(device or machine.device(P.device))
    names = find(model, components)
    return Probe(model, names, there.tokens, there.rows, "branch", read(there), P.batch_size)


def recorded(folder: Path, *, development: bool) -> dict[str, Split]:
    """The responses to the masks of each split, ``[E, N]``."""
    speaks, texts = prompted(folder, development=development)
    here = probe(speaks.model, texts, P.components, next_token)
    for sentence in here.check():
        print(sentence)
    masks = designs(P, len(here.components))
    asked = {split: masks[split] for split in ("fit", "validation", "test")}
    return {split: Split(sigma, here.responses(sigma, split)[0], P.scale) for split, sigma in asked.items()}


def rows(predicted: dict[str, Tensor], true: Tensor) -> list[dict]:
    """A row for each surrogate."""
    out = []
    for name, values in predicted.items():
        kind, _, single = name.partition(".")
        score = metrics.pearson_estimate(values, true)
        row = {
            "surrogate": metrics.TITLES[kind],
            "members": 1 if single or kind in ALONE else CONTEST["members"],
            "prompts": len(true),
            "masks": P.n_fit,
            "Pearson": score.value,
            "low": score.low,
            "high": score.high,
            "normalised MSE": metrics.normalised_mse(values, true).mean().item(),
        }
        print(*row.values(), sep=" | ", flush=True)
        out.append(row)
    return out


def found(predicted: dict[str, Tensor], true: Tensor) -> list[claims.Claim]:
    """The KAN's correlation, and how far it is ahead of COAR and of the best peer."""
    command = claims.Command("python -m benchmarks.language", device=hardware())
    where = f"on {len(true)} prompts of the Llama of 260 thousand weights, 45 heads and feed-forward networks"
    best = max(("mlp", *ALONE), key=lambda name: metrics.pearson(predicted[name], true).mean())
    peers = ", ".join(metrics.TITLES[name] for name in ("mlp", *ALONE))
    rest = f"{where}, {P.n_fit} fit masks"
    return [
        command.claim(
            f"{SETUP}.kan.pearson",
            f"Test Pearson of the KAN {rest}",
            metrics.pearson_estimate(predicted["kan"], true),
        ),
        command.claim(
            f"{SETUP}.kan_minus_linear",
            f"Test Pearson of the KAN less that of COAR {rest}",
            metrics.ahead(predicted["kan"], predicted["linear"], true),
            "low > 0",
        ),
        command.claim(
            f"{SETUP}.kan_minus_best",
            f"Test Pearson of the KAN less that of {metrics.TITLES[best]}, the best of {peers}, {rest}",
            metrics.ahead(predicted["kan"], predicted[best], true),
            "low >= -0.005",
            aim=True,
        ),
    ]


def knobs_of(changes: Mapping[str, Any]) -> Surrogate:
    """The knobs of a fit of KANs or MLPs with these."""
    fits_on: dict[str, Any] = {"device": "cuda" if torch.cuda.is_available() else "cpu"}
    known = {name: value for name, value in changes.items() if name in Surrogate.model_fields}
    return Surrogate(setup=SETUP, **fits_on, **CONTEST, **known)


def of_members(name: str, changes: Mapping[str, Any], splits: Mapping[str, Split]) -> Tensor:
    """What KANs or MLPs of that shape and rate say of the test masks, ``[E, members, N]``."""
    data, validation, test = (splits[part] for part in ("fit", "validation", "test"))
    if name == "kan":
        return of_kans(data, validation, test, knobs_of(changes))
    return of_mlps(data, validation, test, knobs_of(changes), mlp_of(changes["widths"], changes["rate"]))


def development(splits: Mapping[str, Split]) -> None:
    """What each shape and rate is worth to the means of four members on the development prompts."""
    out: list[dict[str, Any]] = []
    for name, candidates in {"mlp": MLPS, "kan": KANS}.items():
        for i, changes in enumerate(candidates):
            mean = of_members(name, changes, splits).mean(1)
            score = metrics.pearson(mean, splits["test"].responses).mean().item()
            out.append({"surrogate": name, "candidate": i, "Pearson": score} | changes)
            print(*out[-1].values(), sep=" | ", flush=True)
            files.write_json(TRIED, out)


def chosen(name: str) -> dict[str, Any]:
    """The shape and rate that did best on the development prompts."""
    tried = [row for row in json.loads(TRIED.read_text(encoding="utf8")) if row["surrogate"] == name]
    best = max(tried, key=lambda row: row["Pearson"])
    return {"kan": KANS, "mlp": MLPS}[name][best["candidate"]]


def main(arguments: Sequence[str]) -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    warnings.filterwarnings("ignore", message="a KAN of")
    folders = [Path(argument) for argument in arguments if not argument.startswith("-")]
    tries = "--development" in arguments
    splits = recorded(folders[0] if folders else WEIGHTS, development=tries)
    if tries:
        development(splits)
        return
    members = {name: of_members(name, chosen(name), splits) for name in ("kan", "mlp")}
    alone: dict[str, Tensor] = {}
    for name in ALONE:
        fitted = SURROGATES[name](knobs_of({})).fit(splits["fit"], splits["validation"])
        alone[name] = fitted.predict(splits["test"].masks)
    predicted, true = in_order(members, alone), splits["test"].responses
    table, measured = rows(predicted, true), found(predicted, true)
    for claim in measured:
        print(claim, flush=True)
    files.write_json(TARGET, table)
    claims.record(measured)


if __name__ == "__main__":
    main(sys.argv[1:])
