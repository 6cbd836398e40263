"""The KAN against its peers on a language model: heads and feed-forward networks of a small Llama.

No text that it was trained on is at hand, so it writes stories itself (temperature 1). A prompt is the beginning
of one, cut at a place drawn by the seed; what is explained is the margin of the token that comes next in the
story, of prompts on which the model's first choice is that token. Each of the 40 heads and 5 feed-forward
networks is scaled (``branch``). Every surrogate has the same masks; KAN and MLP have as many starts, decays and
averaged members, each chosen by validation. What they are fitted with was chosen on the development prompts,
which ``--development`` shows; results are of the reported ones. ``python -m benchmarks.language <folder>`` takes
the weights from elsewhere than ``../shared/weights/stories260K``. ``data/language.json`` has the table.
"""

import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers import in_order, predictions
from kanlib import claims, files, metrics, store
from kanlib.attribution.surrogates import MLP
from kanlib.machine import generator
from kanlib.masks import Split, gaussian
from kanlib.networks import find, llama
from kanlib.networks.examples import choose_texts
from kanlib.networks.language import next_token
from kanlib.networks.probe import Probe
from kanlib.networks.stories import sampled
from kanlib.networks.texts import Texts, of_tokens
from kanlib.setups import Perturbation, Surrogate

TARGET = store.ROOT / "data" / "language.json"
WEIGHTS = store.ROOT.parent / "shared" / "weights" / "stories260K"
SETUP = "stories260k"
COMPONENTS = ["layers.*.attention[*]", "layers.*.feed_forward"]
STORIES = 400
#: Tokens of a prompt: enough for a story to have begun.
SHORTEST, LONGEST = 16, 63
MASKS = {"fit": 4000, "validation": 500, "test": 1000}
REPORTED, DEVELOPMENT = 64, 8
CONTEST: dict[str, Any] = {
    "hidden": [24, 24, 12],
    "grid": 6,
    "rate": 0.02,
    "decays": [0.1, 0.3, 1.0],
    "restarts": 2,
    "members": 4,
}
ALONE = ("linear", "quadratic", "trees")


def asked(n: int) -> Perturbation:
    """The knobs by which prompts are chosen and asked."""
    return Perturbation(setup=SETUP, components=COMPONENTS, n_examples=n, batch_size=100, device="cpu")


def prompts(model: llama.Llama) -> Texts:
    """The beginnings of stories and the token that comes next in each."""
    stories = sampled(model, STORIES, most=LONGEST + 1)
    drawn = torch.rand(STORIES, generator=generator(0, "prompts"))
    ends = (SHORTEST + drawn * (LONGEST - SHORTEST + 1)).long().tolist()
    long_enough = [(story[: end + 1], end) for story, end in zip(stories, ends, strict=True) if len(story) > end]
    return of_tokens([row for row, _ in long_enough], [end for _, end in long_enough], model)


def recorded(folder: Path, *, development: bool) -> dict[str, Split]:
    """The responses to the masks of each split, ``[E, N]``."""
    model = llama.read(folder / "stories260K.bin")
    p, texts = asked(DEVELOPMENT if development else REPORTED), prompts(model)
    texts = texts.of(choose_texts(model, texts, p, development=development))
    names = find(model, p.components)
    probe = Probe(
        model, names, texts.tokens, texts.rows, output_function=next_token(texts), batch_size=p.batch_size
    )
    for sentence in probe.check():
        print(sentence)
    masks = {split: gaussian(n, len(names), p.scale, p.seed, split) for split, n in MASKS.items()}
    return {split: Split(sigma, probe.responses(sigma, split)[0], p.scale) for split, sigma in masks.items()}


def rows(predicted: dict[str, Tensor], seconds: dict[str, float], true: Tensor) -> list[dict]:
    """A row for each surrogate."""
    out = []
    for name, values in predicted.items():
        kind, _, single = name.partition(".")
        score = metrics.pearson_estimate(values, true)
        row = {
            "surrogate": metrics.TITLES[kind],
            "members": 1 if single or kind in ALONE else CONTEST["members"],
            "prompts": len(true),
            "masks": MASKS["fit"],
            "CPU seconds a prompt": round(seconds[kind], 2),
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
    command = claims.Command("python -m benchmarks.language", device="2 CPU cores")
    where = f"on {len(true)} prompts of the Llama of 260 thousand weights, 45 heads and feed-forward networks"
    best = max(("mlp", *ALONE), key=lambda name: metrics.pearson(predicted[name], true).mean())
    peers = ", ".join(metrics.TITLES[name] for name in ("mlp", *ALONE))
    rest = f"{where}, {MASKS['fit']} fit masks"
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


def main(arguments: Sequence[str]) -> None:
    torch.set_num_threads(2)
    warnings.filterwarnings("ignore", message="a KAN of")
    development = "--development" in arguments
    folders = [Path(argument) for argument in arguments if not argument.startswith("-")]
    start = time.perf_counter()
    splits = recorded(folders[0] if folders else WEIGHTS, development=development)
    print(f"{time.perf_counter() - start:.0f} seconds for the responses", flush=True)
    knobs = Surrogate(setup=SETUP, **CONTEST)
    members, alone, seconds = predictions(splits["fit"], splits["validation"], splits["test"], knobs, MLP, ALONE)
    predicted, true = in_order(members, alone), splits["test"].responses
    table = rows(predicted, seconds, true)
    measured = found(predicted, true)
    for claim in measured:
        print(claim, flush=True)
    if not development:
        files.write_json(TARGET, table)
        claims.record(measured)


if __name__ == "__main__":
    main(sys.argv[1:])
