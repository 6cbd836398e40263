import pytest
import torch
from sklearn.linear_model import Ridge

from kanlib.attribution.coar import Coar, spanned
from kanlib.attribution.pairs import Pairs
from kanlib.errors import BadInputError
from kanlib.masks import Split, gaussian, random_removals
from tests.helpers import randn


def quadratic(n, m=12, screened=(3, 7, 1, 10), noise=0.0, split="fit"):
    """Responses of a quadratic model with pairs of the screened."""
    masks, s = random_removals(n, m, 0.3, 0, split), list(screened)
    w, q = randn(2, m, seed=1), randn(2, len(s), len(s), seed=2)
    q = (q + q.mT) * (1 - torch.eye(len(s)))
    of = masks.double()[:, s]
    y = 0.5 + w @ masks.double().T + torch.einsum("nj,ejk,nk->en", of, q, of) / 2
    return Split(masks, y + noise * randn(2, n, seed=n)), w, q, torch.tensor(s)


def test_a_quadratic_model_is_found_exactly():
    (fit, w, q, screened), (validation, *_) = quadratic(400), quadratic(100, split="validation")
    found = Pairs(screened, ridges=[1e-13], single_ridges=[1e-13]).fit(fit, validation)
    torch.testing.assert_close(found.weights, w, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.pairs, q, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.constant, torch.full((2,), 0.5).double(), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.predict(validation.masks), validation.responses, rtol=1e-6, atol=1e-8)


def test_a_ridge_on_both_is_that_of_scikit_learn():
    (fit, *_, screened), (validation, *_) = quadratic(300, noise=1.0), quadratic(90, noise=1.0, split="validation")
    found = Pairs(screened, ridges=[0.5], single_ridges=[0.2]).fit(fit, validation)
    x = fit.masks.double() - fit.masks.double().mean(0)
    i, j = torch.triu_indices(4, 4, 1)
    products = x[:, screened][:, i] * x[:, screened][:, j]
    for e in range(2):
        # A penalty on scaled columns is another on the columns themselves.
        sizes = [part.sub(part.mean(0)).square().sum(0).mean() for part in (x, products)]
        scale = [(ridge * size).rsqrt() for ridge, size in zip((0.2, 0.5), sizes, strict=True)]
        theirs = Ridge(1.0).fit(
            torch.cat([x * scale[0], products * scale[1]], 1).numpy(), fit.responses[e].numpy()
        )
        expected = torch.from_numpy(theirs.coef_)[12:] * scale[1]
        torch.testing.assert_close(found.pairs[e][i, j], expected, rtol=1e-6, atol=1e-8)


def test_products_of_few_directions_are_found_where_pairs_are_too_many():
    m, r = 30, 2
    basis, inner = randn(m, r, seed=3), randn(r, r, seed=4)
    full = basis @ (inner + inner.mT) @ basis.T
    q = full - torch.diag(full.diagonal())
    w = randn(1, m, seed=5)

    def split(n, name):
        masks = random_removals(n, m, 0.2, 0, name)
        x = masks.double()
        return Split(masks, w @ x.T + ((x @ q) * x).sum(1) / 2)

    fit, validation, every = split(150, "fit"), split(60, "validation"), torch.arange(m)
    coar = Coar().fit(fit, validation)
    found = Pairs(every, spanned(basis.T, r), ridges=[1e-9, 1e-4], single_ridges=[1e-9, 1e-2, 1.0]).fit(
        fit, validation
    )
    left = (found.predict(validation.masks) - validation.responses).square().mean()
    assert left < 0.01 * (coar.predict(validation.masks) - validation.responses).square().mean()
    assert torch.corrcoef(torch.stack([found.pairs[0].flatten(), q.flatten()]))[0, 1] > 0.99
    some = found.among(torch.tensor([4, 9, 2]))
    assert torch.equal(some.pairs[0], found.pairs[0][[4, 9, 2]][:, [4, 9, 2]])
    assert torch.equal(some.weights, found.weights)


def test_directions_are_the_first_singular_vectors():
    w = randn(7, 5)
    assert torch.allclose(spanned(w, 2).T @ spanned(w, 2), torch.eye(2).double())
    with pytest.raises(BadInputError, match="6 directions were asked for, expected 1 to 5 for 7 examples of 5"):
        spanned(w, 6)


def test_pairs_that_are_not_there_are_not_found():
    masks, unseen = random_removals(300, 20, 0.1, 0, "fit"), random_removals(200, 20, 0.1, 0, "validation")
    w = randn(1, 20)
    fit, validation = (Split(x, w @ x.double().T + randn(1, len(x), seed=len(x))) for x in (masks, unseen))
    found = Pairs(torch.arange(15)).fit(fit, validation)
    assert found.pairs.abs().max() < 0.2 * w.abs().max()


@pytest.mark.parametrize("screened", [[3], [3, 3], [3, 12], [-1, 3]])
def test_components_that_make_no_pairs_are_refused(screened):
    fit, *_ = quadratic(50)
    with pytest.raises(BadInputError, match=r"screened for pairs, expected two or more that differ, from 0 to 11"):
        Pairs(torch.tensor(screened)).fit(fit, fit)


def test_masks_that_scale_and_directions_of_some_are_refused():
    fit, *_ = quadratic(50)
    scaled = Split(gaussian(50, 12, 1.0, 0, "fit"), fit.responses)
    with pytest.raises(BadInputError, match=r"masks of pairs scale components, expected some that remove"):
        Pairs(torch.arange(12)).fit(scaled, scaled)
    with pytest.raises(BadInputError, match=r"4 of 12 components and directions of 12 were given, expected all"):
        Pairs(torch.arange(4), randn(12, 2)).fit(fit, fit)
