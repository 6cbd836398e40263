"""One prediction as three games: whether the numbers are right, and how far methods agree.

A network of eight blocks is trained from three seeds, and two of its test images are explained each: 16 patches,
60 groups of training images and 8 blocks. ``python -m benchmarks.views`` is about the digits, ``… cifar10`` about
CIFAR-10, whose files have to be in the folder ``KANLIB_DATA``. ``data/views.json`` and ``data/views_cifar10.json``
have a row for each method and view: how far the value falls while players are removed in its order, and how its
ranks agree with those of other methods. Influence and its peers are also scored on random halves of the groups,
trained without the others (the linear datamodeling score). ``… chapter`` measures what the chapter costs.
"""

import os
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from benchmarks import runs
from benchmarks.backdoor import extremes
from kanlib import claims, files, metrics, store
from kanlib.attribution import (
    ROWS,
    Cell,
    agreement,
    by_definition,
    by_fits,
    by_gradients,
    by_perturbation,
    deletion,
    n_coefficients,
    per_group,
    prediction,
    regions,
    tracin,
    trial,
)
from kanlib.attribution.games import Index
from kanlib.attribution.predictions import Prediction
from kanlib.machine import generator
from kanlib.metrics import mean_estimate
from kanlib.networks import abnormality, likelihood, load, strangers, train
from kanlib.networks.images import Images
from kanlib.setups import Training, Views

SETUP = "digits_eight_blocks"
SEEDS, IMAGES = (0, 1, 2), (0, 1)
DRAWS, HALVES, STRANGERS = 20, 200, 360
CHAPTER = claims.Command("python -m benchmarks.views chapter", device="1 CPU core")
VIEWS = ("features", "data", "components")


@dataclass(frozen=True)
class Subject:
    """Data, and how their results are called: a setup, the names of its claims and its table, and words."""

    setup: str
    prefix: str
    table: str
    said: str
    strangers: str
    command: claims.Command


SUBJECTS = {
    "digits": Subject(
        SETUP,
        "views",
        "views.json",
        "the digits",
        "noise, digits turned and digits inverted",
        claims.Command("python -m benchmarks.views", device="1 CPU core"),
    ),
    "cifar10": Subject(
        "cifar10_eight_blocks",
        "views.cifar10",
        "views_cifar10.json",
        "CIFAR-10",
        "noise, photographs turned and inverted, and digits",
        claims.Command("python -m benchmarks.views cifar10", device="1 CPU core"),
    ),
}


@dataclass
class Found:
    """What is measured, a number for each prediction; of ``auroc`` for each network and kind of image."""

    errors: list[float] = field(default_factory=list)
    left: list[float] = field(default_factory=list)
    influence: list[float] = field(default_factory=list)
    cells: list[int] = field(default_factory=list)
    filled: list[int] = field(default_factory=list)
    gains: dict[str, list[float]] = field(default_factory=dict)
    fits: dict[str, list[float]] = field(default_factory=dict)
    halves: dict[str, list[float]] = field(default_factory=dict)
    explained: list[float] = field(default_factory=list)
    auroc: dict[str, list[float]] = field(default_factory=dict)
    accuracy: list[float] = field(default_factory=list)
    rows: list[dict] = field(default_factory=list)


