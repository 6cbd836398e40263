"""pykan as fast as it goes on a CPU: processes of one thread each, which suits its small operations best."""

import multiprocessing
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import torch

from kanlib.kan import KAN
from kanlib.pykan import fit


def fitted(x: torch.Tensor, y: torch.Tensor, cores: int, **settings) -> tuple[list[KAN], float]:
    """Fits to masks ``x`` ``[N, m]`` of responses ``y`` ``[E, N]``, and the seconds that they took.

    ``settings`` are those of :func:`kanlib.pykan.fit`. Starting the processes is not timed.
    """
    with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn"), _one_thread) as pool:
        list(pool.map(abs, range(cores)))
        start = time.perf_counter()
        parts = list(pool.map(partial(_tensors, x, settings), y[:, None]))
        seconds = time.perf_counter() - start
    return [KAN.from_tensors(part) for part in parts], seconds


def _one_thread() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    import kan  # noqa: F401 (its import is not timed)


def _tensors(x: torch.Tensor, settings: dict, y: torch.Tensor) -> dict[str, torch.Tensor]:
    return fit(x, y, **settings).to_tensors()
