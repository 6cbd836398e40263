"""Editing for a group of images that a network fails: those whose cue says another class.

Every digit carries a band, whose place is that of its class in nineteen of twenty training images, and of another
class in the twentieth. A network that trusts the band fails where it misleads; such images are the worst group.
Targets are 20 of them and references 20 whose band is right, all of the half of the test images that is for
development; another part of that half chooses the size of the edit, and the other half is reported. How many
training images mislead was set on another network, so that the worst group is neither lost nor safe.

Five networks, each trained from a start of its own on cues of its own; intervals are over networks. ``python -m
benchmarks.subpopulations`` takes minutes on 2 CPU cores; ``data/editing_subpopulations.json`` has a row for each
network and method.
"""

import statistics
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.edits import edits, keep
from kanlib import claims, files, metrics, store
from kanlib.attribution import METHODS, Editor, best
from kanlib.networks import (
    Probe,
    accuracy,
    effects,
    find,
    halves,
    load,
    margins,
    masks_for,
    misleading,
    train,
    with_bands,
)
from kanlib.networks.images import Images
from kanlib.setups import Editing, Training

SETUP = "digits_miniresnet"
NETWORKS, GROUP, SEEN = 5, 20, 300
MISLEADING = 0.05  # of training images
WIDTH = 3  # of a band, pixels
SIZES = [1, 2, 3, 4, 6, 8, 12]
COMMAND = claims.Command("python -m benchmarks.subpopulations", device="2 CPU cores")


def trained(seed: int) -> tuple[nn.Module, Images, Tensor]:
    """A network that has learnt with cues, the data, and the cues' colour."""
    p = Training.from_setup(SETUP, {"seed": seed})
    model, data, _ = load(p)
    if data.train is None:
        raise AssertionError(f"{SETUP} has a training split")
    x, y = data.train.read(torch.arange(len(data.train))), data.train.labels
    white = x.amax((0, 2, 3))
    cues = misleading(y, len(data.classes), MISLEADING, seed)
    n = p.n_train
    train(p, model, with_bands(x, cues, white, WIDTH)[:n], y[:n])
    return model.eval().requires_grad_(False), data, white


def rows(seed: int) -> list[dict]:
    """A row for each method: accuracy of the worst group and of the others, without and with its edit."""
    model, data, white = trained(seed)
    p = Editing.from_setup(SETUP, {"seed": seed, "sizes": SIZES})
    names, labels, n_classes = find(model, p.components), data.test.labels, len(data.classes)
    chosen_by, reported = halves(len(labels), seed)

    def probe(positions: Tensor, share: float) -> Probe:
        cues = misleading(labels[positions], n_classes, share, seed)
        x = with_bands(data.test.read(positions), cues, white, WIDTH)
        return Probe(model, names, x, labels[positions], batch_size=p.batch_size, precision=p.precision)

    wrong, right = partial(probe, share=1.0), partial(probe, share=0.0)
    asked, seen = chosen_by[: 2 * GROUP], chosen_by[2 * GROUP : 2 * GROUP + SEEN]
    ours, theirs = wrong(asked[:GROUP]), right(asked[GROUP:])
    both = Probe(
        model,
        names,
        torch.cat([ours.x, theirs.x]),
        torch.cat([ours.labels, theirs.labels]),
        batch_size=p.batch_size,
        precision=p.precision,
    )
    masks = masks_for(p, len(names))
    unit = Editor(p, masks, effects(both, masks)).unit(range(GROUP), range(GROUP, 2 * GROUP))
    found = dict(zip(METHODS, edits([(unit, method) for method in METHODS], SIZES), strict=True))
    out, usual = [], 0
    for method in METHODS:
        sets = [edit.removed for edit in found[method]]
        worst, others = (accuracy(margins(some, sets)) for some in (wrong(seen), right(seen)))
        i = best(worst[1:] - worst[0], others[0] - others[1:], p.most)
        usual = i if method == "coar" else usual
        chosen = [sets[i], sets[usual]]
        worst, others = (accuracy(margins(some, chosen)) for some in (wrong(reported), right(reported)))
        net = (worst[2] - worst[0]) - (others[0] - others[2])
        row = {"network": seed + 1, "method": metrics.TITLES[method], "k": SIZES[i]}
        row |= {"worst group before": worst[0], "worst group after": worst[1]}
        row |= {"others before": others[0], "others after": others[1], "net at COAR's k": net}
        out.append({name: round(float(v), 4) if isinstance(v, Tensor) else v for name, v in row.items()})
        print(*out[-1].values(), sep=" | ", flush=True)
    return out


def main() -> None:
    torch.set_num_threads(1)
    table = [row for seed in range(NETWORKS) for row in rows(seed)]
    files.write_json(store.ROOT / "data" / "editing_subpopulations.json", table)
    of_method = {
        method: [row for row in table if row["method"] == metrics.TITLES[method]] for method in ("coar", "exact")
    }

    def values(method: str, name: str) -> Tensor:
        return torch.tensor([row[name] for row in of_method[method]], dtype=torch.float64)

    before = statistics.mean(row["worst group before"] for row in table)
    words = (
        f"Accuracy of the worst group, digits whose cue misleads, after COAR-EDIT of {SETUP}, k by validation; "
        f"mean over {NETWORKS} networks; before it is {before:.3f}"
    )
    after = values("coar", "worst group after")
    lead = values("exact", "net at COAR's k") - values("coar", "net at COAR's k")
    more = (
        "What exact pairs net more than COAR at the same k and from the same masks, for the worst group: accuracy "
        f"that it gains less what others lose, mean over {NETWORKS} networks of {SETUP}"
    )
    measured = {
        "worst_group": (words, metrics.mean_estimate(after)),
        "second_order_minus_coar": (more, metrics.mean_estimate(lead)),
    }
    claims.record([COMMAND.claim(f"edit.subpopulations.{name}", *row) for name, row in measured.items()])
    keep("subpopulations", lead)


if __name__ == "__main__":
    main()
