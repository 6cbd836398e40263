import re

import pytest
import torch

from kanlib import store
from kanlib.errors import BadInputError
from kanlib.masks import every_removal, gaussian, pair_grid, removals, subsets
from kanlib.networks import answers, recording
from kanlib.networks.outputs import OUTPUT_FUNCTIONS
from kanlib.setups import Perturbation, Recording
from tests.networks.conftest import MODEL


def knobs(**changes):
    return Perturbation.from_setup("small", {"gate_site": "output"} | changes)


@pytest.mark.parametrize("site", ["branch", "output"])
@pytest.mark.parametrize(("example_set", "n"), [("reported", 11), ("development", 1)])
def test_a_recording_answers_as_the_network_does(recorded, site, example_set, n):
    for function in OUTPUT_FUNCTIONS:
        asked = {"gate_site": site, "output_function": function, "example_set": example_set, "n_examples": n}
        live, frozen = (answers.network(knobs(source=source, run="r", **asked)) for source in ("live", "frozen"))
        assert frozen.components == live.components
        assert frozen.label_names == live.label_names
        assert n == 1 or len(set(live.label_names)) > 3
        assert torch.equal(frozen.positions, live.positions)
        assert torch.equal(frozen.labels, live.labels)
        assert torch.equal(frozen.images, live.images)
        assert frozen.gate_error == live.gate_error == 0
        for split, size in {"fit": 20 if site == "output" else 40, "validation": 11, "test": 12}.items():
            sigma = gaussian(size, 3, 1.0, 0, split)
            for one, other in zip(frozen.responses(split, sigma), live.responses(split, sigma), strict=True):
                torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
        nothing, clean = frozen.responses("reference", torch.empty(0, 3))
        assert nothing.shape == (n, 0)
        assert torch.equal(clean, frozen.responses("test", sigma)[1])
        assert frozen.derivatives == ((site, function) == ("branch", "margin"))
        if frozen.derivatives:
            torch.testing.assert_close(frozen.local_derivatives(), live.local_derivatives())
            sigma = gaussian(9, 3, 1.0, 0, "reference")
            torch.testing.assert_close(frozen.gradients(sigma), live.gradients(sigma))
            assert frozen.gradients(sigma[:0]).shape == (n, 0, 3)


def test_removals_and_a_grid_are_answered_by_both_alike(recorded, rewrite):
    of_both = {"source": "frozen", "run": "r", "gate_site": "branch", "n_examples": 3}
    few = answers.network(knobs(**of_both))
    assert torch.equal(few.removals().masks, recorded["masks/ablation"])
    assert few.grid().masks.shape == (0, 3)
    assert few.grid().responses.shape == (3, 0)
    rewrite(recording={"grid": ["1", "3"], "all_sets": True})
    recording.record("small")
    frozen, live = (answers.network(knobs(**of_both | {"source": source})) for source in ("frozen", "live"))
    assert torch.equal(frozen.removals().masks, every_removal(3))
    assert torch.equal(live.removals().masks, removals(3, subsets(3, 2)))
    assert torch.equal(frozen.grid().masks, live.grid().masks)
    assert torch.equal(live.grid().masks, pair_grid(["1", "2", "3"], ["1", "3"]))
    torch.testing.assert_close(frozen.grid().responses, live.grid().responses, atol=1e-6, rtol=1e-5)
    asked = frozen.removals().at(live.removals().masks)
    torch.testing.assert_close(asked.responses, live.removals().responses, atol=1e-6, rtol=1e-5)


def test_a_gate_site_without_removals_and_grid_has_none(recorded):
    frozen = answers.network(knobs(source="frozen", run="r", gate_site="output", n_examples=2))
    for kind in (frozen.removals(), frozen.grid()):
        assert kind.masks.shape == (0, 3)
        assert kind.responses.shape == (2, 0)


def test_the_grid_of_the_default_setup_is_over_the_pair_that_acts_together_most():
    frozen = answers.network(Perturbation.from_setup("digits_resnet18"))
    sets = frozen.removals()
    m = len(frozen.components)
    alone = sets.at(removals(m, subsets(m, 1))).responses
    pairs = [s for s in subsets(m, 2) if len(s) == 2]
    both = sets.at(removals(m, pairs)).responses
    beyond = (both - torch.stack([alone[:, i] + alone[:, j] for i, j in pairs], 1)).abs().mean(0)
    strongest = pairs[int(beyond.argmax())]
    assert frozen.grid().masks.any(0).nonzero().flatten().tolist() == list(strongest)


