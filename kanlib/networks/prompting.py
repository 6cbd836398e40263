"""How a language model's next token answers to masks, at the beginnings of stories that it wrote itself.

``make record`` keeps it in ``data/responses/<setup>.language.safetensors`` as it goes, and goes on where it
stopped. Masks are drawn again from their seed, and responses and gradients are kept in half precision.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from kanlib import machine, store
from kanlib.errors import BadInputError, shown
from kanlib.machine import generator
from kanlib.masks import Split, gaussian, removals, subsets
from kanlib.networks import answers
from kanlib.networks.components import find, gated
from kanlib.networks.examples import choose_texts
from kanlib.networks.language import next_token, token_logits
from kanlib.networks.probe import Probe
from kanlib.networks.speakers import Speaker, speaker
from kanlib.networks.stories import sampled
from kanlib.networks.texts import Texts, bounds, of_tokens
from kanlib.setups import Language, Perturbation

KIND = "language"
#: Knobs that decide what a response is, so that a recording answers to no other values of them.
_DECISIVE = ("model", "components", "n_stories", "shortest", "longest", "choose", "scale", "seed")
_BLOCK = 500  # masks between two savings
_LIKELY = 5  # next tokens that are kept


@dataclass(frozen=True)
class Prompted:
    """E prompts of a language model, the reported ones first, whose m components are scaled or removed.

    Attributes:
        components: their m names.
        pieces: how each token of a prompt, and last the one that comes next, reads.
        reported: how many of the prompts are.
        clean: margins of the next token, nothing scaled, ``[E]``.
        splits: ``fit``, ``validation`` and ``test``, Gaussian; ``removed``, each component and each pair of them,
            in the order of :func:`kanlib.masks.subsets`.
        reference: masks ``[R, m]`` that no surrogate sees.
        gradient: of the margin in the masks there, ``[E, R, m]``.
        pair: the pair whose joint removal is furthest from the sum of both, ``[E, 2]``.
        told: ``log p`` of each token after those before it, at rest and without that pair, ``[E, 2, T]``; 0 where
            there is none.
        likely: the likeliest next tokens, best first, at rest and without the pair: how each reads, and its
            probability.
    """

    components: list[str]
    pieces: list[list[str]]
    reported: int
    clean: Tensor
    splits: Mapping[str, Split]
    reference: Tensor
    gradient: Tensor
    pair: Tensor
    told: Tensor
    likely: list[list[list[tuple[str, float]]]]

    def of(self, examples: Sequence[int]) -> "Prompted":
        """The same of some of its prompts."""
        at = torch.tensor(examples, dtype=torch.long)
        return replace(
            self,
            pieces=[self.pieces[e] for e in examples],
            clean=self.clean[at],
            splits={name: split.of(at) for name, split in self.splits.items()},
            gradient=self.gradient[at],
            pair=self.pair[at],
            told=self.told[at],
            likely=[self.likely[e] for e in examples],
        )

    def parts(self) -> tuple["Prompted", "Prompted"]:
        """The reported prompts, and those for design decisions."""
        return self.of(range(self.reported)), self.of(range(self.reported, len(self.pieces)))


def beyond_the_sum(removed: Split, m: int) -> Tensor:
    """What removing a pair does beyond the sum of removing both, ``f(−i, −j) − f(−i) − f(−j)``, ``[E, pairs]``."""
    first, second = torch.tensor([s for s in subsets(m, 2) if len(s) == 2]).T
    alone, both = removed.responses[:, :m], removed.responses[:, m:]
    return both - alone[:, first] - alone[:, second]


def path(setup: str) -> Path:
    """Where the recording of a setup lies."""
    return store.recording(setup, KIND)


def prompted(p: Language) -> tuple[Prompted, store.Artifact]:
    """What ``p.source`` says: the model's answers, or the recording of them; and what it was made from.

    Raises:
        BadInputError: as :func:`asked`; nothing was recorded; or the recording holds less than ``p`` asks for.
    """
    if p.source == "live":
        kept = asked(p, None)
        return _read(kept, p), kept
    remedy = f"run make record SETUPS={p.setup}, or set source of the section language to live"
    kept = answers.of_chapter(p.setup, KIND, "prompts", remedy)
    return _read(kept, p), kept


def record(setup: str) -> Path:
    """Record what the setup's section ``language`` asks for and is not there yet; see :func:`asked`."""
    p = Language.from_setup(setup)
    torch.set_num_threads(p.threads)
    asked(p, path(setup))
    return path(setup)