def measure(subject: Subject) -> None:
    """All methods on two images of each network, into the ledger and a table."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)
    found = Found()
    for seed in SEEDS:
        model, data, n_train = trained(subject.setup, seed)
        found.accuracy.append(accuracy(model, data))
        known(found, model, data, seed, others(subject, data))
        for image in IMAGES:
            start = time.perf_counter()
            p = Views.from_setup(subject.setup, {"image": image, "seed": seed, "threads": 1})
            one(found, prediction(p, model, data, n_train), p, {"seed": seed, "image": image})
            print(f"seed {seed}, image {image}: {time.perf_counter() - start:.0f} s", flush=True)
    files.write_json(store.ROOT / "data" / subject.table, by_method(found.rows))
    claims.record(ledger_rows(found, subject))


def chapter() -> None:
    """What the chapter costs a reader, its network being there."""
    runs.made(SETUP, "model")
    before = os.times()
    runs.execute("11_views", SETUP, "views_timed")
    after = os.times()
    seconds = sum(getattr(after, kind) - getattr(before, kind) for kind in ("children_user", "children_system"))
    said = "CPU seconds that the chapter takes on one thread, from loading the network to its last table"
    claims.record([CHAPTER.claim("views.chapter_seconds", said, seconds, "<= 240")])


def trained(setup: str, seed: int) -> tuple[nn.Module, Images, int]:
    """The setup's network from another seed, its data, and how many images it was trained on."""
    p = Training.from_setup(setup, {"seed": seed})
    model, data, _ = load(p)
    assert data.train is not None  # noqa: S101
    n = p.n_train or len(data.train)
    train(p, model, data.train.read(torch.arange(n)), data.train.labels[:n])
    return model.eval().requires_grad_(False), data, n


def accuracy(model: nn.Module, data: Images) -> float:
    """Share of test images that the network puts into their class."""
    everything = torch.arange(len(data.test))
    right = [
        (model(data.test.read(some)).argmax(1) == data.test.labels[some]).sum() for some in everything.split(500)
    ]
    return float(sum(right) / len(everything))


def others(subject: Subject, data: Images) -> dict[str, Tensor]:
    """Strange images beside those that every data set has: for photographs, the digits, as bright as these are."""
    if subject.setup == SETUP:
        return {}
    assert data.train is not None  # noqa: S101
    black, white = extremes(data.train)[:, :, None, None]
    digits = load(Training.from_setup(SETUP))[1].test
    x = digits.read(torch.arange(min(STRANGERS, len(digits))))
    return {"digits": black + (white - black) * (x - x.min()) / (x.max() - x.min())}


def known(found: Found, model: nn.Module, data: Images, seed: int, more: Mapping[str, Tensor]) -> None:
    """Areas under ROC curves of strange images against the test images, by slopes of blocks and by softmax."""
    x = data.test.read(torch.arange(min(STRANGERS, len(data.test))))
    blocks = [f"blocks.{i}" for i in range(8)]
    own = abnormality(model, blocks, x), 1 - likelihood(model, x)
    for strange in (strangers(x, generator(seed, "strangers")) | dict(more)).values():
        truth = [0] * len(x) + [1] * len(strange)
        other = abnormality(model, blocks, strange), 1 - likelihood(model, strange)
        for name, mine, theirs in zip(("gaia", "softmax"), own, other, strict=True):
            found.auroc.setdefault(name, []).append(float(roc_auc_score(truth, torch.cat([mine, theirs]))))


def one(found: Found, what: Prediction, p: Views, place: dict) -> None:
    """All methods on one prediction."""
    games = what.games
    tables = {view: game.table() for view, game in games.items() if game.countable}
    views = {
        view: by_perturbation(game, p, tables.get(view))
        | by_gradients(game, p, what.smooth.get(view))
        | by_fits(game, p)
        for view, game in games.items()
    }
    for view in views:
        views[view]["TracIn"] = Cell(None, "these players have no loss that was trained on")
    data = what.remembered
    assert data is not None  # noqa: S101
    single = tracin(data.layer.features[:, :-1], data.errors, data.query, data.slope)
    views["data"]["TracIn"] = Cell(per_group(single, data.layer.groups), "last layer, as trained")

    cells = [views[view].get(row) for view in VIEWS for row in ROWS]
    found.cells.append(sum(cell is not None and bool(cell.note) for cell in cells))
    found.filled.append(sum(cell is not None and cell.values is not None for cell in cells))
    found.errors.append(max(error(views[view], table) for view, table in tables.items()))
    found.left.append(
        max(
            abs(float(values(views[view], "integrated gradients").sum()) / game.whole() - 1)
            for view, game in games.items()
        )
    )
    alone, gradient = (values(views["data"], row) for row in ("leave one out", "gradient"))
    found.influence.append(float(metrics.spearman(gradient[None], alone[None])))
    halves(found, what, views["data"], p)
    for view, table in tables.items():
        n, m = round(p.asked * n_coefficients(games[view].m)), games[view].m
        pools = [torch.randperm(2**m, generator=generator(p.seed, "pool", i))[:1000] for i in range(DRAWS)]
        both = torch.tensor([trial(table, n, pool) for pool in pools]).mean(0)
        found.gains.setdefault(view, []).append(float(1 - both[0] / both[1]))
    found.explained.append(regions(tables["components"], p.n_regions, p.seed).explained)
    for view in VIEWS:
        for row in ("linear, on weights", "KAN"):
            found.fits.setdefault(f"{view} {row}", []).append(views[view][row].score)
        found.rows += compared(view, what, views[view], place)


