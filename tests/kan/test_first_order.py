import pytest
import torch

from kanlib.kan.first_order import EvenKANs, even_features
from kanlib.kan.gauss_newton import Shape
from kanlib.kan.splines import features
from kanlib.machine import generator
from tests.helpers import randn


@pytest.mark.parametrize("order", [3, 5])
@pytest.mark.parametrize("grid", [1, 4, 7])
def test_features_on_even_grids_are_those_of_any_grid(order, grid):
    x = 4 * randn(2, 3, 50)
    even = torch.linspace(-2, 1, grid + 1, dtype=torch.float64)
    torch.testing.assert_close(even_features(x, even, order), features(x, even.expand(2, 3, -1), order))


@pytest.mark.parametrize("order", [3, 5])
def test_their_way_back_is_that_of_finite_differences(order):
    x = randn(1, 2, 6).requires_grad_()
    even = torch.linspace(-2, 1, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: even_features(v, even, order), x)


@pytest.mark.parametrize("hidden", [(), (3,), (4, 2)], ids=str)
@pytest.mark.parametrize("order", [3, 5])
def test_what_is_trained_is_what_is_returned(hidden, order):
    masks = randn(80, 3)
    kans = EvenKANs(Shape(3, hidden, 6, order), masks)
    start = [torch.stack(layer) for layer in zip(*(kans.start(generator(s)) for s in (0, 1)), strict=True)]
    bias = randn(2, seed=3)
    trained = kans(start, kans.inputs(masks)) + bias[:, None]
    kan = kans.kan(start, bias)
    assert kan.widths == (3, *hidden, 1)
    torch.testing.assert_close(kan(masks), trained)


def test_a_slope_tilts_an_edge_and_changes_nothing_else():
    masks = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]
    kans = EvenKANs(Shape(1, (), 6, 3), masks)
    (edge,) = (p[None] for p in kans.start(generator(0)))
    tilted = edge.clone()
    tilted[..., 1] += 1
    change = (kans([tilted], kans.inputs(masks)) - kans([edge], kans.inputs(masks)))[0]
    # A straight line through the middle, one up for each interval of the grid.
    steps = change.diff()
    torch.testing.assert_close(steps, steps[:1].expand(40))
    torch.testing.assert_close(change[20], torch.zeros(()).double(), atol=1e-12, rtol=0)
    assert steps[0] > 0


def test_masks_of_one_value_have_a_grid_too():
    masks = torch.zeros(10, 2).double()
    kans = EvenKANs(Shape(2, (2,), 4, 3), masks)
    assert kans.inputs(masks).isfinite().all()
