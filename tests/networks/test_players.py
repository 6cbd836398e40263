from dataclasses import replace

import pytest
import torch
from torch import nn

from kanlib.errors import BadInputError
from kanlib.networks.images import Labelled
from kanlib.networks.outputs import margin
from kanlib.networks.players import (
    Lead,
    before_last,
    last_layer,
    of_gates,
    of_patches,
    probe_of,
    smooth,
)

SIDE = 6


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(4 * 9, 3)

    def forward(self, x):
        h = self.relu(self.first(x))
        h = self.relu(h + self.second(h))
        return self.fc(nn.functional.avg_pool2d(h, 2).flatten(1))


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Small().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def split():
    x = torch.randn(7, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    return Labelled(torch.arange(7) % 3, lambda positions: x[positions])


@pytest.fixture
def asked(model, split):
    return probe_of(model, ["first", "second"], split, 2, 4)


def test_the_lead_is_over_the_class_that_comes_next(asked, model, split):
    probe, lead = asked
    logits = model(split.read(torch.tensor([2])))
    assert lead.label == 2
    assert lead(logits, torch.tensor([0])) == pytest.approx(float(margin(logits, torch.tensor([2]))[0]))
    assert lead.slope(3).tolist() == Lead(lead.label, lead.other).slope(3).tolist()
    assert float(logits[0].double() @ lead.slope(3)) == pytest.approx(float(lead(logits, probe.labels)), rel=1e-5)


def test_patches_are_there_or_as_the_baseline(asked, model):
    probe, lead = asked
    x, dark = probe.x, torch.zeros(3, 1, 1)
    w = torch.tensor([[1.0, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0.5, 1]])
    images = x.repeat(3, 1, 1, 1)
    images[1] = 0
    images[2, :, :3, 3:] = 0
    images[2, :, 3:, :3] *= 0.5
    torch.testing.assert_close(of_patches(probe, 2, dark)(w), lead(model(images), torch.zeros(3)))


def test_a_patch_has_the_gradient_of_its_pixels(asked):
    captum = pytest.importorskip("captum.attr", reason="needs the extra dev")
    probe, lead = asked
    w = torch.ones(1, 4, requires_grad=True)
    (found,) = torch.autograd.grad(of_patches(probe, 2, torch.zeros(3, 1, 1))(w).sum(), w)
    theirs = captum.InputXGradient(lambda x: lead(probe.model(x), torch.zeros(len(x)))).attribute(probe.x.clone())
    patches = theirs[0].sum(0).unfold(0, 3, 3).unfold(1, 3, 3).sum((2, 3)).flatten()
    torch.testing.assert_close(found[0], patches, atol=1e-5, rtol=1e-4)


def test_gates_answer_as_the_probe_does(asked):
    probe = replace(asked[0], site="output")
    sigma = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    moved, clean = probe.responses(sigma, progress=None)
    torch.testing.assert_close(of_gates(probe)(1 + sigma), clean[0] + moved[0], atol=1e-5, rtol=1e-5)


def second(model, split):
    probe, _ = probe_of(model, ["first"], split, 2, 4)
    value = of_patches(probe, 2, torch.zeros(3, 1, 1))
    return torch.autograd.functional.hessian(lambda w: value(w[None])[0], torch.ones(4))


def test_a_smooth_copy_bends_and_is_near(model, split):
    assert not second(model, split).any()
    assert second(smooth(model), split).abs().max() > 1e-3
    x = split.read(torch.arange(7))
    torch.testing.assert_close(smooth(model, 200.0)(x), model(x), atol=1e-2, rtol=1e-2)
    assert isinstance(model.relu, nn.ReLU)


def test_a_module_that_occurs_under_two_names_is_smoothed_under_both():
    relu = nn.ReLU()
    found = smooth(nn.Sequential(relu, nn.Linear(2, 2), relu))
    assert [type(found[i]) for i in (0, 2)] == [nn.Softplus, nn.Softplus]


def test_what_the_last_layer_is_given_gives_the_logits(model, split):
    features, logits = before_last(model, split, torch.arange(7), batch_size=3)
    assert features.shape == (7, 36)
    x = split.read(torch.arange(7))
    torch.testing.assert_close(logits.float(), model(x))
    torch.testing.assert_close(model.fc(features.float()), model(x))


def test_what_cannot_be_asked_is_refused(model, split, asked):
    with pytest.raises(BadInputError, match="image is 7, expected a position from 0 to 6 of the test split"):
        probe_of(model, ["first"], split, 7, 4)
    with pytest.raises(BadInputError, match=r"7 patches a side were asked of examples of shape \[3, 6, 6\]"):
        of_patches(asked[0], 7, torch.zeros(3, 1, 1))
    with pytest.raises(BadInputError, match="the network has no linear module"):
        last_layer(nn.Conv2d(3, 2, 1))
    with pytest.raises(BadInputError, match="the network has no ReLU module to smooth"):
        smooth(nn.Linear(2, 2))
    odd = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 3), nn.Softmax(1))
    with pytest.raises(BadInputError, match="the last linear module, 1, does not put out the logits"):
        before_last(odd, split, torch.arange(2))
