import pytest
import torch
from torch import nn

from kanlib.networks.soundness import apart, mixing, random_layers, tolerance

INF, NAN = torch.inf, torch.nan


@pytest.mark.parametrize(
    ("one", "other", "difference"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0),
        ([1.0, 2.0], [1.5, 0.0], 2),
        ([INF, -INF, NAN, 1.0], [INF, -INF, NAN, 1.25], 0.25),
        ([INF], [-INF], INF),
        ([NAN], [1.0], INF),
        ([1.0], [INF], INF),
    ],
)
def test_how_far_two_tensors_are_apart(one, other, difference):
    assert apart(torch.tensor(one), torch.tensor(other)) == difference


def test_what_is_tolerated_follows_the_scale_of_finite_logits():
    assert tolerance(torch.tensor([3.0, -50, INF, NAN])) == pytest.approx(5e-4)
    assert tolerance(torch.tensor([NAN, INF])) == 0


def layers():
    return nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.BatchNorm1d(2))


@pytest.mark.parametrize(
    ("on", "said"),
    [
        ([], " (random: 1)"),
        (["1"], " (random: 1)"),
        (["2"], " (in training mode: 2)"),
        (["", "0", "1", "2"], " (random: 1)"),
    ],
)
def test_layers_that_may_be_random_are_named(on, said):
    model = layers().eval()
    for name in on:
        model.get_submodule(name).training = True
    assert random_layers(model) == said


def test_without_a_suspect_none_is_named():
    assert random_layers(nn.Sequential(nn.Linear(2, 2)).eval()) == ""
    assert random_layers(nn.Sequential(nn.Linear(2, 2))) == " (in training mode: the network as a whole, 0)"
    assert mixing(layers().eval()) == ""


def test_norms_that_use_the_batch_are_named_and_not_all_of_many():
    model = nn.Sequential(*[nn.BatchNorm1d(2, track_running_stats=False) for _ in range(5)]).eval()
    assert mixing(model) == " (statistics of the batch: 0, 1, 2 and 2 more)"
    assert mixing(layers()) == " (statistics of the batch: 2)"
