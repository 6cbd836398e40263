"""Quality against seconds of the two ways to fit a KAN: ``data/kan_optimisers.json``.

The same KAN, [12, 8] nodes, on the same 4,000 masks and the four development examples of a recorded setup, with
one decay or penalty from two starts, whose better one counts, on one CPU core. Minibatch descent takes more and
more steps, the second-order fit more and more iterations. ``python -m benchmarks.kan_optimisers <setup> …`` leaves
rows of other setups as they are.
"""

import json
import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.runs import responses, splits
from kanlib import files, metrics, store
from kanlib.kan import fit
from kanlib.setups import Surrogate

TARGET = store.ROOT / "data" / "kan_optimisers.json"
SETUPS = ("cifar10_resnet18", "imagenet_deit_tiny")
MASKS = 4000
KAN = {"hidden": [12, 8], "grid": 6, "restarts": 2}
WAYS: dict[str, list[dict[str, Any]]] = {
    "minibatches (AdamW)": [{"decays": [0.3], "steps": n} for n in (200, 400, 800, 1600, 3200)],
    "second order": [
        {"optimiser": "levenberg_marquardt", "penalties": [3e-4], "contest": 1, "iterations": n}
        for n in (3, 6, 12, 24)
    ],
}


def main(asked: Sequence[str]) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="a KAN of")
    for setup in asked:
        knobs = {"example_set": "development", "n_examples": 4, "n_fit": MASKS, "n_reference": 0}
        recorded = responses(setup, f"{setup}_development", **knobs)
        data, validation, test = splits(recorded, "fit", "validation", "test")
        rows = []
        for way, settings in WAYS.items():
            for changes in settings:
                start = time.process_time()
                kan = fit(data, validation, Surrogate.from_setup(setup, KAN | changes), progress=False).kan
                seconds = (time.process_time() - start) / len(data.responses)
                pearson = metrics.pearson(kan(test.masks), test.responses).mean().item()
                rows.append({"setup": setup, "fit": way, "seconds": seconds, "pearson": pearson})
                print(*rows[-1].values(), sep=" | ", flush=True)
        kept = json.loads(TARGET.read_text(encoding="utf8")) if TARGET.exists() else []
        files.write_json(TARGET, [row for row in kept if row["setup"] != setup] + rows)


if __name__ == "__main__":
    main(sys.argv[1:] or SETUPS)
