import numpy as np
import pytest
import torch

from kanlib.attribution.averages import (
    bias_corrected,
    gradients,
    smoothed,
    smoothed_from_values,
    smoothed_of_network,
    smoothed_of_surrogate,
)
from kanlib.masks import Split, gaussian, subsets
from kanlib.symbolic import replace_edges
from kanlib.symbolic.closed_forms import X
from tests.helpers import symbolic_kan, symbolic_knobs


def test_smoothed_derivatives_of_a_polynomial_are_those_of_its_average():
    """f = aσ₀σ₁σ₂ + bσ₀² + cσ₁ has E[∂₀₁₂ f] = a, E[∂₁ f] = c and nothing else: σ₀ has mean 0."""
    scale, a, b, c = 0.7, 2.0, -1.5, 0.5
    masks = scale * torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, y, z = masks.T
    gradient = torch.stack([a * y * z + 2 * b * x, a * x * z + c, a * x * y], 1)[None]
    values, errors = smoothed(gradient, masks, scale, 3)
    true = torch.zeros(7, dtype=torch.float64)
    true[subsets(3, 3).index((1,))], true[subsets(3, 3).index((0, 1, 2))] = c, a
    assert ((values[0] - true).abs() < 4 * errors[0]).all()
    assert errors.max() < 0.05


def test_values_alone_give_the_same_derivatives_as_gradients():
    scale = 0.7
    masks = scale * torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, y, z = masks.T
    gradient = torch.stack([y * z, x * z + 0.5 * y.cos(), x * y], 1)[None]
    values = (x * y * z + 0.5 * y.sin() + 7)[None]
    one, error = smoothed(gradient, masks, scale, 3)
    other, wider = smoothed_from_values(values, masks, scale, 3)
    assert ((one - other).abs() < 4 * (error.square() + wider.square()).sqrt()).all()
    assert wider.max() < 0.05