def asked(p: Language, target: Path | None) -> store.Artifact:
    """The answers of the model.

    Args:
        p: the knobs.
        target: the recording that is written block by block, and gone on with; ``None``: none is.

    Raises:
        BadInputError: as :func:`kanlib.networks.speakers.speaker`; too few prompts, or longer ones than the model
            takes; a model that :meth:`kanlib.networks.probe.Probe.check` refuses; a recording of another model or
            with other knobs.
    """
    speaks, device = speaker(p.model), machine.device(p.device)
    model = speaks.model.to(device)
    names, texts = find(model, p.components), prompts(speaks, p).to(device)
    probe = Probe(model, names, texts.tokens, texts.rows, "branch", next_token(texts), p.batch_size)
    probe.of(slice(1)).check()
    rows = [row[:n] for row, n in zip(texts.tokens.tolist(), texts.lengths.tolist(), strict=True)]
    masks = designs(p, len(names))
    determined = {
        "names": names,
        "tokens": rows,
        "reported": p.n_examples,
        # The others are of the same stream; so a recording grows where more of them are asked for.
        "masks": store.tensors_hash({"validation": masks["validation"]}),
    }
    record: dict[str, Any] = {"parameters": p.model_dump(exclude={"run"}), "inputs": {"model": speaks.hash}}
    record |= determined
    content = _resumed(target, p, record)

    def keep(more: Mapping[str, Tensor], **said: object) -> None:
        content.update(more)
        record.update(said)
        if target is not None:
            store.save(target, content, kind=KIND, **record)

    for key, stop, compute in tqdm(list(_units(probe, masks)), KIND, unit="block", mininterval=1):
        have = content[key].shape[-1] if key in content else 0
        if have < stop:
            new = compute(have, stop)
            keep({key: torch.cat([content[key], new], -1) if have else new})
    # What it says without the pair that matters most, which is known only now.
    removed = Split(masks["removed"], content["removed"].float())
    largest = beyond_the_sum(removed, len(names)).abs().argmax(1)
    pair = torch.tensor([s for s in subsets(len(names), 2) if len(s) == 2])[largest]
    told, likely = _said(probe, texts, pair, speaks)
    pieces = [speaks.pieces(row) for row in rows]
    keep({"pair": pair, "told": told.half()}, pieces=pieces, likely=likely)
    return store.Artifact(content, {"kind": KIND} | record, speaks.hash, "the model's answers")


def prompts(speaks: Speaker, p: Language) -> Texts:
    """The beginnings of stories and the token that comes next in each, the reported ones first.

    A story is cut at a place drawn by the seed, from ``p.shortest`` to ``p.longest`` tokens.

    Raises:
        BadInputError: they cannot be so long, or there are too few.
    """
    _, context = bounds(speaks.model)
    if not 1 <= p.shortest <= p.longest < context:
        raise BadInputError(
            f"prompts of {p.shortest} to {p.longest} tokens were asked for, expected fewer than {context}, the "
            "context of the model, and the shortest not above the longest; correct shortest and longest."
        )
    stories = sampled(speaks.model, p.n_stories, seed=p.seed, most=p.longest + 1, beginning=speaks.beginning)
    drawn = torch.rand(p.n_stories, generator=generator(p.seed, "prompts"))
    ends = (p.shortest + drawn * (p.longest - p.shortest + 1)).long().tolist()
    long_enough = [(story[: end + 1], end) for story, end in zip(stories, ends, strict=True) if len(story) > end]
    if not long_enough:
        raise BadInputError(
            f"none of {p.n_stories} stories is as long as its prompt, of {p.shortest} to {p.longest} tokens; "
            "raise n_stories, or lower shortest and longest."
        )
    device = next(speaks.model.parameters()).device
    texts = of_tokens([row for row, _ in long_enough], [end for _, end in long_enough], speaks.model).to(device)
    chosen = [
        choose_texts(speaks.model, texts, _rule(p, n), development=development)
        for development, n in ((False, p.n_examples), (True, p.n_development))
        if n
    ]
    return texts.of(torch.cat(chosen))


def designs(p: Language, m: int) -> dict[str, Tensor]:
    """The masks ``[N, m]`` that ``p`` asks for, by split."""
    sizes = {"fit": p.n_fit, "validation": p.n_validation, "test": p.n_test, "reference": p.n_reference}
    drawn = {split: gaussian(n, m, p.scale, p.seed, split) for split, n in sizes.items()}
    return drawn | {"removed": removals(m, subsets(m, 2))}


def _rule(p: Language, n: int) -> Perturbation:
    return Perturbation(setup=p.setup, seed=p.seed, choose=p.choose, n_examples=n)


Unit = tuple[str, int, Callable[[int, int], Tensor]]


