"""Frozen responses: everything later notebooks need of a network, recorded once and kept with the project.

``python -m kanlib.networks.recording <setup>`` writes ``data/responses/<setup>.safetensors`` as it goes, and
goes on where it stopped. A recording grows by blocks of masks and by examples: raise a number in the setup's
section ``recording`` and run it again. Where the setup has a section ``components``, removals of many components
are recorded too, by :mod:`kanlib.networks.removing`, and where it has a section ``language``, a language model, by
:mod:`kanlib.networks.prompting`; with no other section but that one, nothing else is.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from kanlib import files, machine, setups, store
from kanlib.errors import BadInputError, spoken
from kanlib.masks import ablations, every_removal, gaussian, one_at_a_time, pair_grid, subsets
from kanlib.networks import models, prompting, removing
from kanlib.networks.answers import KEPT, recorded
from kanlib.networks.components import Site, find
from kanlib.networks.examples import choose_examples
from kanlib.networks.images import Images
from kanlib.networks.probe import Probe
from kanlib.setups import Perturbation, Recording, Training

_BLOCK = 1000


def record(setup: str) -> Path:
    """Record what the setup's section ``recording`` asks for and is not there yet.

    The model is what 00_training left behind. After every thousand masks of an example the file is saved.

    Returns:
        The file, complete.

    Raises:
        BadInputError: no model, one that :meth:`kanlib.networks.probe.Probe.check` refuses, or the file there was
            recorded from another one or with other knobs.
    """
    p, gating = Recording.from_setup(setup), Perturbation.from_setup(setup)
    torch.set_num_threads(p.threads)
    weights = Training.from_setup(setup).load("model")
    device = machine.device(p.device)
    model, data = models.trained(weights, device, setup)
    names = find(model, gating.components)
    masks = _masks(p, gating, names)
    examples = _examples(model, data, p, gating)
    probes = {
        name: Probe(model, names, x.to(device), label.to(device), batch_size=p.batch_size)
        for name, (_, x, label) in examples.items()
    }
    first = next(iter(probes.values()))
    for site in dict.fromkeys(site for site, _ in masks):
        replace(first, site=site).check()
    determined: dict[str, Any] = {
        "components": names,
        "examples": {name: int(at) for name, (at, _, _) in examples.items()},
        "images": {name: store.tensors_hash({"image": x}) for name, (_, x, _) in examples.items()},
        "inputs": {"model": store.tensors_hash(weights.content)},
        "masks": {"scale": gating.scale, "seed": p.seed},
        "batch_size": p.batch_size,
    }
    target = store.recording(setup)
    content = _resumed(setup, determined)
    asked = {f"masks/{split}": sigma for (site, split), sigma in masks.items() if site == "branch"}
    # What was recorded stays, with its masks, where fewer are asked for now.
    content |= {key: sigma for key, sigma in asked.items() if len(sigma) > len(content.get(key, ()))}
    content |= {f"{name}/label": label for name, (_, _, label) in examples.items()}
    happened: dict[str, Any] = {
        "accuracy": weights.record["accuracy"],
        "gate_error": first.gate_error(),
        "classes": {name: data.classes[int(label)] for name, (_, _, label) in examples.items()},
        "device": device.type,
    }
    units = list(_units(probes, masks, min(p.max_order, len(names))))
    for key, stop, compute in tqdm(units, "recording", unit="block", mininterval=1):
        have = content[key].shape[-1] if key in content else 0
        if have < stop:
            more = compute(have, stop).contiguous()
            content[key] = torch.cat([content[key], more], -1) if have else more
            knobs = p.model_dump(exclude={"run"})
            store.save(target, content, kind="responses", parameters=knobs, **happened, **determined)
    return target


Example = tuple[int, Tensor, Tensor]
Unit = tuple[str, int, Callable[[int, int], Tensor]]


def _units(probes: dict[str, Probe], masks: dict[tuple[Site, str], Tensor], max_order: int) -> Iterator[Unit]:
    """What there is to record: a key, how long its last dimension is to be, and what computes a stretch of it."""

    def clean(probe: Probe) -> Callable[[int, int], Tensor]:
        none = torch.empty(0, len(probe.components))
        return lambda start, stop: probe.outputs(none, KEPT, None)[1][start:stop, 0]

    def responses(probe: Probe, sigma: Tensor) -> Callable[[int, int], Tensor]:
        return lambda start, stop: probe.outputs(sigma[start:stop], KEPT, None)[0][:, 0]

    def gradients(probe: Probe, sigma: Tensor) -> Callable[[int, int], Tensor]:
        return lambda start, stop: probe.gradients(sigma[start:stop], None)[0].T

    def local(probe: Probe) -> Callable[[int, int], Tensor]:
        return lambda start, stop: probe.local_derivatives(max_order, progress=None)[0, start:stop]

    for name, probe in probes.items():
        yield f"{name}/clean", len(KEPT), clean(probe)
    for (site, split), sigma in masks.items():
        at_site = {name: replace(probe, site=site) for name, probe in probes.items()}
        for stop in [*range(_BLOCK, len(sigma), _BLOCK), len(sigma)]:
            for name, probe in at_site.items():
                yield f"{name}/{site}/{split}", stop, responses(probe, sigma)
                if split == "reference":
                    yield f"{name}/{site}/gradient", stop, gradients(probe, sigma)
        if (site, split) == ("branch", "sweep"):
            for name, probe in at_site.items():
                yield f"{name}/branch/local", len(subsets(len(probe.components), max_order)), local(probe)


def _masks(p: Recording, gating: Perturbation, names: list[str]) -> dict[tuple[Site, str], Tensor]:
    """Masks ``[n, m]`` by gate site and split, in the order in which they are recorded: first what notebooks read.

    ``test_<s>`` are test masks of another scale; ``ablation`` removes (σ = −1) each component, each pair, then
    random sets whose share of the components is uniform; ``removal`` removes every set, and ``halving`` halves it;
    ``grid`` scales the two components that the setup names.
    """
    m = len(names)

    def drawn(n: int, split: str, scale: float = gating.scale) -> Tensor:
        return gaussian(n, m, scale, p.seed, split)

    both = {"validation": drawn(p.n_validation, "validation"), "test": drawn(p.n_test, "test")}
    branch = both | {"fit": drawn(p.n_fit, "fit"), "reference": drawn(p.n_reference, "reference")}
    sweep = {"sweep": one_at_a_time(m)}
    output = both | {"fit": drawn(p.n_fit_output, "fit")} | sweep if p.n_fit_output else {}
    of_scales = {"test": p.n_test, "fit": p.n_fit_scales, "validation": p.n_fit_scales // 4}
    rest = {
        f"{split}_{scale}": drawn(n, f"{split}_{scale}", scale)
        for split, n in of_scales.items()
        for scale in p.scales
    }
    rest["ablation"] = ablations(p.n_ablation, m, p.seed)
    if p.all_sets:
        rest |= {"removal": every_removal(m), "halving": every_removal(m) / 2}
    if p.grid:
        rest["grid"] = pair_grid(names, p.grid)
    in_order: list[tuple[Site, dict[str, Tensor]]]
    in_order = [("branch", branch | sweep), ("output", output), ("branch", rest)]
    return {(site, split): sigma for site, masks in in_order for split, sigma in masks.items() if len(sigma)}


def _examples(model: nn.Module, data: Images, p: Recording, gating: Perturbation) -> dict[str, Example]:
    """``reported.0``, … and ``development.0``, …: position in the test split, image ``[1, …]``, label ``[1]``."""
    found = {}
    for kind, n in (("reported", p.n_reported), ("development", p.n_development)):
        asked = gating.model_copy(update={"n_examples": n})
        chosen = choose_examples(model, data, asked, development=kind == "development") if n else ()
        for i, at in enumerate(chosen):
            found[f"{kind}.{i}"] = (int(at), data.test.read(at[None]), data.test.labels[at[None]])
    return found


def _resumed(setup: str, determined: dict) -> dict[str, Tensor]:
    target = store.recording(setup)
    if not target.exists():
        return {}
    before = recorded(setup)
    for kind, value in determined.items():
        if kind not in ("examples", "images") and before.said(kind, type(value)) != value:
            raise BadInputError(
                f"{target.relative_to(store.ROOT)} was recorded with other {kind}; move it away to record anew."
            )
        for name, one in before.said(kind, dict).items() if kind in ("examples", "images") else ():
            if value.get(name, one) != one:
                raise BadInputError(
                    f"{target.relative_to(store.ROOT)} holds another image as {name}; move it away to record anew."
                )
    return before.content


if __name__ == "__main__":
    with spoken(), files.alone(store.ARTIFACTS):
        for _name in sys.argv[1:]:
            _sections = setups.read(_name)
            if setups.has_classifier(_name):
                record(_name)
            if setups.Components.section in _sections:
                removing.record(_name)
            if setups.Language.section in _sections:
                prompting.record(_name)
