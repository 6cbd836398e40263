"""Frozen responses: everything later notebooks need of a network, recorded once and kept with the project.

``python -m kanlib.recording <setup>`` writes ``data/responses/<setup>.safetensors`` as it goes, and goes on
where it stopped. A recording grows by blocks of masks and by examples: raise a number in the setup's section
``recording`` and run it again.
"""

import sys
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from kanlib import models, perturbation, references, store
from kanlib.components import find
from kanlib.errors import BadInputError
from kanlib.images import Images
from kanlib.networks import KEPT, gate_error, path
from kanlib.references import subsets
from kanlib.setups import Perturbation, Recording, Training, generator

_BLOCK = 1000


def record(setup: str) -> Path:
    """Record what the setup's section ``recording`` asks for and is not there yet.

    The model is what 00_training left behind. After every thousand masks of an example the file is saved.

    Returns:
        The file, complete.

    Raises:
        BadInputError: no model, or the file there was recorded from another one or with other knobs.
    """
    p, gating = Recording.from_setup(setup), Perturbation.from_setup(setup)
    torch.set_num_threads(p.threads)
    weights = Training.from_setup(setup).load("model")
    model, data = models.trained(weights)
    where = models.device(p.device)
    model = model.to(where).requires_grad_(False)
    names = find(model, gating.components)
    masks = _masks(p, gating, len(names))
    examples = _examples(model, data, p, gating)
    determined = {
        "components": names,
        "examples": {name: int(at) for name, (at, _, _) in examples.items()},
        "images": {name: store.tensors_hash({"image": x}) for name, (_, x, _) in examples.items()},
        "inputs": {"model": store.tensors_hash(weights.content)},
        "masks": {"scale": gating.scale, "seed": p.seed},
        "batch_size": p.batch_size,
    }
    error = gate_error(model, names, next(iter(examples.values()))[1].to(where), p.batch_size)
    target = path(setup)
    content = _resumed(target, determined)
    asked = {f"masks/{split}": sigma for (site, split), sigma in masks.items() if site == "branch"}
    # What was recorded stays, with its masks, where fewer are asked for now.
    content |= {key: sigma for key, sigma in asked.items() if len(sigma) > len(content.get(key, ()))}
    content |= {f"{name}/label": label for name, (_, _, label) in examples.items()}
    units = list(_units(model, names, examples, masks, p, where))
    for key, stop, compute in tqdm(units, "recording", unit="block", mininterval=1):
        have = content[key].shape[-1] if key in content else 0
        if have < stop:
            more = compute(have, stop).contiguous()
            content[key] = torch.cat([content[key], more], -1) if have else more
            store.save(
                target,
                content,
                kind="responses",
                parameters=p.model_dump(exclude={"run"}),
                accuracy=weights.record["accuracy"],
                gate_error=error,
                classes={name: data.classes[int(label)] for name, (_, _, label) in examples.items()},
                device=where.type,
                **determined,
            )
    return target


Example = tuple[int, Tensor, Tensor]
Unit = tuple[str, int, Callable[[int, int], Tensor]]


def _units(
    model: nn.Module,
    names: list[str],
    examples: dict[str, Example],
    masks: dict[tuple[str, str], Tensor],
    p: Recording,
    where: torch.device,
) -> Iterator[Unit]:
    """What there is to record: a key, how long its last dimension is to be, and what computes a stretch of it."""

    def outputs(of: str, site: str, sigma: Tensor) -> tuple[Tensor, Tensor]:
        _, x, label = examples[of]
        return perturbation.outputs(
            model,
            names,
            x.to(where),
            label.to(where),
            sigma,
            site=site,
            output_functions=KEPT,
            batch_size=p.batch_size,
            progress=None,
        )

    def responses(of: str, site: str, sigma: Tensor) -> Callable[[int, int], Tensor]:
        return lambda start, stop: outputs(of, site, sigma[start:stop])[0][:, 0]

    def gradients(of: str, sigma: Tensor) -> Callable[[int, int], Tensor]:
        _, x, label = examples[of]
        return lambda start, stop: (
            references.gradients(
                model,
                names,
                x.to(where),
                label.to(where),
                sigma[start:stop],
                batch_size=p.batch_size,
                progress=False,
            )[0].T
        )

    def local(of: str) -> Callable[[int, int], Tensor]:
        _, x, label = examples[of]
        return lambda start, stop: references.local_derivatives(
            model, names, x.to(where), label.to(where), max_order=min(p.max_order, len(names)), progress=False
        )[0, start:stop]

    for name in examples:
        yield (
            f"{name}/clean",
            len(KEPT),
            lambda *_, of=name: outputs(of, "branch", masks["branch", "test"][:0])[1][:, 0],
        )
    for (site, split), sigma in masks.items():
        for stop in [*range(_BLOCK, len(sigma), _BLOCK), len(sigma)]:
            for name in examples:
                yield f"{name}/{site}/{split}", stop, responses(name, site, sigma)
                if split == "reference":
                    yield f"{name}/{site}/gradient", stop, gradients(name, sigma)
        if (site, split) == ("branch", "sweep"):
            for name in examples:
                yield f"{name}/branch/local", len(subsets(len(names), min(p.max_order, len(names)))), local(name)


