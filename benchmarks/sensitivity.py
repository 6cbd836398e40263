"""What the headline depends on: gate site × scale of the masks × output function, ``data/sensitivity.json``.

Development examples of two setups, 1,500 fit masks; one forward pass answers for all output functions. Needs the
classifiers of the setups, hence the data of the second: ``make record SETUPS=cifar10_resnet18`` trains it.
"""

import json
import sys
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.runs import made
from kanlib import claims, files, metrics, store
from kanlib.attribution.surrogates import Linear
from kanlib.kan import fit
from kanlib.masks import Split, gaussian
from kanlib.networks import Live
from kanlib.networks.components import Site
from kanlib.networks.outputs import OUTPUT_FUNCTIONS, centred
from kanlib.setups import Perturbation, Surrogate

COMMAND = claims.Command("python -m benchmarks.sensitivity")
TARGET = store.ROOT / "data" / "sensitivity.json"
SETUPS = ("digits_resnet18", "cifar10_resnet18")
SITES: tuple[Site, ...] = ("branch", "output")
SCALES = (0.25, 0.5, 1.0, 1.5)
SIZES = {"fit": 1500, "validation": 300, "test": 700}
EXAMPLES = 4


def row(setup: str, site: Site, scale: float, function: str, masks: dict[str, Tensor], out: Tensor) -> dict:
    """Linear surrogate and KAN in one cell; ``out`` holds centred outputs ``[E, N]`` of all splits."""
    parts = out.split(list(SIZES.values()), 1)
    data, validation, test = (Split(x, y, scale) for x, y in zip(masks.values(), parts, strict=True))
    linear = Linear(Surrogate.from_setup(setup)).fit(data, validation).predict(test.masks)
    kan = fit(data, validation, Surrogate()).kan(test.masks)
    one, other = (metrics.pearson(values, test.responses).mean().item() for values in (linear, kan))
    lead = metrics.ahead(kan, linear, test.responses)
    return {
        "setup": setup,
        "gate site": site,
        "scale": scale,
        "output function": function,
        "COAR": one,
        "KAN": other,
        "ahead by": lead.value,
        "low": lead.low,
        "high": lead.high,
    }


def cells(setup: str) -> list[dict]:
    """All cells of one setup."""
    made(setup, "model")
    p = Perturbation.from_setup(setup, {"source": "live", "n_examples": EXAMPLES, "example_set": "development"})
    live, functions, rows = Live(p), list(OUTPUT_FUNCTIONS), []
    for site in SITES:
        probe = replace(live.probe, site=site)
        for scale in SCALES:
            masks = {s: gaussian(n, len(live.components), scale, p.seed, s) for s, n in SIZES.items()}
            out, clean = probe.outputs(torch.cat(list(masks.values())), functions, f"{site} {scale}")
            for function, values, at_zero in zip(functions, out, clean, strict=True):
                rows.append(row(setup, site, scale, function, masks, centred(values, at_zero)))
                print(rows[-1], flush=True)
    return rows


def main() -> None:
    torch.set_num_threads(2)
    kept = json.loads(TARGET.read_text(encoding="utf8")) if TARGET.exists() else []
    asked = sys.argv[1:] or SETUPS
    rows = [r for r in kept if r["setup"] not in asked] + [r for setup in asked for r in cells(setup)]
    files.write_json(TARGET, rows)
    claims.record([ahead(rows)])


def ahead(rows: list[dict]) -> claims.Claim:
    """In how many cells the KAN is above COAR, by an interval without 0."""
    words = f"Share of {len(rows)} combinations of setup, gate site, scale and output function in which the 95 % "
    words += f"interval of the KAN's Pearson less COAR's is above 0 ({EXAMPLES} development examples, "
    words += f"{SIZES['fit']} fit masks)"
    share = sum(r["low"] > 0 for r in rows) / len(rows)
    return COMMAND.claim("sensitivity.kan_ahead", words, share, ">= 0.8")


if __name__ == "__main__":
    main()
