import pytest
import torch

from kanlib.attribution.conformal import Radii
from kanlib.errors import BadInputError
from tests.helpers import randn


def drawn(n, seed):
    """Errors that grow with the length of a mask, of three examples."""
    masks = randn(n, 6, seed=seed)
    return masks, masks.norm(dim=1) ** 2 * randn(3, n, seed=seed + 1)


def test_fresh_masks_are_covered_in_every_region_and_no_more_than_asked_for():
    masks, errors = drawn(4000, 0)
    fresh, their = drawn(20_000, 2)
    radii = Radii.of(errors, masks, delta=0.05, regions=4)
    covered = (their.abs() <= radii.at(fresh)).double()
    assert covered.mean(1).sub(0.95).abs().max() < 0.01
    region = torch.searchsorted(radii.ends, fresh.norm(dim=1))
    for k in range(4):
        assert abs(float(covered[:, region == k].mean()) - 0.95) < 0.02
    assert (radii.radius.diff(dim=1) > 0).all()


def test_one_radius_for_all_would_not_cover_long_masks():
    """What regions are for."""
    masks, errors = drawn(4000, 0)
    fresh, their = drawn(20_000, 2)
    one = Radii.of(errors, masks, regions=1)
    long = fresh.norm(dim=1) > 3
    assert float((their.abs() <= one.at(fresh)).double()[:, long].mean()) < 0.91


def test_the_radius_is_the_right_order_statistic():
    errors = torch.arange(1.0, 20.0)[None] * torch.tensor([1.0, -1.0])[torch.arange(19) % 2]
    radii = Radii.of(errors, randn(19, 2), delta=0.05, regions=1)
    assert float(radii.radius) == 19.0
    assert float(Radii.of(errors, randn(19, 2), delta=0.5, regions=1).radius) == 10.0


def test_beyond_the_masks_nothing_is_known():
    masks, errors = drawn(400, 0)
    radii = Radii.of(errors, masks)
    longest = float(masks.norm(dim=1).max())
    assert radii.at(torch.tensor([[longest + 1, 0, 0, 0, 0, 0]])).isinf().all()
    half = torch.tensor([[0.1], [0.5], [longest]]).expand(3, 6).double()
    over = radii.over(-half, half)
    assert torch.equal(over[:, 0], radii.radius[:, 0])
    assert (over[:, 1] >= over[:, 0]).all()
    assert over[:, 2].isinf().all()


def test_a_box_far_from_rest_has_the_radius_of_its_own_regions():
    masks, errors = drawn(4000, 0)
    radii = Radii.of(errors, masks, regions=4)
    low = torch.full((1, 6), float(radii.ends[2]) / 6**0.5 + 0.01).double()
    assert torch.equal(radii.over(low, low)[:, 0], radii.radius[:, 3])


def test_too_few_masks_are_one_sentence():
    masks, errors = drawn(40, 0)
    with pytest.raises(BadInputError, match="40 masks are 10 for each of 4 regions, expected 19 or more"):
        Radii.of(errors, masks)
