"""What becomes of many examples when random sets of many components are removed: COAR's own regime.

``make record`` keeps it in ``data/responses/<setup>.components.safetensors`` as it goes, and goes on where it
stopped. Masks are drawn again from their seed, and responses are kept in half precision, as COAR's authors keep
them; so thousands of components take a few megabytes.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from kanlib import machine, store
from kanlib.errors import BadInputError, shown
from kanlib.machine import enough_memory, in_precision
from kanlib.masks import Split, random_removals, removals
from kanlib.networks import answers, models
from kanlib.networks.components import find
from kanlib.networks.examples import choose_examples
from kanlib.networks.folding import folded, folds
from kanlib.networks.outputs import answered, values
from kanlib.networks.paths import along_path
from kanlib.networks.probe import Probe
from kanlib.setups import Components, Perturbation

KIND = "components"
#: What is known of each component beside the masks: its own removal, and three kinds of derivatives.
SINGLE = ("alone", "gradient", "conductance", "influence")
#: Knobs that decide what a response or a derivative is, so that a recording answers to no other values of them.
_DECISIVE = ("components", "path_steps", "precision")
_BLOCK = 500  # masks between two savings


@dataclass(frozen=True)
class Removals:
    """E examples, the reported ones first, under removals of some of m components.

    Attributes:
        components: their m names.
        positions: of the examples in the test split.
        labels: ``[E]``.
        reported: how many of the examples are.
        clean: margins of the intact network, ``[E]``.
        splits: ``fit``, ``validation`` and ``test <share>``.
        single: of each component ``[E, m]``: ``alone``, the response to its own removal; ``gradient``, ``∂f/∂σ``
            at rest; ``conductance`` and ``influence``, see :func:`kanlib.networks.paths.along_path`.
        accuracy: of the network on the test split.
    """

    components: list[str]
    positions: Tensor
    labels: Tensor
    reported: int
    clean: Tensor
    splits: Mapping[str, Split]
    single: Mapping[str, Tensor]
    accuracy: float

    def of(self, examples: slice | Tensor) -> "Removals":
        """The same of some of its examples."""
        return replace(
            self,
            positions=self.positions[examples],
            labels=self.labels[examples],
            clean=self.clean[examples],
            splits={name: split.of(examples) for name, split in self.splits.items()},
            single={name: value[examples] for name, value in self.single.items()},
        )

    def parts(self) -> tuple["Removals", "Removals"]:
        """The reported examples, and those for design decisions."""
        return self.of(slice(self.reported)), self.of(slice(self.reported, None))


def designs(p: Components, m: int) -> dict[str, Tensor]:
    """The masks ``[N, m]`` that ``p`` asks for, by split: σ_j = −1 for what is removed, else 0."""
    sizes = {"fit": (p.n_fit, p.share), "validation": (p.n_validation, p.share)}
    sizes |= {f"test {share:g}": (p.n_test, share) for share in p.shares}
    return {split: random_removals(n, m, share, p.seed, split) for split, (n, share) in sizes.items()}


def path(setup: str) -> Path:
    """Where the recording of a setup lies."""
    return store.recording(setup, KIND)


def removed(p: Components) -> tuple[Removals, store.Artifact]:
    """What ``p.source`` says: the network's answers, or the recording of them; and what it was made from.

    Raises:
        BadInputError: as :func:`asked`; nothing was recorded; or the recording holds less than ``p`` asks for.
    """
    if p.source == "live":
        return asked(p, None)
    remedy = f"run make record SETUPS={p.setup}, or set source of the section components to live"
    kept = answers.of_chapter(p.setup, KIND, "removals", remedy)
    return _read(kept, p, torch.float16), kept


def asked(p: Components, target: Path | None) -> tuple[Removals, store.Artifact]:
    """The answers of the network that 00_training left behind.

    Args:
        p: the knobs.
        target: the recording that is written block by block, in half precision, and gone on with; ``None``: none
            is, and answers may be larger than it holds.

    Raises:
        BadInputError: no model, one that :meth:`kanlib.networks.probe.Probe.check` refuses, a recording of
            another network or with other knobs, or an answer beyond half precision.
    """
    weights = p.load("model")
    device = machine.device(p.device)
    model, data = models.trained(weights, device, p.setup)
    # Convolutions over few channels run several times as fast in this order.
    model = model.to(memory_format=torch.channels_last)
    names = find(model, p.components)
    masks = designs(p, len(names))
    positions = torch.cat([_drawn(model, data, p, kind) for kind in ("reported", "development")])
    labels = data.test.labels[positions]
    probe = Probe(
        model,
        names,
        data.test.read(positions).to(device),
        labels.to(device),
        batch_size=p.batch_size,
        precision=p.precision,
    )
    probe.of(slice(1)).check()
    determined = {
        "names": names,
        "positions": positions.tolist(),
        "labels": labels.tolist(),
        "reported": p.n_examples,
        "accuracy": weights.record["accuracy"],
        # The others are of the same stream; so a recording grows where more of them are asked for.
        "masks": store.tensors_hash({"validation": masks["validation"]}),
    }
    content, knobs = _resumed(target, p, determined, weights), p.model_dump(exclude={"run"})
    inputs = {"model": weights.hash}
    for key, stop, compute in tqdm(list(_units(probe, masks, p)), "removals", unit="block", mininterval=1):
        have = content[key].shape[-1] if key in content else 0
        if have < stop:
            more = compute(have, stop)
            if key != "clean":
                more = _rounded(more, key, recorded=target is not None)
            content[key] = torch.cat([content[key], more], -1) if have else more
            if target is not None:
                store.save(target, content, kind=KIND, parameters=knobs, inputs=inputs, **determined)
    record = {"kind": KIND, "parameters": knobs, "inputs": inputs, **determined}
    found = store.Artifact(content, record, weights.hash, "the network's answers")
    return _read(found, p, torch.float32 if target is None else torch.float16), weights


def _rounded(answers: Tensor, key: str, *, recorded: bool) -> Tensor:
    """Answers in half precision as they are recorded; else rounded to it, so that a recording says the same."""
    half = answers.half()
    if not recorded:
        return torch.where(half.isfinite(), half.float(), answers)
    if not half.isfinite().all():
        raise BadInputError(
            f"an answer to {key} is {float(answers.abs().max()):.3g}, expected at most 65,504, which half "
            "precision holds; train the network for longer, or set source of the section components to live."
        )
    return half


def _drawn(model: torch.nn.Module, data: models.Images, p: Components, kind: str) -> Tensor:
    n = p.n_examples if kind == "reported" else p.n_development
    if not n:
        return torch.empty(0, dtype=torch.long)
    rule = Perturbation.from_setup(p.setup, {"seed": p.seed, "choose": "any", "n_examples": n})
    rule = rule.model_copy(
        update={"n_candidates": max(n, rule.n_candidates), "examples": None, "only_class": None}
    )
    return choose_examples(model, data, rule, development=kind == "development")


Unit = tuple[str, int, Callable[[int, int], Tensor]]


def _units(probe: Probe, masks: Mapping[str, Tensor], p: Components) -> Iterator[Unit]:
    """What there is to record: a key, how long its last dimension is to be, and what computes a stretch of it."""
    m = len(probe.components)
    clean = responses_of_all(probe, torch.zeros(1, m))[:, 0]
    yield "clean", len(clean), lambda start, stop: clean[start:stop]
    every = {"alone": removals(m, [(j,) for j in range(m)])} | dict(masks)

    def answers(sigma: Tensor) -> Callable[[int, int], Tensor]:
        return lambda start, stop: responses_of_all(probe, sigma[start:stop]) - clean[:, None]

    for split, sigma in sorted(every.items(), key=lambda item: len(item[1])):
        for stop in [*range(_BLOCK, len(sigma), _BLOCK), len(sigma)]:
            yield split, stop, answers(sigma)
    rest = torch.zeros(1, m)
    yield "gradient", m, lambda start, stop: probe.gradients(rest, None)[:, 0]
    paths: list[Tensor] = []

    def path(which: int) -> Callable[[int, int], Tensor]:
        def part(start: int, stop: int) -> Tensor:
            # Both come of one way along the path.
            paths.extend(() if paths else along_path(probe, p.path_steps, progress=None))
            return paths[which]

        return part

    for which, name in enumerate(("conductance", "influence")):
        yield name, m, path(which)


@torch.inference_mode()
def responses_of_all(probe: Probe, sigma: Tensor) -> Tensor:
    """Outputs ``f(z, σ)`` of all examples under each mask ``[N, m]``: ``[E, N]``, fp32, on the CPU.

    Where masks can be folded into the weights a forward pass answers one mask for ``batch_size`` examples, and is
    as fast as without a mask; else :meth:`kanlib.networks.probe.Probe.outputs` is asked.
    """
    if not folds(probe.model, probe.components):
        return probe.outputs(sigma, [probe.output_function], None)[0][0]
    out = torch.empty(len(probe.x), len(sigma))
    x = probe.x.contiguous(memory_format=torch.channels_last) if probe.x.ndim == 4 else probe.x
    batches = list(zip(x.split(probe.batch_size), probe.labels.split(probe.batch_size), strict=True))
    with (
        folded(probe.model, probe.components) as scale,
        enough_memory(probe.batch_size),
        in_precision(probe.precision, x.device),
    ):
        for n, row in enumerate(sigma.to(x.device)):
            scale(row)
            read = [
                values(answered(probe.model, some, len(some)), labels, [probe.output_function])[0]
                for some, labels in batches
            ]
            out[:, n] = torch.cat(read).float().cpu()
    return out


def _resumed(
    target: Path | None, p: Components, determined: Mapping, weights: store.Artifact
) -> dict[str, Tensor]:
    if target is None or not target.exists():
        return {}
    before = store.load(target, KIND)
    now = dict(determined) | {"inputs": {"model": weights.hash}} | {name: getattr(p, name) for name in _DECISIVE}
    then = before.record["parameters"] | before.record
    for key, value in now.items():
        if then.get(key) != value:
            raise BadInputError(
                f"{target.relative_to(store.ROOT)} was recorded with other {key}; move it away to record anew."
            )
    return before.content


def _read(kept: store.Artifact, p: Components, dtype: torch.dtype) -> Removals:
    """Answers of that dtype as ``p`` asks for them: fewer masks and examples than there are, but no others."""
    names, reported = kept.said("names", list), kept.said("reported", int)
    positions, labels = (torch.tensor(kept.said(key, list)) for key in ("positions", "labels"))
    had, n, m = Components.of(kept), len(positions), len(names)
    development = n - reported
    if p.n_examples > reported or p.n_development > development:
        raise BadInputError(
            f"{reported} reported and {development} development examples were recorded, expected {p.n_examples} "
            f"and {p.n_development}; lower n_examples and n_development, or set source to live."
        )
    for name in _DECISIVE:
        if getattr(p, name) != getattr(had, name):
            raise BadInputError(
                f"{name} is {shown(getattr(p, name))}, but {shown(getattr(had, name))} was recorded; take "
                "that, or set source to live."
            )
    drawn = designs(had, m)
    if store.tensors_hash({"validation": drawn["validation"]}) != kept.said("masks", str):
        raise kept.wrong("its masks are not those that its seed draws here")
    splits = {}
    for split, sigma in designs(p, m).items():
        there = kept.content.get(split, torch.empty(0, 0))
        known = drawn.get(split, sigma[:0])[: there.shape[1]]
        if len(sigma) > len(known) or not torch.equal(sigma, known[: len(sigma)]):
            raise BadInputError(
                f"{len(sigma)} masks of {split} with share {p.share:g} and seed {p.seed} were asked for, but "
                "others were recorded; lower their number, take that share and seed, or set source to live."
            )
        splits[split] = Split(sigma, kept.tensor(split, (n, None), dtype).float()[:, : len(sigma)])
    single = {name: kept.tensor(name, (n, m), dtype).float() for name in SINGLE}
    clean = kept.tensor("clean", (n,))
    accuracy = kept.said("accuracy", float)
    whole = Removals(names, positions, labels, p.n_examples, clean, splits, single, accuracy)
    return whole.of(torch.cat([torch.arange(p.n_examples), reported + torch.arange(p.n_development)]))


def record(setup: str) -> Path:
    """Record what the setup's section ``components`` asks for and is not there yet; see :func:`asked`."""
    p = Components.from_setup(setup)
    torch.set_num_threads(p.threads)
    asked(p, path(setup))
    return path(setup)
