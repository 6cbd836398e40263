"""Examples by the thousand: shards, workers, memory, growth, and a Slurm of two nodes.

    python -m benchmarks.scale [identical] [efficiency] [growth] [soak] [slurm]

``identical`` holds the artifacts of four shards on two workers against those of one run; ``efficiency`` times the
same shards on one worker and on two; ``growth`` times every stage by itself against examples and masks;
``soak`` takes 1,000 examples through all stages, and kills a shard in the middle; ``slurm`` submits shards to a
real Slurm. Growth goes to ``data/scale.json`` and throughput to ``data/scale_workers.json``, which the book draws.
Nothing else should be at work on the machine meanwhile.
"""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import torch
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from kanlib import claims, files, machine, store
from kanlib.attribution import bias_corrected, fitted, of_symbolic, smoothed_of_surrogate
from kanlib.claims import Command
from kanlib.kan import KAN
from kanlib.machine import in_blocks
from kanlib.masks import Split, gaussian
from kanlib.networks.probe import Probe
from kanlib.setups import Surrogate, Symbolic
from kanlib.symbolic import replace_edges, shorten
from tests import slurm
from tests.small_project import copied, environment, kill

COMMAND = Command("python -m benchmarks.scale", device="2 CPU cores")
GROWTH, WORKERS = (store.ROOT / "data" / name for name in ("scale.json", "scale_workers.json"))
NAME = "thousand"
STAGES = ("01_perturbation", "02_surrogate", "03_symbolic", "04_interactions")
KINDS = ("responses.safetensors", "surrogates.safetensors", "scores.parquet", "curve.parquet", "symbolic.json")
ALL = (*KINDS, "interactions.safetensors")
EXAMPLES, MASKS = (8, 64, 512), (250, 1000, 4000)
FEW_MASKS, FEW_EXAMPLES = 250, 8
#: A shard of the soak, whatever the number of examples.
A_SHARD = 64
NETWORK = """
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return x + self.second(self.first(x).relu())


def blocks(n_classes):
    body = [Block(8) for _ in range(4)]
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *body, nn.Flatten(), nn.Linear(512, n_classes))
"""
FIT = {"hidden": [2], "grid": 3, "decays": [0.1], "restarts": 1, "steps": 40}
PERTURBATION: dict[str, Any] = {
    "source": "live",
    "components": ["1", "2", "3", "4"],
    "n_fit": 200,
    "n_validation": 50,
    "n_test": 50,
    "n_reference": 20,
}
SETUP: dict[str, Any] = {
    "threads": 1,
    "block": 8,
    "training": {"data": "pictures", "image_size": 8, "architecture": "own.py:blocks", "small_images": False},
    "surrogate": FIT | {"peers": ["linear", "cubic", "mlp"], "curve": [100], "n_bootstrap": 50},
    "symbolic": {"max_degree": 3, "refit_steps": 3},
    "interactions": {"max_order": 2, "refits": 0},
}


def project(folder: Path, examples: int, **perturbation) -> Path:
    """A copy of the project with a setup of that many digits and a small network, which is trained."""
    copy = copied(folder)
    raw, pictures = load_digits(), copy / "pictures"
    pictures.mkdir()
    rows = []
    for i, (image, label) in enumerate(zip(raw.images, raw.target, strict=True)):
        Image.fromarray((image * 15.9).astype("uint8")).save(pictures / f"{i}.png")
        rows.append((f"{i}.png", label, "train" if i < 500 else "test"))
    pd.DataFrame(rows, columns=["file", "class_index", "split"]).to_csv(pictures / "labels.csv", index=False)
    (copy / "own.py").write_text(NETWORK, encoding="utf8")
    whole = SETUP | {"perturbation": PERTURBATION | {"examples": list(range(examples))} | perturbation}
    (copy / f"notebooks/setups/{NAME}.yaml").write_text(yaml.safe_dump(whole), encoding="utf8")
    workflow(copy, ["model.safetensors"])
    return copy


def line(kinds: Sequence[str], shards: int, cores: int) -> list[str]:
    targets = [f"_artifacts/{NAME}/{kind}" for kind in kinds]
    config = ["--config", f"setups={NAME}", f"shards={shards}"]
    return ["snakemake", *targets, "--cores", str(cores), *config]


def workflow(copy: Path, kinds: Sequence[str], shards: int = 1, cores: int = 2) -> float:
    """Seconds until these artifacts are there."""
    start = time.perf_counter()
    with (copy / "said.txt").open("a") as said:
        command = line(kinds, shards, cores)
        subprocess.run(command, cwd=copy, env=environment(copy), check=True, stdout=said, stderr=said)
    return time.perf_counter() - start


def contents(copy: Path, kinds: Sequence[str] = ALL) -> dict[str, bytes]:
    return {kind: (copy / "_artifacts" / NAME / kind).read_bytes() for kind in kinds}


def emptied(copy: Path) -> None:
    """Without whatever has examples."""
    shutil.rmtree(copy / "_artifacts" / NAME / "shards", ignore_errors=True)
    for kind in ALL:
        (copy / "_artifacts" / NAME / kind).unlink(missing_ok=True)


