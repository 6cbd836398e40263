"""COAR in its own regime: hundreds and thousands of filters, removals of random sets, recorded once.

Each setup with a recording of many components: Pearson of COAR and of the methods that need no masks, at every
share that test masks remove; COAR by the number of masks; and what a surrogate over screened directions adds to
COAR. The number of directions and the KAN's knobs were chosen on development images, which
``--development`` shows; results are of the reported ones. ``data/components_*.json`` have the tables.
``python -m benchmarks.components <setup> …`` leaves those of other setups as they are.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.gating import seconds
from kanlib import claims, files, metrics, store
from kanlib.attribution import SURROGATES, Coar, Screened, of_singles
from kanlib.machine import in_precision
from kanlib.masks import Split, random_removals
from kanlib.networks import Probe, Removals, find, removed
from kanlib.networks.architectures import classifier
from kanlib.networks.outputs import values
from kanlib.networks.removing import responses_of_all
from kanlib.setups import Components, Surrogate, Training

SHARES, MASKS = (store.ROOT / "data" / f"components_{by}.json" for by in ("shares", "masks"))
SETUPS = ("cifar10_miniresnet", "digits_resnet18")
#: What claims call the methods.
SHORT = {"coar": "coar", "leave_one_out": "loo", "gradient": "gp", "conductance": "nc", "influence": "ii"}
BEYOND = ("quadratic", "mlp", "kan")
#: Of the KAN and the MLP, beside what the first setup says: as many members and starts for both.
CONTEST = {"members": 4, "restarts": 3}
#: The fit whose seconds are claimed: components, images, masks.
LARGE = (3904, 256, 8000)
ROUNDS, PASSES = 15, 25  # of what recording costs


@dataclass(frozen=True)
class Models:
    """COAR of some examples, and what is put on top of it."""

    found: Removals
    coar: Coar
    beyond: Mapping[str, Screened]

    @classmethod
    def of(cls, found: Removals, directions: int) -> "Models":
        """Fitted on their masks."""
        splits = found.splits["fit"], found.splits["validation"]
        coar, knobs = Coar().fit(*splits), Surrogate.from_setup(SETUPS[0], CONTEST)
        made = {name: partial(SURROGATES[name], knobs) for name in BEYOND}
        return cls(found, coar, {k: Screened(coar, make, directions).fit(*splits) for k, make in made.items()})

    def predicted(self, masks: Tensor) -> dict[str, Tensor]:
        """Of every method, ``[E, N]``."""
        weights = of_singles(self.found.single)
        singles = {name: w.double() @ masks.double().T for name, w in weights.items()}
        on_top = {f"coar and {name}": model.predict(masks) for name, model in self.beyond.items()}
        return {"coar": self.coar.predict(masks)} | singles | on_top


def said(name: str) -> str:
    """What tables call a method."""
    return " and ".join(metrics.TITLES[part] for part in name.split(" and "))


def by_share(network: str, models: Models, shares: Sequence[float]) -> list[dict]:
    """A row for each share that test masks remove and each method."""
    rows = []
    for share in shares:
        split = models.found.splits[f"test {share:g}"]
        for name, of_all in models.predicted(split.masks).items():
            estimate = metrics.pearson_estimate(of_all, split.responses)
            row = {"network": network, "share removed": share, "method": said(name), "Pearson": estimate.value}
            rows.append(row | {"low": estimate.low, "high": estimate.high})
    return rows


def by_masks(network: str, found: Removals, test: Split) -> list[dict]:
    """COAR's Pearson by the number of fit masks, and beside it that of leave one out."""
    fit, m, rows = found.splits["fit"], len(found.components), []
    alone = of_singles(found.single)["leave_one_out"].double() @ test.masks.double().T
    sizes = [n for n in (m // 10, m // 5, m // 2, m, 2 * m, 5 * m, 10 * m) if n < len(fit.masks)]
    for n in [*sizes, len(fit.masks)]:
        coar = Coar().fit(fit.part(n), found.splits["validation"]).predict(test.masks)
        for name, of_all in (("coar", coar), ("leave_one_out", alone)):
            value = metrics.pearson(of_all, test.responses).mean().item()
            rows.append({"network": network, "method": said(name), "Pearson": value, "masks": n})
    return rows


def claimed(setup: str, models: Models, share: float) -> list[claims.Claim]:
    """The claims of a setup at the share of its fit masks."""
    command = claims.Command(f"python -m benchmarks.components {setup}", device="2 CPU cores")
    found, test = models.found, models.found.splits[f"test {share:g}"]
    predicted, m = models.predicted(test.masks), len(found.components)
    words = f"of {setup}, {m:,} filters, unseen removals of a share of {share:g}, {len(test.responses)} images"
    rows = [
        command.claim(f"{setup}.filters.number", f"Filters that are components of {setup}", m),
        command.claim(f"{setup}.filters.accuracy", f"Test accuracy of {setup}, intact", found.accuracy),
    ]
    for name, short in SHORT.items():
        estimate = metrics.pearson_estimate(predicted[name], test.responses)
        rows.append(
            command.claim(f"{setup}.filters.{short}.pearson", f"Test Pearson of {said(name)}, {words}", estimate)
        )
    with_kan = f"{said('coar and kan')} over {models.beyond['kan'].n_directions} directions"
    leads = [("coar", said("coar"), name, short) for name, short in SHORT.items() if name != "coar"]
    leads += [("coar and kan", with_kan, "coar", "coar")]
    leads += [("coar and kan", with_kan, f"coar and {name}", name) for name in BEYOND if name != "kan"]
    for one, title, other, short in leads:
        rows.append(
            command.claim(
                f"{setup}.filters.{'coar' if one == 'coar' else 'kan'}_minus_{short}",
                f"Test Pearson of {title} less that of {said(other)}, {words}",
                metrics.ahead(predicted[one], predicted[other], test.responses),
                "low > 0" if (one, short) == ("coar", "loo") else "",
                aim=True,
            )
        )
    return rows


def measured(setup: str, *, development: bool = False) -> None:
    """The tables and claims of a setup; with ``development`` those of its development images, printed alone."""
    p = Components.from_setup(setup)
    torch.set_num_threads(p.threads)
    found = removed(p)[0].parts()[development]
    models = Models.of(found, p.directions)
    tables = {
        SHARES: by_share(setup, models, p.shares),
        MASKS: by_masks(setup, found, found.splits[f"test {p.share:g}"]),
    }
    for row in [row for rows in tables.values() for row in rows]:
        print(*row.values(), sep=" | ", flush=True)
    if development:
        return
    for target, rows in tables.items():
        kept = json.loads(target.read_text(encoding="utf8")) if target.exists() else []
        of_all = [row for row in kept if row["network"] != setup] + rows
        files.write_json(target, sorted(of_all, key=lambda row: SETUPS.index(row["network"])))
    claims.record(claimed(setup, models, p.share))


def recording() -> None:
    """Forward passes under masks against plain ones, in turns: the first setup's network, random weights."""
    p = Components.from_setup(SETUPS[0])
    torch.set_num_threads(p.threads)
    model, _ = classifier(Training.from_setup(SETUPS[0]).architecture, 10, small_images=False, seed=0)
    model = model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    x = torch.randn(p.batch_size, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    names = find(model, p.components)
    labels = torch.zeros(len(x), dtype=torch.long)
    probe = Probe(model, names, x, labels, batch_size=len(x), precision=p.precision)
    masks = random_removals(PASSES, len(names), p.share, 0, "recording")

    def plain() -> None:
        with torch.inference_mode(), in_precision(p.precision, x.device):
            for _ in masks:
                values(model(x), labels, [probe.output_function])

    ratios = [seconds(plain, 1) / seconds(lambda: responses_of_all(probe, masks), 1) for _ in range(ROUNDS + 1)]
    # The first round warms both up.
    ratios = ratios[1:]
    command = claims.Command("python -m benchmarks.components recording", device="2 CPU cores")
    words = (
        f"Passes a second under masks of {len(names)} filters of {SETUPS[0]} over plain ones, median and range of "
        f"{ROUNDS} rounds of {PASSES} passes of {len(x)} images each"
    )
    estimate = metrics.Estimate(statistics.median(ratios), min(ratios), max(ratios))
    claims.record([command.claim("coar.recording_throughput", words, estimate, ">= 0.95", aim=True)])


def large() -> None:
    """Fit COAR to as much as is claimed, and print seconds and memory in GB."""
    m, e, n = LARGE
    torch.set_num_threads(2)
    fit, validation = (random_removals(k, m, 0.1, 0, split) for k, split in ((n, "fit"), (500, "validation")))
    w = torch.randn(e, m)
    splits = [Split(masks, w @ masks.T + 20 * torch.randn(e, len(masks))) for masks in (fit, validation)]
    start = time.perf_counter()
    Coar().fit(*splits)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(time.perf_counter() - start, memory)


def fit_seconds() -> None:
    """Seconds and memory of that fit, in a process of its own."""
    command = claims.Command("python -m benchmarks.components fit", device="2 CPU cores")
    printed = subprocess.run(
        [sys.executable, "-m", "benchmarks.components", "large"], capture_output=True, text=True, check=True
    )
    took, memory = map(float, printed.stdout.split())
    m, e, n = LARGE
    words = f"COAR of {m:,} components, {e} images and {n:,} masks"
    claims.record(
        [
            command.claim("coar.fit_seconds", f"Seconds to fit {words}, the ridge chosen", took, "<= 60"),
            command.claim("coar.fit_memory_gb", f"Memory of a process that fits {words}, in GB", memory, "<= 2"),
        ]
    )


def main(asked: Sequence[str]) -> None:
    warnings.filterwarnings("ignore", message="a KAN of")
    parts = {"large": large, "fit": fit_seconds, "recording": recording}
    for name in asked:
        if name in parts:
            parts[name]()
        elif not name.startswith("-"):
            measured(name, development="--development" in asked)


if __name__ == "__main__":
    main(sys.argv[1:] or [*SETUPS, "fit", "recording"])
