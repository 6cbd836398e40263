"""What ``benchmarks.editing`` is made of: test images in halves, a network's answers, and edits of many units."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from joblib import Parallel, cpu_count, delayed, parallel_config
from torch import Tensor, nn

from benchmarks.backdoor import SETUP
from kanlib import machine, store
from kanlib.attribution import Edit, Editor, Unit
from kanlib.attribution.editing import Objective
from kanlib.networks import Probe, effects, find, masks_for
from kanlib.networks import halves as halved
from kanlib.networks.images import Labelled
from kanlib.setups import Components, Editing

CORES = cpu_count()
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
