"""A copy of the project with a small default setup, and commands run in it as its user runs them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from kanlib import store

SMALL = {
    "training": {"image_size": 16, "n_train": 256, "epochs": 2},
    "perturbation": {"n_examples": 2, "n_fit": 200, "n_validation": 50, "n_test": 50, "n_reference": 10},
    "surrogate": {
        "peers": ["linear", "cubic", "trees", "mlp"],
        "curve": [100],
        "hidden": [2],
        "grid": 3,
        "penalties": [1e-3],
        "restarts": 1,
        "iterations": 6,
        "n_bootstrap": 50,
    },
    "symbolic": {"max_degree": 4, "refit_steps": 3},
}


def run(project, *command):
    """Run a command in a copy of the project, with the copy's kanlib."""
    environment = os.environ | {
        "PYTHONPATH": str(project),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


def snakemake(project, *targets, names="digits_resnet18"):
    return run(project, "snakemake", *targets, "--cores", "2", "--config", f"setups={names}")


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
        whole[key] = whole[key] | value if isinstance(value, dict) else value
    default.write_text(yaml.safe_dump(whole), encoding="utf8")
    return target
