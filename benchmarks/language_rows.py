"""A language model under removals: heads against ProxySPEX, COAR on thousands of rows, and the logits.

``removal``: single ones, pairs and random sets of the 45 heads and feed-forward networks are removed; the KAN,
COAR, ProxySPEX and sums of single removals have the same 512 forward passes a prompt, and are asked about others.
``rows``: each row of each matrix is a component, 3,000 of them, as COAR's authors have it on GPT-2; what is
explained is the mean margin of a story's tokens, at three shares α. 10,000 masks were set after a try on other
stories (seed 99), of which none is reported; the authors have no baseline here, so single removals stand beside.
``logits``: those of the project's Llama beside those of ``transformers`` with the same weights. ``throughput``:
responses a second over texts a second of plain inference, both in CPU seconds of one core, which other work on the
machine changes little. ``python -m
benchmarks.language_rows <part> … [folder]`` takes the weights from a folder elsewhere than
``../shared/weights/stories260K``.
"""

import importlib
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.language import REPORTED, SETUP, WEIGHTS, P, probe, prompted
from benchmarks.runs import hardware
from kanlib import claims, files, machine, metrics, store
from kanlib.attribution import BASELINES, SURROGATES, Coar, budgeted, held_out, of_size
from kanlib.masks import Split, ablations, gaussian, random_removals, removals
from kanlib.networks import llama
from kanlib.networks.language import mean_over_tokens, next_token
from kanlib.networks.stories import sampled
from kanlib.networks.texts import of_tokens
from kanlib.setups import Surrogate

DATA = store.ROOT / "data"
ROWS = ["layers.*.attention.w*[*]", "layers.*.feed_forward.w*[*]"]
SHARES = (0.05, 0.025, 0.01)
PUBLISHED = {0.05: 0.83, 0.025: 0.85, 0.01: 0.89}  # of GPT-2, by COAR's authors
CLAIMED = 0.025
MASKS = {"fit": 10_000, "validation": 500, "test": 500}
PASSES, ALL_PASSES = 512, 3000  # that methods get, and those with what they are asked about
KAN: dict[str, Any] = {"hidden": [24, 24, 12], "grid": 6, "decays": [0.1, 0.3, 1.0], "restarts": 2, "members": 4}
TIMED = 8  # prompts, of as many masks as the setup fits to
METHODS = {"kan": "kan", "coar": "linear", "proxyspex": "proxyspex", "leave_one_out": "leave_one_out"}


def command(part: str) -> claims.Command:
    """The command that measures a part."""
    return claims.Command(f"python -m benchmarks.language_rows {part}", device=hardware())


def removal(folder: Path) -> None:
    """The KAN and its peers on sets of removed heads and feed-forward networks."""
    speaks, texts = prompted(folder)
    here = probe(speaks.model, texts, P.components, next_token)
    m = len(here.components)
    masks = ablations(ALL_PASSES, m, 0)
    pool = of_size(Split(masks, here.responses(masks, "removal")[0]).distinct(), 1)
    rest, test = held_out(pool, len(pool.masks), seed=0)
    data, validation = budgeted(rest, PASSES)
    true, predicted, table = test.responses, {}, []
    knobs = Surrogate(setup=SETUP, **KAN)
    for name, method in METHODS.items():
        fitted = (SURROGATES | BASELINES)[method](knobs).fit(data, validation)
        predicted[name] = fitted.predict(test.masks).double()
        score = metrics.pearson_estimate(predicted[name], true)
        row = {"method": metrics.TITLES[method], "Pearson": score.value, "low": score.low, "high": score.high}
        row["normalised MSE"] = metrics.normalised_mse(predicted[name], true).mean().item()
        table.append(row)
        print(*row.values(), sep=" | ", flush=True)
    files.write_json(DATA / "language_removal.json", table)
    words = (
        f"on removals of 45 heads and feed-forward networks of the Llama, 512 forward passes, {len(true)} prompts"
    )
    claims.record(
        [
            command("removal").claim(
                f"{SETUP}.removal.kan_minus_{peer}",
                f"Test Pearson of the KAN less that of {metrics.TITLES[METHODS[peer]]} {words}",
                metrics.ahead(predicted["kan"], predicted[peer], true),
            )
            for peer in ("coar", "proxyspex", "leave_one_out")
        ]
    )


