"""Table 1: COAR, the paper's way and ours, at both gate sites of every setup that was run, ``data/table.json``.

The paper's way is a KAN fitted by pykan's LBFGS whose edges are then replaced by genetic programming. The paper
uses PySR for that; where Julia is missing Operon stands in for it, and the row says so. pykan is slow, so its rows
are of the first examples only, and their number stands beside them; a row of ours is of the same ones. Ours are
the KAN of the setup and its short closed form; where the KAN is a mean of several members, the closed form is that
of a KAN of one. Other surrogates stand beside them. All meet the same masks. ``python -m benchmarks.table
<setup> …`` leaves rows of other setups as they are; ``<setup>:<gate site>`` those of the other site as well.
"""

import json
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks import pykan_fits
from benchmarks.runs import ENSEMBLES, EXAMPLES, responses, splits, surrogates
from kanlib import claims, files, metrics, store
from kanlib.attribution import SURROGATES
from kanlib.attribution.surrogates import Kan
from kanlib.kan import KAN
from kanlib.setups import Backend, Perturbation, Surrogate, Symbolic
from kanlib.symbolic import Batch, replace_edges, shorten
from kanlib.symbolic.engines import missing

TARGET = store.ROOT / "data" / "table.json"
SETUPS = ("digits_resnet18", "cifar10_resnet18", "imagenet_deit_tiny")
CORES = 2
PYKAN = Surrogate(hidden=[5], pykan_steps=100)
PYKAN_EXAMPLES = 4
SITES = ("branch", "output")
PEERS = ("cubic", "trees", "mlp")
METHODS = {
    "linear": "COAR (linear)",
    "pykan": "KAN, pykan",
    "beside": "KAN, ours, the same examples",
    "kan": "KAN, ours",
    "programmed": "KAN, pykan, then genetic programming ({engine})",
    "short": "symbolic, ours",
    **{name: metrics.TITLES[name] for name in PEERS},
}
#: What is left of the paper's own Table 1 stands beside ``output`` only, the paper's literal words.
PAPER = [
    {
        "setup": "imagenet_resnet50 (the paper's figures; not run here)",
        "gate site": "output",
        "surrogate": name,
        "Pearson": pearson,
        "MSE": "",
        "examples": "",
        "masks": "",
    }
    for name, pearson in (("COAR (linear)", "0.54 ± 0.06"), ("KAN", "0.70 ± 0.04"))
]


def predictions(p: Surrogate, recorded: store.Artifact) -> dict[str, Tensor]:
    """Test predictions ``[e, N]`` of every method, of all examples or of the first ones."""
    data, validation, test = splits(recorded, "fit", "validation", "test")
    if store.path(p.run or p.setup, "surrogates").exists():
        fitted = p.load("surrogates", responses=recorded)
        out, kan = fitted.part("predicted."), KAN.read(fitted)
    else:
        models = {name: SURROGATES[name](p).fit(data, validation) for name in ("linear", *PEERS)}
        ours = Kan(p).fit(data, validation)
        out, kan = {name: model.predict(test.masks) for name, model in (models | {"kan": ours}).items()}, ours.kan
    if p.members > 1:
        kan = Kan(p.model_copy(update={"members": 1})).fit(data, validation).kan
    knobs = Symbolic.from_setup(p.setup)
    out["short"] = Batch(shorten(kan, data, validation, knobs)[0])(test.masks)
    kans, _ = pykan_fits.fitted(data.of(slice(PYKAN_EXAMPLES)), PYKAN, CORES)
    out["pykan"] = torch.cat([kan(test.masks) for kan in kans])
    out["beside"] = out["kan"][:PYKAN_EXAMPLES]
    programmed = [replace_edges(kan, data.masks, Symbolic(backend=engine()))[0] for kan in kans]
    out["programmed"] = Batch(programmed)(test.masks)
    return {name: out[name].double() for name in METHODS}


def engine() -> Backend:
    """The genetic programming that runs here."""
    return "operon" if missing("pysr") else "pysr"


def run(setup: str, site: str) -> tuple[list[dict], list[claims.Claim]]:
    """The rows of one setup at one gate site, and how far the KAN is above COAR and above the best peer."""
    own = site == Perturbation.from_setup(setup).gate_site
    if own:
        p = surrogates(setup)
        recorded = p.load("responses")
    else:
        name = f"{setup}_{site}"
        p = Surrogate.from_setup(setup, {"run": name} | ENSEMBLES.get(setup, {}))
        some = {"n_examples": EXAMPLES[setup]} if setup in EXAMPLES else {}
        recorded = responses(setup, name, gate_site=site, n_fit=4000, n_reference=0, **some)
    true, n_fit = recorded["responses.test"], len(recorded["masks.fit"])
    predicted = predictions(p, recorded)
    rows = []
    for name, title in METHODS.items():
        scores = metrics.scores({name: predicted[name]}, true[: len(predicted[name])])
        text = metrics.summary(scores).iloc[0]
        rows.append(
            {
                "setup": setup,
                "gate site": site,
                "surrogate": title.format(engine=engine()),
                "Pearson": text["Pearson"],
                "MSE": text["MSE"],
                "examples": str(scores["example"].nunique()),
                "masks": f"{n_fit:,}",
            }
        )
        print(*rows[-1].values(), sep=" | ", flush=True)
    # At the setup's own site benchmarks.accuracy says so.
    others = () if own else (("linear",), PEERS)
    return rows, [ahead(setup, site, n_fit, predicted, true, peers) for peers in others]


def ahead(
    setup: str, site: str, n_fit: int, predicted: dict[str, Tensor], true: Tensor, peers: Sequence[str]
) -> claims.Claim:
    """How far the KAN is above the best of these."""
    best = max(peers, key=lambda name: metrics.pearson(predicted[name], true).mean())
    words = f"Test Pearson of the KAN less that of {metrics.TITLES[best]}"
    if peers[1:]:
        words += f", the best of {', '.join(metrics.TITLES[name] for name in peers)},"
    return claims.Command(f"python -m benchmarks.table {setup}:{site}", device="2 CPU cores").claim(
        f"{setup}.{site}.kan_minus_{'best' if peers[1:] else best}",
        f"{words} on {setup}, {site} gates, {n_fit} fit masks, mean over {len(true)} examples",
        metrics.ahead(predicted["kan"], predicted[best], true),
        "" if peers[1:] else "low > 0",
    )


def main(asked: Sequence[str]) -> None:
    torch.set_num_threads(CORES)
    for which in asked:
        setup, _, site = which.partition(":")
        for at in [site] if site else SITES:
            rows, measured = run(setup, at)
            kept = json.loads(TARGET.read_text(encoding="utf8")) if TARGET.exists() else PAPER
            kept = [row for row in kept if (row["setup"], row["gate site"]) != (setup, at)]
            files.write_json(TARGET, sorted(kept + rows, key=place))
            claims.record(measured)


def place(row: dict) -> tuple[int, str]:
    """Setups in their order, then gate sites; methods stay as they came."""
    return SETUPS.index(row["setup"]) if row["setup"] in SETUPS else len(SETUPS), row["gate site"]


if __name__ == "__main__":
    main(sys.argv[1:] or list(SETUPS))
