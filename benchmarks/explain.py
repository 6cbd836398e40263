"""``kanlib.explain`` beside the notebooks: seconds to a first result, and how far its numbers are from theirs.

The seconds are those of the default setup's trained network with default knobs, one image, on two threads. The
numbers are compared over three networks: that one, a transformer of timm, and a network of one's own. With few
masks and steps, as it is the path that is compared.
"""

import tempfile
import time
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

import kanlib
from benchmarks.runs import execute, made
from kanlib import claims, store
from kanlib.explaining import KNOBS
from kanlib.kan import KAN
from kanlib.networks import trained
from kanlib.networks.images import Images
from kanlib.setups import Training

SETUP = "digits_resnet18"
COMMAND = claims.Command("python -m benchmarks.explain", device="2 CPU cores")
#: The notebooks up to the coefficients, with what each is given.
FEW: dict[str, dict[str, object]] = {
    "01_perturbation": {"source": "live", "n_examples": 2, "n_reference": 0, "derivative_order": 1}
    | {"n_fit": 400, "n_validation": 100, "n_test": 100, "choose": "any"},
    "02_surrogate": {"steps": 400, "peers": ["linear"], "curve": []},
    "03_symbolic": {},
    "04_interactions": {"refits": 0},
}
OWN = """
from torch import nn

def small_net(n_classes):
    layers = [nn.Conv2d(k, 4, 3, padding=1) for k in (3, 4, 4, 4)]
    return nn.Sequential(*layers, nn.GELU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, n_classes))
"""
#: Setups of networks that are hardly trained, as extensions of the default one.
UNTRAINED: dict[str, dict[str, dict[str, object]]] = {
    "explain_timm": {
        "training": {"architecture": "timm/test_vit", "image_size": 160},
        "perturbation": {"components": ["blocks.*"]},
    },
    "explain_own": {
        "training": {"architecture": "own.py:small_net", "image_size": 16},
        "perturbation": {"components": ["1", "2", "3"]},
    },
}


def notebooks(setup: str, run: str) -> Path:
    """The folder of artifacts that the notebooks leave of a setup, with few masks and steps."""
    for notebook, knobs in FEW.items():
        execute(notebook, setup, run, **knobs)
    return store.ARTIFACTS / run


def differences(folder: Path, model: nn.Module, data: Images) -> dict[str, float]:
    """How far ``kanlib.explain`` is from the notebooks' artifacts, for the knobs that they were made with.

    Args:
        folder: of the artifacts of 01_perturbation to 04_interactions.
        model: the classifier that they are of.
        data: its data.

    Returns:
        Of responses, predictions on test masks, and coefficients at σ = 0 and over the masks: the largest
        difference over the largest value.
    """
    kinds = ("responses.safetensors", "surrogates.safetensors", "symbolic.json", "interactions.safetensors")
    recorded, surrogates, symbolic, interactions = (store.load(folder / name) for name in kinds)
    knobs = {"seed": recorded.record["parameters"]["seed"]}
    for names, artifact in zip(KNOBS.values(), (recorded, surrogates, symbolic, interactions), strict=True):
        knobs |= {name: artifact.record["parameters"][name] for name in names.split()}
    components, at = recorded.record["parameters"]["components"], recorded["examples"]
    found = kanlib.explain(model, data.test.read(at), data.test.labels[at], components, **knobs)
    pairs = {
        "responses": (found.test.responses, recorded["responses.test"]),
        "predictions": (found.kan(found.test.masks), KAN.read(surrogates)(recorded["masks.test"])),
        "at rest": (found.at_rest, interactions["coefficients"]),
        "averaged": (found.averaged, interactions["smoothed"]),
    }
    return {name: relative(ours, theirs) for name, (ours, theirs) in pairs.items()}


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def untrained(run: str, folder: Path) -> dict[str, float]:
    """The differences of a network that is hardly trained."""
    own, setup = folder / "own.py", str(folder / f"{run}_setup.yaml")
    own.write_text(OWN, encoding="utf8")
    whole = yaml.safe_dump({"extends": SETUP, **UNTRAINED[run]}).replace(own.name, str(own))
    Path(setup).write_text(whole, encoding="utf8")
    execute("00_training", setup, run, small_images=False, n_train=64, epochs=1)
    made_by = notebooks(setup, run)
    model, data = trained(store.load(made_by / "model.safetensors"), setup=setup)
    return differences(made_by, model, data)


def seconds(model: nn.Module, data: Images) -> float:
    """Until a notebook would show the explanation of the first test image."""
    x, label = data.test.read(torch.tensor([0])), data.test.labels[:1]
    start = time.perf_counter()
    kanlib.explain(model, x, label)._repr_html_()
    return time.perf_counter() - start


def main() -> None:
    torch.set_num_threads(2)
    made(SETUP, "model")
    model, data = trained(Training.from_setup(SETUP).load("model"))
    first = seconds(model, data)
    found = {"explain_digits": differences(notebooks(SETUP, "explain_digits"), model, data)}
    with tempfile.TemporaryDirectory() as folder:
        found |= {run: untrained(run, Path(folder)) for run in UNTRAINED}
    print(first, found)
    claims.record(
        [
            COMMAND.claim(
                "explain.seconds",
                f"Seconds of kanlib.explain, from the network of {SETUP} and one image to what a notebook shows, "
                "with default knobs",
                first,
                "<= 60",
            ),
            COMMAND.claim(
                "explain.difference",
                "Largest difference between kanlib.explain and the artifacts of the notebooks for the same knobs, "
                "over the largest value: responses, predictions and coefficients of a ResNet-18, a vision "
                "transformer and a small network of one's own",
                max(value for of_network in found.values() for value in of_network.values()),
                "<= 1e-4",
            ),
        ]
    )


if __name__ == "__main__":
    main()
