import pytest
import torch

from kanlib.errors import BadInputError
from kanlib.sae import Autoencoder, Run, shapes
from kanlib.sae.shapes import fitted

U = torch.linspace(-2, 3, 200, dtype=torch.float64)[None]


@pytest.mark.parametrize(
    ("values", "relu", "jump"),
    [
        (1.7 * (U - 0.437).clamp_min(0), True, True),
        ((2 * U + 1) * (U > 0.5), False, True),
        (U.clamp_min(0).square(), False, False),
        (U.clamp(0, 1), False, False),
        (torch.zeros_like(U), True, True),
    ],
)
def test_relu_and_jump_are_known_from_others(values, relu, jump):
    found = fitted(U, values)
    assert (found.relu.item() >= 0.999, found.jump.item() >= 0.999) == (relu, jump)
    assert found.simple.item() == (relu or jump)


def test_slope_and_bend_of_a_relu_are_found_between_points():
    found = fitted(U, 1.7 * (U - 0.437).clamp_min(0))
    assert found.slope.item() == pytest.approx(1.7, abs=1e-6)
    assert found.bend.item() == pytest.approx(0.437, abs=1e-6)


def test_splines_at_rest_are_relus(known):
    _, x = known
    found = shapes(Autoencoder("k1", [Run(2, 0), Run(2, 1)], x, 32), 1, x)
    assert found.simple.all()
    assert found.slope.tolist() == pytest.approx([1] * 32, abs=1e-3)


def test_an_arm_without_splines_is_refused(known):
    with pytest.raises(BadInputError, match="arm topk has no spline a feature, expected k1"):
        shapes(Autoencoder("topk", [Run(2, 0)], known[1], 32), 0, known[1])
