"""COAR-EDIT and edits by singles and pairs: an error, a class, a backdoor; the true effect of each is measured.

On the small network of COAR's authors for CIFAR-10, 288 filters. All methods get the same k; those that are
fitted get the same masks, 2,000 and 300 more to validate, at a share of a tenth. Half of the test split is for
development: references R, targets of the classes, pairs for the backdoor, images that choose k, and the errors on
which pairs' knobs were chosen (``--development``). The other half is reported, once: 64 errors, and other images
for accuracy. All forward passes are in bf16, and a margin above 0 counts as right. The tables are in
``data/editing_<task>.json``.

It runs on a GPU where there is one; integer programs are solved on all CPU cores. It needs no data set where
``python -m benchmarks.backdoor`` has left the networks and the test images in ``_artifacts``. ``python -m
benchmarks.editing <task> …`` leaves the other tasks as they are.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.backdoor import CLASS, RUN, images_to_judge, network, trained_with_it, triggered
from benchmarks.edits import CORES, SETUP, SIZES, P, editor, edits, halves, joined, keep, units
from benchmarks.runs import hardware
from kanlib import claims, files, machine, metrics, store
from kanlib.attribution import METHODS, Edit, Unit, best, misclassified, of_class
from kanlib.machine import generator
from kanlib.networks import Probe, accuracy, margins

DATA = store.ROOT / "data"
N_ERRORS, N_DEVELOPMENT, N_REFERENCES, N_CLASS, N_PAIRS = 64, 24, 50, 10, 10
N_VALIDATION, N_REPORTED, N_BESIDE_ERRORS = 600, 2000, 500
DRAWS = 5  # of pairs for the backdoor
SIZE = 2  # at which COAR nets most on development errors
ONE_PERCENT = 3  # of 288
TITLES = metrics.TITLES
ON = machine.device(P.device)
COMMAND = claims.Command(
    "python -m benchmarks.editing", device=hardware(ON) + (f" and {CORES} CPU cores" if ON.type == "cuda" else "")
)


Table = list[dict[str, Any]]
Result = tuple[Table, Tensor, list[claims.Claim]]


def said(values: Tensor) -> list[float]:
    """Mean, low and high, as tables have them."""
    return [round(v, 4) for v in metrics.mean_estimate(values.double())]


_START = time.perf_counter()


def tell(*words: object) -> None:
    print(f"{time.perf_counter() - _START:.0f} s", *words, flush=True)


class Small:
    """The setup's network, and which rows of its answers are references, errors and targets of classes."""

    def __init__(self) -> None:
        images, _, self.classes = images_to_judge()
        self.halves = halves(network(SETUP), images)
        labels, development, reported = self.halves.labels, self.halves.development, self.halves.reported
        self.validation, references, rest = development.split(
            [N_VALIDATION, N_REFERENCES, len(development) - N_VALIDATION - N_REFERENCES]
        )
        others, rest = without(rest, misclassified(self._margins(rest), N_DEVELOPMENT))
        errors, reported = without(reported, misclassified(self._margins(reported), N_ERRORS))
        self.reported = reported[:N_REPORTED]
        targets = [rest[of_class(labels[rest], c, N_CLASS)] for c in range(len(self.classes))]
        parts = [references, others, errors, *targets]
        probe = self.halves.probe(torch.cat(parts))
        rows = torch.arange(len(probe.x)).split([len(part) for part in parts])
        self.references, self.others, self.errors, *self.targets = (part.tolist() for part in rows)
        self.probe = probe
        self.editor = editor(probe, f"{SETUP}_editing")
        tell("the network has answered to", len(self.editor.masks["fit"]), "masks and more")

    def _margins(self, positions: Tensor) -> Tensor:
        return margins(self.halves.probe(positions), [])[:, 0]

    def moved(self, row: int, found: Sequence[Edit]) -> tuple[Tensor, Tensor]:
        """The margin of one image after each edit, and by how much it moved."""
        after = margins(self.probe.of(slice(row, row + 1)), [e.removed for e in found])[0]
        return after[1:], after[1:] - after[0]