def rows(folder: Path) -> None:
    """COAR and single removals on the rows of all matrices."""
    model = llama.read(folder / "stories260K.bin").to(machine.device(P.device))
    stories = sampled(model, REPORTED, seed=1, most=P.longest + 1)
    here = probe(model, of_tokens(stories, None, model), ROWS, mean_over_tokens)
    m = len(here.components)
    alone = here.responses(removals(m, [(j,) for j in range(m)]), "alone")[0]
    table, measured = [], []
    for share in SHARES:
        splits = {}
        for name, n in MASKS.items():
            sigma = random_removals(n, m, share, 0, f"rows {share:g} {name}")
            splits[name] = Split(sigma, here.responses(sigma, name)[0])
        coar = Coar().fit(splits["fit"], splits["validation"])
        test = splits["test"]
        predicted = {
            "coar": coar.predict(test.masks),
            "leave_one_out": -(test.masks.double() @ alone.double().T).T,
        }
        scores = {name: metrics.pearson_estimate(values, test.responses) for name, values in predicted.items()}
        for name, score in scores.items():
            row = {"share": share, "method": metrics.TITLES[METHODS[name]], "Pearson": score.value}
            table.append(row | {"low": score.low, "high": score.high, "COAR on GPT-2": PUBLISHED[share]})
            print(*table[-1].values(), sep=" | ", flush=True)
        files.write_json(DATA / "language_rows.json", table)
        if share == CLAIMED:
            words = (
                f"Test Pearson of COAR on {m} rows of the Llama, a share of {share:g} removed, {REPORTED} stories"
            )
            lead = metrics.ahead(predicted["coar"], predicted["leave_one_out"], test.responses)
            more = (
                f"Test Pearson of COAR less that of single removals on {m} rows of the Llama, a share of {share:g}"
            )
            measured = [
                command("rows").claim(f"{SETUP}.rows.coar.pearson", words, scores["coar"], ">= 0.75", aim=True),
                command("rows").claim(f"{SETUP}.rows.coar_minus_loo", more, lead),
            ]
    claims.record(measured)


def same_in_transformers(transformers: Any, model: llama.Llama) -> torch.nn.Module:
    """The Llama of transformers with the weights of ours; its rotary pairs lie half a head apart."""
    shape, state = model.shape, model.state_dict()
    config = transformers.LlamaConfig(
        vocab_size=shape.n_tokens,
        hidden_size=shape.dim,
        intermediate_size=shape.hidden_dim,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_kv_heads,
        max_position_embeddings=shape.context,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        use_cache=False,
    )
    names = {"tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head"}
    within = {"attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    within |= {f"attention.w{k}": f"self_attn.{k}_proj" for k in "qkvo"}
    within |= {f"feed_forward.w{k}": f"mlp.{to}_proj" for k, to in ((1, "gate"), (2, "down"), (3, "up"))}
    names |= {f"layers.{i}.{a}": f"model.layers.{i}.{b}" for i in range(shape.n_layers) for a, b in within.items()}
    weights = {}
    for name, value in state.items():
        layer = name.removesuffix(".weight")
        if layer.endswith(("wq", "wk")):
            heads = shape.n_heads if layer.endswith("wq") else shape.n_kv_heads
            value = value.view(heads, -1, 2, shape.dim).transpose(1, 2).reshape(value.shape)
        weights[f"{names[layer]}.weight"] = value
    other = transformers.LlamaForCausalLM(config)
    other.load_state_dict(weights)
    return other.eval().requires_grad_(False)


def logits(folder: Path) -> None:
    """The largest difference of a logit from that of ``transformers``."""
    model = llama.read(folder / "stories260K.bin").eval()
    other = same_in_transformers(importlib.import_module("transformers"), model)
    texts = of_tokens(sampled(model, 16, seed=2), None, model)
    with torch.inference_mode():
        difference = (model(texts.tokens) - other(texts.tokens).logits).abs()
    kept = torch.arange(texts.tokens.shape[1]) < texts.lengths[:, None]
    words = (
        "Largest difference of a logit of the Llama from that of transformers with the same weights, 16 stories"
    )
    claims.record([command("logits").claim("llama.logit_error", words, float(difference[kept].max()), "<= 1e-4")])


def cpu_seconds(function: Callable[[], object]) -> float:
    """What it takes of one core."""
    start = time.process_time()
    function()
    return time.process_time() - start


def throughput(folder: Path) -> None:
    """What gates cost: the same prompts, batches and numbers of passes, with masks and without."""
    torch.set_num_threads(1)
    speaks, texts = prompted(folder)
    model = speaks.model.to("cpu")
    whole = probe(model, texts, P.components, next_token, torch.device("cpu"))
    sigma = gaussian(P.n_fit, len(whole.components), P.scale, 0, "timing")

    def plain(batch: torch.Tensor) -> None:
        with torch.inference_mode():
            for _ in range(P.n_fit // P.batch_size):
                model(batch)

    ratios: list[float] = []
    for i in range(TIMED):
        here = whole.of(slice(i, i + 1))
        without = cpu_seconds(partial(plain, here.x.expand(P.batch_size, -1).contiguous()))
        ratios.append(without / cpu_seconds(partial(here.responses, sigma, None)))
    words = (
        f"Responses a second of the Llama with 45 gates over texts a second of plain inference, {P.n_fit} masks "
        f"in batches of {P.batch_size}, CPU seconds of one core; median and range over {len(ratios)} prompts"
    )
    estimate = metrics.Estimate(statistics.median(ratios), min(ratios), max(ratios))
    print(estimate)
    on_one = claims.Command("python -m benchmarks.language_rows throughput", device="1 CPU core")
    claims.record([on_one.claim(f"{SETUP}.relative_throughput", words, estimate, ">= 0.9", aim=True)])


PARTS = {"removal": removal, "rows": rows, "logits": logits, "throughput": throughput}


def main(arguments: Sequence[str]) -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    warnings.filterwarnings("ignore", message="a KAN of")
    folders = [Path(argument) for argument in arguments if argument not in PARTS]
    for part in [argument for argument in arguments if argument in PARTS] or PARTS:
        PARTS[part](folders[0] if folders else WEIGHTS)


if __name__ == "__main__":
    main(sys.argv[1:])
