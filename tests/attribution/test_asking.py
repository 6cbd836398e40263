import pytest
import torch

from kanlib.attribution.asking import expected, informative, n_coefficients, terms, trial, true_coefficients
from kanlib.attribution.games import every_set
from kanlib.errors import BadInputError
from tests.helpers import randn


def information(x, noise=0.1):
    """½ log det (I + x'x / ρ), what all of these masks tell together."""
    return 0.5 * torch.logdet(torch.eye(x.shape[1], dtype=x.dtype) + x.T @ x / noise)


def test_each_mask_is_the_one_that_tells_most_after_those_before():
    pool = every_set(4)
    x, chosen = terms(pool), informative(pool, 9).tolist()
    for k, place in enumerate(chosen):
        gains = [information(x[[*chosen[:k], i]]) if i not in chosen[:k] else -1.0 for i in range(16)]
        assert float(gains[place]) == pytest.approx(float(max(gains)))
    assert len(set(chosen)) == 9


def test_chosen_masks_tell_more_than_random_ones():
    pool = every_set(6)[torch.randperm(64, generator=torch.Generator().manual_seed(0))]
    x = terms(pool)
    assert information(x[informative(pool, 25)]) > information(x[:25])


def test_a_quadratic_function_is_found_from_all_sets():
    sets, weights = every_set(4), randn(11)
    values = terms(sets) @ weights
    torch.testing.assert_close(true_coefficients(values), weights)
    torch.testing.assert_close(expected(sets, values, noise=1e-9), weights, atol=1e-6, rtol=0)
    assert n_coefficients(4) == 10


def test_chosen_masks_leave_less_of_the_error():
    sets = every_set(7)
    values = terms(sets) @ randn(29) + 0.05 * randn(128, seed=3)
    pools = [torch.randperm(128, generator=torch.Generator().manual_seed(i)) for i in range(10)]
    chosen, random = torch.tensor([trial(values, 40, pool) for pool in pools]).mean(0)
    assert chosen < 0.8 * random


def test_more_masks_than_there_are_are_refused():
    with pytest.raises(BadInputError, match="17 masks were to be chosen from 16, expected 1 to 16"):
        informative(every_set(4), 17)
