import pytest
import torch

from kanlib.errors import BadInputError
from kanlib.masks import subsets
from kanlib.networks.derivatives import partials

POINT = torch.tensor([[0.5, -1.0, 2.0, 0.3], [0.1, 0.2, -0.4, 1.5]], dtype=torch.float64)


def at(point=POINT):
    return [column.clone().requires_grad_() for column in point.T]


def test_partials_are_those_of_a_product_for_every_subset():
    sigma = at()
    found = dict(partials(sigma[0] * sigma[1] * sigma[2].square() + sigma[3].exp(), sigma, 3))
    assert set(found) == set(subsets(4, 3))
    a, b, c, d = POINT.T
    expected = {(0,): b * c**2, (2,): 2 * a * b * c, (3,): d.exp(), (0, 2): 2 * b * c, (0, 1, 2): 2 * c}
    for subset, value in expected.items():
        torch.testing.assert_close(found[subset], value)
    assert all((value == 0).all() for subset, value in found.items() if len(subset) > 1 and 3 in subset)


def test_partials_go_on_from_a_derivative_with_later_components_only():
    sigma = at()
    value = sigma[0] * sigma[1] * sigma[2] * sigma[3]
    assert [subset for subset, _ in partials(value, sigma, 2, of=(1,))] == [(1, 2), (1, 2, 3), (1, 3)]
    assert list(partials(value, sigma, 2, of=(3,))) == []


def test_what_does_not_depend_on_its_masks_has_derivatives_of_zero():
    sigma = at()
    found = dict(partials(torch.ones(2, dtype=torch.float64), sigma, 2))
    assert all(torch.equal(value, torch.zeros(2, dtype=torch.float64)) for value in found.values())


def test_what_was_changed_in_place_is_refused():
    sigma = at()
    squashed = sigma[0].sigmoid()
    value = squashed + squashed.mul_(2)
    with pytest.raises(BadInputError, match=r"cannot be differentiated in its masks to order 1 .*lower max_order"):
        list(partials(value, sigma, 2))
