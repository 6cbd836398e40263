import pytest
import torch
from sklearn.linear_model import LinearRegression, Ridge

from kanlib.attribution.coar import Coar, of_singles
from kanlib.errors import BadInputError
from kanlib.masks import Split, gaussian, random_removals
from tests.helpers import randn


def data(n, m, e=3, noise=0.0, masks=random_removals, seed=0):
    """Responses of a linear model with a constant, and noise."""
    drawn = masks(n, m, 0.2, seed, f"{n}")
    w = randn(e, m, seed=7)
    y = 0.5 + w @ drawn.double().T + noise * randn(e, n, seed=n)
    return Split(drawn, y), w


def test_a_linear_model_is_found_exactly():
    (fit, w), (validation, _) = data(200, 20), data(50, 20)
    found = Coar(ridges=[1e-12]).fit(fit, validation)
    torch.testing.assert_close(found.weights, w, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.constant, torch.full((3,), 0.5, dtype=torch.float64), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.predict(validation.masks), validation.responses, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("masks", [random_removals, gaussian])
@pytest.mark.parametrize(("n", "m"), [(2300, 9), (40, 70)])
def test_each_ridge_is_that_of_scikit_learn(masks, n, m):
    (fit, _), (validation, _) = data(n, m, noise=1.0, masks=masks), data(60, m, noise=1.0, masks=masks)
    centred = fit.masks.double() - fit.masks.double().mean(0)
    size = float(centred.square().sum(0).mean())
    for ridge in (1e-12 if n > m else 1e-4, 0.03, 3.0):
        found = Coar(ridges=[ridge]).fit(fit, validation)
        theirs = Ridge(ridge * size).fit(fit.masks.double().numpy(), fit.responses.T.numpy())
        torch.testing.assert_close(found.weights, torch.from_numpy(theirs.coef_), rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(found.constant, torch.from_numpy(theirs.intercept_), rtol=1e-6, atol=1e-8)


def test_least_ridges_are_least_squares():
    (fit, _), (validation, _) = data(2300, 9, noise=1.0), data(60, 9, noise=1.0)
    exact = LinearRegression().fit(fit.masks.double().numpy(), fit.responses.T.numpy()).coef_
    torch.testing.assert_close(
        Coar(ridges=[1e-12]).fit(fit, validation).weights, torch.from_numpy(exact), rtol=1e-6, atol=1e-8
    )


def test_each_example_takes_the_ridge_that_is_best_on_validation():
    (fit, _), (validation, _) = data(60, 40, noise=2.0), data(100, 40, noise=2.0)
    ridges = [1e-6, 0.1, 1.0, 10.0]
    found = Coar(ridges=ridges).fit(fit, validation)
    errors = torch.stack(
        [
            (Coar(ridges=[ridge]).fit(fit, validation).predict(validation.masks) - validation.responses)
            .square()
            .mean(1)
            for ridge in ridges
        ]
    )
    assert found.chosen.tolist() == [ridges[i] for i in errors.argmin(0)]
    own = (found.predict(validation.masks) - validation.responses).square().mean(1)
    torch.testing.assert_close(own, errors.amin(0))


def test_fewer_masks_than_components_are_enough_for_a_ridge():
    (fit, _), (validation, _) = data(30, 50), data(400, 50)
    found = Coar().fit(fit, validation)
    error = (found.predict(validation.masks) - validation.responses).square().mean()
    assert error < validation.responses.var()
    assert (found.chosen > 0).all()


def test_masks_that_do_not_differ_are_refused():
    same = Split(torch.zeros(5, 3), randn(2, 5))
    with pytest.raises(BadInputError, match="cannot be solved with any ridge, expected masks that differ"):
        Coar().fit(same, same)


def test_a_single_mask_is_refused():
    one = Split(-torch.ones(1, 3), randn(2, 1))
    with pytest.raises(BadInputError, match="COAR was given 1 masks of 3 components, expected two at least"):
        Coar().fit(one, one)


def test_weights_of_single_components_predict_what_a_linear_network_does():
    slopes = randn(2, 4)
    single = {"alone": -slopes} | dict.fromkeys(("gradient", "conductance", "influence"), slopes)
    assert all(torch.equal(w, slopes) for w in of_singles(single).values())