@contextmanager
def watched(every: float, held: Callable[[], int]) -> Iterator[Callable[[], float]]:
    """Gives the most of what ``held`` says in bytes, asked every so many seconds, in MB."""
    peak, done = [held()], threading.Event()

    def watch() -> None:
        while not done.wait(every):
            peak[0] = max(peak[0], held())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield lambda: peak[0] / 1e6
    finally:
        done.set()
        watcher.join()


def of_children() -> int:
    """Bytes that the largest process holds which this one started."""
    largest = 0
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            largest = max(largest, child.memory_info().rss)
    return largest


def of_this() -> int:
    """Bytes that this process holds."""
    return psutil.Process().memory_info().rss


def identical(folder: Path) -> list[claims.Claim]:
    copy = project(folder, 32)
    workflow(copy, ALL)
    whole = contents(copy)
    emptied(copy)
    workflow(copy, ALL, shards=4)
    same = [contents(copy)[kind] == whole[kind] for kind in ALL]
    print(dict(zip(ALL, same, strict=True)))
    said = (
        "Share of artifacts that are the same to the byte from 4 shards on 2 workers and from one run, 32 images"
    )
    return [COMMAND.claim("scale.shards_identical", said, sum(same) / len(same), "== 1")]


def efficiency(folder: Path) -> list[claims.Claim]:
    copy, n, seconds = project(folder, 64), 64, {}
    for workers in (1, 2):
        emptied(copy)
        seconds[workers] = workflow(copy, ALL, shards=4, cores=workers)
    rows = [{"workers": w, "examples a minute": 60 * n / s} for w, s in seconds.items()]
    files.write_json(WORKERS, rows)
    said = "Examples a second of 2 workers, of one thread each, over twice those of one: 64 images in 4 shards"
    found = seconds[1] / seconds[2] / 2
    return [COMMAND.claim("scale.efficiency", said, found, ">= 0.9", aim=True)]


def stage(name: str, n: int, n_masks: int) -> dict:
    """Seconds of one stage for so many examples and fit masks, and the MB that it took beyond what was there."""
    torch.manual_seed(0)
    machine.use_threads(1)
    spaces: dict = {}
    exec(NETWORK, spaces)  # noqa: S102
    model = spaces["blocks"](10).eval().requires_grad_(False)
    x, labels = torch.randn(n, 3, 8, 8), torch.arange(n) % 10
    sigma, unseen = gaussian(n_masks, 4, 1.0, 0, "fit"), gaussian(50, 4, 1.0, 0, "validation")
    probe, knobs = Probe(model, ["1", "2", "3", "4"], x, labels), Surrogate.model_validate(FIT)
    forms = Symbolic(max_degree=3, refit_steps=3)

    def perturbed() -> tuple[Split, Split]:
        return Split(sigma, probe.responses(sigma, None)[0]), Split(unseen, probe.responses(unseen, None)[0])

    data, validation = perturbed()
    kan = fitted("kan", knobs, data, validation).kan
    closed = replace_edges(kan, sigma, forms, False) if name == STAGES[3] else []
    before = of_this() / 1e6
    start = time.perf_counter()
    with watched(0.01, of_this) as peak:
        if name == STAGES[0]:
            perturbed()
        elif name == STAGES[1]:
            fitted("kan", knobs, data, validation)
        elif name == STAGES[2]:
            replace_edges(kan, sigma, forms, False)
            shorten(kan, data, validation, forms)
        else:
            averaged(kan, data)
            for one in closed:
                of_symbolic(one, 2)
    seconds = time.perf_counter() - start
    return {"stage": name, "examples": n, "masks": n_masks, "seconds": seconds, "MB": peak() - before}


def averaged(kan: KAN, data: Split) -> torch.Tensor:
    def of_block(at: torch.Tensor) -> torch.Tensor:
        g = kan.select(at)
        return bias_corrected(smoothed_of_surrogate(g, 4, 1.0, 2)[0], g, data.of(at), 2)

    return in_blocks(of_block, len(kan.bias), 16)


def growth(folder: Path) -> list[claims.Claim]:
    rows = []
    for name in STAGES:
        points = [(n, FEW_MASKS) for n in EXAMPLES] + [(FEW_EXAMPLES, n) for n in MASKS[1:]]
        for n, n_masks in points:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                rows.append(pool.submit(stage, name, n, n_masks).result())
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    files.write_json(GROWTH, against(table))
    of_examples = table.query(f"masks == {FEW_MASKS}").pivot(
        index="stage", columns="examples", values="seconds"
    )  # fmt: skip
    few, many = EXAMPLES[-2:]
    found = float((of_examples[many] / of_examples[few]).max() * few / many)
    said = f"Seconds an example of {many} over those of {few}, the largest of the four stages: 1 is linear"
    return [COMMAND.claim("scale.growth", said, found, "<= 1.2", aim=True)]


