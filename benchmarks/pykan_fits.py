"""pykan as fast as it goes on a CPU: processes of one thread each, which suits its small operations best."""

import multiprocessing
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import torch

from kanlib.kan import KAN
from kanlib.kan.pykan import Knobs, fit
from kanlib.masks import Split


def fitted(data: Split, knobs: Knobs, cores: int) -> tuple[list[KAN], float]:
    """A fit for each example, and the seconds that they took. Starting the processes is not timed."""
    with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn"), _one_thread) as pool:
        list(pool.map(abs, range(cores)))
        start = time.perf_counter()
        each = [data.of(slice(e, e + 1)) for e in range(len(data.responses))]
        parts = list(pool.map(partial(_tensors, knobs), each))
        seconds = time.perf_counter() - start
    return [KAN.from_tensors(part) for part in parts], seconds


def _one_thread() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    import kan  # noqa: F401 (its import is not timed)


def _tensors(knobs: Knobs, data: Split) -> dict[str, torch.Tensor]:
    return fit(data, knobs).to_tensors()