def _units(probe: Probe, masks: Mapping[str, Tensor]) -> Iterator[Unit]:
    """What there is to record: a key, how long its last dimension is to be, and what computes a stretch of it."""
    none = torch.empty(0, len(probe.components))
    yield "clean", len(probe.x), lambda start, stop: probe.responses(none, None)[1][start:stop]

    def responses(sigma: Tensor) -> Callable[[int, int], Tensor]:
        return lambda start, stop: probe.responses(sigma[start:stop], None)[0].half()

    def gradients(sigma: Tensor) -> Callable[[int, int], Tensor]:
        return lambda start, stop: probe.gradients(sigma[start:stop], None).mT.half().contiguous()

    for split, sigma in masks.items():
        key, compute = ("gradient", gradients(sigma)) if split == "reference" else (split, responses(sigma))
        for stop in [*range(_BLOCK, len(sigma), _BLOCK), len(sigma)]:
            yield key, stop, compute


@torch.inference_mode()
def _said(probe: Probe, texts: Texts, pairs: Tensor, speaks: Speaker) -> tuple[Tensor, list]:
    """``log p`` of every token at rest and without a pair ``[E, 2, T]``, and the likeliest next ones."""
    m = len(probe.components)
    told, likely = torch.zeros(len(texts), 2, texts.tokens.shape[1]), []
    with gated(probe.model, probe.components, probe.site) as gates:
        for e, (start, pair) in enumerate(zip(texts.starts.tolist(), pairs.tolist(), strict=True)):
            row = texts.tokens[e : e + 1]
            masks = torch.cat([torch.zeros(1, m), removals(m, [tuple(pair)])]).to(row.device)
            both = row.expand(2, -1)
            logits = token_logits(gates(row, masks), both).float().log_softmax(-1).cpu()
            of_each = logits[:, :-1].gather(2, both[:, 1:, None].cpu())[..., 0]
            told[e, :, 1 : start + 1] = of_each[:, :start]
            top = logits[:, start - 1].topk(min(_LIKELY, logits.shape[-1]))
            read = [[speaks.encoder.decode([token]) for token in some] for some in top.indices.tolist()]
            values = top.values.exp().tolist()
            likely.append([list(zip(*one, strict=True)) for one in zip(read, values, strict=True)])
    return told, likely


def _resumed(target: Path | None, p: Language, record: Mapping) -> dict[str, Tensor]:
    if target is None or not target.exists():
        return {}
    before = store.load(target, KIND)
    now = {key: record[key] for key in ("names", "tokens", "reported", "masks", "inputs")}
    now |= {name: getattr(p, name) for name in _DECISIVE}
    then = before.record["parameters"] | before.record
    for key, value in now.items():
        if then.get(key) != value:
            raise BadInputError(
                f"{target.relative_to(store.ROOT)} was recorded with other {key}; move it away to record anew."
            )
    return before.content


def _read(kept: store.Artifact, p: Language) -> Prompted:
    """A recording as ``p`` asks for it: fewer masks and prompts than there are, but no others."""
    names, reported = kept.said("names", list), kept.said("reported", int)
    rows, pieces, likely = (kept.said(key, list) for key in ("tokens", "pieces", "likely"))
    had, n, m = Language.of(kept), len(rows), len(names)
    if p.n_examples > reported or p.n_development > n - reported:
        raise BadInputError(
            f"{reported} reported and {n - reported} development prompts were recorded, expected {p.n_examples} "
            f"and {p.n_development}; lower n_examples and n_development, or set source to live."
        )
    for name in _DECISIVE:
        if getattr(p, name) != getattr(had, name):
            raise BadInputError(
                f"{name} is {shown(getattr(p, name))}, but {shown(getattr(had, name))} was recorded; take "
                "that, or set source to live."
            )
    if store.tensors_hash({"validation": designs(had, m)["validation"]}) != kept.said("masks", str):
        raise kept.wrong("its masks are not those that its seed draws here")
    masks, splits = designs(p, m), {}
    for split, sigma in masks.items():
        key, shape = ("gradient", (n, m, None)) if split == "reference" else (split, (n, None))
        there = kept.tensor(key, shape, torch.float16)
        if len(sigma) > there.shape[-1]:
            raise BadInputError(
                f"{len(sigma)} masks of {split} were asked for, but {there.shape[-1]} were recorded; lower "
                f"n_{split}, or set source to live."
            )
        if split != "reference":
            splits[split] = Split(sigma, there.float()[:, : len(sigma)], p.scale)
    gradient = kept.tensor("gradient", (n, m, None), torch.float16).float()[..., : p.n_reference].mT
    whole = Prompted(
        components=names,
        pieces=pieces,
        reported=p.n_examples,
        clean=kept.tensor("clean", (n,)),
        splits=splits,
        reference=masks["reference"],
        gradient=gradient,
        pair=kept.tensor("pair", (n, 2), torch.int64),
        told=kept.tensor("told", (n, 2, None), torch.float16).float(),
        likely=likely,
    )
    return whole.of([*range(p.n_examples), *range(reported, reported + p.n_development)])