def without(positions: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The positions at these rows, and the rest."""
    left = torch.ones(len(positions), dtype=torch.bool)
    left[rows] = False
    return positions[rows], positions[left]


def drops(probe: Probe, found: Sequence[Edit]) -> Tensor:
    """What each edit takes of the accuracy, ``[n]``."""
    right = accuracy(margins(probe, [e.removed for e in found]))
    return right[0] - right[1:]


def until_mended(small: Small, asked: Sequence[Unit], method: str) -> list[tuple[Edit, bool]]:
    """The least edit that mends each error, and that it does; or the largest there is."""
    least: dict[int, tuple[Edit, bool]] = {}
    left = list(range(len(asked)))
    for k in SIZES:
        for i, (found,) in zip(left, edits([(asked[i], method) for i in left], [k]), strict=True):
            least[i] = found, bool(small.moved(small.errors[i], [found])[0] > 0)
        left = [i for i in left if not least[i][1]]
        if not left:
            break
    return [least[i] for i in range(len(asked))]


def development(small: Small) -> None:
    """What the size does to COAR's edits of development errors, and λ to those by pairs."""
    beside = small.halves.probe(small.validation)
    asked = units(small.editor, [([row], small.references) for row in small.others], "raise")
    for name in asked[0].fits:
        tell("Pearson on test masks", name, said(torch.tensor([unit.fits[name] for unit in asked])))
    runs: list[tuple[str, float, Sequence[int]]] = [("coar", 1.0, [SIZE, 3, 4])]
    pairs = ("singles", "greedy", "exact", "exact_filters")
    runs += [(method, trade_off, [SIZE]) for method in pairs for trade_off in (0.3, 1.0, 3.0, 10.0)]
    for method, trade_off, sizes in runs:
        found = edits([(replace(unit, trade_off=trade_off), method) for unit in asked], sizes)
        net = [
            (small.moved(row, some)[0] > 0).double() - drops(beside, some)
            for row, some in zip(small.others, found, strict=True)
        ]
        for k, values in zip(sizes, torch.stack(net).T, strict=True):
            tell(method, "λ", trade_off, "k", k, "net", said(values))


def errors() -> Result:
    """Fix one error: the table, what exact pairs net more than COAR at equal k ``[64]``, and the claim."""
    small = Small()
    beside = small.halves.probe(small.reported[:N_BESIDE_ERRORS])
    asked = units(small.editor, [([row], small.references) for row in small.errors], "raise")
    table: Table = []
    nets: dict[str, Tensor] = {}
    for method in METHODS:
        mended_by = until_mended(small, asked, method)
        of_one_size = edits([(unit, method) for unit in asked], [SIZE])
        rows = []
        for row, (least, fixed), (usual,) in zip(small.errors, mended_by, of_one_size, strict=True):
            after, change = small.moved(row, [usual])
            lost = drops(beside, [least, usual])
            rows.append([fixed, len(least.removed), lost[0], after[0] > 0, lost[1], change[0], usual.targets])
        fixed, size, lost, mended, lost_too, change, predicted = torch.tensor(rows, dtype=torch.float64).T
        nets[method] = mended - lost_too
        done = fixed > 0
        table.append(
            {
                "method": TITLES[method],
                "fixed": said(fixed),
                "median k": float(size[done].median()) if done.any() else None,
                "median drop of accuracy": round(float(lost[done].median()), 4) if done.any() else None,
                f"fixed at k = {SIZE}": said(mended),
                f"drop of accuracy at k = {SIZE}": said(lost_too),
                f"net at k = {SIZE}": said(nets[method]),
                f"change of margin at k = {SIZE}": said(change),
                "predicted change": said(predicted),
                "Pearson of both": round(float(torch.corrcoef(torch.stack([change, predicted]))[0, 1]), 4),
            }
        )
        tell(*table[-1].values())
        if method == "coar":
            words = (
                f"Share of {N_ERRORS} errors of {SETUP} that COAR-EDIT mends by removing up to {SIZES[-1]} of 288 "
                f"filters, {N_REFERENCES} references"
            )
            claim = COMMAND.claim("edit.errors.fixed", words, metrics.mean_estimate(fixed), ">= 0.95", aim=True)
    for name in asked[0].fits:
        tell("Pearson of the objective on test masks", name, said(torch.tensor([u.fits[name] for u in asked])))
    return table, nets["exact"] - nets["coar"], [claim]


def forget() -> Result:
    """Forget a class: as :func:`errors`, over ten classes."""
    small = Small()
    validation, reported = (small.halves.probe(some) for some in (small.validation, small.reported))
    asked = units(small.editor, [(targets, small.references) for targets in small.targets], "lower")
    every = [(unit, method) for unit in asked for method in METHODS]
    found = dict(zip([(c, m) for c in range(len(asked)) for m in METHODS], edits(every, SIZES), strict=True))
    tell("edits of", len(asked), "classes are chosen")
    table: Table = []
    nets: dict[str, list[Tensor]] = {method: [] for method in METHODS}
    for c in range(len(asked)):
        usual = 0
        for method in METHODS:
            by_size = found[c, method]
            own, others = of_a_class(validation, by_size, c)
            i = best(own[0] - own[1:], others[0] - others[1:], P.most)
            usual = i if method == "coar" else usual
            own, others = of_a_class(reported, [by_size[i], by_size[usual]], c)
            nets[method].append((own[0] - own[2]) - (others[0] - others[2]))
            row = {"class": small.classes[c], "method": TITLES[method], "k": SIZES[i]}
            row |= {"class before": own[0], "class after": own[1]}
            row |= {"others before": others[0], "others after": others[1], "net at COAR's k": nets[method][-1]}
            row["forgotten"] = ((own[1] < 0.25) & (others[0] - others[1] <= P.most)).double()
            table.append({key: round(float(v), 4) if isinstance(v, Tensor) else v for key, v in row.items()})
            tell(*table[-1].values())
    done = torch.tensor([row["forgotten"] for row in table if row["method"] == TITLES["coar"]]).double()
    low, high = (len(done) * v for v in metrics.mean_estimate(done)[1:])
    words = (
        f"Classes of {len(small.classes)} of {SETUP} that COAR-EDIT brings below an accuracy of 25 % with others "
        f"within 2 points, {N_CLASS} targets and {N_REFERENCES} references, k by validation; interval over classes"
    )
    estimate = metrics.Estimate(float(done.sum()), low, high)
    rows = [COMMAND.claim("edit.forget.classes", words, estimate, ">= 8", aim=True)]
    return table, torch.stack(nets["exact"]) - torch.stack(nets["coar"]), rows


def of_a_class(probe: Probe, found: Sequence[Edit], label: int) -> tuple[Tensor, Tensor]:
    """Accuracy of that class and of all others, without and with each edit."""
    after, own = margins(probe, [e.removed for e in found]), (probe.labels == label).cpu()
    return accuracy(after[own]), accuracy(after[~own])


def backdoor() -> Result:
    """Close a backdoor: as :func:`errors`, over draws of pairs."""
    trained_with_it()
    model, (images, ends, _) = network(RUN), images_to_judge()
    plain, marked = halves(model, images), halves(model, images, partial(triggered, extremes=ends))
    half = plain.development
    validation, rest = half[:N_VALIDATION], half[N_VALIDATION:]
    rest = rest[plain.labels[rest] != CLASS]
    n = DRAWS * N_PAIRS
    order = torch.randperm(len(rest), generator=generator(0, "pairs"))[:n]
    attributed = editor(joined(marked.probe(rest[order]), plain.probe(rest[order])), f"{RUN}_editing")
    reported = plain.reported[:N_REPORTED]
    seen, unseen = ((marked.probe(some), plain.probe(some)) for some in (validation, reported))
    pairs = [(rows.tolist(), (rows + n).tolist()) for rows in torch.arange(n).split(N_PAIRS)]
    asked = units(attributed, pairs, "raise")
    every = [(unit, method) for unit in asked for method in METHODS]
    chosen = dict(zip([(i, m) for i in range(DRAWS) for m in METHODS], edits(every, SIZES), strict=True))
    tell("edits of", DRAWS, "draws are chosen")
    table: Table = []
    nets: dict[str, list[Tensor]] = {method: [] for method in METHODS}
    after: dict[str, list[Tensor]] = {method: [] for method in METHODS}
    for draw, method in chosen:
        sets = [e.removed for e in chosen[draw, method]]
        trigger, clean = (accuracy(margins(probe, sets)) for probe in seen)
        i = best(trigger[1:] - trigger[0], clean[0] - clean[1:], P.most)
        found = [margins(probe, [sets[i], sets[SIZES.index(ONE_PERCENT)]]) for probe in unseen]
        trigger, clean = map(accuracy, found)
        after[method].append(trigger[1])
        nets[method].append(trigger[2] - trigger[0] - (clean[0] - clean[2]))
        row = {"draw": draw + 1, "method": TITLES[method], "k": SIZES[i]}
        for name, j in (("before", 0), ("after", 1), (f"at k = {ONE_PERCENT}", 2)):
            row |= {f"trigger {name}": trigger[j], f"clean {name}": clean[j]}
            row[f"correlation {name}"] = torch.corrcoef(torch.stack([part[:, j] for part in found]))[0, 1]
        table.append({key: round(float(v), 4) if isinstance(v, Tensor) else v for key, v in row.items()})
        tell(*table[-1].values())
    words = (
        f"Accuracy under the trigger after COAR-EDIT of {SETUP} with a backdoor, k by validation, {N_PAIRS} "
        f"pairs; mean and interval over {DRAWS} draws of pairs; before it is {table[0]['trigger before']:.3f}"
    )
    found_one = metrics.mean_estimate(torch.stack(after["coar"]))
    rows_ = [COMMAND.claim("edit.backdoor.trigger_accuracy", words, found_one, ">= 0.8", aim=True)]
    return table, torch.stack(nets["exact"]) - torch.stack(nets["coar"]), rows_


TASKS: dict[str, Callable[[], Result]] = {"errors": errors, "forget": forget, "backdoor": backdoor}


def main(asked: Sequence[str]) -> None:
    if "--development" in asked:
        development(Small())
        return
    for name in asked or TASKS:
        table, differences, recorded = TASKS[name]()
        tell(name, "exact pairs less COAR", said(differences))
        files.write_json(DATA / f"editing_{name}.json", table)
        claims.record(recorded)
        keep(name, differences)


if __name__ == "__main__":
    main(sys.argv[1:])
