"""Claims on `make book` from a fresh clone: seconds of installation and after it, when repeated, memory and disk.

First the default setup alone, then those whose responses come with the project too. The installation depends on
the package index and on what pip has in its cache.
"""

import os
import subprocess
import tempfile
import time
from pathlib import Path

import psutil

from kanlib import claims

COMMAND = claims.Command("python -m benchmarks.book_seconds", device=f"{os.cpu_count()} CPU cores")
FROZEN = ("cifar10_resnet18", "imagenet_deit_tiny")
MEMORY = 3  # GB


def held(process: psutil.Process) -> int:
    """Bytes that a process and all it started hold at this moment, what several share counted once."""
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            total += member.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total


def measured(clone: Path, *setups: str) -> tuple[float, int]:
    """Seconds and peak memory of `make book` with these setups."""
    start, peak = time.perf_counter(), 0
    with subprocess.Popen(["make", "book", f"SETUPS={' '.join(setups)}"], cwd=clone) as process:  # noqa: S607
        while process.poll() is None:
            try:
                peak = max(peak, held(psutil.Process(process.pid)))
            except psutil.NoSuchProcess:
                break
            # To look takes some of a processor's time, which make book would have.
            time.sleep(2)
    if process.wait():
        raise SystemExit("make book failed")
    return time.perf_counter() - start, peak


def on_disk(*folders: Path) -> int:
    """Bytes that the files of these folders take on the disk."""
    files = (file for folder in folders for file in folder.rglob("*") if not file.is_symlink())
    return sum(512 * file.stat().st_blocks for file in files)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "-q", claims.ROOT, clone], check=True)  # noqa: S607
        start = time.perf_counter()
        subprocess.run(["make", "install"], cwd=clone, check=True)  # noqa: S607
        install = time.perf_counter() - start
        first, peak = measured(clone, "digits_resnet18")
        disk = on_disk(*(clone / name for name in (".venv", "_build", "_artifacts")))
        again, _ = measured(clone, "digits_resnet18")
        more, peak_of_more = measured(clone, "digits_resnet18", *FROZEN)
        peak = max(peak, peak_of_more)
    rows = {
        "book.install_seconds": ("Seconds that the installation takes, before make book", install, ""),
        "book.disk_gb": ("Disk that .venv, _build and _artifacts take after make book, in GB", disk / 1e9, ""),
        "book.seconds": ("Seconds that make book takes in a fresh clone, after installation", first, "<= 360"),
        "book.frozen_seconds": (
            f"Seconds that make book takes with {' and '.join(FROZEN)} too, from their recorded responses",
            first + more,
            "<= 600",
        ),
        "book.again_seconds": ("Seconds that make book takes when nothing changed", again, "<= 30"),
        "book.memory_gb": (
            "Most memory that make book and all it starts hold, in GB, what processes share counted once",
            peak / 1e9,
            f"<= {MEMORY}",
        ),
    }
    claims.record([COMMAND.claim(name, *row, aim=True) for name, row in rows.items()])


if __name__ == "__main__":
    main()
