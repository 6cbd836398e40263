import pytest
import torch
from torch import nn

from kanlib.errors import BadInputError
from kanlib.masks import removals
from kanlib.networks.edited import RANDOM, accuracy, effects, halves, margins, masks_for
from kanlib.networks.outputs import margin
from kanlib.networks.probe import Probe
from kanlib.setups import Editing
from tests.helpers import randn


@pytest.fixture
def probe():
    """Nine images of a network with four filters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    model = nn.Sequential(*layers).eval().requires_grad_(False)
    x = randn(9, 3, 6, 6).float()
    return Probe(model, [f"0[{j}]" for j in range(4)], x, torch.arange(9) % 3, batch_size=4)


def without(probe, removed):
    """Margins of the network whose filters are set to zero by hand."""
    weight = probe.model[0].weight
    kept = weight.clone()
    weight[list(removed)] = 0
    found = margin(probe.model(probe.x), probe.labels)
    weight.copy_(kept)
    return found


def test_margins_are_those_of_the_network_without_the_components(probe):
    sets = [(1,), (0, 3), ()]
    found = margins(probe, sets)
    assert found.shape == (9, 4)
    for column, removed in zip(found.T, [(), *sets], strict=True):
        torch.testing.assert_close(column, without(probe, removed))
    assert not torch.allclose(found[:, 0], found[:, 1])


def test_accuracy_counts_what_is_above_0():
    assert accuracy(torch.tensor([[1.0, -1.0], [0.0, 2.0], [3.0, 4.0]])).tolist() == pytest.approx([2 / 3, 2 / 3])
    with pytest.raises(BadInputError, match="there is no image to judge an edit by, expected one of every class"):
        accuracy(torch.empty(0, 3))


def test_effects_are_responses_to_the_masks_and_slopes_at_rest(probe):
    p = Editing(n_fit=7, n_validation=5, n_test=3, share=0.4)
    masks = masks_for(p, 4)
    assert [tuple(masks[name].shape) for name in (*RANDOM, "alone")] == [(7, 4), (5, 4), (3, 4), (4, 4)]
    assert torch.equal(masks["alone"], removals(4, [(0,), (1,), (2,), (3,)]))
    found = effects(probe, masks)
    clean = without(probe, ())
    for name, sigma in masks.items():
        hand = [without(probe, (row < 0).nonzero().flatten().tolist()) - clean for row in sigma]
        torch.testing.assert_close(found[name], torch.stack(hand, 1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found["gradient"], probe.gradients(torch.zeros(1, 4), None)[:, 0])


def test_halves_share_no_image_and_are_drawn_by_the_seed():
    one, other = halves(11, 0)
    assert sorted(torch.cat([one, other]).tolist()) == list(range(11))
    assert torch.equal(one, halves(11, 0)[0])
    assert not torch.equal(one, halves(11, 1)[0])
