"""How much memory there is, and whether something fits into it."""

import os
from pathlib import Path

from kanlib.errors import BadInputError


def memory() -> int:
    """Bytes of memory that this process can have: the machine's, or what its container is given of them."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    given = limit.read_text().strip() if limit.is_file() else "max"
    return min(whole, int(given)) if given.isdecimal() else whole


def room_for(n_bytes: int, what: str, remedy: str) -> None:
    """Refuse what this machine's memory cannot hold before anything is computed.

    The operating system grants memory that it does not have, and ends the process that uses it.

    Args:
        n_bytes: that it takes.
        what: it is, as the subject of a sentence, in the plural.
        remedy: what to do, as its last words.

    Raises:
        BadInputError: it is more than :func:`memory`.
    """
    if n_bytes > memory():
        raise BadInputError(f"{what} take {size(n_bytes)}, and the memory here is {size(memory())}; {remedy}.")


def size(n_bytes: float) -> str:
    """Bytes as people say them, in powers of 1,000: ``37 GB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.0f} TB"
