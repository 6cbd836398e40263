"""What strangers' files, damage, kills and full disks do: nothing, or one sentence.

    python -m benchmarks.faults [fuzz] [digest] [flips] [kills] [refused]

``fuzz`` opens every door of :mod:`tests.hostile`; ``digest`` times the digest of the recordings; ``flips`` flips
bits of artifacts of a small run and of the recordings; ``kills`` ends runs of each notebook at random moments;
``refused`` counts the bad inputs that unit tests hold against their sentences.
"""

import hashlib
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from kanlib import claims, formats, sources, store
from kanlib.claims import Claim, Command
from kanlib.errors import BadInputError
from tests import hostile
from tests.small_project import copied, kill, snakemake, started, wait_for

COMMAND = Command("python -m benchmarks.faults", device="2 CPU cores")
SETUP = "digits_resnet18"


def fuzz(n: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """Outcomes of ``n`` inputs to each door, and what they started."""
    total: Counter[str] = Counter()
    here = Path.cwd()
    os.chdir(folder)
    try:
        with hostile.watched() as began:
            for k, door in enumerate(hostile.doors()):
                counts = hostile.fuzz(door, n, folder / "sent", first=k)
                print(f"{door.name:20s} {dict(counts)}", flush=True)
                total += counts
    finally:
        os.chdir(here)
    return total, began


def flips(files: Iterable[Path], n: int, seed: int = 0) -> tuple[int, int]:
    """Of ``n`` bits flipped in copies of artifacts, one at a time: how many were noticed, and ``n``."""
    draw, noticed = random.Random(seed), 0  # noqa: S311
    files = list(files)
    with tempfile.TemporaryDirectory() as folder:
        for k in range(n):
            source = files[k % len(files)]
            kind = "responses" if source.parent == store.RESPONSES else source.name.split(".")[0]
            damaged = bytearray(source.read_bytes())
            # Half of them where a file says what it holds, which is a small part of a large one.
            at = draw.randrange(8 * len(damaged)) if k % 2 else draw.randrange(8 * min(len(damaged), 4000))
            damaged[at // 8] ^= 1 << at % 8
            copy = Path(folder) / source.name
            copy.write_bytes(damaged)
            try:
                store.load(copy, kind)
            except BadInputError:
                noticed += 1
    return noticed, n


def digest_share() -> float:
    """What comparing digests adds to reading and hashing a recording: a share, the largest of the recordings."""
    return max(map(_digest_share, store.RESPONSES.glob("*.safetensors")))


def _digest_share(file: Path) -> float:
    def plain() -> None:
        formats.unverified(file)
        hashlib.sha256(file.read_bytes()).hexdigest()

    times: dict[Callable, list[float]] = {plain: [], lambda: formats.read(file): []}
    for _ in range(100):
        for call, of_call in times.items():
            begun = time.perf_counter()
            call()
            of_call.append(time.perf_counter() - begun)
    before, after = (min(of_call) for of_call in times.values())
    return after / before - 1


def hashes(project: Path) -> dict[str, str]:
    """SHA-256 of the artifacts of the small run."""
    files = sorted((project / "_artifacts" / SETUP).glob("*"))
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files if ".run." not in f.name}


def kills(project: Path, n: int, seed: int = 0) -> int:
    """How many of ``n`` killed runs, over all notebooks, the same command took up and ended with equal bytes."""
    before, draw, survived = hashes(project), random.Random(seed), 0  # noqa: S311
    notebooks = sources.notebooks(store.NOTEBOOKS)
    # From the last to the first: what is written anew makes later notebooks out of date.
    for k in range(n):
        notebook = notebooks[-1 - k * len(notebooks) // n]
        page = f"book/setups/{SETUP}/{notebook.stem}.ipynb"
        written = [
            project / "_artifacts" / SETUP / store.path(SETUP, kind).name
            for kind in sources.artifacts(notebook)[1]
        ]
        for file in (project / page, *written):
            file.unlink()
        command = ["snakemake", page, "--cores", "2", "--config", f"setups={SETUP}"]
        with started(project, *command) as running:
            wait_for(running, "Execute 1 jobs")
            time.sleep(draw.uniform(0, 12))
            done = running.poll() is not None
            kill(running)
        again = snakemake(project, page)
        equal = again.returncode == 0 and hashes(project) == before
        survived += equal
        state = "was done" if done else "was killed"
        print(f"{k + 1:3d} {notebook.stem} {state}, {'equal bytes' if equal else again.stderr[-300:]}", flush=True)
    return survived


def refused() -> tuple[int, int]:
    """Bad inputs that unit tests hold against the sentence that they expect: how many were right, and wrong."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.refusals", "-m", "not slow and not soak"]
    said = subprocess.run(command, cwd=store.ROOT, capture_output=True, text=True, check=False).stdout
    right, wrong = map(int, re.findall(r"bad inputs: (\d+) right, (\d+) wrong", said)[-1])
    return right, wrong


def measured(parts: set[str]) -> list[Claim]:
    """The rows of these parts."""
    rows: list[Claim] = []
    with tempfile.TemporaryDirectory() as folder:
        if "fuzz" in parts:
            counts, began = fuzz(400, Path(folder))
            rows += [
                COMMAND.claim("safe.fuzzed", "Inputs that were fuzzed, over all doors", counts.total(), ">= 5000"),
                COMMAND.claim("safe.executed", "Commands that fuzzed inputs started", len(began), "== 0"),
                COMMAND.claim(
                    "safe.silent", "Fuzzed inputs that were taken for something else", counts["silent"], "== 0"
                ),
                COMMAND.claim(
                    "safe.tracebacks", "Fuzzed inputs that ended in no sentence", counts["traceback"], "== 0"
                ),
                COMMAND.claim("safe.hangs", "Fuzzed inputs that took over 10 s", counts["hang"], "== 0"),
            ]
        if "digest" in parts:
            rows.append(
                COMMAND.claim(
                    "safe.digest_share",
                    "What comparing digests adds to reading and hashing a recording, as a share",
                    digest_share(),
                    "<= 0.05",
                )
            )
        if parts & {"flips", "kills"}:
            project = copied(Path(folder) / "project")
            made = snakemake(project)
            if made.returncode:
                sys.exit(made.stderr)
        if "flips" in parts:
            artifacts = [f for f in (project / "_artifacts" / SETUP).iterdir() if ".run." not in f.name]
            noticed, n = flips([*artifacts, *store.RESPONSES.glob("*.safetensors")], 1200)
            rows.append(
                COMMAND.claim(
                    "faults.bit_flips_noticed",
                    f"Share of {n} flipped bits, over all kinds of artifact and the recordings, that were noticed",
                    noticed / n,
                    "== 1",
                )
            )
        if "kills" in parts:
            survived = kills(project, 20)
            rows.append(
                COMMAND.claim(
                    "faults.kills_survived",
                    "Of 20 kills at random moments, four a notebook: resumed by the same command to equal bytes",
                    survived,
                    ">= 20",
                )
            )
    if "refused" in parts:
        right, wrong = refused()
        rows += [
            COMMAND.claim(
                "faults.bad_inputs",
                "Bad inputs that end in the sentence that a unit test expects",
                right,
                ">= 200",
            ),
            COMMAND.claim("faults.bad_inputs_wrong", "Bad inputs that do not", wrong, "== 0"),
        ]
    return rows


if __name__ == "__main__":
    claims.record(measured(set(sys.argv[1:]) or {"fuzz", "digest", "flips", "kills", "refused"}))
