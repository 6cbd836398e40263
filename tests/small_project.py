"""A copy of the project with a small default setup, and commands run in it as its user runs them."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from kanlib import store

SMALL = {
    "threads": 1,
    "block": 1,
    "training": {"image_size": 16, "n_train": 256, "epochs": 2},
    "perturbation": {
        "source": "live",
        "n_examples": 2,
        "n_fit": 200,
        "n_validation": 50,
        "n_test": 50,
        "n_reference": 10,
    },
    "surrogate": {
        "peers": ["linear", "cubic", "trees", "mlp"],
        "curve": [100],
        "hidden": [2],
        "grid": 3,
        "decays": [0.1],
        "restarts": 1,
        "steps": 40,
        "n_bootstrap": 50,
    },
    "symbolic": {"max_degree": 4, "refit_steps": 3},
    "evaluation": {
        "methods": ["linear", "kan", "gaussian_process", "leave_one_out", "pair_sums", "proxyspex", "spex"],
        "scales": [0.5, 1.0],
        "n_fit": 100,
        "n_validation": 30,
        "n_test": 40,
        "budgets": [40, 80],
    },
    "guarantees": {"budget": 50, "widths": [0.05], "regions": 1},
    "views": {
        "side": 2,
        "groups": 6,
        "most_players": 8,
        "budget": 200,
        "pair_budget": 600,
        "path_steps": 20,
        "hessian_steps": 5,
        "n_fit": 60,
        "n_validation": 20,
        "n_test": 20,
        "hidden": [2],
        "grid": 3,
        "steps": 20,
        "n_draws": 2,
        "n_regions": 2,
        "n_judged": 30,
    },
    "components": {
        "source": "live",
        "components": ["conv1[*]"],
        "n_examples": 4,
        "n_development": 0,
        "n_fit": 100,
        "n_validation": 30,
        "n_test": 30,
        "path_steps": 3,
        "directions": 2,
        "methods": ["quadratic", "kan"],
    },
    "editing": {
        "components": ["conv1[*]"],
        "n_errors": 2,
        "n_targets": 2,
        "n_references": 6,
        "n_classes": 2,
        "n_judged": 30,
        "sizes": [2],
        "most": 0.5,
        "n_fit": 40,
        "n_validation": 15,
        "n_test": 10,
        "directions": 2,
        "screened": 4,
        "side": 3,
    },
}


def environment(project):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PYTHONPATH": str(project), "PATH": path}


def run(project, *command):
    """Run a command in a copy of the project, with the copy's kanlib."""
    return subprocess.run(
        command, cwd=project, env=environment(project), capture_output=True, text=True, check=False
    )


@contextmanager
def started(project, *command):
    """A command that goes on, in a group of processes of its own, which is ended with the context."""
    with subprocess.Popen(
        command, cwd=project, env=environment(project), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            kill(process)


def wait_for(process, words):
    """Read what a started command says until it says these words."""
    said = []
    for line in process.stdout:
        said.append(line)
        if words in line:
            return
    raise AssertionError("".join(said))


def kill(process):
    """End a started command and all that it started, at once."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def snakemake(project, *targets, names="digits_resnet18"):
    return run(project, "snakemake", *targets, "--cores", "2", "--config", f"setups={names}")


def make(project, *arguments):
    """Run make in a copy of the project, whose environment counts as installed."""
    installed = project / ".venv/installed"
    installed.parent.mkdir(exist_ok=True)
    installed.touch()
    (installed.parent / "bin").unlink(missing_ok=True)
    (installed.parent / "bin").symlink_to(Path(sys.executable).parent)
    return run(project, "make", *arguments)


def copied(target, changes=SMALL):
    """A copy of the project's sources in which the default setup has these values instead."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607
        cwd=store.ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (store.ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(store.ROOT / name, target / name)
    default = target / "notebooks/setups/digits_resnet18.yaml"
    whole = yaml.safe_load(default.read_text(encoding="utf8"))
    for key, value in changes.items():
        whole[key] = whole.get(key, {}) | value if isinstance(value, dict) else value
    default.write_text(yaml.safe_dump(whole), encoding="utf8")
    return target