def values(cells: dict[str, Cell], row: str) -> Tensor:
    """The values of a row that has some."""
    found = cells[row].values
    assert found is not None  # noqa: S101
    return found


def error(cells: dict[str, Cell], table: Tensor) -> float:
    """The largest difference of shapiq's indices from their definitions."""
    largest = 0.0
    names: dict[str, Index] = {
        "Shapley": "shapley",
        "Banzhaf": "banzhaf",
        "Shapley–Taylor, pairs": "shapley_taylor",
    }
    for row, index in names.items():
        true = by_definition(table, index)
        other = true.singles if true.pairs is None else true.pairs
        largest = max(largest, float((values(cells, row) - other).abs().max()))
    return largest


def halves(found: Found, what: Prediction, cells: dict[str, Cell], p: Views) -> None:
    """Spearman's correlation of added up worth and of training on random halves of the groups, by method."""
    game = what.games["data"]
    kept = (torch.rand(HALVES, game.m, generator=generator(p.seed, "halves")) < 0.5).double()
    true = game(kept)[None]
    for row in (*(row for row, cell in cells.items() if cell.values is not None and cell.values.ndim == 1),):
        told = (kept @ values(cells, row).double())[None]
        found.halves.setdefault(row, []).append(float(metrics.spearman(told, true)))


def compared(view: str, what: Prediction, cells: dict[str, Cell], place: dict) -> list[dict]:
    """A row for each method of single players: its deletion curve's mean, and its mean agreement with others."""
    game = what.games[view]
    names, ranks = agreement(cells)
    draw = torch.rand(game.m, generator=generator(place["seed"], "chance", place["image"])).double()
    curves = deletion(game, torch.stack([*(values(cells, name).double() for name in names), draw]))
    left = (curves - curves[:, -1:]).mean(1) / game.whole()
    agreed = [*((ranks.sum(1) - 1) / (len(names) - 1)).tolist(), float("nan")]
    return [
        {"view": view, "method": name, **place, "left": share, "agreement": r if r == r else None}
        for name, share, r in zip([*names, "chance"], left.tolist(), agreed, strict=True)
    ]


def by_method(rows: list[dict]) -> list[dict]:
    """A row for each method: means over predictions of what deletion leaves in each view, and of its agreement."""
    out = []
    methods = dict.fromkeys(row["method"] for row in rows)
    for method in sorted(methods, key=lambda name: name == "chance"):
        own = [row for row in rows if row["method"] == method]
        line: dict = {"method": method}
        for column, name in (("left", "{}"), ("agreement", "agreement in {}")):
            for view in VIEWS:
                numbers = [row[column] for row in own if row["view"] == view and row[column] is not None]
                line[name.format(view)] = sum(numbers) / len(numbers) if numbers else "none"
        out.append(line)
    return out