def _masks(p: Recording, gating: Perturbation, m: int) -> dict[tuple[str, str], Tensor]:
    """Masks ``[n, m]`` by gate site and split, in the order in which they are recorded: first what notebooks read.

    ``test_<s>`` are test masks of another scale; ``ablation`` removes (σ = −1) each component, each pair, then
    random sets whose share of the components is uniform.
    """

    def drawn(n: int, split: str, scale: float = gating.scale) -> Tensor:
        return perturbation.masks(n, m, scale, p.seed, split)

    both = {"validation": drawn(p.n_validation, "validation"), "test": drawn(p.n_test, "test")}
    branch = both | {"fit": drawn(p.n_fit, "fit"), "reference": drawn(p.n_reference, "reference")}
    sweep = {"sweep": perturbation.one_at_a_time(m)}
    output = both | {"fit": drawn(p.n_fit_output, "fit")} | sweep if p.n_fit_output else {}
    rest = {f"test_{scale}": drawn(p.n_test, f"test_{scale}", scale) for scale in p.scales}
    rest["ablation"] = _ablations(p.n_ablation, m, p.seed)
    in_order = (("branch", branch | sweep), ("output", output), ("branch", rest))
    return {(site, split): sigma for site, masks in in_order for split, sigma in masks.items() if len(sigma)}


def _ablations(n: int, m: int, seed: int) -> Tensor:
    few = [subset for r in (1, 2) for subset in combinations(range(m), r)]
    masks = torch.zeros(len(few), m)
    for row, subset in zip(masks, few, strict=True):
        row[list(subset)] = -1
    source = generator(seed, "masks", "ablation")
    share, drawn = torch.rand(n, 1, generator=source), torch.rand(n, m, generator=source)
    return torch.cat([masks, -(drawn < share).float()])[:n]


def _examples(model: nn.Module, data: Images, p: Recording, gating: Perturbation) -> dict[str, Example]:
    """``reported.0``, … and ``development.0``, …: position in the test split, image ``[1, …]``, label ``[1]``."""
    found = {}
    for kind, n in (("reported", p.n_reported), ("development", p.n_development)):
        asked = gating.model_copy(update={"n_examples": n})
        chosen = perturbation.choose_examples(model, data, asked, development=kind == "development") if n else ()
        for i, at in enumerate(chosen):
            found[f"{kind}.{i}"] = (int(at), data.test.read(at[None]), data.test.labels[at[None]])
    return found


def _resumed(target: Path, determined: dict) -> dict[str, Tensor]:
    if not target.exists():
        return {}
    before = store.load(target, kind="responses")
    for kind, value in determined.items():
        if kind not in ("examples", "images") and before.record[kind] != value:
            raise BadInputError(
                f"{target.relative_to(store.ROOT)} was recorded with other {kind}; move it away to record anew."
            )
        for name, one in before.record[kind].items() if kind in ("examples", "images") else ():
            if value.get(name, one) != one:
                raise BadInputError(
                    f"{target.relative_to(store.ROOT)} holds another image as {name}; move it away to record anew."
                )
    return before.content


if __name__ == "__main__":
    for _name in sys.argv[1:]:
        record(_name)
