import pytest
import torch

from kanlib import store
from kanlib.errors import BadInputError
from kanlib.networks import models, removing
from kanlib.networks.components import gated
from kanlib.networks.outputs import margin
from kanlib.networks.probe import Probe
from kanlib.setups import Components

SMALL = {
    "components": ["0[*]", "2[*]"],
    "n_examples": 5,
    "n_development": 2,
    "share": 0.3,
    "shares": [0.2, 0.3],
    "n_fit": 40,
    "n_validation": 11,
    "n_test": 12,
    "path_steps": 3,
    "batch_size": 8,
    "precision": "fp32",
}


@pytest.fixture
def components(place, monkeypatch, rewrite):
    """Knobs of the small setup."""
    monkeypatch.setattr(store, "RESPONSES", place / "responses")
    monkeypatch.setattr(removing, "_BLOCK", 15)
    rewrite(components=SMALL)
    return Components.from_setup("small")


def test_responses_are_those_of_the_network_with_weights_set_to_zero(components):
    found, artifact = removing.removed(components)
    model, data = models.trained(artifact, setup="small")
    names, fit = found.components, found.splits["fit"]
    assert names == [f"{layer}[{k}]" for layer in (0, 2) for k in range(4)]
    assert fit.masks.shape == (40, 8)
    assert fit.responses.shape == (7, 40)
    x = data.test.read(found.positions)
    clean = margin(model(x), found.labels)
    torch.testing.assert_close(found.clean, clean.detach(), rtol=1e-4, atol=1e-5)
    with gated(model, names) as gates, torch.no_grad():
        for masks, responses in [(fit.masks[:6], fit.responses[:, :6])]:
            moved = torch.stack([margin(gates(x, row.expand(7, 8)), found.labels) for row in masks], 1)
            torch.testing.assert_close(responses, moved - clean[:, None], rtol=2e-3, atol=2e-4)


def test_single_removals_and_slopes_are_the_networks(components):
    found, artifact = removing.removed(components)
    model, data = models.trained(artifact, setup="small")
    probe = Probe(model, found.components, data.test.read(found.positions), found.labels)
    alone = probe.responses(-torch.eye(8), None)[0]
    torch.testing.assert_close(found.single["alone"], alone, rtol=2e-3, atol=2e-4)
    slopes = probe.gradients(torch.zeros(1, 8), None)[:, 0]
    torch.testing.assert_close(found.single["gradient"], slopes, rtol=2e-3, atol=2e-4)


def test_reported_and_development_examples_do_not_meet(components):
    reported, development = removing.removed(components)[0].parts()
    assert len(reported.labels) == 5
    assert development.splits["test 0.2"].responses.shape == (2, 12)
    assert not set(reported.positions.tolist()) & set(development.positions.tolist())


def test_a_recording_says_the_same_as_the_network_and_may_be_asked_for_less(components, rewrite):
    live = removing.removed(components)[0]
    kept = removing.record("small")
    assert kept.name == "small.components.safetensors"
    rewrite(components=SMALL | {"source": "frozen"})
    frozen = removing.removed(Components.from_setup("small"))[0]
    assert all(torch.equal(split.responses, live.splits[k].responses) for k, split in frozen.splits.items())
    assert all(torch.equal(value, live.single[k]) for k, value in frozen.single.items())
    few = {"source": "frozen", "n_examples": 2, "n_development": 1, "n_fit": 30, "shares": [0.2]}
    rewrite(components=SMALL | few)
    less = removing.removed(Components.from_setup("small"))[0]
    assert torch.equal(less.splits["fit"].responses, live.splits["fit"].responses[[0, 1, 5], :30])
    assert set(less.splits) == {"fit", "validation", "test 0.2"}
    assert torch.equal(less.positions, live.positions[[0, 1, 5]])


def test_answers_beyond_half_precision_are_taken_live_and_not_recorded(components, monkeypatch):
    answered = removing.responses_of_all
    monkeypatch.setattr(removing, "responses_of_all", lambda p, sigma: 1e8 * answered(p, sigma))
    live = removing.removed(components)[0]
    assert live.splits["fit"].responses.isfinite().all()
    assert live.splits["fit"].responses.abs().max() > torch.finfo(torch.float16).max
    with pytest.raises(BadInputError, match="expected at most 65,504"):
        removing.record("small")


def test_a_recording_is_gone_on_with_where_it_stopped_and_grows(components, monkeypatch, rewrite):
    kept = removing.record("small")
    before = kept.read_bytes()
    rewrite(components=SMALL | {"n_fit": 55})
    asked, answers = [], removing.responses_of_all
    monkeypatch.setattr(
        removing, "responses_of_all", lambda p, sigma: (asked.append(len(sigma)), answers(p, sigma))[1]
    )
    removing.record("small")
    assert asked == [1, 5, 10]
    grown = kept.read_bytes()
    store.remove(kept)
    removing.record("small")
    assert kept.read_bytes() == grown != before


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"n_examples": 6}, "5 reported and 2 development examples were recorded, expected 6 and 2; lower"),
        ({"n_fit": 41}, "41 masks of fit with share 0.3 and seed 0 were asked for, but others were recorded"),
        ({"share": 0.4}, "40 masks of fit with share 0.4 and seed 0 were asked for, but others were recorded"),
        ({"path_steps": 4}, "path_steps is 4, but 3 was recorded; take that, or set source to live"),
        ({"components": ["0[*]"]}, "components is .* was recorded; take that, or set source to live"),
        ({"shares": [0.5]}, "12 masks of test 0.5 with share 0.3 and seed 0 were asked for"),
    ],
)
def test_what_was_not_recorded_is_refused(components, rewrite, changes, sentence):
    removing.record("small")
    rewrite(components=SMALL | {"source": "frozen"} | changes)
    with pytest.raises(BadInputError, match=sentence):
        removing.removed(Components.from_setup("small"))


def test_without_a_recording_the_command_is_said(components, rewrite):
    rewrite(components=SMALL | {"source": "frozen"})
    with pytest.raises(BadInputError, match="small, or set source of the section components to live"):
        removing.removed(Components.from_setup("small"))


@pytest.mark.parametrize(("changes", "what"), [({"share": 0.4}, "masks"), ({"path_steps": 4}, "path_steps")])
def test_a_recording_of_other_things_is_not_gone_on_with(components, rewrite, changes, what):
    removing.record("small")
    rewrite(components=SMALL | changes)
    with pytest.raises(BadInputError, match=f"was recorded with other {what}; move it away to record anew"):
        removing.record("small")
