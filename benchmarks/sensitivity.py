"""What the headline depends on: gate site × scale of the masks × output function, ``data/sensitivity.json``.

Development examples of two setups, 1,500 fit masks; one forward pass answers for all output functions. Needs the
classifiers of the setups, hence the data of the second: ``make record SETUPS=cifar10_resnet18`` trains it.
"""

import json
import sys

import torch
from torch import Tensor

from kanlib import claims, fitting, metrics, models, perturbation, store
from kanlib.components import Site, find
from kanlib.setups import Perturbation, Surrogate, Training, generator
from kanlib.surrogates import Linear, Split

TARGET = store.ROOT / "data" / "sensitivity.json"
SETUPS = ("digits_resnet18", "cifar10_resnet18")
SITES: tuple[Site, ...] = ("branch", "output")
SCALES = (0.25, 0.5, 1.0, 1.5)
SIZES = {"fit": 1500, "validation": 300, "test": 700}
EXAMPLES = 4


def row(setup: str, site: Site, scale: float, function: str, masks: dict[str, Tensor], out: Tensor) -> dict:
    """Linear surrogate and KAN in one cell; ``out`` holds centred outputs ``[E, N]`` of all splits."""
    y = dict(zip(masks, out.split(list(SIZES.values()), 1), strict=True))
    true = y["test"]
    fit, validation = (Split(masks[split], y[split]) for split in ("fit", "validation"))
    linear = Linear(Surrogate.from_setup(setup)).fit(fit, validation)
    kan = fitting.fit(fit.masks, fit.responses, validation.masks, validation.responses, seed=0).kan
    both = torch.stack([linear.predict(masks["test"]), kan(masks["test"])])
    draws = metrics.bootstrap_pearson(both, true, 2000, generator(0, "bootstrap"))
    low, high = metrics.interval(draws[1] - draws[0])
    one, other = metrics.pearson(both, true).mean(1).tolist()
    return {
        "setup": setup,
        "gate site": site,
        "scale": scale,
        "output function": function,
        "COAR": one,
        "KAN": other,
        "ahead by": other - one,
        "low": low,
        "high": high,
    }


def cells(setup: str) -> list[dict]:
    """All cells of one setup."""
    p = Perturbation.from_setup(setup, {"n_examples": EXAMPLES, "example_set": "development"})
    model, data = models.trained(Training.from_setup(setup).load("model"))
    names = find(model, p.components)
    chosen = perturbation.choose_examples(model, data, p)
    x, labels = data.test.read(chosen), data.test.labels[chosen]
    functions = list(perturbation.OUTPUT_FUNCTIONS)
    rows = []
    for site in SITES:
        for scale in SCALES:
            masks = {s: perturbation.masks(n, len(names), scale, p.seed, s) for s, n in SIZES.items()}
            whole = torch.cat(list(masks.values()))
            out, clean = perturbation.outputs(
                model, names, x, labels, whole, site=site, output_functions=functions, progress=f"{site} {scale}"
            )
            for function, values, at_zero in zip(functions, out, clean, strict=True):
                rows.append(row(setup, site, scale, function, masks, perturbation.centred(values, at_zero)))
                print(rows[-1], flush=True)
    return rows


def main() -> None:
    torch.set_num_threads(2)
    kept = json.loads(TARGET.read_text(encoding="utf8")) if TARGET.exists() else []
    asked = sys.argv[1:] or SETUPS
    rows = [r for r in kept if r["setup"] not in asked] + [r for setup in asked for r in cells(setup)]
    text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    store.write_whole(TARGET, lambda part: part.write_text(text, encoding="utf8"))
    claims.record([ahead(rows)])


def ahead(rows: list[dict]) -> claims.Claim:
    """In how many cells the KAN is above COAR, by an interval without 0."""
    share = sum(r["low"] > 0 for r in rows) / len(rows)
    return claims.Claim(
        id="sensitivity.kan_ahead",
        statement=f"Share of {len(rows)} combinations of setup, gate site, scale and output function in which the "
        f"95 % interval of the KAN's Pearson less COAR's is above 0 ({EXAMPLES} development examples, "
        f"{SIZES['fit']} fit masks)",
        value=share,
        low=share,
        high=share,
        target=">= 0.8",
        command="python -m benchmarks.sensitivity",
        cost="long",
        device="cpu, 2 threads",
    )


if __name__ == "__main__":
    main()
