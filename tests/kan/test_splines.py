import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

from kanlib.kan.splines import features, grid_over, knots, roughness, values_and_slopes
from tests.helpers import randn

orders = pytest.mark.parametrize("order", [3, 5])


def uneven(n_in=2, n=2, g=4, seed=0, dtype=torch.float64):
    """Increasing grid points at uneven distances, ``[n, n_in, g + 1]``."""
    source = torch.Generator().manual_seed(seed)
    return torch.rand(n, n_in, g + 1, generator=source, dtype=dtype).add(0.2).cumsum(-1) - 1.5


@orders
@pytest.mark.parametrize("derivative", [0, 1, 2, 3])
def test_features_are_scipys_b_splines(order, derivative):
    grid = uneven()
    t = knots(grid, order)[1, 0].numpy()
    x = np.linspace(t[0] - 1, t[-1] + 1, 400)
    ours = features(torch.from_numpy(x).expand(2, 2, -1), grid, order, derivative)[1, 0]
    assert ours.shape == (1 + 4 + order, 400)
    for b, values in enumerate(ours[1:]):
        spline = BSpline.basis_element(t[b : b + order + 2], extrapolate=False)
        expected = np.nan_to_num((spline.derivative(derivative) if derivative else spline)(x))
        np.testing.assert_allclose(values, expected, atol=1e-9)


@orders
@pytest.mark.parametrize("derivative", [1, 2, 3])
def test_derivatives_are_autograds(order, derivative):
    grid = uneven()
    x = torch.randn(2, 2, 30, generator=torch.Generator().manual_seed(3), dtype=torch.float64).requires_grad_()
    below = features(x, grid, order, derivative - 1)
    ours = features(x, grid, order, derivative)
    for b in range(below.shape[2]):
        (expected,) = torch.autograd.grad(below[:, :, b].sum(), x, retain_graph=True)
        torch.testing.assert_close(ours[:, :, b], expected, atol=1e-9, rtol=1e-9)


@orders
def test_values_and_slopes_are_features_and_their_derivative(order):
    grid, x = uneven(), torch.linspace(-4, 4, 50, dtype=torch.float64).expand(2, 2, -1)
    values, slopes = values_and_slopes(x, grid, order)
    torch.testing.assert_close(values, features(x, grid, order))
    torch.testing.assert_close(slopes, features(x, grid, order, 1))


@orders
def test_splines_sum_to_one_inside_the_grid_and_vanish_beyond_its_extension(order):
    grid = uneven()
    first, last = grid[..., :1], grid[..., -1:]
    inside = first + (last - first) * torch.linspace(0, 0.999, 50, dtype=torch.float64)
    torch.testing.assert_close(features(inside, grid, order)[:, :, 1:].sum(2), torch.ones_like(inside))
    width = (last - first) / 4
    beyond = torch.cat([first - order * width - 1e-6, last + order * width + 1e-6], -1)
    assert (features(beyond, grid, order)[:, :, 1:] == 0).all()


def test_knots_go_on_as_pykan_lets_them():
    spline = pytest.importorskip("kan.spline", reason="pykan comes with the extra `paper`")
    grid = uneven()[0]
    torch.testing.assert_close(knots(grid, 3), spline.extend_grid(grid.clone(), k_extend=3))


@orders
def test_roughness_is_the_sum_of_squared_second_differences(order):
    c = torch.randn(1 + 4 + order, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    second = c[1:-2] - 2 * c[2:-1] + c[3:]
    matrix = roughness(4, order, dtype=torch.float64)
    torch.testing.assert_close(c @ matrix @ c, second.square().sum())
    c[1:] = torch.linspace(-2, 5, 4 + order, dtype=torch.float64)
    assert abs(c @ matrix @ c) < 1e-12


def test_grids_increase_whatever_enters_them():
    for h in (randn(2, 3, 400), torch.zeros(1, 2, 50), torch.tensor([0.0] * 90 + [1.0] * 10).expand(1, 1, -1)):
        grid = grid_over(h, 6)
        assert grid.shape == (*h.shape[:2], 7)
        assert (grid.diff(dim=2) > 0).all()
        assert (grid[..., 0] <= h.amin(2)).all()
        assert (grid[..., -1] >= h.amax(2)).all()


def test_grids_increase_with_inputs_beyond_their_ends():
    for h in (randn(2, 3, 400), torch.zeros(1, 2, 50), torch.tensor([0.0] * 90 + [1.0] * 10).expand(1, 1, -1)):
        grid = grid_over(h, 6, 0.1)
        assert (grid.diff(dim=2) > 0).all()
        for out in (h < grid[..., :1], h > grid[..., -1:]):
            assert (out.double().mean(2) <= 0.11).all()
