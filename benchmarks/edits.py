"""What benchmarks of edits are made of: test images in halves, a network's answers, and edits of many units.

They keep what exact pairs net more than COAR in ``data/editing_units.json``. Over all tasks it is put together by
``python -m benchmarks.edits``, and whenever a benchmark has measured a task anew.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from joblib import Parallel, cpu_count, delayed, parallel_config
from torch import Tensor, nn

from benchmarks.backdoor import SETUP
from kanlib import claims, files, machine, metrics, store
from kanlib.attribution import Edit, Editor, Unit
from kanlib.attribution.editing import Objective
from kanlib.machine import generator
from kanlib.networks import Probe, effects, find, masks_for
from kanlib.networks import halves as halved
from kanlib.networks.images import Labelled
from kanlib.setups import Components, Editing

CORES = cpu_count()
UNITS = store.ROOT / "data" / "editing_units.json"
#: And what their units are.
TASKS = {
    "errors": "errors",
    "forget": "classes",
    "backdoor": "draws of pairs for a backdoor",
    "subpopulations": "networks with a misleading cue",
}
SIZES = [1, 2, 3, 4, 6, 8, 11, 15, 20, 30, 40]
#: ``directions`` and ``trade_off`` were chosen on development errors, see ``benchmarks.editing --development``.
P = Editing.from_setup(
    SETUP,
    {
        "components": Components.from_setup(SETUP).components,
        "n_fit": 2000,
        "n_validation": 300,
        "n_test": 200,
        "sizes": SIZES,
        "directions": 16,
        "screened": 40,
        "trade_off": 3.0,
        "seconds": 2.0,
        "most": 0.02,
        "batch_size": 500,
    },
)


@dataclass(frozen=True)
class Halves:
    """A network, how its test images are probed, and which of them are for development and which are reported."""

    probe: Callable[[Tensor], Probe]
    labels: Tensor
    development: Tensor
    reported: Tensor


def halves(model: nn.Module, images: Labelled, change: Callable[[Tensor], Tensor] = lambda x: x) -> Halves:
    """The halves of the test split, on a GPU where there is one; ``change`` is made to its images."""
    device = machine.device(P.device)
    torch.set_num_threads(CORES)
    model = model.to(device).to(memory_format=torch.channels_last)
    names = find(model, P.components)

    def probe(positions: Tensor) -> Probe:
        x, labels = change(images.read(positions)).to(device), images.labels[positions].to(device)
        return Probe(model, names, x, labels, batch_size=P.batch_size, precision=P.precision)

    return Halves(probe, images.labels, *halved(len(images), P.seed))


def joined(one: Probe, other: Probe) -> Probe:
    """A probe of the images of both, of the same network."""
    return replace(one, x=torch.cat([one.x, other.x]), labels=torch.cat([one.labels, other.labels]))


def editor(probe: Probe, run: str) -> Editor:
    """Every method's attributions of these images; the answers are kept, as they take minutes on a CPU."""
    target, masks = store.path(run, "editing"), masks_for(P, len(probe.components))
    made_from = {"masks": masks, "images": {"x": probe.x}, "weights": probe.model.state_dict()}
    determined = {name: store.tensors_hash(tensors) for name, tensors in made_from.items()}
    if not target.exists() or store.load(target, "editing").record["inputs"] != determined:
        store.save(target, effects(probe, masks), kind="editing", parameters={}, inputs=determined)
    return Editor(P, masks, store.load(target, "editing").content)


def side_by_side(function: Callable, pieces: Iterable[tuple]) -> list:
    """``function`` of every piece, in a process for each CPU core, of one thread each."""

    def alone(*piece: object) -> object:
        torch.set_num_threads(1)
        return function(*piece)

    with parallel_config("loky", n_jobs=CORES, inner_max_num_threads=1):
        return Parallel()(delayed(alone)(*piece) for piece in pieces)


def units(
    attributed: Editor, sets: Sequence[tuple[Sequence[int], Sequence[int]]], objective: Objective
) -> list[Unit]:
    """What is to be edited for each pair of targets and references."""
    return side_by_side(attributed.unit, [(*rows, objective) for rows in sets])


def edits(asked: Sequence[tuple[Unit, str]], sizes: Sequence[int]) -> list[list[Edit]]:
    """The edits of each unit by a method, of these sizes."""
    found = side_by_side(Unit.by, [(unit.of(method), method, k) for unit, method in asked for k in sizes])
    return [found[i : i + len(sizes)] for i in range(0, len(found), len(sizes))]


def keep(task: str, differences: Tensor) -> None:
    """Keep what exact pairs net more than COAR in each unit of a task, and say it over all tasks."""
    known = json.loads(UNITS.read_text(encoding="utf8")) if UNITS.exists() else {}
    known[task] = [round(v, 4) for v in differences.tolist()]
    files.write_json(UNITS, {name: known[name] for name in TASKS if name in known})
    if known.keys() == TASKS.keys():
        over_tasks()


def over_tasks() -> None:
    """Record the mean over tasks of the mean over their units; the interval resamples the units of each."""
    known = json.loads(UNITS.read_text(encoding="utf8"))
    differences = [torch.tensor(known[task], dtype=torch.float64) for task in TASKS]
    draws = [metrics.bootstrap_mean(d, 2000, generator(0, "bootstrap", i)) for i, d in enumerate(differences)]
    value = torch.stack([d.mean() for d in differences]).mean().item()
    words = (
        "What an edit nets by singles and pairs, exactly chosen, less what COAR-EDIT nets at the same k and from "
        "the same masks: accuracy that the targets gain or lose as asked, less what other images lose; mean over "
        f"{len(TASKS)} tasks ({', '.join(TASKS.values())}), interval over the units of each"
    )
    estimate = metrics.Estimate(value, *metrics.interval(torch.stack(draws).mean(0)))
    command = claims.Command("python -m benchmarks.edits", device="one GPU and 2 CPU cores")
    claims.record([command.claim("edit.second_order_minus_coar", words, estimate, "low > 0", aim=True)])


if __name__ == "__main__":
    over_tasks()
