"""One chapter of the book: a notebook that papermill executes for a setup, or one sentence that says why not.

``python -m book.execute <notebook> <target> <setup> [<number of shards> <shard>]``; progress bars go to file
descriptor 3 where there is one.
"""

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TextIO

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from book.remaining import remaining
from kanlib import memory, setups, store
from kanlib.errors import BadInputError, spoken
from kanlib.files import write_whole

#: Where a warning was given, before what it says: a path of this machine, and the line of code there.
_PLACE = re.compile(r"^/.+?:\d+: (?=\w*Warning: )(.*\n)(  .*\n)?", re.MULTILINE)
#: What glibc, where a kernel has it, keeps of freed memory. A fit asks for tensors of the same megabytes at every
#: step, and what goes back to the system has to be cleared before it comes again: a fifth of the time.
_KEPT = {"MALLOC_MMAP_THRESHOLD_": 2**25, "MALLOC_TRIM_THRESHOLD_": 2**26}
_LOWER = "lower what the setup asks for, such as n_fit, n_examples or batch_size"


def execute(notebook: Path, target: Path, parameters: dict[str, str], progress: TextIO) -> None:
    """Execute a notebook with these parameters and write it, whole, to ``target``.

    Raises:
        BadInputError: the notebook ended with one, memory or disk were not enough, or its kernel was ended.
        PapermillExecutionError: it ended with another error, which is ours.
    """
    for name, size in _KEPT.items():
        os.environ.setdefault(name, str(size))
    of_shard = f"shard {parameters['shard']} of {parameters['setup']}: " if "shard" in parameters else ""
    try:
        done = papermill.execute_notebook(
            str(notebook),
            None,
            parameters,
            kernel_name="python3",
            progress_bar=False,
            stderr_file=progress,
        )
    except DeadKernelError as error:
        raise BadInputError(
            f"{of_shard}{notebook.stem} was ended from outside, most likely for want of memory (there are "
            f"{memory.size(memory.memory())}); {_LOWER}."
        ) from error
    except PapermillExecutionError as error:
        if sentence := _sentence(notebook.stem, error):
            raise BadInputError(of_shard + sentence) from error
        raise
    _forget_places(done)
    write_whole(target, nbformat.writes(done).encode())


def _forget_places(executed: nbformat.NotebookNode) -> None:
    """Take out of its warnings where on this machine they were given."""
    for output in (output for cell in executed.cells for output in cell.get("outputs", ())):
        if output.get("name") == "stderr":
            output.text = _PLACE.sub(r"\1", output.text)


@contextmanager
def device_of_its_own(notebook: Path, setup: str, shard: str | None = None) -> Iterator[None]:
    """Show the notebook one GPU that no other run of a shard has meanwhile, where its setup asks for one."""
    if shard is None:
        yield
        return
    # torch takes memory, and without shards nothing here asks for it.
    from kanlib import machine

    stage = setups.of_notebook(notebook.stem).from_setup(setup)
    wanted = machine.device(getattr(stage, "device", "cpu")).type == "cuda"
    with machine.one_gpu(store.ARTIFACTS / ".gpus") if wanted else nullcontext():
        yield


def _sentence(name: str, error: PapermillExecutionError) -> str:
    """What a user's error says by itself; empty if it is none."""
    if error.ename == BadInputError.__name__:
        return error.evalue
    if error.ename in ("MemoryError", "OutOfMemoryError") or "can't allocate memory" in error.evalue:
        return f"{name} needs more than the {memory.size(memory.memory())} of memory here; {_LOWER}."
    if os.strerror(errno.ENOSPC) in error.evalue:
        return f"the disk is full ({error.evalue}); make room and run {name} again."
    return ""


if __name__ == "__main__":
    _notebook, _target, _setup, *_given = sys.argv[1:]
    _parameters = {"setup": _setup} | dict(zip(["shard"], _given[1:], strict=False))
    try:
        _progress = os.fdopen(3, "w")
    except OSError:
        _progress = sys.stderr
    with spoken(), device_of_its_own(Path(_notebook), **_parameters):
        execute(Path(_notebook), Path(_target), _parameters, _progress)
        if "shard" in _parameters:
            print(remaining(_setup, int(_given[0])), flush=True)
