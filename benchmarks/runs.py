"""Responses and surrogates that several benchmarks need, made by the notebooks where they are not there yet."""

import subprocess

import torch

from kanlib import machine, store
from kanlib.masks import Split, gaussian
from kanlib.networks import network
from kanlib.setups import Perturbation, Surrogate, Symbolic

#: Of these a chapter of the book shows a few examples and one member; what is claimed of them is of more.
EXAMPLES = {"cifar10_resnet18": 12, "imagenet_deit_tiny": 12}
ENSEMBLES = {
    "cifar10_resnet18": {"members": 4},
    "imagenet_deit_tiny": {"members": 4},
}
PEERS = ["linear", "cubic", "trees", "mlp"]


def responses(setup: str, run: str, **knobs) -> store.Artifact:
    """The responses of a run of 01_perturbation with these parameters on the setup's own classifier or recording.

    Args:
        setup: a name in ``notebooks/setups``.
        run: a name for these parameters; other parameters need another name.
        knobs: parameters of 01_perturbation.
    """
    if not store.path(run, "responses").exists():
        if Perturbation.from_setup(setup, knobs).source == "live":
            made(setup, "model")
        execute("01_perturbation", setup, run, **knobs)
    return Surrogate.from_setup(setup, {"run": run}).load("responses")


def recorded(setup: str, **knobs) -> tuple[Split, Split, Split]:
    """A setup's recorded fit, validation and test responses, with these parameters of 01_perturbation."""
    p = Perturbation.from_setup(setup, {"source": "frozen"} | knobs)
    answers = network(p)
    found = []
    for name, n in {"fit": p.n_fit, "validation": p.n_validation, "test": p.n_test}.items():
        sigma = gaussian(n, len(answers.components), p.scale, p.seed, name)
        found.append(Split(sigma, answers.responses(name, sigma)[0], p.scale))
    return found[0], found[1], found[2]


def hardware(device: torch.device | None = None) -> str:
    """What fits and forward passes run on, as the ledger says it; ``None``: a GPU where there is one."""
    if (device or machine.device("auto")).type == "cuda":
        return f"one {torch.cuda.get_device_name()}"
    return f"{torch.get_num_threads()} CPU cores"


def digits64() -> store.Artifact:
    """Responses of 64 examples of the digits, for what needs many of them."""
    return responses("digits_resnet18", "digits64", source="live", n_examples=64, n_fit=4000, n_reference=0)


def cifar64() -> store.Artifact:
    """Responses of 64 examples of CIFAR-10, those that the recording holds among them, of the network itself."""
    few = {"n_test": 1, "n_reference": 0, "derivative_order": 1}
    return responses("cifar10_resnet18", "cifar64", source="live", n_examples=64, n_fit=3000, **few)


def splits(recorded: store.Artifact, *names: str) -> list[Split]:
    """The splits of these names."""
    return [Split.read(recorded, name) for name in names]


def surrogates(setup: str) -> Surrogate:
    """Parameters of a run of 02_surrogate whose artifacts are there: the setup's own, or that of all examples."""
    if setup not in EXAMPLES:
        made(setup, "scores")
        return Surrogate.from_setup(setup)
    run = f"{setup}_all"
    responses(setup, run, n_examples=EXAMPLES[setup], n_reference=0)
    if not store.path(run, "scores").exists():
        execute("02_surrogate", setup, run, peers=PEERS, **ENSEMBLES[setup])
    return Surrogate.from_setup(setup, {"run": run} | ENSEMBLES[setup])


def symbolic(setup: str) -> Symbolic:
    """Parameters of the setup's own run of 03_symbolic, whose artifacts are there."""
    made(setup, "symbolic")
    return Symbolic.from_setup(setup)


def made(setup: str, kind: str) -> None:
    """Bring an artifact of the setup's own run up to date."""
    target = str(store.path(setup, kind).relative_to(store.ROOT))
    workflow = ["snakemake", target, "--quiet", "all", "--cores", "2", "--config", f"setups={setup}"]
    subprocess.run(workflow, cwd=store.ROOT, check=True)


def execute(notebook: str, setup: str, run: str, **knobs) -> None:
    """Run a notebook with these parameters; its artifacts are the variant ``run`` of the setup's."""
    options = [part for name, value in knobs.items() for part in ("-y", f"{name}: {value}")]
    command = ["papermill", f"notebooks/{notebook}.ipynb", "/dev/null", "-k", "python3", "-p", "setup", setup]
    subprocess.run([*command, "-p", "run", run, *options], cwd=store.ROOT, check=True)
