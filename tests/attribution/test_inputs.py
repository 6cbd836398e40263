import math

import pytest
import torch

from kanlib.attribution.games import Game
from kanlib.attribution.inputs import along, gradient, integrated_hessians, second
from kanlib.errors import BadInputError
from tests.helpers import randn


def network(m=4, seed=0):
    """A smooth network of two layers."""
    first, last = randn(8, m, seed=seed), randn(8, seed=seed + 1)
    return lambda w: torch.tanh(w @ first.T + 0.3) @ last


def game(m=4, seed=0):
    return Game(network(m, seed), [str(j) for j in range(m)], 16, torch.float64)


def test_integrated_gradients_add_up_and_are_those_of_captum():
    captum = pytest.importorskip("captum.attr", reason="needs the extra dev")
    played = game()
    found = along(played, 400)
    assert abs(found.left) < 1e-4
    assert found.left == pytest.approx(float(found.integrated.sum()) - played.whole())
    ones = torch.ones(1, 4, dtype=torch.float64)
    theirs = captum.IntegratedGradients(network()).attribute(ones, torch.zeros_like(ones), n_steps=100)
    torch.testing.assert_close(found.integrated, theirs[0], atol=1e-4, rtol=1e-4)


def test_few_steps_leave_something_of_completeness():
    assert abs(along(game(), 2).left) > 1e-3


def test_path_sampling_is_the_mean_of_integrated_gradients_from_baselines_on_the_way():
    captum = pytest.importorskip("captum.attr", reason="needs the extra dev")
    ones = torch.ones(1, 4, dtype=torch.float64)
    method = captum.IntegratedGradients(network())
    places = (torch.arange(200) + 0.5) / 200
    mean = torch.stack([method.attribute(ones, float(a) * ones, n_steps=50)[0] for a in places]).mean(0)
    torch.testing.assert_close(along(game(), 400).sampled, mean, atol=1e-4, rtol=1e-3)


def test_integrated_hessians_are_their_double_integral_and_add_up():
    played, n = game(), 150
    found = integrated_hessians(played, 400)
    place = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    product = (place[:, None] * place).flatten()
    at = product[:, None].expand(-1, 4)
    true = (product[:, None, None] * played.hessians(at)).mean(0) + played.gradients(at).mean(0).diag()
    torch.testing.assert_close(found, true, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(found.sum(1), along(played, 400).integrated, atol=1e-3, rtol=1e-3)
    assert float(found.sum()) == pytest.approx(played.whole(), abs=1e-3)


def test_a_product_is_split_as_the_formula_has_it():
    played = Game(lambda w: 2 * w[:, 0] * w[:, 1] + w[:, 2], ["a", "b", "c"], dtype=torch.float64)
    found = integrated_hessians(played, 2000)
    half = 2 / 4  # ∫ u (−ln u) du = 1/4
    true = torch.tensor([[half, half, 0], [half, half, 0], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(found, true, atol=1e-3, rtol=0)
    torch.testing.assert_close(second(played), torch.tensor([[0.0, 2, 0], [2, 0, 0], [0, 0, 0]]).double())
    torch.testing.assert_close(gradient(played), torch.tensor([2.0, 2, 1]).double())
    assert math.isclose(float(along(played, 1000).sampled[0]), 2 / 3, abs_tol=1e-3)


def test_a_path_without_steps_is_refused():
    with pytest.raises(BadInputError, match="a path of 0 steps was asked for, expected 1 at least"):
        along(game(), 0)
