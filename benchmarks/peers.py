"""The KAN against the best of its peers: every setup and gate site that is recorded, few masks and many.

Whatever starts at random has six candidates, three decays from two starts each, trained by the same code on the
same masks in as many steps: 1,600, or as many as take each mask 40 times, at the gate site ``output``, where
responses are rougher, 80 times. ``single`` is the one that validation likes best, and the others are means of the
best four. Shapes and times were chosen on development examples: of the KAN [24, 24, 12] nodes, with grids of 6
intervals at ``branch`` and of 10 at ``output``, of the MLP three layers of 128. With 8,000 masks there is more to
know, and both gain from being wider: [64, 64, 32], and 256. The KAN's rates below were chosen there too; another
rate of the MLP was tried at ``branch`` with 8,000 masks only. ``--rates`` tries one list for both on development
examples of any setting, ``data/peers_rates.json``; where that table has a setting, its best rates are taken. The
Gaussian process, which is slow, is asked at ``branch`` alone: on a development example it is far behind at
``output``. What so many examples can tell apart is measured beside: the lead of two of the KAN's four members over
the two others. ``python -m benchmarks.peers <setup>:<gate site>``
measures one of them and leaves the others as they are; ``…:<masks>`` measures one number of masks.
"""

import json
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.runs import hardware, recorded
from kanlib import claims, files, machine, metrics, store
from kanlib.attribution.surrogates import MLP, SURROGATES
from kanlib.kan.fitting import best_members
from kanlib.masks import Split
from kanlib.setups import Surrogate

TARGET = store.ROOT / "data" / "peers.json"
TRIED = store.ROOT / "data" / "peers_rates.json"
SETUPS = ("digits_resnet18", "cifar10_resnet18", "imagenet_deit_tiny")
SIZES = {"branch": (1000, 2000, 4000, 8000), "output": (1000, 2000, 4000)}
GRID = {"branch": 6, "output": 10}
#: Of both, that development examples choose from; wider models, of many masks, want lower ones.
RATES = {False: (0.005, 0.01, 0.02, 0.04), True: (0.0025, 0.005, 0.01, 0.02)}
RATE = {"branch": 0.02, "output": 0.01}  # of the KAN, where that was not tried
CONTEST: dict[str, Any] = {"hidden": [24, 24, 12], "decays": [0.1, 0.3, 1.0], "restarts": 2, "members": 4}
#: In 1,600 steps each of 8,000 masks is taken 20 times, and both KAN and MLP stop before they know what these say.
TIMES_EACH_MASK = {"branch": 40, "output": 80}
MANY = 8000  # masks, of which wider models learn more
WIDE: dict[str, Any] = {"hidden": [64, 64, 32]}
WIDE_RATE = 0.007
WIDTHS = {False: (128, 128, 128), True: (256, 256, 256)}  # of the MLP
#: Those that start from no seed.
ALONE = {
    "branch": ("linear", "cubic", "trees", "gaussian_process"),
    "output": ("linear", "cubic", "trees"),
}
EXAMPLES = {"reported": 12, "development": 4}  # that are recorded
LOW = -0.005  # that the interval of the KAN's lead should not go below


