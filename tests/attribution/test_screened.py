import pytest
import torch

from kanlib import metrics
from kanlib.attribution import SURROGATES
from kanlib.attribution.coar import Coar
from kanlib.attribution.screened import Screened
from kanlib.errors import BadInputError
from kanlib.masks import Split, random_removals
from kanlib.setups import Surrogate
from tests.helpers import randn

M, N = 60, 4000


def curved(n, split):
    """Four examples whose response bends along two directions of sixty components."""
    masks = random_removals(n, M, 0.2, 0, split)
    along = masks.double() @ randn(M, 2, seed=1)
    own = randn(4, 2, seed=2) @ along.T
    return Split(masks, (own + 0.08 * own**2).float())


@pytest.fixture(scope="module")
def parts():
    fit, validation, test = (curved(n, split) for split, n in (("fit", N), ("validation", 200), ("test", 300)))
    return fit, validation, test, Coar().fit(fit, validation)


def test_directions_span_what_coar_found_and_masks_vary_by_one_along_each(parts):
    fit, validation, _, coar = parts
    found = Screened(coar, lambda: SURROGATES["linear"](Surrogate()), 2).fit(fit, validation)
    torch.testing.assert_close((fit.masks @ found.directions).std(0), torch.ones(2), rtol=1e-4, atol=1e-4)
    assert found.directions.shape == (M, 2)
    largest = torch.linalg.svd(coar.weights).Vh[:2].T.float()
    lengths = found.directions.norm(dim=0)
    torch.testing.assert_close((found.directions / lengths).abs(), largest.abs(), rtol=1e-3, atol=1e-4)


def test_what_bends_along_them_is_found(parts):
    fit, validation, test, coar = parts
    found = Screened(coar, lambda: SURROGATES["quadratic"](Surrogate()), 2).fit(fit, validation)
    alone, both = (metrics.pearson(g.predict(test.masks), test.responses).mean() for g in (coar, found))
    assert both > 0.98
    assert both > alone + 0.01


def test_at_rest_it_answers_zero(parts):
    fit, validation, _, coar = parts
    found = Screened(coar, lambda: SURROGATES["quadratic"](Surrogate()), 2).fit(fit, validation)
    assert found.predict(torch.zeros(1, M)).abs().max() < 1e-9


def test_more_directions_than_examples_are_refused(parts):
    fit, validation, _, coar = parts
    with pytest.raises(BadInputError, match="directions is 5, expected at most 4 for 4 examples of 60 components"):
        Screened(coar, lambda: SURROGATES["linear"](Surrogate()), 5).fit(fit, validation)
