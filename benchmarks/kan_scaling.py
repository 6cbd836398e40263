"""Time and memory of KAN fits against examples and masks: ``data/kan_scaling.json``, which the book draws.

Every point is a process of its own, whose peak memory less that before the fit is what the fit took.
"""

import multiprocessing
import threading
import time
from concurrent.futures import ProcessPoolExecutor

import psutil
import torch

from kanlib import files, store
from kanlib.kan.fitting import fit
from kanlib.machine import generator
from kanlib.masks import Split
from kanlib.setups import Surrogate

TARGET = store.ROOT / "data" / "kan_scaling.json"
EXAMPLES, MASKS = (4, 8, 16, 32, 64), (1000, 2000, 4000, 8000, 16000, 32000)
FEW_MASKS, FEW_EXAMPLES = 1000, 8
M = 8


def measured(examples: int, masks: int) -> dict:
    """Seconds and GB of fitting so many examples to so many masks, with 2 threads."""
    torch.set_num_threads(2)
    source = generator(0, "scaling")
    x, v = torch.randn(masks, M, generator=source), torch.randn(500, M, generator=source)
    weights = torch.randn(examples, 2, M, generator=source)

    def true(s: torch.Tensor) -> torch.Tensor:
        a, b = (weights @ s.T).unbind(1)
        return torch.tanh(a) * b + a.abs()

    process, peak, done = psutil.Process(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], process.memory_info().rss)

    before = process.memory_info().rss
    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    fit(Split(x, true(x)), Split(v, true(v)), Surrogate())
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    return {"examples": examples, "masks": masks, "seconds": seconds, "GB": (peak[0] - before) / 1e9}


def main() -> None:
    points = [("examples", e, FEW_MASKS) for e in EXAMPLES] + [("masks", FEW_EXAMPLES, n) for n in MASKS]
    rows = []
    for varied, examples, masks in points:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            rows.append({"varied": varied} | pool.submit(measured, examples, masks).result())
    files.write_json(TARGET, rows)


if __name__ == "__main__":
    main()
