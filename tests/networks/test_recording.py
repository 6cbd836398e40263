import pytest
import torch

from kanlib import store
from kanlib.errors import BadInputError
from kanlib.masks import every_removal, gaussian, pair_grid
from kanlib.networks import recording
from kanlib.networks.probe import Probe
from kanlib.setups import Training


def test_a_recording_has_the_masks_of_the_evaluation(recorded):
    ablation = recorded["masks/ablation"]
    few = [[-1, 0, 0], [0, -1, 0], [0, 0, -1], [-1, -1, 0], [-1, 0, -1], [0, -1, -1]]
    assert ablation[:6].tolist() == few
    assert ablation.unique().tolist() == [-1, 0]
    assert recorded["reported.0/branch/ablation"].shape == (3, 8)
    torch.testing.assert_close(recorded["masks/test_0.5"], gaussian(12, 3, 0.5, 0, "test_0.5"))
    for site in ("branch", "output"):
        assert recorded[f"reported.2/{site}/sweep"].shape == (3, 183)


def test_a_recording_may_hold_all_sets_and_fits_of_other_scales(recorded, rewrite):
    assert "masks/removal" not in recorded.content
    rewrite(recording={"all_sets": True, "n_fit_scales": 8})
    after = store.load(recording.record("small"), kind="responses")
    assert torch.equal(after["masks/removal"], every_removal(3))
    assert torch.equal(after["masks/halving"], every_removal(3) / 2)
    for split, n in {"fit_0.5": 8, "validation_0.5": 2}.items():
        assert torch.equal(after[f"masks/{split}"], gaussian(n, 3, 0.5, 0, split))
        assert after[f"development.0/branch/{split}"].shape == (3, n)
    # The same sets, asked for as others.
    sets = {tuple(sigma): response for sigma, response in zip(*listed(after, "ablation"), strict=True)}
    assert all(
        sets.get(tuple(sigma), response) == pytest.approx(response, abs=1e-5)
        for sigma, response in zip(*listed(after, "removal"), strict=True)
    )


def test_a_recording_may_hold_a_grid_over_two_components(recorded, rewrite):
    rewrite(recording={"grid": ["3", "1"]})
    after = store.load(recording.record("small"), kind="responses")
    assert torch.equal(after["masks/grid"], pair_grid(["1", "2", "3"], ["3", "1"]))
    assert after["development.0/branch/grid"].shape == (3, 289)
    assert all(torch.equal(after[key], value) for key, value in recorded.content.items())


def listed(found, split):
    return found[f"masks/{split}"].tolist(), found[f"reported.0/branch/{split}"][0].tolist()


def test_a_recording_grows_by_masks_and_examples_and_computes_nothing_twice(recorded, place, rewrite, monkeypatch):
    rewrite(recording={"n_fit": 55, "n_reported": 12})
    asked = []
    outputs = Probe.outputs
    monkeypatch.setattr(
        Probe,
        "outputs",
        lambda self, sigma, *a: (asked.append(len(self.x) * len(sigma)), outputs(self, sigma, *a))[1],
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


def test_what_was_recorded_stays_where_less_is_asked_for(recorded, rewrite):
    rewrite(recording={"n_fit": 30, "n_test": 5})
    after = store.load(recording.record("small"), kind="responses")
    assert after.content.keys() == recorded.content.keys()
    assert all(torch.equal(after[key], value) for key, value in recorded.content.items())


def test_an_interrupted_recording_goes_on_to_the_same_bytes(recorded, place, monkeypatch):
    target = store.recording("small")
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
    before = store.recording("small").read_bytes()
    with pytest.raises(BadInputError, match=r"was recorded with other inputs; move it away"):
        recording.record("small")
    assert store.recording("small").read_bytes() == before


def test_a_recording_goes_on_with_the_same_weights_written_anew(recorded, rewrite):
    p = Training.from_setup("small")
    model = p.load("model")
    p.save("model", dict(model.content), accuracy=model.record["accuracy"], written="again")
    assert p.load("model").hash != model.hash
    rewrite(recording={"n_validation": 20})
    assert len(store.load(recording.record("small"), kind="responses")["masks/validation"]) == 20


def test_an_image_that_has_changed_is_not_mixed_in(recorded, place, monkeypatch):
    before = store.recording("small").read_bytes()
    chosen = recording._examples
    monkeypatch.setattr(
        recording, "_examples", lambda *a: {k: (at, x + 0.1, label) for k, (at, x, label) in chosen(*a).items()}
    )
    with pytest.raises(BadInputError, match=r"holds another image as \w+.0; move it away"):
        recording.record("small")
    assert store.recording("small").read_bytes() == before