def test_smoothed_derivatives_see_what_a_kink_adds():
    """f = |σ₀ + σ₁ − ½|: its second derivative is 0 wherever it exists, and twice a density on average."""
    masks = torch.randn(100_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slope = (masks.sum(1) - 0.5).sign()
    values, errors = smoothed(torch.stack([slope, slope], 1)[None], masks, 1.0, 2)
    true = 2 * torch.distributions.Normal(0.0, 2**0.5).log_prob(torch.tensor(0.5)).exp()
    assert abs(values[0, 2] - true) < 4 * errors[0, 2] < 0.05


@pytest.mark.parametrize("of", ["gradients", "values"])
def test_standard_errors_are_those_of_repeated_estimates(of):
    source, estimates, errors = torch.Generator().manual_seed(0), [], []
    for _ in range(200):
        masks = torch.randn(100, 3, generator=source, dtype=torch.float64)
        gradient = torch.stack([masks[:, 1] * masks[:, 2], masks[:, 0].exp(), masks[:, 0].sin()], 1)[None]
        values = (masks[:, 0].sin() + masks[:, 1] * masks[:, 2])[None]
        estimate = {"gradients": (smoothed, gradient), "values": (smoothed_from_values, values)}[of]
        value, error = estimate[0](estimate[1], masks, 1.0, 3)
        estimates.append(value[0])
        errors.append(error[0])
    torch.testing.assert_close(torch.stack(errors).mean(0), torch.stack(estimates).std(0), rtol=0.25, atol=0)


def test_smoothed_coefficients_are_averages_of_local_ones():
    """g = (σ₁ + σ₂)² + σ₂³: E[∂₁₂ g] = 2, E[∂₂ g] = 3s², E[∂₁ g] = 0."""
    square, cube = X**2, X**3
    form = symbolic_kan([[[X, 0 * X], [X, cube]], [[square], [X]]], 0.0)
    values, errors = smoothed_of_surrogate([form, form], 2, 0.5, 2, n_masks=40_000)
    true = torch.tensor([0.0, 3 * 0.5**2, 2.0], dtype=torch.float64)
    assert values.shape == errors.shape == (2, 3)
    assert ((values - true).abs() < 4 * errors).all()
    assert torch.equal(values[0], values[1])
    again, _ = smoothed_of_surrogate([form], 2, 0.5, 2, n_masks=40_000, seed=1)
    assert not torch.equal(again[0], values[0])


def test_a_kan_and_the_closed_form_that_is_faithful_to_it_have_the_same_averages(fitted):
    """Where the form does not run away, which this one, of one hidden layer, does not."""
    faithful = replace_edges(fitted.kan, fitted.fit.masks, symbolic_knobs(max_degree=9))
    masks = gaussian(50, 3, 1.0, 0, "test")
    torch.testing.assert_close(gradients(fitted.kan, masks), by_autograd(fitted.kan, masks), atol=1e-3, rtol=1e-3)
    of_kan, error = smoothed_of_surrogate(fitted.kan, 3, 0.7, 2)
    of_forms, _ = smoothed_of_surrogate(faithful, 3, 0.7, 2)
    assert ((of_kan - of_forms).abs() < 4 * error + 0.02).all()


def by_autograd(kan, masks):
    at = masks.expand(len(kan.bias), -1, -1).clone().requires_grad_()
    return torch.autograd.grad(kan(at).sum(), at)[0].double()


def test_a_reference_is_right_whatever_steadies_it_and_the_surer_the_closer_that_is():
    """The network is g + 0.1 sin(σ₁ + σ₂); E cos(σ₁ + σ₂) = exp(−s²)."""
    square = X**2
    form = symbolic_kan([[[X], [X]], [[square]]], 0.0)
    other = symbolic_kan([[[X], [2 * X]], [[-square]]], 1.0)
    masks = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    total = masks.sum(1)
    slope = 2 * total + 0.1 * total.cos()
    gradient = torch.stack([slope, slope], 1)[None]
    true = torch.tensor([0.1 * np.exp(-1), 0.1 * np.exp(-1), 2.0], dtype=torch.float64)
    errors = {}
    for name, steady in (("close", form), ("far", other)):
        level, _ = smoothed_of_surrogate([steady], 2, 1.0, 2, n_masks=200_000)
        found, errors[name], _ = smoothed_of_network([steady], level, gradient, masks, 1.0, 2)
        assert ((found - true).abs() < 5 * errors[name] + 0.03).all()
    assert (errors["close"] * 20 < errors["far"]).all()


def test_reliability_is_that_of_signal_in_noise():
    """Slopes that are constant are found the same by both halves; slopes of noise, differently."""
    source = torch.Generator().manual_seed(0)
    masks = torch.randn(2000, 8, generator=source, dtype=torch.float64)
    flat = symbolic_kan([[[0 * X]] * 8], 0.0)
    zero = torch.zeros(1, 36, dtype=torch.float64)
    sure = torch.arange(8.0, dtype=torch.float64).expand(1, 2000, 8)
    assert smoothed_of_network([flat], zero, sure, masks, 1.0, 2)[2][0, 0] == pytest.approx(1)
    noise = torch.randn(30, 2000, 8, generator=source, dtype=torch.float64)
    found = smoothed_of_network([flat] * 30, zero.expand(30, -1), noise, masks, 1.0, 2)[2]
    assert found.nanmedian(0).values.abs().max() < 0.6


def test_residuals_correct_what_a_surrogate_misses():
    """f = 2σ₀ + 3σ₀σ₁ + σ₁³, of which g knows σ₀ alone: the rest of E[∂_S f] is in the residuals."""
    scale = 0.8
    masks = scale * torch.randn(50_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, y = masks.T
    level = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    data = Split(masks, (2 * x + 3 * x * y + y**3)[None], scale)
    found = bias_corrected(level, lambda s: s[:, :1].T, data, 2)
    true = torch.tensor([[2.0, 3 * scale**2, 3.0]], dtype=torch.float64)
    _, error = smoothed_from_values(data.responses - x, masks, scale, 2)
    assert ((found - true).abs() < 4 * error).all()
    assert error.max() < 0.06
