"""Files that are written whole or not at all, and folders that one process has to itself."""

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kanlib.errors import BadInputError, cause
from kanlib.memory import size

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_whole(target: Path, content: bytes) -> None:
    """Write ``content`` beside ``target``, then rename it onto ``target``, whose folder is made if need be.

    A reader never meets half a file, and a write that fails leaves what was there before.

    Raises:
        BadInputError: the disk is full (it says how much is missing), or the file may not be written.
    """
    _put(target, lambda temporary: temporary.write_bytes(content), lambda _: len(content))


def write_pieces(target: Path, pieces: Iterable[bytes]) -> None:
    """The same of content that comes in pieces, so that one of them at a time is in memory.

    Raises:
        BadInputError: as :func:`write_whole`; how much is missing is how much had been written.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            for piece in pieces:
                file.write(piece)

    _put(target, write, lambda temporary: temporary.stat().st_size)


def _put(target: Path, write: Callable[[Path], object], taken: Callable[[Path], int]) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        temporary.replace(target)
    except OSError as error:
        if error.errno not in _FULL:
            raise BadInputError(
                f"{target.name} cannot be written ({cause(error)}), expected a folder that takes files; "
                "mend its permissions and run again."
            ) from error
        n_bytes = taken(temporary)
        temporary.unlink(missing_ok=True)
        raise BadInputError(
            f"the disk is full: {target.name} takes {size(n_bytes)} and {size(_free(target.parent))} are "
            "free; make room and run again (what was there before is kept)."
        ) from error
    finally:
        if temporary.parent.is_dir():
            temporary.unlink(missing_ok=True)


def _free(folder: Path) -> int:
    there = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    return shutil.disk_usage(there).free


def write_json(target: Path, value: Any) -> None:
    """Write a JSON value, a row a line, whole or not at all."""
    write_whole(target, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep a folder for this process, until it leaves the context or ends.

    The operating system holds the lock and takes it back however the process ends, so that nothing stale is left.

    Raises:
        BadInputError: another process that is alive has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+", encoding="utf8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise BadInputError(
                f"another run is at work here ({file.read().strip() or 'it has just begun'}), expected one at a "
                "time; wait until it is done, or stop it."
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()}, since {time.strftime('%H:%M')}")
        file.flush()
        yield