def against(table: pd.DataFrame) -> list[dict]:
    """What stages take against examples, and against masks, a row for each point of a chart."""
    sweeps = {"examples": table[table["masks"] == FEW_MASKS], "masks": table[table["examples"] == FEW_EXAMPLES]}
    return [
        {
            "stage": row["stage"],
            "against": name,
            "number": row[name],
            "seconds an example": row["seconds"] / row["examples"],
            "MB": row["MB"],
        }
        for name, rows in sweeps.items()
        for row in rows.to_dict("records")
    ]


def soak(folder: Path, n: int = 1000, few: int = 100) -> list[claims.Claim]:
    """Some examples, and ten times as many, in shards of one size; of these a shard is killed and made anew."""
    peaks, seconds = {}, {}
    for examples in (few, n):
        copy = project(folder / str(examples), examples)
        shards = -(-examples // A_SHARD)
        with watched(0.1, of_children) as peak:
            start = time.perf_counter()
            if examples == n:
                redone = killed(copy, shards)
            workflow(copy, ALL, shards)
            seconds[examples] = time.perf_counter() - start
        peaks[examples] = peak()
        print(examples, seconds[examples], peaks[examples], flush=True)
    there = store.load(copy / "_artifacts" / NAME / "interactions.safetensors")["coefficients"]
    return [
        COMMAND.claim(
            "scale.soak_examples",
            "Images of the digits whose interactions are there after all stages, in shards on 2 cores, of which "
            "one was killed in the middle",
            len(there),
            f"== {n}",
        ),
        COMMAND.claim(
            "scale.memory_growth_mb",
            f"Memory of the largest process with {n:,} images less that with {few}, in MB",
            peaks[n] - peaks[few],
            "<= 50",
            aim=True,
        ),
        COMMAND.claim(
            "scale.soak_seconds_an_example",
            f"Seconds an image with {n:,} images over those with {few}: 1 is linear",
            seconds[n] / seconds[few] * few / n,
            "<= 1.2",
            aim=True,
        ),
        COMMAND.claim(
            "scale.killed_shard_redone",
            "Runs of a notebook that a killed shard cost, beyond those that nothing was killed of",
            redone,
            "== 1",
        ),
    ]


def killed(copy: Path, shards: int) -> int:
    """Kill the kernel of a shard in its second stage; how many notebooks more than needed were begun."""
    plan = f"{A_SHARD + 1}-{2 * A_SHARD}"
    with (copy / "killed.txt").open("w") as said:
        process = subprocess.Popen(
            line(ALL, shards, 2), cwd=copy, env=environment(copy), stdout=said, stderr=said, start_new_session=True
        )
        try:
            kernel(process.pid, plan, "02_surrogate").send_signal(signal.SIGKILL)
            if not process.wait():
                raise SystemExit("a killed shard was not noticed")
        finally:
            kill(process)
    there = list((copy / "_artifacts" / NAME / "shards").glob("*/02_surrogate.ipynb"))
    return shards - len(there)


def kernel(parent: int, shard: str, notebook: str = "") -> psutil.Process:
    """The process that computes a shard of that notebook, or of any, once it is at work.

    Raises:
        TimeoutError: there is none for ten minutes.
    """
    until = time.monotonic() + 600
    while time.monotonic() < until:
        for child in psutil.Process(parent).children(recursive=True):
            with suppress(psutil.Error):
                words = child.cmdline()
                if "book.execute" in words and words[-1] == shard and notebook in words[3]:
                    for one in child.children():
                        if any("ipykernel" in word for word in one.cmdline()) and one.cpu_times().user > 3:
                            return one
        time.sleep(0.2)
    raise TimeoutError(f"nobody computes {shard}")


def on_slurm(folder: Path) -> list[claims.Claim]:
    copy, kinds = project(folder / "project", 16), KINDS[:2]
    workflow(copy, kinds)
    here = contents(copy, kinds)
    emptied(copy)
    profile = copy / "profiles/slurm/config.yaml"
    knobs = yaml.safe_load(profile.read_text(encoding="utf8"))
    profile.write_text(yaml.safe_dump(knobs | slurm.PROFILE), encoding="utf8")
    with slurm.cluster(folder / "slurm") as its:
        command = [*line(kinds, 2, 2), "--workflow-profile", "profiles/slurm"]
        subprocess.run(command, cwd=copy, env=slurm.joined(environment(copy), its), check=True)
    same = [contents(copy, kinds)[kind] == here[kind] for kind in kinds]
    said = (
        "Share of artifacts that are the same to the byte from jobs on two nodes of a Slurm and from one run "
        "without it: responses and surrogates of 16 images in 2 shards"
    )
    return [COMMAND.claim("scale.slurm_identical", said, sum(same) / len(same), "== 1")]


PARTS = {
    "identical": identical,
    "efficiency": efficiency,
    "growth": growth,
    "soak": soak,
    "slurm": on_slurm,
}


def main() -> None:
    for part in sys.argv[1:] or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            found = PARTS[part](Path(folder) / part)
            for claim in found:
                print(claim.id, claim.value, flush=True)
            claims.record(found)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