def contest(setup: str, site: str, n: int, rate: float | None = None) -> Surrogate:
    """The knobs of all fits to ``n`` masks; ``rate`` is the KAN's, by default that of its development examples."""
    wide = WIDE if n >= MANY else {}
    rate = rate or rates(setup, site, n)["kan"]
    fits_on = {"device": "cuda" if torch.cuda.is_available() else "cpu"}
    knobs = Surrogate.from_setup(setup, CONTEST | {"grid": GRID[site], "rate": rate} | wide | fits_on)
    return knobs.model_copy(update={"steps": max(knobs.steps, TIMES_EACH_MASK[site] * n // knobs.minibatch)})


def rates(setup: str, site: str, n: int) -> dict[str, float]:
    """The rates of KAN and MLP that did best on the development examples, or those chosen for all settings."""
    rows = [r for r in read(TRIED) if (r["setup"], r["gate site"], r["masks"]) == (setup, site, n)]
    if not rows:
        return {"kan": WIDE_RATE if n >= MANY else RATE[site], "mlp": MLP.rate}
    return {name: max((r[name], r["rate"]) for r in rows)[1] for name in ("kan", "mlp")}


def read(table: Path) -> list[dict[str, Any]]:
    """The rows of a table that may not be there yet."""
    return json.loads(table.read_text(encoding="utf8")) if table.exists() else []


def before(setup: str, site: str, n: int, surrogate: str) -> Any:
    """The CPU seconds that the table has already."""
    place = itemgetter("setup", "gate site", "masks", "surrogate")
    rows = [row for row in read(TARGET) if place(row) == (setup, site, n, metrics.TITLES[surrogate])]
    return rows[0]["CPU seconds an example"] if rows else None


def put(table: Path, setup: str, site: str, n: int, new: Sequence[dict[str, Any]]) -> None:
    """Put rows of one setup, gate site and number of masks in the place of those that were there."""
    place = itemgetter("setup", "gate site", "masks")
    others = [row for row in read(table) if place(row) != (setup, site, n)]
    files.write_json(table, sorted([*others, *new], key=place))


def mlp_of(widths: tuple[int, ...], rate: float) -> type[MLP]:
    """The MLP with these layers and this rate."""
    return type("Contender", (MLP,), {"widths": widths, "rate": rate})


def predictions(
    data: Split, validation: Split, test: Split, knobs: Surrogate, peer: type[MLP], alone: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, float]]:
    """Test predictions ``[E, members, N]`` of what has members, ``[E, N]`` of the rest; the seconds of each."""
    members, out, seconds = {}, {}, {}
    start = time.process_time()
    members["kan"] = of_kans(data, validation, test, knobs)
    seconds["kan"] = time.process_time() - start
    start = time.process_time()
    members["mlp"] = of_mlps(data, validation, test, knobs, peer)
    seconds["mlp"] = time.process_time() - start
    for name in alone:
        start = time.process_time()
        out[name] = SURROGATES[name](knobs).fit(data, validation).predict(test.masks)
        seconds[name] = time.process_time() - start
    return members, out, {name: round(s / len(data.responses), 2) for name, s in seconds.items()}


def of_kans(data: Split, validation: Split, test: Split, knobs: Surrogate) -> Tensor:
    """What the best KANs say of the test masks, ``[E, members, N]``."""
    device = machine.device(knobs.device)
    kans = best_members(data.to(device), validation.to(device), knobs)[0]
    return kans(test.masks.to(device)).unflatten(0, (len(data.responses), -1)).cpu()


def of_mlps(data: Split, validation: Split, test: Split, knobs: Surrogate, peer: type[MLP]) -> Tensor:
    """What the best MLPs say of the test masks, ``[E, members, N]``."""
    device = machine.device(knobs.device)
    fitted = peer(knobs).fit(data.to(device), validation.to(device))
    return fitted.of_members(test.masks.to(device)).cpu()


def in_order(members: Mapping[str, Tensor], alone: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Predictions ``[E, N]`` by name: means of members, the best of them (``.single``), what has no members."""
    means = {name: values.mean(1) for name, values in members.items()}
    return means | {f"{name}.single": values[:, 0] for name, values in members.items()} | dict(alone)


def rows(
    setup: str,
    site: str,
    n: int,
    predicted: Mapping[str, Tensor],
    seconds: Mapping[str, float | None],
    true: Tensor,
) -> list[dict]:
    """A row for each surrogate."""
    out = []
    for name, values in predicted.items():
        kind, _, single = name.partition(".")
        score = metrics.pearson_estimate(values, true)
        out.append(
            {
                "setup": setup,
                "gate site": site,
                "masks": n,
                "surrogate": metrics.TITLES[kind],
                "members": 1 if single or kind in ALONE[site] else CONTEST["members"],
                "CPU seconds an example": seconds.get(kind),
                "Pearson": score.value,
                "low": score.low,
                "high": score.high,
                "normalised MSE": metrics.normalised_mse(values, true).mean().item(),
            }
        )
    return out


def leads(setup: str, site: str, n: int, predicted: Mapping[str, Tensor], true: Tensor) -> list[claims.Claim]:
    """How far the KAN is ahead of the best peer, with four members and with one."""
    command = claims.Command(f"python -m benchmarks.peers {setup}:{site}", device=hardware())
    found: list[claims.Claim] = []
    for kind, words in (("", "means of four members"), (".single", "one member each")):
        peers = [f"mlp{kind}", *ALONE[site]]
        best = max(peers, key=lambda name: metrics.pearson(predicted[name], true).mean())
        lead = metrics.ahead(predicted[f"kan{kind}"], predicted[best], true)
        title = metrics.TITLES[best.removesuffix(".single")]
        others = ", ".join(metrics.TITLES[name] for name in ("mlp", *ALONE[site]))
        found.append(
            command.claim(
                f"{setup}.{site}.kan_minus_best.{n}{kind}",
                f"Test Pearson of the KAN less that of {title}, the best of "
                f"{others}, {words}, on {setup}, {site} gates, {n} fit masks, {len(true)} examples",
                lead,
                f"low >= {LOW}",
                aim=True,
            )
        )
        print(found[-1], flush=True)
    return found


def resolution(setup: str, site: str, n: int, kans: Tensor, true: Tensor) -> claims.Claim:
    """The lead of the KAN over itself: members first and last, ``[E, 4, N]``, less the two between."""
    command = claims.Command(f"python -m benchmarks.peers {setup}:{site}", device=hardware())
    return command.claim(
        f"{setup}.{site}.kan_minus_itself.{n}",
        f"Test Pearson of the mean of two KANs less that of two others of other starts and decays, on "
        f"{setup}, {site} gates, {n} fit masks, {len(true)} examples",
        metrics.ahead(kans[:, [0, 3]].mean(1), kans[:, [1, 2]].mean(1), true),
    )


def tried(setup: str, site: str, n: int) -> list[dict[str, Any]]:
    """What each rate is worth to the means of four members on the development examples."""
    data, validation, test = fitted_to(setup, site, n, "development")
    out = []
    for rate in RATES[n >= MANY]:
        knobs = contest(setup, site, n, rate)
        means = {
            "kan": of_kans(data, validation, test, knobs).mean(1),
            "mlp": of_mlps(data, validation, test, knobs, mlp_of(WIDTHS[n >= MANY], rate)).mean(1),
        }
        scores = {name: metrics.pearson(m, test.responses).mean().item() for name, m in means.items()}
        out.append({"setup": setup, "gate site": site, "masks": n, "rate": rate} | scores)
        print(*out[-1].values(), sep=" | ", flush=True)
    return out


def fitted_to(setup: str, site: str, n: int, examples: str) -> tuple[Split, Split, Split]:
    """Fit, validation and test masks of the recorded examples, and responses."""
    knobs = {"gate_site": site, "n_fit": n, "example_set": examples, "n_examples": EXAMPLES[examples]}
    return recorded(setup, **knobs)


def main(arguments: Sequence[str]) -> None:
    asked = [argument for argument in arguments if not argument.startswith("-")]
    torch.set_num_threads(2)
    warnings.filterwarnings("ignore", message="a KAN of")
    for which in asked or [f"{setup}:{site}" for setup in SETUPS for site in SIZES]:
        setup, site, *some = which.split(":")
        for n in map(int, some or SIZES[site]):
            if "--rates" in arguments:
                put(TRIED, setup, site, n, tried(setup, site, n))
                continue
            data, validation, test = fitted_to(setup, site, n, "reported")
            peer = mlp_of(WIDTHS[n >= MANY], rates(setup, site, n)["mlp"])
            knobs, peers = contest(setup, site, n), ALONE[site]
            members, alone, seconds = predictions(data, validation, test, knobs, peer, peers)
            if knobs.device != "cpu":  # what was measured on CPU cores stays
                seconds = {name: before(setup, site, n, name) for name in seconds}
            predicted = in_order(members, alone)
            put(TARGET, setup, site, n, rows(setup, site, n, predicted, seconds, test.responses))
            itself = resolution(setup, site, n, members["kan"], test.responses)
            claims.record([*leads(setup, site, n, predicted, test.responses), itself])


if __name__ == "__main__":
    main(sys.argv[1:])
