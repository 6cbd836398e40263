"""What is completed has the bytes of what is computed at once, and asks only what is new."""

import pytest
import torch

from kanlib import store
from kanlib.masks import gaussian
from kanlib.networks import answers
from kanlib.networks.probe import Probe
from kanlib.setups import Perturbation

FEW = {"n_fit": 30, "n_examples": 3, "block": 2}


@pytest.fixture
def asked(monkeypatch):
    """How many responses and gradients the network was asked for."""
    counts = {"responses": 0, "gradients": 0, "derivatives": 0}
    plain = Probe.outputs, Probe.gradients, Probe.local_derivatives

    def outputs(self, sigma, *rest):
        counts["responses"] += len(self.x) * len(sigma)
        return plain[0](self, sigma, *rest)

    def gradients(self, sigma, *rest):
        counts["gradients"] += len(self.x) * len(sigma)
        return plain[1](self, sigma, *rest)

    def derivatives(self, *rest):
        counts["derivatives"] += len(self.x)
        return plain[2](self, *rest)

    for name, counted in (("outputs", outputs), ("gradients", gradients), ("local_derivatives", derivatives)):
        monkeypatch.setattr(Probe, name, counted)
    return counts


def perturbed(**changes):
    """What 01_perturbation saves, by the same calls."""
    p = Perturbation.from_setup("small", {"run": "grown"} | FEW | changes)
    network = answers.network(p)
    masks = {s: gaussian(getattr(p, f"n_{s}"), 3, p.scale, p.seed, s) for s in ("fit", "validation", "reference")}
    content = {f"masks.{s}": sigma for s, sigma in masks.items()}
    for split in ("fit", "validation"):
        content[f"responses.{split}"], content["clean"] = network.responses(split, masks[split])
    content |= {"local": network.local_derivatives(), "examples": network.positions}
    content["gradient.reference"] = network.gradients(masks["reference"])
    more = {"names": network.components, "network": network.made_from}
    p.save("responses", content, label_names=network.label_names, **more)
    return store.path(p.folder, "responses")


@pytest.mark.parametrize(
    ("changes", "new"),
    [
        ({}, (0, 0, 0)),
        ({"n_fit": 40}, (3 * 10, 0, 0)),
        ({"n_fit": 20}, (0, 0, 0)),
        ({"n_examples": 5}, (2 * (30 + 11), 2 * 9, 3)),  # The third example's block was not whole.
        ({"n_examples": 4, "n_fit": 40}, (3 * 10 + 40 + 11, 9, 2)),
        ({"n_examples": 2}, (0, 0, 0)),
        ({"scale": 0.5}, (3 * (30 + 11), 3 * 9, 3)),
        ({"batch_size": 6}, (3 * (30 + 11), 3 * 9, 3)),
        ({"n_reference": 8}, (0, 3 * 8, 0)),
    ],
)
def test_only_what_is_new_is_asked(place, asked, changes, new):
    at_once = perturbed(**changes).read_bytes()
    store.remove(store.path("grown", "responses"))
    perturbed()
    asked.update(dict.fromkeys(asked, 0))
    assert perturbed(**changes).read_bytes() == at_once
    assert tuple(asked.values()) == new


def test_other_code_and_other_weights_are_asked_anew(place, asked, monkeypatch):
    perturbed()
    asked.update(dict.fromkeys(asked, 0))
    monkeypatch.setattr(store, "code_hash", lambda: "another")
    perturbed()
    assert asked["responses"] == 3 * (30 + 11)


def test_a_damaged_file_is_asked_anew(place, asked):
    file = perturbed()
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    asked.update(dict.fromkeys(asked, 0))
    assert perturbed().read_bytes() == whole
    assert asked["responses"] == 3 * (30 + 11)
    assert torch.isfinite(store.load(file)["local"]).all()
