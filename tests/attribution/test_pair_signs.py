import pytest
import sympy
import torch

from kanlib.attribution.coefficients import of_kan
from kanlib.attribution.pair_signs import pair_bounds, sign_holds_within
from kanlib.symbolic.closed_forms import X
from tests.helpers import some_kan, symbolic_kan


@pytest.mark.parametrize("shape", [(3, 2, 1), (3, 2, 2, 1)])
@pytest.mark.parametrize("half", [0.05, 0.5])
def test_second_derivatives_stay_within_their_bounds(shape, half):
    kan = some_kan(shape)
    low, high = torch.full((3,), -half).double(), torch.full((3,), half).double()
    pairs, least, most = pair_bounds(kan, low, high)
    masks = low + (high - low) * torch.rand(3000, 3, dtype=torch.float64)
    second = kan.derivatives(masks)[2]
    for k, (a, b) in enumerate(pairs):
        assert (second[..., a, b] >= least[:, k, None]).all()
        assert (second[..., a, b] <= most[:, k, None]).all()
    # Not far from them either, where the box is small.
    assert half > 0.1 or (most - least < 1.5).all()


def test_more_cuts_come_nearer():
    kan, end = some_kan((3, 2, 2, 1)), torch.full((3,), 0.3).double()
    rough, fine = (pair_bounds(kan, -end, end, cuts=c) for c in (0, 6))
    assert (fine[2] - fine[1] < 0.7 * (rough[2] - rough[1])).all()


def test_of_a_product_the_bounds_are_known():
    """(σ_1 + σ_2)³ / 6 has the mixed derivative σ_1 + σ_2."""
    one = symbolic_kan([[[X], [X]], [[X**3 / sympy.Float(6)]]], 0.0)
    low, high = torch.tensor([0.1, -0.05]).double(), torch.tensor([0.5, 0.4]).double()
    pairs, least, most = pair_bounds([one], low, high, cuts=0)
    assert pairs == [(0, 1)]
    assert 0.05 - 0.01 < float(least) <= 0.05 + 1e-6
    assert 0.9 - 1e-6 <= float(most) < 0.91


def test_a_sign_that_is_said_to_hold_holds():
    kan = some_kan((3, 3, 1), n=4)
    pairs, within = sign_holds_within(kan, [0.02, 0.1, 0.4])
    assert within.any()
    at_rest = of_kan(kan, 2)[1][:, 3:]
    for r in within.unique().tolist():
        masks = r * (2 * torch.rand(2000, 3, dtype=torch.float64) - 1)
        second = kan.derivatives(masks)[2]
        for k, (a, b) in enumerate(pairs):
            held = within[:, k] == r
            if r:
                assert (second[held][..., a, b].sign() == at_rest[held, k, None].sign()).all()