def test_a_recording_without_derivatives_has_none(recorded, place):
    left = {key: value for key, value in recorded.content.items() if not key.endswith("local")}
    record = {key: value for key, value in recorded.record.items() if key not in ("code", "torch")}
    store.save(store.recording("small"), left, **record)
    assert not answers.network(knobs(source="frozen", run="r", gate_site="branch")).derivatives


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"n_examples": 12}, "n_examples is 12, but 11 were recorded"),
        ({"examples": [1]}, r"examples is \[1\], but 11 were recorded"),
    ],
)
def test_examples_that_were_not_recorded_are_refused(recorded, changes, sentence):
    with pytest.raises(BadInputError, match=sentence):
        answers.network(knobs(source="frozen", run="r", **changes))


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
    frozen = answers.network(knobs(source="frozen", run="r"))
    with pytest.raises(BadInputError, match=sentence):
        frozen.responses(split, gaussian(n, 3, scale, seed, split))


def test_a_setup_that_was_not_recorded_is_refused(place):
    with pytest.raises(BadInputError, match=r"small\.safetensors is missing: .*make record SETUPS=small"):
        answers.network(knobs(source="frozen", run="r"))


def compared(**changes):
    p = knobs(run="r", **changes)
    live = answers.network(p)
    masks = {split: gaussian(n, 3, 1.0, 0, split) for split, n in (("fit", 20), ("test", 12))}
    return answers.compared(p, masks, {split: live.responses(split, sigma)[0] for split, sigma in masks.items()})


def test_a_live_run_says_how_far_the_recording_is(recorded):
    assert float(re.search(r"differs by (\S+) standard", compared())[1]) < 1e-4
    assert float(re.search(r"differs by (\S+) standard", compared(precision="bf16"))[1]) > 1e-4
    assert "cannot be compared with this run: examples is [1]" in compared(examples=[1])
    assert compared(source="frozen") == "These are the recorded responses."


def test_without_a_recording_there_is_nothing_to_compare_with(place):
    assert "Nothing was recorded" in compared()


def test_a_lower_precision_has_a_small_error(recorded):
    sigma = gaussian(50, 3, 1.0, 0, "validation")
    errors = [answers.network(knobs(run="r", precision=kind)).precision_error(sigma) for kind in ("fp32", "bf16")]
    assert errors[0] == 0
    assert 0 < errors[1] < 0.1


def test_a_network_whose_answers_are_not_its_own_is_not_asked(place):
    left_on = MODEL.replace("nn.GELU()", "On()")
    on = "class On(nn.Module):\n    def forward(self, x):\n        return nn.functional.dropout(x, 0.5, True)\n\n"
    (place / "mine.py").write_text(left_on.replace("def made", on + "def made"), encoding="utf8")
    with pytest.raises(BadInputError, match="when it is asked the same twice"):
        answers.network(knobs(run="r", n_examples=1))


def test_a_setup_may_name_rows_groups_and_what_it_leaves_out(place, rewrite):
    rewrite(perturbation={"components": ["group:1 2", "3.weight[*]", "!3.weight[0]"]})
    live = answers.network(knobs(n_examples=2))
    assert live.components == ["group:1 2", *[f"3.weight[{j}]" for j in (1, 2, 3)]]
    sigma = gaussian(12, 4, 1.0, 0, "test")
    responses, _ = live.responses("test", sigma)
    assert (responses.std(1) > 0).all()
    assert live.gate_error == 0
    assert live.local_derivatives().shape == (2, 4 + 6 + 4)


def test_a_model_whose_record_does_not_say_its_accuracy_is_refused(place):
    p = knobs(run="r")
    model = p.load("model")
    path = store.path("small", "model")
    store.save(path, model.content, kind="model", parameters=model.record["parameters"], inputs={})
    with pytest.raises(BadInputError, match="its record says NoneType of accuracy, expected float"):
        answers.network(p)


@pytest.mark.parametrize("setup", ["digits_resnet18", "cifar10_resnet18", "imagenet_deit_tiny"])
def test_the_recordings_of_the_project_hold_what_their_chapters_ask(setup):
    p, kept = Perturbation.from_setup(setup), Recording.from_setup(setup)
    asked = answers.network(p)
    assert p.source == "frozen"
    m = len(asked.components)
    sizes = {"fit": p.n_fit, "validation": p.n_validation, "test": p.n_test}
    for split, n in sizes.items():
        found, _ = asked.responses(split, gaussian(n, m, p.scale, p.seed, split))
        assert found.shape == (p.n_examples, n)
    assert asked.gradients(gaussian(p.n_reference, m, p.scale, p.seed, "reference")).shape[1:] == (
        p.n_reference,
        m,
    )
    if kept.all_sets:
        every = every_removal(m)
        (removed, _), (halved, _) = asked.responses("removal", every), asked.responses("halving", every / 2)
        assert (removed[:, 0] == 0).all()
        assert (halved[:, 0] == 0).all()
    for scale in kept.scales if kept.n_fit_scales else []:
        name = f"fit_{scale}"
        assert asked.responses(name, gaussian(kept.n_fit_scales, m, scale, p.seed, name))[0].isfinite().all()


def test_images_that_every_installation_has_are_shown():
    digits, other = (answers.network(Perturbation.from_setup(s)) for s in ("digits_resnet18", "cifar10_resnet18"))
    assert digits.images.shape == (8, 3, 32, 32)
    assert other.images is None
