import numpy as np
import pytest
import torch

from kanlib.setups import Surrogate as Settings
from kanlib.surrogates import SURROGATES, Linear, Split

SETTINGS = Settings(hidden=[2], grid=3, ridges=[1e-5], restarts=1, iterations=15)


def splits(true, dtype=torch.float32):
    source = torch.Generator().manual_seed(0)
    masks = [torch.randn(n, 3, generator=source, dtype=dtype) for n in (200, 80, 120)]
    return [Split(m, true(m)) for m in masks]


def curved(s):
    return torch.stack([s[:, 0] * s[:, 1] + s[:, 2] + 4, torch.tanh(s[:, 0]) - s[:, 1] ** 2])


def straight(s):
    weights = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1e-3]], dtype=s.dtype)
    return weights @ s.T + torch.tensor([[0.25], [-7.0]], dtype=s.dtype)


def test_there_is_the_linear_one_and_the_kan():
    assert {"linear", "kan"} <= SURROGATES.keys()


@pytest.mark.parametrize("name", SURROGATES)
def test_every_surrogate_predicts_new_masks_better_than_their_mean(name, same_global_rng):
    fit, validation, test = splits(lambda s: straight(s) + 0.2 * curved(s))
    surrogate = SURROGATES[name](SETTINGS)
    assert surrogate.fit(fit, validation) is surrogate
    predicted = surrogate.predict(test.masks)
    assert predicted.shape == test.responses.shape
    error = (predicted - test.responses).square().mean(1) / test.responses.var(1)
    assert (error < 0.2).all()


@pytest.mark.parametrize("name", SURROGATES)
def test_every_surrogate_is_the_same_when_fitted_again(name):
    fit, validation, test = splits(curved)
    first, again = (SURROGATES[name](SETTINGS).fit(fit, validation).predict(test.masks) for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("name", SURROGATES)
def test_every_surrogate_is_close_on_linear_responses(name):
    fit, validation, test = splits(straight)
    predicted = SURROGATES[name](SETTINGS).fit(fit, validation).predict(test.masks)
    error = (predicted - test.responses).square().mean(1) / test.responses.var(1)
    assert (error < 1e-2).all()


def test_the_linear_one_is_least_squares_with_an_intercept():
    fit, validation, test = splits(curved)
    model = Linear(SETTINGS).fit(fit, validation)

    def design(masks):
        return np.column_stack([masks.double().numpy(), np.ones(len(masks))])

    solution = np.linalg.lstsq(design(fit.masks), fit.responses.double().T.numpy(), rcond=None)[0]
    np.testing.assert_allclose(model.weights, solution[:-1].T, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(model.bias, solution[-1], rtol=1e-8)
    np.testing.assert_allclose(model.predict(test.masks), (design(test.masks) @ solution).T, rtol=1e-7, atol=1e-9)


def test_the_linear_one_is_exact_on_linear_responses():
    fit, validation, test = splits(straight, torch.float64)
    model = Linear(SETTINGS).fit(fit, validation)
    torch.testing.assert_close(model.predict(test.masks), test.responses, rtol=1e-10, atol=1e-10)


def test_the_kan_beats_the_linear_one_where_components_interact():
    fit, validation, test = splits(curved)
    errors = {
        name: (SURROGATES[name](SETTINGS).fit(fit, validation).predict(test.masks) - test.responses)
        .square()
        .mean(1)
        for name in ("linear", "kan")
    }
    assert (errors["kan"] < 0.5 * errors["linear"]).all()


def test_the_kan_is_chosen_on_validation():
    fit, validation, _ = splits(curved)
    model = SURROGATES["kan"](SETTINGS).fit(fit, validation)
    error = (model.predict(validation.masks) - validation.responses).square().mean(1)
    torch.testing.assert_close(model.chosen.validation_mse, error, rtol=1e-3, atol=1e-6)


def test_the_kan_takes_its_settings():
    fit, validation, _ = splits(curved)
    settings = SETTINGS.model_copy(update={"hidden": [3, 2], "grid": 4, "spline_order": 5, "iterations": 2})
    net = SURROGATES["kan"](settings).fit(fit, validation).chosen.kan
    assert net.widths == (3, 3, 2, 1)
    assert (net.order, net.coefs[0].shape[2]) == (5, 1 + 4 + 5)
