from itertools import product

import pytest
import torch

from kanlib.attribution.flips import smallest_flips, steady_within
from kanlib.symbolic import SymbolicKAN
from kanlib.symbolic.closed_forms import X
from tests.helpers import some_kan, symbolic_kan


def every_removal(m):
    return torch.tensor(list(product((0.0, -1.0), repeat=m)), dtype=torch.float64)


def brute_force(kan, clean):
    """Sizes of the smallest sets whose removal flips, from all 2^m."""
    masks = every_removal(kan.widths[0])
    flips = clean[:, None] + kan(masks) < 0
    sizes = (masks != 0).sum(1).expand_as(flips)
    return torch.where(flips, sizes, kan.widths[0] + 1).amin(1)


@pytest.mark.parametrize("shape", [(4, 1), (5, 3, 1), (6, 3, 2, 1)])
@pytest.mark.parametrize("margin", [0.1, 0.5, 0.95])
def test_smallest_sets_are_those_of_brute_force(shape, margin):
    kan = some_kan(shape, n=5).through_rest()
    clean = margin * -kan(every_removal(shape[0])).amin(1)
    found = smallest_flips(kan, clean.clamp_min(0.01), progress=False)
    assert torch.equal(found.size, brute_force(kan, clean.clamp_min(0.01)))
    assert found.proved.all()
    for e, size in enumerate(found.size.tolist()):
        mask = found.masks[e]
        assert set(mask.unique().tolist()) <= {0.0, -1.0}
        if size <= shape[0]:
            assert (mask != 0).sum() == size
            assert clean.clamp_min(0.01)[e] + kan(mask[None])[e] < 0


def test_damping_needs_no_more_components_than_removing():
    """One component hurts halfway out and not when it is gone; two removed would be needed."""
    f = [[[8 * X * (X + 1)], [X], [X]]]
    one = [symbolic_kan([*f], 0.0)]
    removed, damped = (smallest_flips(one, torch.tensor([1.5]), damped=d, progress=False) for d in (False, True))
    assert removed.size.tolist() == [2]
    assert damped.size.tolist() == [1]
    assert -1 < damped.masks[0, 0] < 0
    assert damped.masks[0, 1:].tolist() == [0, 0]
    assert removed.proved.all()
    assert damped.proved.all()


def test_a_class_that_is_another_one_to_begin_with_needs_nothing_removed():
    kan = some_kan((4, 2, 1), n=2).through_rest()
    found = smallest_flips(kan, torch.tensor([-1.0, 50.0]), progress=False)
    assert found.size.tolist() == [0, 5]
    assert not found.masks.any()


def test_where_nothing_flips_it_is_proved():
    kan = some_kan((4, 2, 1), n=2).through_rest()
    found = smallest_flips(kan, torch.tensor([50.0, 50.0]), progress=False)
    assert found.size.tolist() == [5, 5]
    assert found.proved.all()
    assert not found.masks.any()


def test_a_budget_that_ends_first_proves_nothing():
    kan = some_kan((6, 4, 3, 1), n=3).through_rest()
    lowest = kan(every_removal(6)).amin(1)
    found = smallest_flips(kan, -lowest + 1e-3, budget=1, progress=False)
    assert not found.proved.all()


def test_how_far_all_components_may_be_scaled():
    """Of a sum of three it is a third of the margin; of KANs no corner within changes the class."""
    line: list[SymbolicKAN] = [symbolic_kan([[[X], [X], [X]]], 0.0)]
    safe, changed = steady_within(line, torch.tensor([1.2]), reach=2.0, steps=10)
    assert float(safe) <= 0.4 <= float(changed) <= float(safe) + 0.01
    kan = some_kan((3, 3, 1), n=3).through_rest()
    clean = torch.tensor([0.3, 0.6, 1.0]).double()
    safe, changed = steady_within(kan, clean)
    assert (safe < changed).all()
    share = 2 * torch.rand(3, 4000, 3, dtype=torch.float64) - 1
    assert (clean[:, None] + kan(share * safe[:, None, None]) >= 0).all()


def test_what_is_not_proved_to_be_steady_is_not_said_to_be():
    line = [symbolic_kan([[[X]]], 0.0)]
    safe, changed = steady_within(line, torch.tensor([5.0]), reach=2.0, steps=6)
    assert float(safe) > 1.9
    assert float(changed) == 2.0
