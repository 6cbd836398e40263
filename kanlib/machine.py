"""What the bits of a result depend on beside its inputs: device, precision, memory and random streams."""

import fcntl
import hashlib
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

import scipy.linalg  # noqa: F401 (its BLAS is its own, and obeys once it is loaded)
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from kanlib.errors import BadInputError
from kanlib.memory import size

Precision = Literal["fp32", "tf32", "bf16"]
_Piece = TypeVar("_Piece")
_Result = TypeVar("_Result")
_Found = TypeVar("_Found", Tensor, tuple[Tensor, ...])


def device(name: str) -> torch.device:
    """The device of that name; ``auto`` is CUDA where there is one, else MPS, else the CPU.

    Raises:
        BadInputError: the device was asked for by name and is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, present in there.items() if present)
    if not there[name]:
        raise BadInputError(f"device {name} is not available here, expected auto, cpu or one that is; set device.")
    if name == "cuda":
        # fp32 as it is recorded, and the same bits every time.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    return torch.device(name)


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A local CPU generator for one purpose: equal arguments, equal stream; the global state is not touched."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def use_threads(n: int) -> None:
    """Let this process compute with n threads, in torch and the BLAS of numpy and scipy: bits depend on them."""
    torch.set_num_threads(n)
    threadpool_limits(n, "blas")


@contextmanager
def threads_kept() -> Iterator[None]:
    """Let torch compute with as many threads afterwards as before, whatever is called meanwhile."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def workers(device: torch.device) -> int:
    """How many pieces of work :func:`side_by_side` should do at a time: on the CPU one a thread, else one."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def side_by_side(function: Callable[[_Piece], _Result], pieces: Iterable[_Piece], n: int) -> list[_Result]:
    """``function`` of every piece, on ``n`` threads, for work whose tensors are too small to share."""
    with threads_kept(), ThreadPoolExecutor(n, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(function, pieces))


@contextmanager
def one_gpu(locks: Path) -> Iterator[None]:
    """Let what is started here see one GPU that nobody else holds who asked in the same way.

    It waits for one if need be, of those that ``CUDA_VISIBLE_DEVICES`` names, or of all.
    The operating system takes a lock back however its holder ends.

    Args:
        locks: a folder that all who share the machine lock in.
    """
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    known = before.split(",") if before else [str(i) for i in range(torch.cuda.device_count())]
    locks.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        files = [stack.enter_context((locks / f"{socket.gethostname()}.{name}").open("a")) for name in known]
        held = _first_free(files)
        os.environ["CUDA_VISIBLE_DEVICES"] = known[held]
        try:
            yield
        finally:
            if before is None:
                del os.environ["CUDA_VISIBLE_DEVICES"]
            else:
                os.environ["CUDA_VISIBLE_DEVICES"] = before


def _first_free(files: Sequence[IO[str]]) -> int:
    while True:
        for i, file in enumerate(files):
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return i
        time.sleep(1)


@contextmanager
def in_precision(precision: Precision, device: torch.device) -> Iterator[None]:
    """Forward passes in ``fp32``, in ``tf32`` (matrix products on CUDA) or in ``bf16`` (autocast)."""
    if precision == "tf32" and device.type != "cuda":
        raise BadInputError(f"precision tf32 is CUDA's, but the device is {device.type}; set precision to fp32.")
    switches: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = precision == "tf32"
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        for switch, allowed in zip(switches, before, strict=True):
            switch.allow_tf32 = allowed


@contextmanager
def enough_memory(batch_size: int) -> Iterator[None]:
    """Turn a device's running out of memory into a sentence that says what to set."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # Of the CPU's memory torch says so only in words.
        refused = _REFUSED.search(str(error))
        if not (refused or isinstance(error, MemoryError | torch.OutOfMemoryError)):
            raise
        missing = f", which asked for {size(int(refused[1]))} more" if refused else ""
        lower = f"set batch_size to {batch_size // 2}" if batch_size > 1 else "set another device"
        raise BadInputError(
            f"the device ran out of memory with batch_size {batch_size}{missing}; {lower}."
        ) from error


_REFUSED = re.compile(r"can't allocate memory: you tried to allocate (\d+) bytes")


def in_blocks(function: Callable[[Tensor], _Found], n: int, block: int) -> _Found:
    """``function`` of the positions of each block of n examples, and what it gives of them put together.

    Args:
        function: of positions ``[b]``; gives a tensor ``[b, …]``, or several.
        n: number of examples.
        block: examples of a block; the last one may have fewer.
    """
    found = [function(at) for at in torch.arange(n).split(block)]
    if isinstance(found[0], Tensor):
        return torch.cat(found)
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))
