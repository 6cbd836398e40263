"""What is promised of closed forms over boxes of gates, and of the network: whether it is kept, and how near.

Of the forms that the chapters of all recorded setups show, the faithful and the short ones. The box is that of all
components within ±50 %. Bounds are tried by masks drawn in it, at corners and between, and by masks that climb; so
are those of boxes drawn at random, with gates fixed, removed and free. The smallest sets of components whose
removal changes the class by ĝ are compared with all 2^m, and tried on the network where its answer was recorded:
to every set for the digits, to some for the others. Radii are calibrated on one half of the test masks of three
recorded scales, and tried on the other half, and on images that they were not calibrated on.

Of a network of sixteen blocks, which is not recorded, only bounds are asked.

``data/guarantees.json`` has a row for each form. ``python -m benchmarks.guarantees <setup> …`` leaves those of
other setups as they are; rows of the ledger are written once all are there.
"""

import json
import sys
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks import runs
from kanlib import claims, files, metrics, store
from kanlib.attribution import Radii, sign_holds_within, smallest_flips
from kanlib.machine import generator
from kanlib.masks import Split, every_removal
from kanlib.networks import network
from kanlib.setups import Perturbation, Recording
from kanlib.symbolic import Batch, Bounds, SymbolicKAN, bounds

TARGET = store.ROOT / "data" / "guarantees.json"
RECORDED = ("digits_resnet18", "cifar10_resnet18", "imagenet_deit_tiny")
SIXTEEN = "digits_sixteen_blocks"
SETUPS = (*RECORDED, SIXTEEN)
COMMAND = claims.Command("python -m benchmarks.guarantees", device="1 CPU core")
HALF = 0.5  # width of the box around rest
GAP = 0.01  # standard deviations of an example's responses, that bounds may be off
BUDGET = 11_000  # parts of a box, a side
DRAWN, CLIMBERS, STEPS = 200_000, 2000, 40  # masks, for each form
BOXES, IN_BOX = 10, 10_000  # drawn at random, for each form, and masks in each
WIDTHS = (0.01, 0.02, 0.05, 0.1, 0.2)  # of boxes in which signs of pairs are asked about
DELTA = 0.05


def main(asked: Sequence[str]) -> None:
    torch.set_num_threads(1)
    for setup in asked:
        found = of_setup(setup)
        kept = [row for row in rows_so_far() if row["setup"] != setup]
        order = {name: i for i, name in enumerate(SETUPS)}
        files.write_json(TARGET, sorted(kept + found, key=lambda row: order[row["setup"]]))
    rows = rows_so_far()
    if {row["setup"] for row in rows} == set(SETUPS):
        claims.record(ledger_rows(rows))


def rows_so_far() -> list[dict]:
    return json.loads(TARGET.read_text(encoding="utf8")) if TARGET.exists() else []


def of_setup(setup: str) -> list[dict]:
    """A row for each form of each example; what is asked of faithful forms alone stands in theirs."""
    p = runs.symbolic(setup)
    closed, recorded = p.load("symbolic"), p.load("responses")
    scale = Split.read(recorded, "fit").responses.double().std(1)
    rows = []
    for form in ("faithful", "short"):
        symbolic = SymbolicKAN.read(closed, form)
        for e, row in enumerate(bounded(symbolic, scale)):
            rows.append({"setup": setup, "form": form, "example": e + 1, **row})
            print(*rows[-1].values(), sep=" | ", flush=True)
    if setup == SIXTEEN:
        return rows
    faithful = SymbolicKAN.read(closed, "faithful")
    more = zip(flips(setup, faithful), covered(setup, faithful, scale), signs(faithful), strict=True)
    for row, parts in zip(rows, more, strict=False):
        for part in parts:
            row |= part
        print(*row.values(), sep=" | ", flush=True)
    return rows


