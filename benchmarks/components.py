"""COAR in its own regime: hundreds and thousands of filters, removals of random sets, recorded once.

Each setup with a recording of many components: Pearson of COAR and of the methods that need no masks, at every
share that test masks remove; COAR by the number of masks; and what a surrogate over screened directions adds to
COAR. The number of directions and the KAN's knobs were chosen on development images, which
``--development`` shows; results are of the reported ones. ``data/components_*.json`` have the tables.
``python -m benchmarks.components <setup> …`` leaves those of other setups as they are.
"""

import json
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from kanlib import claims, files, metrics, store
from kanlib.attribution import SURROGATES, Coar, Screened, of_singles
from kanlib.masks import Split, random_removals
from kanlib.networks import Removals, removed
from kanlib.setups import Components, Surrogate

SHARES, MASKS = (store.ROOT / "data" / f"components_{by}.json" for by in ("shares", "masks"))
SETUPS = ("cifar10_miniresnet", "digits_resnet18")
#: What claims call the methods.
SHORT = {"coar": "coar", "leave_one_out": "loo", "gradient": "gp", "conductance": "nc", "influence": "ii"}
BEYOND = ("quadratic", "mlp", "kan")
#: Of the KAN and the MLP: as many members and starts for both.
CONTEST = {"members": 4, "restarts": 3, "decays": [0.3, 1.0], "hidden": [8, 8], "grid": 3, "steps": 800}
DIRECTIONS = 16
#: The fit whose seconds are claimed: components, images, masks.
LARGE = (3904, 256, 8000)


def fitted(found: Removals) -> tuple[Coar, dict[str, Screened]]:
    """COAR, and what is put on top of it."""
    fit, validation = found.splits["fit"], found.splits["validation"]
    coar = Coar().fit(fit, validation)
    knobs = Surrogate.from_setup(SETUPS[0], CONTEST)
    return coar, {
        name: Screened(coar, partial(SURROGATES[name], knobs), DIRECTIONS).fit(fit, validation) for name in BEYOND
    }


def predictions(found: Removals, coar: Coar, beyond: dict[str, Screened], masks: Tensor) -> dict[str, Tensor]:
    """Of every method, ``[E, N]``."""
    weights = of_singles(found.single)
    singles = {name: w.double() @ masks.double().T for name, w in weights.items()}
    on_top = {f"coar and {name}": model.predict(masks) for name, model in beyond.items()}
    return {"coar": coar.predict(masks)} | singles | on_top


def said(name: str) -> str:
    """What tables call a method."""
    return " and ".join(metrics.TITLES[part] for part in name.split(" and "))


def measured(setup: str, *, development: bool = False) -> None:
    """The tables and claims of a setup; with ``development`` those of its development images, printed alone."""
    p = Components.from_setup(setup)
    torch.set_num_threads(p.threads)
    everything = removed(p)[0]
    found = everything.parts()[development]
    m = len(found.components)
    coar, beyond = fitted(found)
    command = claims.Command(f"python -m benchmarks.components {setup}", device="2 CPU cores")
    by_share: dict[float, tuple] = {}
    rows: list[dict] = []
    for share in p.shares:
        split = found.splits[f"test {share:g}"]
        predicted = predictions(found, coar, beyond, split.masks)
        estimates = {name: metrics.pearson_estimate(v, split.responses) for name, v in predicted.items()}
        by_share[share] = split, predicted, estimates
        rows += [
            {"network": setup, "share removed": share, "method": said(name), "Pearson": e.value}
            | {"low": e.low, "high": e.high}
            for name, e in estimates.items()
        ]
    split, predicted, estimates = by_share[p.share]
    loo = estimates["leave_one_out"].value
    alone = {"network": setup, "method": metrics.TITLES["leave_one_out"], "Pearson": loo}
    curve: list[dict] = []
    for n in [n for n in (m // 10, m // 5, m // 2, m, 2 * m, 5 * m, 10 * m) if n < p.n_fit] + [p.n_fit]:
        some = Coar().fit(found.splits["fit"].part(n), found.splits["validation"]).predict(split.masks)
        value = metrics.pearson(some, split.responses).mean().item()
        curve += [{"network": setup, "method": "COAR", "Pearson": value, "masks": n}, alone | {"masks": n}]
    for row in rows + curve:
        print(*row.values(), sep=" | ", flush=True)
    if development:
        return
    words = f"of {setup}, {m:,} filters, unseen removals of a share of {p.share:g}, {len(split.responses)} images"
    recorded = [
        command.claim(f"{setup}.filters.number", f"Filters that are components of {setup}", m),
        command.claim(f"{setup}.filters.accuracy", f"Test accuracy of {setup}, intact", everything.accuracy),
    ]
    recorded += [
        command.claim(
            f"{setup}.filters.{short}.pearson",
            f"Test Pearson of {metrics.TITLES[name]}, {words}",
            estimates[name],
        )
        for name, short in SHORT.items()
    ]
    recorded += [
        command.claim(
            f"{setup}.filters.coar_minus_{short}",
            f"Test Pearson of COAR less that of {metrics.TITLES[name]}, {words}",
            metrics.ahead(predicted["coar"], predicted[name], split.responses),
            "low > 0" if name == "leave_one_out" else "",
            aim=True,
        )
        for name, short in SHORT.items()
        if name != "coar"
    ]
    for name in ("kan", "mlp", "quadratic"):
        other = {"kan": "coar"} | dict.fromkeys(("mlp", "quadratic"), f"coar and {name}")
        one, two = predicted["coar and kan"], predicted[other[name]]
        peer = "COAR alone" if name == "kan" else f"COAR and {metrics.TITLES[name]}"
        recorded.append(
            command.claim(
                f"{setup}.filters.kan_minus_{'coar' if name == 'kan' else name}",
                f"Test Pearson of COAR and a KAN over {DIRECTIONS} directions less that of {peer}, {words}",
                metrics.ahead(one, two, split.responses),
            )
        )
    for target, new in ((SHARES, rows), (MASKS, curve)):
        kept = json.loads(target.read_text(encoding="utf8")) if target.exists() else []
        of_all = [row for row in kept if row["network"] != setup] + new
        files.write_json(target, sorted(of_all, key=lambda row: SETUPS.index(row["network"])))
    claims.record(recorded)


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


def seconds() -> None:
    """Seconds and memory of that fit, in a process of its own."""
    command = claims.Command("python -m benchmarks.components fit", device="2 CPU cores")
    said = subprocess.run(
        [sys.executable, "-m", "benchmarks.components", "large"], capture_output=True, text=True, check=True
    )
    took, memory = map(float, said.stdout.split())
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
    if "large" in asked:
        large()
    for setup in [name for name in asked if not name.startswith("-") and name not in ("fit", "large")]:
        measured(setup, development="--development" in asked)
    if "fit" in asked:
        seconds()


if __name__ == "__main__":
    main(sys.argv[1:] or [*SETUPS, "fit"])
