"""Editing against a patch that takes over a transformer: 36 heads and 12 feed-forward networks of DeiT-tiny.

In place of the typographic attack of COAR's authors, which needs a CLIP: a square of 48 pixels in the upper left
corner, drawn by gradient steps on 64 images so that the network says "toaster" of whatever it is put on. Targets
are ten images with it, references the same without, as for a backdoor; 40 images choose the size of an edit, and
the other half of all images is reported. Images of the class that the patch stands for are left out.

``python -m benchmarks.patches <folder>`` takes a folder of ImageNet's validation images with a ``labels.csv`` of
the columns ``file`` and ``class_index``, and timm's weights from the folder that ``KANLIB_DATA`` names. It takes
more than an hour on 2 CPU cores; ``data/editing_patch.json`` has a row for each method.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from benchmarks.edits import edits
from kanlib import claims, files, metrics, store
from kanlib.attribution import METHODS, Editor, best
from kanlib.errors import BadInputError
from kanlib.machine import generator
from kanlib.networks import Probe, accuracy, effects, find, halves, margins, masks_for
from kanlib.networks.architectures import classifier
from kanlib.networks.checkpoints import fitted
from kanlib.networks.weights import published, with_weights
from kanlib.setups import Editing, Training

SETUP = "imagenet_deit_tiny"
COMPONENTS = ["blocks.*.attn[*]", "blocks.*.mlp"]
SIZES = [1, 2, 3, 4, 6, 8]
USUAL = 3  # of 48, at which methods are compared
PAIRS, SEEN, DRAWN_ON = 10, 40, 64
SIDE, STEPS, BATCH, RATE = 48, 120, 16, 0.1
TOASTER = 859
P = Editing.from_setup(
    SETUP,
    {"components": COMPONENTS, "n_fit": 400, "n_validation": 100, "n_test": 60, "sizes": SIZES, "batch_size": 20},
)
COMMAND = claims.Command("python -m benchmarks.patches", device="2 CPU cores")


def network() -> tuple[nn.Module, Callable[[Image.Image], Tensor]]:
    """The network with its published weights, and what makes an image into its input."""
    p = Training.from_setup(SETUP)
    model, transform = classifier(p.architecture, 1000, small_images=False)
    weights, _ = fitted(published(p.architecture, "DEFAULT")[0], model)
    if transform is None:
        raise BadInputError(f"{p.architecture} says not how its images are made, expected a model of timm.")
    return with_weights(model, weights).eval().requires_grad_(False), transform


def patched(x: Tensor, patch: Tensor) -> Tensor:
    """Images ``[B, 3, H, W]`` with the patch ``[3, side, side]``, upper left."""
    side = patch.shape[-1]
    return torch.cat(
        [torch.cat([patch.expand(len(x), -1, -1, -1), x[..., :side, side:]], -1), x[..., side:, :]], -2
    )


def drawn(model: nn.Module, x: Tensor, black: Tensor, white: Tensor) -> Tensor:
    """A patch by which the network says "toaster" of these images, between black and white ``[3]``."""
    pixels = torch.zeros(3, SIDE, SIDE, requires_grad=True)
    optimiser = torch.optim.Adam([pixels], RATE)
    source = generator(0, "patch")
    target = torch.full((BATCH,), TOASTER)

    def patch() -> Tensor:
        return black[:, None, None] + pixels.sigmoid() * (white - black)[:, None, None]

    for step in range(STEPS):
        some = x[torch.randint(len(x), (BATCH,), generator=source)]
        loss = F.cross_entropy(model(patched(some, patch())), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 20 == 0:
            print(f"step {step}: loss {loss.item():.2f}", flush=True)
    return patch().detach()


def images(folder: Path, read: Callable[[Image.Image], Tensor]) -> tuple[Tensor, Tensor]:
    """Images ``[n, 3, H, W]`` and labels ``[n]``, without those of the class that the patch stands for."""
    known = pd.read_csv(folder / "labels.csv")
    known = known[known["class_index"] != TOASTER]
    x = torch.stack([read(Image.open(folder / file).convert("RGB")) for file in known["file"]])
    return x, torch.tensor(known["class_index"].to_numpy())


@dataclass(frozen=True)
class Attack:
    """A network, images with labels, and the patch that it falls for."""

    model: nn.Module
    x: Tensor
    labels: Tensor
    patch: Tensor

    def probe(self, positions: Tensor, *change: bool) -> Probe:
        """These images, with the patch or without it, one after the other."""
        names, some = find(self.model, P.components), self.x[positions]
        x = torch.cat([patched(some, self.patch) if with_it else some for with_it in change])
        labels = self.labels[positions].repeat(len(change))
        return Probe(self.model, names, x, labels, batch_size=P.batch_size, precision=P.precision)


def compared(attack: Attack) -> tuple[list[dict], dict[str, Tensor], dict[str, Tensor]]:
    """A row for each method; and of its edit which images are right, and what one of the usual size nets."""
    positions = torch.arange(len(attack.labels))
    chosen_by, reported = (positions[some] for some in halves(len(positions), P.seed))
    asked, seen = chosen_by[: PAIRS + SEEN].split([PAIRS, SEEN])
    names = find(attack.model, P.components)
    masks = masks_for(P, len(names))
    answers = effects(attack.probe(asked, True, False), masks)
    unit = Editor(P, masks, answers).unit(range(PAIRS), range(PAIRS, 2 * PAIRS))
    found = dict(zip(METHODS, edits([(unit, method) for method in METHODS], SIZES), strict=True))
    table: list[dict] = []
    after, nets = {}, {}
    for method in METHODS:
        sets = [edit.removed for edit in found[method]]
        under, clean = (accuracy(margins(attack.probe(seen, with_it), sets)) for with_it in (True, False))
        i = best(under[1:] - under[0], clean[0] - clean[1:], P.most)
        two = [sets[i], sets[SIZES.index(USUAL)]]
        found_out = [margins(attack.probe(reported, with_it), two) > 0 for with_it in (True, False)]
        right = torch.stack(found_out).double()
        after[method] = right[0, :, 1]
        nets[method] = (right[:, :, 2] - right[:, :, 0]).sum(0)
        row = {"method": metrics.TITLES[method], "k": SIZES[i]}
        for name, j in (("before", 0), ("after", 1), (f"at k = {USUAL}", 2)):
            under_, clean_ = (round(v, 4) for v in right[:, :, j].mean(1).tolist())
            row |= {f"patch {name}": under_, f"clean {name}": clean_}
        table.append(row)
        print(*row.values(), sep=" | ", flush=True)
    return table, after, nets


def main(arguments: Sequence[str]) -> None:
    torch.set_num_threads(2)
    model, read = network()
    x, labels = images(Path(arguments[0]), read)
    black, white = (read(Image.new("RGB", (224, 224), name)).flatten(1).mean(1) for name in ("black", "white"))
    chosen_by, reported = halves(len(x), P.seed)
    patch = drawn(model, x[chosen_by[PAIRS + SEEN :][:DRAWN_ON]], black, white)
    table, after, nets = compared(Attack(model, x, labels, patch))
    files.write_json(store.ROOT / "data" / "editing_patch.json", table)
    where = f"of DeiT-tiny on {len(reported)} images"
    words = (
        f"Accuracy {where} with a patch after COAR-EDIT, heads and feed-forward networks, {PAIRS} pairs, k by "
        f"validation; before it is {table[0]['patch before']:.3f}"
    )
    more = (
        f"What exact pairs net more than COAR with {USUAL} of 48 components removed and from the same masks, "
        f"{where}: accuracy with the patch that is gained less accuracy without that is lost"
    )
    measured = {
        "accuracy": (words, metrics.mean_estimate(after["coar"])),
        "second_order_minus_coar": (more, metrics.mean_estimate(nets["exact"] - nets["coar"])),
    }
    claims.record([COMMAND.claim(f"edit.patch.{name}", *row) for name, row in measured.items()])


if __name__ == "__main__":
    main(sys.argv[1:])
