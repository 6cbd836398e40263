"""A small network, and a recording of it."""

import pytest
import torch
import yaml

from kanlib import setups, store
from kanlib.networks import llama, models, recording, tokens
from kanlib.setups import Training
from tests.language import WEIGHTS

SETUP = {
    "training": {"image_size": 8, "architecture": "mine.py:made", "small_images": False},
    "perturbation": {
        "components": ["1", "2", "3"],
        "batch_size": 7,
        "derivative_order": 3,
        "n_examples": 3,
        "choose": "any",
    }
    | {"n_fit": 40, "n_validation": 11, "n_test": 12, "n_reference": 9},
    "recording": {"n_reported": 11, "n_development": 1, "n_fit": 40, "n_fit_output": 20, "batch_size": 7}
    | {"n_validation": 11, "n_test": 12, "n_reference": 9, "n_ablation": 8, "scales": [0.5]},
    "components": {},
}
MODEL = """
from torch import nn

def made(n_classes):
    layers = [nn.Conv2d(k, 4, 3, padding=1) for k in (3, 4, 4, 4)]
    return nn.Sequential(*layers, nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, n_classes))
"""


def _write(tmp_path, **changes):
    whole = {"threads": 1} | {key: value | changes.get(key, {}) for key, value in SETUP.items()}
    (tmp_path / "setups" / "small.yaml").write_text(yaml.safe_dump(whole), encoding="utf8")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A setup with an untrained model of three convolutions, and folders of its own."""
    for name in ("setups", "responses"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(setups, "FOLDER", tmp_path / "setups")
    monkeypatch.setattr(store, "ARTIFACTS", tmp_path / "artifacts")
    monkeypatch.setattr(store, "ROOT", tmp_path)
    monkeypatch.setattr(store, "RESPONSES", tmp_path / "responses")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MODEL, encoding="utf8")
    _write(tmp_path)
    p = Training.from_setup("small")
    model, _, _ = models.load(p)
    p.save("model", model.state_dict(), accuracy=0.5)
    return tmp_path


@pytest.fixture
def recorded(place, files_of_recording):
    """A recording of that setup; made once, as equal runs give equal bytes."""
    folder = store.RESPONSES
    for name, content in files_of_recording.items():
        (folder / name).write_bytes(content)
    if not files_of_recording:
        before = torch.get_num_threads()
        recording.record("small")
        torch.set_num_threads(before)
        files_of_recording |= {file.name: file.read_bytes() for file in folder.iterdir()}
    return store.load(store.recording("small"), kind="responses")


@pytest.fixture(scope="session")
def files_of_recording():
    """What the first test that needs it leaves here for the others."""
    return {}


@pytest.fixture
def rewrite(place):
    """Writes the setup anew with changes to its sections."""
    return lambda **changes: _write(place, **changes)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A user's own file with two factories, digits as a folder beside it, and weights."""
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\n\n"
        "def plain(n_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, n_classes))\n\n\n"
        "def with_transform(n_classes):\n"
        "    from torchvision.transforms.functional import resize, to_tensor\n\n"
        "    return plain(n_classes), lambda image: to_tensor(resize(image, (8, 8)))\n\n\n"
        "def none(n_classes):\n"
        "    return n_classes\n",
        encoding="utf8",
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def stories260k():
    """The trained Llama of 260 thousand parameters and its tokeniser, which lie beside the project."""
    if not WEIGHTS.is_dir():
        pytest.skip("the weights of stories260K are not in ../shared/weights")
    return llama.read(WEIGHTS / "stories260K.bin"), tokens.read(WEIGHTS / "tok512.bin")