def bounded(symbolic: list[SymbolicKAN], scale: Tensor) -> list[dict]:
    """Of each form the gap of its bounds, in standard deviations, their seconds, and the masks that leave them."""
    m, function = len(symbolic[0].symbols), Batch(symbolic)
    end = torch.full((1, m), HALF, dtype=torch.float64)
    start = time.process_time()
    found = bounds(symbolic, -end, end, gap=GAP * scale, budget=BUDGET)
    seconds = (time.process_time() - start) / len(symbolic)
    left, tried = outside(function, found, -end, end, DRAWN, CLIMBERS)
    boxes = some_boxes(m)
    rough = bounds(symbolic, *boxes, gap=0.1 * scale, budget=100)
    more, as_many = outside(function, rough, *boxes, IN_BOX, CLIMBERS // 40)
    gaps = (found.gap[:, 0] / scale).tolist()
    return [
        {"gap": gap, "seconds": seconds, "outside": out, "tried": tried + as_many}
        for gap, out in zip(gaps, (left + more).tolist(), strict=True)
    ]


def outside(
    function: Batch, found: Bounds, low: Tensor, high: Tensor, n: int, climbers: int
) -> tuple[Tensor, int]:
    """How many masks have an answer beyond the bounds of their box, ``[E]``, and how many were tried of each form.

    Masks are drawn in the boxes ``[R, m]``, every second one with gates at their ends; some climb from there, up
    and down, by ever shorter steps.
    """
    share = torch.rand(n, len(low), low.shape[1], generator=generator(0, "box"), dtype=torch.float64)
    share[::2] = share[::2].round()
    masks = low + (high - low) * share
    beyond, tried = torch.zeros(len(found.low), dtype=torch.long), 0

    def count(at: Tensor) -> None:
        """Of masks ``[N, R, m]``, shared, or ``[E, N, R, m]``."""
        nonlocal beyond, tried
        values = function(at.flatten(-3, -2)).unflatten(-1, at.shape[-3:-1])
        beyond = beyond + ((values > found.high[:, None]) | (values < found.low[:, None])).sum((1, 2))
        tried += at.shape[-3] * at.shape[-2]

    for part in masks.split(max(1, 20_000 // len(low))):
        count(part)
    for sign in (1, -1):
        at = masks[:climbers].expand(len(found.low), -1, -1, -1)
        for step in range(STEPS):
            at = at.detach().requires_grad_()
            (slope,) = torch.autograd.grad(function(at.flatten(1, 2)).sum(), at)
            at = (at.detach() + sign * 0.3 * 0.9**step * (high - low) * slope.sign()).clamp(low, high)
            count(at)
    return beyond, tried


def some_boxes(m: int) -> tuple[Tensor, Tensor]:
    """Boxes drawn at random: each gate free between two ends, fixed or removed."""
    source = generator(0, "boxes")
    ends = (2 * torch.rand(2, BOXES, m, generator=source, dtype=torch.float64) - 1).sort(0).values
    kind = torch.rand(BOXES, m, generator=source)
    high = torch.where(kind < 0.2, ends[0], ends[1])
    return ends[0].masked_fill(kind > 0.9, -1.0), high.masked_fill(kind > 0.9, -1.0)


def flips(setup: str, faithful: list[SymbolicKAN]) -> list[dict]:
    """The smallest removals by ĝ, whether brute force finds the same size, and what the network says."""
    p = Perturbation.from_setup(setup)
    answers = network(p)
    known = answers.removals()
    clean = answers.responses("none", torch.empty(0, len(answers.components)))[1].double()
    found = smallest_flips(faithful, clean, progress=False)
    masks = every_removal(len(answers.components))
    flipped = clean[:, None] + Batch(faithful)(masks) < 0
    sizes = (masks != 0).sum(1)
    least = torch.where(flipped, sizes, len(answers.components) + 1).amin(1)
    place = {tuple(row): i for i, row in enumerate(known.masks.tolist())}
    rows = []
    for e, mask in enumerate(found.masks.tolist()):
        at = place.get(tuple(mask)) if any(mask) else None
        answer = None if at is None else bool(clean[e] + known.responses[e, at] < 0)
        row: dict = {"size": int(found.size[e]), "proved": bool(found.proved[e])}
        row |= {"equal": bool(found.size[e] == least[e]), "network": answer}
        if Recording.from_setup(setup).all_sets:
            true = clean[e] + known.responses[e] < 0
            row["size of the network"] = int((known.masks[true] != 0).sum(1).min()) if true.any() else None
        rows.append(row)
    return rows


def covered(setup: str, faithful: list[SymbolicKAN], scale: Tensor) -> list[dict]:
    """Coverage of fresh masks by radii of the image's own, and by those of other images; and how wide they are."""
    p = Perturbation.from_setup(setup)
    answers, function = network(p), Batch(faithful)
    names = ("test", "test_0.25", "test_0.5")
    masks = [answers.made_from[f"masks/{name}"] for name in names]
    true = [answers.responses(name, sigma)[0].double() for name, sigma in zip(names, masks, strict=True)]
    errors = [y - function(sigma) for y, sigma in zip(true, masks, strict=True)]
    first, second = (
        (torch.cat([e[:, h::2] for e in errors], 1), torch.cat([sigma[h::2] for sigma in masks])) for h in (0, 1)
    )
    own = Radii.of(*first, delta=DELTA)
    at = own.at(second[1])
    hit = (second[0].abs() <= at).double().mean(1)
    naive = first[0].abs().amax(1, keepdim=True)
    width = (at.minimum(naive) / naive).mean(1)
    rows = []
    for e in range(len(faithful)):
        others = [i for i in range(len(faithful)) if i != e]
        pooled = torch.cat([first[0][i] / scale[i] for i in others])[None]
        radii = Radii.of(pooled, first[1].repeat(len(others), 1), delta=DELTA)
        other = (second[0][e] / scale[e]).abs() <= radii.at(second[1])[0]
        rows.append(
            {
                "coverage": float(hit[e]),
                "radius / largest error": float(width[e]),
                "coverage from others": float(other.double().mean()),
            }
        )
    return rows


def signs(faithful: list[SymbolicKAN]) -> list[dict]:
    """Shares of pairs whose sign is proved to hold within boxes of each half width."""
    _, within = sign_holds_within(faithful, WIDTHS)
    return [{f"signs {r:g}": float((row >= r).double().mean()) for r in WIDTHS} for row in within]


def ledger_rows(rows: list[dict]) -> list[claims.Claim]:
    """What the table comes to."""
    faithful = [row for row in rows if row["form"] == "faithful" and row["setup"] != SIXTEEN]
    n = len(rows)

    def mean(name: str, of: Sequence[dict] = faithful) -> metrics.Estimate:
        return metrics.mean_estimate(torch.tensor([float(row[name]) for row in of]))

    gaps = torch.tensor([row["gap"] for row in rows])
    tried = [row for row in faithful if row["network"] is not None]
    full = [row for row in faithful if row.get("size of the network") is not None and row["network"] is not None]
    where = f"{n} forms of {len(SETUPS)} networks of 8, 12 or 16 components, boxes of half width {HALF}"
    said = "Share of the fresh masks, of three scales, whose response is within the radius of the prediction, "
    return [
        COMMAND.claim(
            "bounds.violations",
            f"Masks, of those drawn and climbed, whose answer is beyond the bounds of their box, over {where} and "
            f"{BOXES} others each",
            sum(row["outside"] for row in rows),
            "== 0",
        ),
        COMMAND.claim(
            "bounds.tried", "Masks that the bounds were tried by", sum(r["tried"] for r in rows), ">= 1e7"
        ),
        COMMAND.claim(
            "bounds.gap_median",
            f"Median distance of a bound from an answer that is reached, over the standard deviation of the "
            f"responses, of {where}",
            float(gaps.median()),
            "<= 0.01",
            aim=True,
        ),
        COMMAND.claim(
            "bounds.gap_share",
            f"Share of them where it is at most {GAP:g}",
            float((gaps <= GAP).double().mean()),
            ">= 0.9",
            aim=True,
        ),
        COMMAND.claim("bounds.gap_largest", "The largest of these distances, in the same unit", float(gaps.max())),
        COMMAND.claim(
            "bounds.seconds",
            "CPU seconds of one core that the bounds of one form take, both sides, on average",
            mean("seconds", rows),
            "<= 10",
            aim=True,
        ),
        COMMAND.claim(
            "bounds.flip_sets_equal_brute_force",
            f"Share of the smallest sets whose removal changes the class by the closed form that are as small as "
            f"brute force over all sets finds them, of {len(faithful)} images of three setups",
            mean("equal").value,
            "== 1",
        ),
        COMMAND.claim(
            "bounds.flip_sets_proved", "Share of them that are proved to be smallest", mean("proved").value, "== 1"
        ),
        COMMAND.claim("bounds.flip_set_size", "Components in such a set, on average", mean("size", tried)),
        COMMAND.claim(
            "bounds.network_flips",
            f"Share of these sets whose removal changes the network's own class, of the {len(tried)} whose answer "
            "was recorded",
            mean("network", tried),
        ),
        COMMAND.claim(
            "bounds.network_no_smaller",
            "Share of them that change the network's class and than which the network itself has no smaller set, "
            f"of {len(full)} images of the digits, where all sets were recorded",
            metrics.mean_estimate(
                torch.tensor([float(row["network"] and row["size of the network"] == row["size"]) for row in full])
            ),
        ),
        COMMAND.claim("bounds.coverage", f"{said}its own image's, mean over images", mean("coverage"), ">= 0.94"),
        COMMAND.claim(
            "bounds.coverage_other_images",
            f"{said}calibrated on the other images alone, in their standard deviations",
            mean("coverage from others"),
            ">= 0.94",
            aim=True,
        ),
        COMMAND.claim(
            "bounds.radius_over_maximum",
            "The radius over the largest error of the masks that it was calibrated on, mean over fresh masks",
            mean("radius / largest error"),
            "<= 1",
        ),
        *(
            COMMAND.claim(
                f"bounds.pair_signs_{100 * r:.0f}",
                f"Share of the pair coefficients whose sign is proved to hold where all components are within "
                f"±{100 * r:.0f} %",
                mean(f"signs {r:g}"),
            )
            for r in WIDTHS
        ),
    ]


if __name__ == "__main__":
    main(sys.argv[1:] or SETUPS)
