"""Whether a KAN as the encoder of a sparse autoencoder helps, at equal sparsity and equal parameters.

Eight kinds of autoencoders of 512 features, four L0 and three seeds each, of the residual stream after the fourth
of the five layers of a small Llama (``layers.3``). All see the same vectors in the same order, two million tokens
of stories that the Llama writes itself (temperature 1), as no text that it was trained on is at hand. What they
are judged by are other stories: the loss of the network with reconstructions in place of the stream. Each kind
chooses its learning rate from the same few, by what it explains of stories that are used for nothing else.

``python -m benchmarks.sparse_autoencoders <folder>`` takes the weights from elsewhere than
``../shared/weights/stories260K``. What was sampled and trained stays in ``_artifacts/sae``, and a run that was
stopped goes on there; ``--device=cpu`` keeps it off a GPU, and ``--smoke`` tries everything in small, leaving the
project's data alone. ``data/sae_runs.json`` has each autoencoder, ``data/sae.json`` their means with intervals,
``data/sae_rates.json`` how rates were chosen, ``data/sae_features.json`` cards of features. ``--output`` asks the
same of KANs and their controls on what the feed-forward network of that layer puts out, ``data/sae_output.json``;
with ``--arms=topk,k1`` it takes these alone. ``--record`` writes what the chapter is made from, and ``--hours``
measures only what training takes.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.runs import hardware
from kanlib import claims, files, machine, store
from kanlib.errors import BadInputError
from kanlib.machine import generator
from kanlib.metrics import Estimate, interval
from kanlib.networks import llama, streams, tokens
from kanlib.networks.stories import sampled
from kanlib.networks.streams import Stream
from kanlib.networks.texts import Texts, of_tokens, prompts
from kanlib.sae import (
    TITLES,
    Autoencoder,
    Measures,
    Run,
    activations,
    logit_weights,
    measured,
    profiles,
    shapes,
    stability,
    text_losses,
    train,
)
from kanlib.sae.gates import Gates, gates
from kanlib.sae.recorded import KIND, masks
from kanlib.setups import SparseAutoencoder

DATA = store.ROOT / "data"
WEIGHTS = store.ROOT.parent / "shared" / "weights" / "stories260K"
SETUP, LAYER = "stories260k_sae", 3
SITE = f"layers.{LAYER}"
NEURONS = f"{SITE}.feed_forward.w3"
COMMAND = "python -m benchmarks.sparse_autoencoders"
TIMED = 10  # steps on two CPU cores, an arm, and three times as many
DRAWS = 4000  # of seeds and stories behind intervals
#: Whose features have cards, and how many of them.
CARDS_OF, CARDS_L0, CARDS = "k1", 16, 96
#: What the network is to go on with, for the rank and probability of the right token with and without.
CAPABILITIES = [
    ("Once upon a time, there was a little girl named", " Lily"),
    ("Tom and Sue went to the park. Tom said to", " Sue"),
    ("The dog was very happy. He wagged his", " tail"),
    ("It was raining, so Mia took her", " umbrella"),
    ("The boy was hungry. He wanted to", " eat"),
    ("She opened the box and saw a big red", " ball"),
]


@dataclass(frozen=True)
class Plan:
    """How much of everything, of which vectors."""

    knobs: SparseAutoencoder
    site: str = SITE
    stories: int = 8192
    held_out: int = 512
    development: int = 256
    longest: int = 256
    least: int = 2_000_000
    rates: tuple[float, ...] = (0.005, 0.01, 0.02)  # that each arm chooses from
    chosen_at: int | None = None  # the L0 at which it does; None: all of them

    @property
    def runs(self) -> list[Run]:
        """Of each arm: every L0 with every seed."""
        return [Run(l0, seed) for l0 in self.knobs.l0 for seed in range(self.knobs.n_seeds)]


WHOLE = Plan(SparseAutoencoder(setup=SETUP))
#: What KANs and their controls make of what the feed-forward network adds to the stream.
OUTPUT = Plan(
    SparseAutoencoder(setup=SETUP, arms=["topk", "k1", "k2", "mlp"], l0=[4, 16]),
    f"{SITE}.feed_forward",
    chosen_at=16,
)
SMOKE: dict[str, Any] = {"stories": 24, "held_out": 16, "development": 8, "longest": 64, "least": 500}
SMOKE_KNOBS = {"features": 128, "l0": [4, 16], "n_seeds": 2, "steps": 20, "minibatch": 256}


#: What the chapter is made from: stories, and of their vectors so many to train and to test on; tokens whose
#: features are gated, how many of each, and masks over them.
RECORDING = Plan(
    SparseAutoencoder(setup=SETUP, l0=[8], n_seeds=1, steps=1500, minibatch=1024),
    stories=352,
    held_out=40,
    development=8,
    least=50_000,
    rates=(0.01,),
)
RECORDED = 16_000, 4_000
GATED, FEATURES = 8, 8
MASKS = {"fit": 2000, "validation": 250, "test": 500}


@dataclass(frozen=True)
class Setting:
    """A network and the vectors that flow through it.

    Attributes:
        network: the Llama.
        spelt: its tokeniser.
        training: vectors that autoencoders learn from.
        development: those by which their learning rates are chosen.
        held: those that they are judged by, with their texts.
        texts: held out.
        clean: loss of each text in nats, ``[n]``; ``zero``: with zeros in place of the vectors.
        zero: see above.
        site: the module that puts the vectors out.
    """

    network: llama.Llama
    spelt: tokens.Tokeniser
    training: Stream
    development: Stream
    held: Stream
    texts: Texts
    clean: Tensor
    zero: Tensor
    site: str

    def recovered(self, loss: Tensor) -> Tensor:
        """Loss recovered over all texts, of losses ``[..., n]``."""
        return streams.recovered(loss.sum(-1), self.clean.sum(), self.zero.sum())


def stories(network: llama.Llama, plan: Plan, folder: Path, weights: str) -> list[list[int]]:
    """Held-out stories, those for decisions, and then those to train on; from the folder where they are there."""
    target = folder / "stories.safetensors"
    n = plan.stories + plan.held_out + plan.development
    parameters = {"n": n, "longest": plan.longest, "weights": weights}
    if not target.exists() or store.load(target).record["parameters"] != parameters:
        on_gpu = network.output.weight.is_cuda
        rows = sampled(network, n, most=plan.longest, batch_size=4480 if on_gpu else 256)
        whole = of_tokens([row + [0] * (2 - len(row)) for row in rows])
        lengths = torch.tensor([len(row) for row in rows])
        content = {"tokens": whole.tokens.short(), "lengths": lengths}
        store.save(target, content, kind="stories", parameters=parameters, inputs={})
    kept = store.load(target).content
    rows = [row[:n] for row, n in zip(kept["tokens"].tolist(), kept["lengths"].tolist(), strict=True)]
    return [row for row in rows if len(row) > 1]


def setting(weights: Path, plan: Plan, folder: Path, device: torch.device) -> Setting:
    """The network, its stream after the layer, and its losses."""
    file = weights / "stories260K.bin"
    network, spelt = llama.read(file).to(device), tokens.read(weights / "tok512.bin")
    rows = stories(network, plan, folder, store.tensors_hash(network.state_dict()))
    first, second = plan.held_out, plan.held_out + plan.development
    parts = rows[:first], rows[first:second], rows[second:]
    held, middle, rest = (of_tokens(some, None, network) for some in parts)
    training, development = (streams.read(network, some, plan.site, 256) for some in (rest, middle))
    if len(training) < plan.least:
        raise BadInputError(
            f"{len(training):,} tokens were sampled, expected {plan.least:,}; sample more stories."
        )
    clean = streams.losses(network, held, 256)
    with streams.replaced(network, plan.site, torch.zeros_like):
        zero = streams.losses(network, held, 256)
    of_held = streams.read(network, held, plan.site, 256)
    return Setting(network, spelt, training, development, of_held, held, clean, zero, plan.site)


def rate_of(arm: str, here: Setting, plan: Plan) -> tuple[float, dict[str, float]]:
    """The rate of an arm, and what each explains of the development vectors, mean over L0 with a seed each."""
    runs = [Run(l0, 0) for l0 in ([plan.chosen_at] if plan.chosen_at else plan.knobs.l0)]
    explained: dict[str, float] = {}
    for rate in plan.rates if len(plan.rates) > 1 else ():
        model = train(arm, here.training.vectors, runs, plan.knobs.model_copy(update={"rate": rate}))
        explained[f"{rate:g}"] = measured(model, here.development.vectors).explained.mean().item()
    best = max(explained, key=explained.__getitem__, default=f"{plan.rates[0]:g}")
    return float(best), explained


def trained(arm: str, here: Setting, plan: Plan, folder: Path) -> tuple[Autoencoder, float, dict[str, float]]:
    """The autoencoders of an arm, their rate and what each rate explained; from the folder if they are there."""
    target, x = folder / f"{arm}.safetensors", here.training.vectors
    parameters = plan.knobs.model_dump(exclude={"run", "arms", "device", "threads", "rate"})
    parameters |= {"tokens": len(x), "rates": list(plan.rates)}
    if not target.exists() or store.load(target).record["parameters"] != parameters:
        rate, explained = rate_of(arm, here, plan)
        print(f"{arm}: rate {rate:g} of {explained}", flush=True)
        state = train(arm, x, plan.runs, plan.knobs.model_copy(update={"rate": rate}), arm).state_dict()
        more = {"rate": rate, "explained": explained}
        store.save(target, state, kind=arm, parameters=parameters, inputs={}, **more)
    kept = store.load(target)
    model = Autoencoder(arm, plan.runs, x, plan.knobs.features, plan.knobs.splines)
    model.load_state_dict(kept.content)
    return model.eval(), kept.record["rate"], kept.record["explained"]


@dataclass(frozen=True)
class Found:
    """An arm on held-out stories.

    Attributes:
        model: its autoencoders.
        rate: that was chosen.
        explained: of the development vectors, by rate.
        measures: of each.
        losses: of each story with each, ``[R, n]``.
        stable: mean maximal cosine of each L0 to other seeds.
    """

    model: Autoencoder
    rate: float
    explained: dict[str, float]
    measures: Measures
    losses: Tensor
    stable: dict[int, float]

    def of(self, l0: int) -> list[int]:
        """Places of the runs of an L0, by seed."""
        return [i for i, run in enumerate(self.model.runs) if run.l0 == l0]


def found(arm: str, here: Setting, plan: Plan, folder: Path) -> Found:
    model, rate, explained = trained(arm, here, plan, folder)
    measures = measured(model, here.held.vectors)
    loss = text_losses(model, here.network, here.texts, here.site, 256)
    live, rows, stable = measures.density > 0, model.rows.detach().cpu(), {}
    for l0 in plan.knobs.l0:
        of = [i for i, run in enumerate(model.runs) if run.l0 == l0]
        stable[l0] = stability(rows[of], live[of]).mean().item()
    shown = {l0: round(here.recovered(loss[[r.l0 == l0 for r in model.runs]]).mean().item(), 4) for l0 in stable}
    print(f"{arm}: loss recovered {shown}", flush=True)
    return Found(model, rate, explained, measures, loss, stable)


def estimate(one: Tensor, here: Setting, other: Tensor | None = None) -> Estimate:
    """Mean loss recovered over seeds, or by how much it is above another arm's; over seeds and stories.

    Args:
        one: losses of S seeds on n stories, ``[S, n]``.
        here: with the losses that they are between.
        other: the same of another arm, whose seeds and stories are drawn together with these.
    """
    lost = one if other is None else one - other
    source = generator(0, "bootstrap")
    n_seeds, n = lost.shape
    drawn = torch.randint(n, (DRAWS, n), generator=source)
    weight = torch.zeros(DRAWS, n, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(DRAWS, n).double())
    seeds = torch.randint(n_seeds, (DRAWS, n_seeds), generator=source)
    whole = weight @ (here.zero - here.clean)
    top = weight @ (lost if other is not None else lost - here.zero).T
    samples = -top.gather(1, seeds).mean(1) / whole
    value = here.recovered(one).mean() - (0 if other is None else here.recovered(other).mean())
    return Estimate(value.item(), *interval(samples))


def tables(arms: Mapping[str, Found], here: Setting) -> tuple[list[dict], list[dict]]:
    """A row for each autoencoder, and one for each arm and L0."""
    runs, means = [], []
    n = int(here.texts.predicted.sum())
    clean, zero = here.clean.sum().item() / n, here.zero.sum().item() / n
    for arm, result in arms.items():
        part, recovered = result.measures, here.recovered(result.losses)
        for i, run in enumerate(result.model.runs):
            runs.append(
                {
                    "arm": arm,
                    "L0": run.l0,
                    "seed": run.seed,
                    "loss recovered": recovered[i].item(),
                    "loss": result.losses[i].sum().item() / n,
                    "clean loss": clean,
                    "zero loss": zero,
                    "explained variance": part.explained[i].item(),
                    "L0 measured": part.l0[i].item(),
                    "live share": part.live[i].item(),
                }
            )
        for l0 in result.stable:
            of = result.of(l0)
            value = estimate(result.losses[of], here)
            means.append(
                {
                    "autoencoder": TITLES[arm],
                    "tokens": "held-out stories",
                    "L0": l0,
                    "loss recovered": value.value,
                    "low": value.low,
                    "high": value.high,
                    "nats lost": (result.losses[of].sum(1).mean().item() / n) - clean,
                    "explained variance": part.explained[of].mean().item(),
                    "live share": part.live[of].mean().item(),
                    "stability": result.stable[l0],
                    "rate": result.rate,
                }
            )
    return runs, means


def rates(arms: Mapping[str, Found]) -> list[dict]:
    """What each rate of each arm explains of the development vectors, and which was chosen."""
    return [
        {"autoencoder": TITLES[arm]}
        | {f"rate {rate}": value for rate, value in result.explained.items()}
        | {"chosen": result.rate}
        for arm, result in arms.items()
    ]


def differences(
    arms: Mapping[str, Found], here: Setting, command: claims.Command, family: str = "sae", of: str = ""
) -> list[claims.Claim]:
    """What K1 and K2 are ahead of their controls by, as rows of a family that say what vectors they are ``of``."""
    rows = []
    for one, other, words in (
        ("k1", "topk", "a spline a feature before TopK, less that of TopK alone"),
        ("k2", "mlp", "an additive KAN before TopK, less that of an MLP with as many parameters"),
        ("k2", "topk", "an additive KAN before TopK, less that of TopK alone"),
    ):
        if not {one, other} <= arms.keys():
            continue
        for l0 in arms[one].stable:
            mine, theirs = (arms[name].losses[arms[name].of(l0)] for name in (one, other))
            rows.append(
                command.claim(
                    f"{family}.{one}_minus_{other}.loss_recovered.{l0}",
                    f"Loss recovered by autoencoders{of} with {words}; L0 of {l0}, {len(mine)} seeds, "
                    f"{mine.shape[1]} held-out stories",
                    estimate(mine, here, theirs),
                )
            )
    return rows


def measured_claims(arms: Mapping[str, Found], here: Setting, command: claims.Command) -> list[claims.Claim]:
    """Of sparsity, stability, shapes and sanity."""
    off = max(
        abs(l0.item() / run.l0 - 1)
        for result in arms.values()
        for l0, run in zip(result.measures.l0, result.model.runs, strict=True)
    )
    splines = [shapes(arms["k1"].model, i, here.held.vectors) for i in range(len(arms["k1"].model.runs))]
    live = arms["k1"].measures.density > 0
    simple = torch.stack([shape.simple[here_].double().mean() for shape, here_ in zip(splines, live, strict=True)])
    relu = torch.stack(
        [(shape.relu >= 0.999)[here_].double().mean() for shape, here_ in zip(splines, live, strict=True)]
    )
    rows = [
        command.claim(
            "sae.l0_error",
            f"Largest relative distance of a measured L0 to its target, {len(arms)} kinds of autoencoders with "
            f"{len(live)} each, on held-out tokens",
            off,
            "<= 0.02",
        ),
        command.claim(
            "sae.relu_share",
            "Share of live K1 features whose spline is a shifted ReLU or JumpReLU (R² of 0.999 or more where its "
            "pre-activations lie), mean and range over autoencoders",
            Estimate(simple.mean().item(), simple.min().item(), simple.max().item()),
        ),
        command.claim(
            "sae.shifted_relu_share",
            "The same of shifted ReLUs alone",
            Estimate(relu.mean().item(), relu.min().item(), relu.max().item()),
        ),
    ]
    for arm in ("topk", "k1", "k2", "mlp"):
        stable = arms[arm].stable
        key = "sae.stability" if arm == "topk" else f"sae.stability.{arm}"
        words = f"Mean maximal cosine of live features of {TITLES[arm]} to other seeds', mean and range over L0"
        values = list(stable.values())
        rows.append(command.claim(key, words, Estimate(sum(values) / len(values), min(values), max(values))))
    return rows


def sanity(here: Setting, plan: Plan, command: claims.Command) -> list[claims.Claim]:
    """The loss as it is and with zeros; what is recovered without sparsity, and by the vectors of other tokens."""
    n, x = int(here.texts.predicted.sum()), here.training.vectors
    knobs = plan.knobs.model_copy(update={"features": x.shape[1], "renew": False})
    dense = train("dense", x, [Run(x.shape[1], 0)], knobs, "not sparse")
    loss = text_losses(dense, here.network, here.texts, here.site, 256)[0]
    source = generator(0, "shuffled")

    def shuffled(vectors: Tensor) -> Tensor:
        flat = vectors.flatten(0, -2)
        return flat[torch.randperm(len(flat), generator=source).to(flat.device)].view_as(vectors)

    with streams.replaced(here.network, here.site, shuffled):
        of_others = streams.losses(here.network, here.texts, 256)
    where = f"{n:,} held-out tokens of {len(here.texts)} stories that the Llama wrote itself"
    return [
        command.claim(
            "sae.loss.clean", f"Loss of the Llama in nats a token, {where}", here.clean.sum().item() / n
        ),
        command.claim(
            "sae.loss.zero",
            f"The same with zeros in place of the residual stream after {SITE}",
            here.zero.sum().item() / n,
        ),
        command.claim(
            "sae.dense.loss_recovered",
            f"Loss recovered by an autoencoder of {x.shape[1]} features that is not sparse, {where}",
            estimate(loss[None], here),
            ">= 0.999",
        ),
        command.claim(
            "sae.shuffled.loss_recovered",
            f"Loss recovered by the vectors of other tokens, {where}",
            estimate(of_others[None], here),
            "< 0.5",
        ),
    ]


def two_cores(vectors: Tensor, plan: Plan) -> dict[str, float]:
    """Seconds of a step of each arm with all of its runs on two CPU cores, setting up and settling left out."""
    seconds: dict[str, float] = {}
    x = vectors[: 8 * plan.knobs.minibatch].cpu()
    with machine.threads_kept():
        torch.set_num_threads(2)
        for arm in plan.knobs.arms:
            took = []
            for steps in (TIMED, 3 * TIMED):
                start = time.perf_counter()
                train(arm, x, plan.runs, plan.knobs.model_copy(update={"steps": steps, "renew": False}))
                took.append(time.perf_counter() - start)
            seconds[arm] = (took[1] - took[0]) / (2 * TIMED)
    return seconds


def hours(vectors: Tensor, plan: Plan) -> claims.Claim:
    """How long it takes to train all once on two CPU cores."""
    seconds = two_cores(vectors, plan)
    print("seconds a step on two CPU cores:", {arm: round(value, 3) for arm, value in seconds.items()}, flush=True)
    what = f"{len(seconds)} arms with {len(plan.runs)} autoencoders each, {plan.knobs.steps:,} steps"
    return claims.Command(f"{COMMAND} --hours", device="2 CPU cores").claim(
        "sae.training_hours",
        f"Hours to train {what}, from what {2 * TIMED} steps of each arm take",
        sum(seconds.values()) * plan.knobs.steps / 3600,
        "<= 3",
        aim=True,
    )


def capabilities(here: Setting, arms: Mapping[str, Found], l0: int) -> list[dict]:
    """Rank and probability of the right token after each prompt, with and without an autoencoder."""
    given, after = zip(*CAPABILITIES, strict=True)
    texts, rows = prompts(given, after, here.spelt, here.network), []
    chosen = {arm: result.model.replacement(result.of(l0)[0]) for arm, result in arms.items()}
    for i, (prompt, word) in enumerate(CAPABILITIES):
        row = texts.tokens[i : i + 1, : texts.starts[i]].to(here.held.vectors.device)
        right = int(texts.tokens[i, texts.starts[i]])

        def said(row: Tensor = row, right: int = right) -> dict:
            p = here.network(row)[0, -1].softmax(-1)
            return {"rank": int((p > p[right]).sum()) + 1, "probability": p[right].item()}

        with torch.inference_mode():
            rows.append({"prompt": prompt, "next": word, "autoencoder": "none", **said()})
            for arm, function in chosen.items():
                with streams.replaced(here.network, here.site, function):
                    rows.append({"prompt": prompt, "next": word, "autoencoder": TITLES[arm], **said()})
    return rows


def cards(here: Setting, result: Found, l0: int) -> dict:
    """Cards of features of one autoencoder, evenly chosen among the live ones by how often they are active."""
    run = result.of(l0)[0]
    model = result.model.one(run)
    density = result.measures.density[run]
    live = density.argsort(descending=True)[: int((density > 0).sum())]
    chosen = live[torch.linspace(0, len(live) - 1, min(CARDS, len(live))).long()].tolist()
    stream = Stream(here.held.vectors.cpu(), here.held.tokens.cpu(), here.held.texts.cpu())
    z = activations(model, here.held.vectors)
    weights = logit_weights(model.rows[0].detach(), here.network).cpu()
    neurons = streams.read(here.network, here.texts, NEURONS, 256).vectors.cpu()
    pieces = [piece.decode(errors="replace") for piece in here.spelt.pieces]
    made = profiles(z, stream, weights, pieces, chosen, neurons)
    shape = shapes(result.model, run, here.held.vectors)
    for card in made:
        number = card["feature"]
        card["relu"] = round(shape.relu[number].item(), 5)
        some = slice(None, None, 10)
        card["shape"] = [[float(f"{v:.3g}") for v in part[number, some]] for part in (shape.u, shape.values)]
    return {"autoencoder": TITLES[result.model.arm], "L0": l0, "tokens": len(stream), "features": made}


def record(weights: Path, folder: Path, device: torch.device) -> Path:
    """What the chapter is made from: vectors, and gates over features of one autoencoder; the file."""
    here = setting(weights, RECORDING, folder, device)
    model = trained("topk", here, RECORDING, folder)[0]
    pieces = [piece.decode(errors="replace") for piece in here.spelt.pieces]
    n, part, held = int(here.texts.predicted.sum()), slice(RECORDED[0]), slice(RECORDED[1])
    content = {
        "vectors": torch.cat([here.training.vectors[part], here.held.vectors[held]]).half(),
        "tokens": torch.cat([here.training.tokens[part], here.held.tokens[held]]).short(),
        "texts": torch.cat([here.training.texts[part], here.held.texts[held]]).short(),
    }
    rows: list[dict[str, Tensor]] = []
    contexts, following = [], []
    for text in range(len(here.texts)):
        if len(rows) == GATED:
            break
        if (found_ := gated(model, here, text)) is None:
            continue
        gate, end = found_
        gradient, curvature = gate.derivatives()
        clean = gate.log_probs(torch.zeros(1, FEATURES, device=device))
        row = {
            "features": gate.features.short(),
            "activations": gate.steps.norm(dim=1) / model.spread,
            "clean": clean[0],
            "gradients": gradient.float(),
            "hessians": curvature.float(),
        }
        for split, count in MASKS.items():
            row[split] = (gate.log_probs(masks(count, FEATURES, split).to(device)) - clean).half()
        rows.append({name: value.cpu() for name, value in row.items()})
        told = here.texts.tokens[text, max(1, end - 15) : end + 1].tolist()
        contexts.append("".join(pieces[token] for token in told))
        following.append(pieces[gate.following])
        print(contexts[-1], "→", following[-1], flush=True)
    content |= {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    return store.save(
        store.recording(SETUP, KIND),
        content,
        kind=KIND,
        parameters={"setup": SETUP, "site": SITE},
        inputs={},
        n_fit=RECORDED[0],
        pieces=pieces,
        clean=here.clean.sum().item() / n,
        zero=here.zero.sum().item() / n,
        contexts=contexts,
        following=following,
    )


def gated(model: Autoencoder, here: Setting, text: int) -> tuple[Gates, int] | None:
    """Gates at a token of a held-out story whose next one the network rightly predicts, and its place; or none."""
    row = here.texts.tokens[text, : here.texts.lengths[text]].to(here.held.vectors.device)
    kept: list[Tensor] = []
    layer = here.network.layers[LAYER].register_forward_hook(lambda _m, _x, out: kept.append(out[0]))
    with torch.inference_mode():
        right = here.network(row[None])[0, :-1].argmax(-1) == row[1:]
    layer.remove()
    active = (model.encode(kept[0])[0] > 0).sum(-1)[:-1] == FEATURES
    places = (right & active)[20:100].nonzero().flatten().tolist()
    if not places:
        return None
    drawn = int(torch.randint(len(places), (), generator=generator(0, "gated", text)))
    end = 20 + places[drawn]
    return gates(model, here.network, LAYER, kept[0][: end + 1].clone(), int(row[end + 1]), FEATURES), end


def outputs(here: Setting, plan: Plan, folder: Path, target: Path, command: claims.Command) -> list[claims.Claim]:
    """KANs and their controls on what the feed-forward network puts out; the table goes to ``target``."""
    arms: dict[str, Found] = {arm: found(arm, here, plan, folder) for arm in plan.knobs.arms}
    rows = differences(arms, here, command, "sae.output", " of the output of a feed-forward network")
    n = int(here.texts.predicted.sum())
    rows.append(
        command.claim(
            "sae.output.loss.zero",
            f"Loss in nats a token with zeros in place of the output of {plan.site}",
            here.zero.sum().item() / n,
        )
    )
    files.write_json(target / "sae_output.json", tables(arms, here)[1])
    return rows


def main(arguments: Sequence[str]) -> None:
    smoke, of_output = "--smoke" in arguments, "--output" in arguments
    plan = OUTPUT if of_output else WHOLE
    named_arms = [argument.partition("=")[2] for argument in arguments if argument.startswith("--arms=")]
    if of_output and named_arms:
        knobs = plan.knobs.model_dump() | {"arms": named_arms[-1].split(",")}
        plan = replace(plan, knobs=SparseAutoencoder(**knobs))
    if smoke:
        plan = replace(plan, knobs=plan.knobs.model_copy(update=SMOKE_KNOBS), **SMOKE)
    named = [argument.partition("=")[2] for argument in arguments if argument.startswith("--device=")]
    device = machine.device(named[-1] if named else "auto")
    given = [Path(argument) for argument in arguments if not argument.startswith("-")]
    folder = store.ARTIFACTS / ("sae" + "_output" * of_output + "_smoke" * smoke)
    if device.type == "cpu":
        torch.set_num_threads(2)
    weights = given[0] if given else WEIGHTS
    if "--record" in arguments:
        print(record(weights, store.ARTIFACTS / "sae_recording", device))
        return
    if "--hours" in arguments:
        some = setting(weights, RECORDING, store.ARTIFACTS / "sae_recording", device).training.vectors
        claims.record([hours(some, plan)])
        return
    command = claims.Command(COMMAND, device=hardware(device))
    start = time.perf_counter()
    here = setting(weights, plan, folder, device)
    print(f"{len(here.training):,} tokens in {time.perf_counter() - start:.0f} s", flush=True)
    target = folder if smoke else DATA
    if of_output:
        rows = outputs(here, plan, folder, target, replace(command, line=f"{COMMAND} --output"))
        claims.record(rows, *([target / "claims.json"] if smoke else []))
        return
    rows = sanity(here, plan, command)
    arms: dict[str, Found] = {arm: found(arm, here, plan, folder) for arm in plan.knobs.arms}
    rows += differences(arms, here, command) + measured_claims(arms, here, command)
    runs, means = tables(arms, here)
    l0 = min(plan.knobs.l0, key=lambda value: abs(value - CARDS_L0))
    page = cards(here, arms[CARDS_OF], l0)
    able = capabilities(here, arms, l0)
    rows.append(hours(here.training.vectors, plan))
    for row in rows:
        print(row.id, f"{row.value:.5g} [{row.low:.5g}, {row.high:.5g}]", row.target, flush=True)
    files.write_json(target / "sae_runs.json", runs)
    files.write_json(target / "sae.json", means)
    files.write_json(target / "sae_rates.json", rates(arms))
    files.write_json(target / "sae_capabilities.json", able)
    files.write_whole(target / "sae_features.json", json.dumps(page, ensure_ascii=False).encode())
    claims.record(rows, *([target / "claims.json"] if smoke else []))
    print(f"{time.perf_counter() - start:.0f} seconds in all", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
