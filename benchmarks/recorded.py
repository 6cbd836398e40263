"""Responses that more than one benchmark needs, recorded by the notebooks where they are not there yet."""

import subprocess

from kanlib import store
from kanlib.setups import Perturbation, Surrogate


def responses(setup: str, run: str, **knobs) -> store.Artifact:
    """The responses of a run of 01_perturbation with these parameters on the setup's own classifier or recording.

    Args:
        setup: a name in ``notebooks/setups``.
        run: a name for these parameters; other parameters need another name.
        knobs: parameters of 01_perturbation.
    """
    if not store.path(run, "responses").exists():
        if Perturbation.from_setup(setup).source == "live":
            model = store.path(setup, "model").relative_to(store.ROOT)
            made = ["snakemake", "--quiet", "all", "--cores", "2", str(model)]
            subprocess.run(made, cwd=store.ROOT, check=True)
        options = [part for name, value in knobs.items() for part in ("-p", name, str(value))]
        made = ["papermill", "notebooks/01_perturbation.ipynb", "/dev/null", "-k", "python3", "-p", "setup", setup]
        subprocess.run([*made, "-p", "run", run, *options], cwd=store.ROOT, check=True)
    return Surrogate.from_setup(setup, {"run": run}).load("responses")