def ledger_rows(found: Found, subject: Subject) -> list[claims.Claim]:
    """What the predictions come to."""
    n, prefix, claim = len(found.errors), subject.prefix, subject.command.claim
    where = f"{n} predictions, two images of each of {len(SEEDS)} networks on {subject.said}"

    def mean(numbers: list[float]) -> metrics.Estimate:
        return mean_estimate(torch.tensor(numbers, dtype=torch.float64))

    gains = [float(torch.tensor(pair).mean()) for pair in zip(*found.gains.values(), strict=True)]
    said = "Share of the coefficients' squared error that chosen masks take off that of as many random masks, "
    kinds = f"{subject.strangers} against test images"
    rows = [
        claim(
            f"{prefix}.shapley_error",
            "Largest difference of a Shapley value, a Banzhaf value or a Shapley–Taylor interaction by shapiq "
            f"from its definition, patches and blocks of {where}",
            max(found.errors),
            "<= 1e-6",
        ),
        claim(
            f"{prefix}.ig_completeness",
            "Largest difference of the sum of integrated gradients from what all players are worth, as a share of "
            f"it, three views of {where}",
            max(found.left),
            "<= 1e-3",
        ),
        claim(
            f"{prefix}.influence.spearman",
            "Spearman correlation of the influence of 60 groups of training images with what the last layer loses "
            f"when it is trained without each, mean over {where}",
            mean(found.influence),
            ">= 0.9",
        ),
        claim(
            f"{prefix}.cells",
            "Cells of the table of methods and views that have a value or a reason, the fewest of any prediction",
            min(found.cells),
            f"== {3 * len(ROWS)}",
        ),
        claim(
            f"{prefix}.cells_filled", "Cells that have a value, the fewest of any prediction", min(found.filled)
        ),
        claim(f"{prefix}.active_masks.gain", f"{said}mean over both views of {where}", mean(gains), "low > 0"),
        claim(
            f"{prefix}.gaia.auroc",
            f"Area under the ROC curve of the slopes of blocks, {kinds}, mean over these and {len(SEEDS)} "
            "networks",
            mean(found.auroc["gaia"]),
            "low > 0.5",
            aim=True,
        ),
        claim(f"{prefix}.softmax.auroc", "The same of the largest probability", mean(found.auroc["softmax"])),
        claim(
            f"{prefix}.gaia.ahead",
            "The first less the second, paired",
            mean([a - b for a, b in zip(found.auroc["gaia"], found.auroc["softmax"], strict=True)]),
        ),
        claim(
            f"{prefix}.regions.explained",
            "Share of what leave one out does beyond its mean over all sets of blocks that four regions explain, "
            f"on sets that they were not made of, mean over {where}",
            mean(found.explained),
        ),
    ]
    rows.append(
        claim(f"{prefix}.accuracy", f"Test accuracy, mean over {len(SEEDS)} networks", mean(found.accuracy))
    )
    rows += [
        claim(f"{prefix}.active_masks.gain_{view}", f"{said}{view} of {where}", mean(shares))
        for view, shares in found.gains.items()
    ]
    for view in VIEWS:
        linear, kan = (found.fits[f"{view} {row}"] for row in ("linear, on weights", "KAN"))
        rows += [
            claim(
                f"{prefix}.fits.{view}_kan",
                f"Pearson correlation of the KAN with answers to weights that it was not fitted to, {view}, mean "
                f"over {where}",
                mean(kan),
            ),
            claim(
                f"{prefix}.fits.{view}_ahead",
                f"The same less that of a linear function on the same weights, {view}",
                mean([a - b for a, b in zip(kan, linear, strict=True)]),
            ),
        ]
    names = {
        "gradient": "influence",
        "integrated gradients": "integrated_gradients",
        "Shapley": "shapley",
        "linear, on sets": "datamodel",
        "TracIn": "tracin",
    }
    rows += [
        claim(
            f"{prefix}.halves.{name}",
            f"Spearman correlation of the worth of the groups that are kept, added up by {row}, with the value of "
            f"a last layer that is trained on a random half of them, mean over {where}",
            mean(found.halves[row]),
        )
        for row, name in names.items()
    ]
    return rows


if __name__ == "__main__":
    _asked = sys.argv[1:] or ["digits"]
    if _asked == ["chapter"]:
        chapter()
    else:
        for _name in _asked:
            measure(SUBJECTS[_name])
