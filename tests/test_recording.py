import re

import pytest
import torch
import yaml

from kanlib import networks, perturbation, recording, setups, store
from kanlib.errors import BadInputError
from kanlib.setups import Perturbation, Training

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
}
MODEL = """
from torch import nn

def made(n_classes):
    layers = [nn.Conv2d(k, 4, 3, padding=1) for k in (3, 4, 4, 4)]
    return nn.Sequential(*layers, nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, n_classes))
"""


def knobs(**changes):
    return Perturbation.from_setup("small", {"gate_site": "output"} | changes)


def write(tmp_path, **changes):
    whole = {key: value | changes.get(key, {}) for key, value in SETUP.items()}
    (tmp_path / "setups" / "small.yaml").write_text(yaml.safe_dump(whole), encoding="utf8")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A setup with an untrained model of three convolutions, and folders of its own."""
    for name in ("setups", "responses"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(setups, "FOLDER", tmp_path / "setups")
    monkeypatch.setattr(store, "ARTIFACTS", tmp_path / "artifacts")
    monkeypatch.setattr(store, "ROOT", tmp_path)
    monkeypatch.setattr(networks, "FOLDER", tmp_path / "responses")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MODEL, encoding="utf8")
    write(tmp_path)
    p = Training.from_setup("small")
    from kanlib import models

    model, _ = models.load(p)
    p.save("model", model.state_dict(), accuracy=0.5)
    return tmp_path


@pytest.fixture
def recorded(place):
    before = torch.get_num_threads()
    target = recording.record("small")
    torch.set_num_threads(before)
    return store.load(target, kind="responses")


@pytest.mark.parametrize("site", ["branch", "output"])
@pytest.mark.parametrize(("example_set", "n"), [("reported", 11), ("development", 1)])
def test_a_recording_answers_as_the_network_does(recorded, site, example_set, n):
    for function in perturbation.OUTPUT_FUNCTIONS:
        asked = {"gate_site": site, "output_function": function, "example_set": example_set, "n_examples": n}
        live, frozen = (networks.network(knobs(source=source, run="r", **asked)) for source in ("live", "frozen"))
        assert frozen.names == live.names
        assert frozen.label_names == live.label_names
        assert n == 1 or len(set(live.label_names)) > 3
        assert torch.equal(frozen.positions, live.positions)
        assert torch.equal(frozen.labels, live.labels)
        assert frozen.gate_error == live.gate_error == 0
        for split, size in {"fit": 20 if site == "output" else 40, "validation": 11, "test": 12}.items():
            sigma = perturbation.masks(size, 3, 1.0, 0, split)
            for one, other in zip(frozen.responses(split, sigma), live.responses(split, sigma), strict=True):
                torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
        nothing, clean = frozen.responses("reference", torch.empty(0, 3))
        assert nothing.shape == (n, 0)
        assert torch.equal(clean, frozen.responses("test", sigma)[1])
        assert frozen.derivatives == ((site, function) == ("branch", "margin"))
        if frozen.derivatives:
            torch.testing.assert_close(frozen.local(), live.local())
            sigma = perturbation.masks(9, 3, 1.0, 0, "reference")
            torch.testing.assert_close(frozen.gradients(sigma), live.gradients(sigma))
            assert frozen.gradients(sigma[:0]).shape == (n, 0, 3)


def test_a_recording_has_the_masks_of_the_evaluation(recorded):
    ablation = recorded["masks/ablation"]
    few = [[-1, 0, 0], [0, -1, 0], [0, 0, -1], [-1, -1, 0], [-1, 0, -1], [0, -1, -1]]
    assert ablation[:6].tolist() == few
    assert ablation.unique().tolist() == [-1, 0]
    assert recorded["reported.0/branch/ablation"].shape == (3, 8)
    torch.testing.assert_close(recorded["masks/test_0.5"], perturbation.masks(12, 3, 0.5, 0, "test_0.5"))
    for site in ("branch", "output"):
        assert recorded[f"reported.2/{site}/sweep"].shape == (3, 183)


def test_a_recording_grows_by_masks_and_examples_and_computes_nothing_twice(recorded, place, monkeypatch):
    write(place, recording={"n_fit": 55, "n_reported": 12})
    asked = []
    outputs = perturbation.outputs
    monkeypatch.setattr(
        perturbation, "outputs", lambda *a, **k: (asked.append(len(a[2]) * len(a[4])), outputs(*a, **k))[1]
    )
    grown = store.load(recording.record("small"), kind="responses")
    for key, value in recorded.content.items():
        same = grown[key][: len(value)] if key.startswith("masks") else grown[key][..., : value.shape[-1]]
        assert torch.equal(same, value), key
    assert grown["development.0/branch/fit"].shape == (3, 55)
    new = 12 * 15 + (55 + 11 + 12 + 9 + 183 + 12 + 8) + (20 + 11 + 12 + 183)
    assert sum(asked) == new
    assert recording.record("small").read_bytes() == (place / "responses/small.safetensors").read_bytes()
    assert sum(asked) == new


def test_what_was_recorded_stays_where_less_is_asked_for(recorded, place):
    write(place, recording={"n_fit": 30, "n_test": 5})
    after = store.load(recording.record("small"), kind="responses")
    assert after.content.keys() == recorded.content.keys()
    assert all(torch.equal(after[key], value) for key, value in recorded.content.items())


def test_a_recording_without_derivatives_has_none(recorded, place):
    left = {key: value for key, value in recorded.content.items() if not key.endswith("local")}
    record = {key: value for key, value in recorded.record.items() if key not in ("code", "torch")}
    store.save(networks.path("small"), left, **record)
    assert not networks.network(knobs(source="frozen", run="r", gate_site="branch")).derivatives


def test_an_interrupted_recording_goes_on_to_the_same_bytes(recorded, place, monkeypatch):
    target = networks.path("small")
    whole = target.read_bytes()
    target.unlink()
    save, saved = store.save, []

    def interrupted(*a, **k):
        saved.append(save(*a, **k))
        if len(saved) == 9:
            raise KeyboardInterrupt

    monkeypatch.setattr(store, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        recording.record("small")
    monkeypatch.setattr(store, "save", save)
    recording.record("small")
    assert target.read_bytes() == whole


def test_a_recording_of_another_model_is_not_mixed_in(recorded, place):
    p = Training.from_setup("small")
    weights = dict(p.load("model").content)
    weights["2.bias"] = weights["2.bias"] + 1
    p.save("model", weights, accuracy=0.5)
    before = networks.path("small").read_bytes()
    with pytest.raises(BadInputError, match=r"was recorded with other inputs; move it away"):
        recording.record("small")
    assert networks.path("small").read_bytes() == before


def test_a_recording_goes_on_with_the_same_weights_written_anew(recorded, place):
    p = Training.from_setup("small")
    model = p.load("model")
    p.save("model", dict(model.content), accuracy=model.record["accuracy"], written="again")
    assert p.load("model").hash != model.hash
    write(place, recording={"n_validation": 20})
    assert len(store.load(recording.record("small"), kind="responses")["masks/validation"]) == 20


def test_an_image_that_has_changed_is_not_mixed_in(recorded, place, monkeypatch):
    before = networks.path("small").read_bytes()
    chosen = recording._examples
    monkeypatch.setattr(
        recording, "_examples", lambda *a: {k: (at, x + 0.1, label) for k, (at, x, label) in chosen(*a).items()}
    )
    with pytest.raises(BadInputError, match=r"holds another image as \w+.0; move it away"):
        recording.record("small")
    assert networks.path("small").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"n_examples": 12}, "n_examples is 12, but 11 were recorded"),
        ({"examples": [1]}, r"examples is \[1\], but 11 were recorded"),
    ],
)
def test_examples_that_were_not_recorded_are_refused(recorded, changes, sentence):
    with pytest.raises(BadInputError, match=sentence):
        networks.network(knobs(source="frozen", run="r", **changes))


@pytest.mark.parametrize(
    ("n", "scale", "seed", "split", "sentence"),
    [
        (21, 1.0, 0, "fit", "20 fit masks were recorded at gate site output, fewer than asked for; lower n_fit"),
        (5, 1.0, 0, "reference", "0 reference masks were recorded at gate site output"),
        (5, 0.9, 0, "fit", "masks of split fit are not those that were recorded; correct seed or scale"),
        (5, 1.0, 1, "fit", "masks of split fit are not those that were recorded"),
    ],
)
def test_masks_that_were_not_recorded_are_refused(recorded, n, scale, seed, split, sentence):
    frozen = networks.network(knobs(source="frozen", run="r"))
    with pytest.raises(BadInputError, match=sentence):
        frozen.responses(split, perturbation.masks(n, 3, scale, seed, split))


def test_a_setup_that_was_not_recorded_is_refused(place):
    with pytest.raises(BadInputError, match=r"small\.safetensors is missing: .*make record SETUPS=small"):
        networks.network(knobs(source="frozen", run="r"))


def compared(**changes):
    p = knobs(run="r", **changes)
    live = networks.network(p)
    masks = {split: perturbation.masks(n, 3, 1.0, 0, split) for split, n in (("fit", 20), ("test", 12))}
    return networks.compared(p, masks, {split: live.responses(split, sigma)[0] for split, sigma in masks.items()})


def test_a_live_run_says_how_far_the_recording_is(recorded):
    assert float(re.search(r"differs by (\S+) standard", compared())[1]) < 1e-4
    assert float(re.search(r"differs by (\S+) standard", compared(precision="bf16"))[1]) > 1e-4
    assert "cannot be compared with this run: examples is [1]" in compared(examples=[1])
    assert compared(source="frozen") == "These are the recorded responses."


def test_without_a_recording_there_is_nothing_to_compare_with(place):
    assert "Nothing was recorded" in compared()


def test_a_lower_precision_has_a_small_error(recorded):
    sigma = perturbation.masks(50, 3, 1.0, 0, "validation")
    errors = [networks.network(knobs(run="r", precision=kind)).precision_error(sigma) for kind in ("fp32", "bf16")]
    assert errors[0] == 0
    assert 0 < errors[1] < 0.1
