import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from torch.func import jacrev

from kanlib import kan
from kanlib.errors import BadInputError
from kanlib.kan import KAN, features

orders = pytest.mark.parametrize("order", [3, 5])


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=source(seed), dtype=dtype)


def some_kan(widths, n=2, grid=4, order=3, dtype=torch.float64):
    """``n`` KANs of random coefficients, whose grids differ and are shorter than their inputs reach."""
    grids, coefs = [], []
    for layer, (i, o) in enumerate(pairwise(widths)):
        ends = torch.tensor([-1.5, 1.5], dtype=dtype) + 0.3 * randn(n, i, 2, seed=layer, dtype=dtype).tanh()
        grids.append(ends)
        coefs.append(0.5 * randn(n, i, 1 + grid + order, o, seed=layer + 9, dtype=dtype))
    return KAN(tuple(grids), tuple(coefs), randn(n, seed=99, dtype=dtype), order)


def edge(x, ends, coef, order):
    """One edge by SciPy: ``coef[0] silu(x)`` and the B-splines of the extended uniform grid."""
    cells = len(coef) - 1 - order
    width = (ends[1] - ends[0]) / cells
    knots = ends[0] + width * np.arange(-order, cells + order + 1)
    total = coef[0] * x / (1 + np.exp(-x))
    for b, c in enumerate(coef[1:]):
        total = total + c * np.nan_to_num(BSpline.basis_element(knots[b : b + order + 2], extrapolate=False)(x))
    return total


@orders
def test_features_are_scipys_b_splines(order):
    x, ends = np.linspace(-9, 9, 301)[:, None] + 1e-3, torch.tensor([[[-1.3, 2.1]]], dtype=torch.float64)
    n = 1 + 6 + order
    ours = features(torch.from_numpy(x)[None], ends, n, order)[0, :, 0]
    assert ours.shape == (301, n)
    for b in range(n):
        np.testing.assert_allclose(ours[:, b], edge(x[:, 0], ends[0, 0].numpy(), np.eye(n)[b], order), atol=1e-12)


@orders
def test_splines_sum_to_one_inside_the_grid_and_vanish_beyond_its_extension(order):
    ends = torch.tensor([[[-1.0, 3.0]]], dtype=torch.float64)
    inside = torch.linspace(-1, 3, 50, dtype=torch.float64)[None, :, None]
    splines = features(inside, ends, 1 + 5 + order, order)[..., 1:]
    torch.testing.assert_close(splines.sum(-1), torch.ones_like(inside))
    width = 4 / 5
    beyond = torch.tensor([-1 - order * width - 1e-6, 3 + order * width + 1e-6], dtype=torch.float64)
    assert (features(beyond[None, :, None], ends, 1 + 5 + order, order)[..., 1:] == 0).all()


@orders
def test_the_derivative_of_features_is_autograds(order):
    x = randn(2, 40, 3).mul(2).requires_grad_()
    ends = torch.tensor([-1.0, 1.5], dtype=torch.float64) + 0.1 * randn(2, 3, 2, seed=1)
    n = 1 + 4 + order
    values, slopes = features(x, ends, n, order), features(x, ends, n, order, derivative=1)
    for b in range(n):
        (expected,) = torch.autograd.grad(values[..., b].sum(), x, retain_graph=True)
        torch.testing.assert_close(slopes[..., b], expected, atol=1e-10, rtol=1e-9)


def test_a_kan_is_the_sum_of_its_edges_layer_by_layer():
    net, x = some_kan([3, 2, 1], order=3), randn(20, 3, seed=5).numpy()
    for e in range(2):
        h = x
        for ends, coef in zip(net.grids, net.coefs, strict=True):
            i, _, o = coef.shape[1:]
            nodes = [
                sum(edge(h[:, a], ends[e, a].numpy(), coef[e, a, :, b].numpy(), 3) for a in range(i))
                for b in range(o)
            ]
            h = np.stack(nodes, 1)
        np.testing.assert_allclose(net(torch.from_numpy(x))[e], h[:, 0] + net.bias[e].item(), rtol=1e-9)


def test_masks_are_shared_or_one_set_a_kan():
    net, x = some_kan([3, 2, 1]), randn(2, 20, 3, seed=5)
    own = net(x)
    for e in range(2):
        torch.testing.assert_close(own[e], net(x[e])[e])


def test_edges_sum_to_the_activations_of_the_next_layer():
    net, x = some_kan([3, 4, 2, 1]), randn(20, 3, seed=5)
    inputs = net.activations(x)
    assert net.widths == (3, 4, 2, 1)
    for layer in range(3):
        values = net.edges(layer, inputs[layer])
        torch.testing.assert_close(values.sum(1).mT, inputs[layer + 1])
    torch.testing.assert_close(inputs[-1][..., 0] + net.bias[:, None], net(x))


def test_a_selected_kan_is_itself():
    net, x = some_kan([3, 2, 1], n=3), randn(20, 3, seed=5)
    torch.testing.assert_close(net.select(torch.tensor([2, 0]))(x), net(x)[[2, 0]])


def test_a_kan_is_restored_from_its_tensors():
    net, x = some_kan([3, 2, 1], order=5), randn(20, 3, seed=5)
    again = KAN.from_tensors(net.to_tensors())
    assert (again.order, again.widths) == (5, (3, 2, 1))
    assert torch.equal(again(x), net(x))


@pytest.fixture
def pykan(tmp_path, monkeypatch):
    """pykan, which seeds global generators and writes to the working directory."""
    monkeypatch.chdir(tmp_path)
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    yield pytest.importorskip("kan", reason="pykan is the reference; it comes with the extra `paper`")
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    random.setstate(states[2])


@pytest.mark.parametrize("widths", [(3, 2), (3, 4, 1)])
def test_forward_agrees_with_pykan(pykan, widths):
    order, cells = 3, 4
    net, x = some_kan(widths, n=1, grid=cells, order=order, dtype=torch.float32), randn(50, 3, dtype=torch.float32)
    reference = pykan.KAN(
        list(widths), grid=cells, k=order, symbolic_enabled=False, auto_save=False, save_act=False
    )
    for layer, ends, coef in zip(reference.act_fun, net.grids, net.coefs, strict=True):
        width = (ends[0, :, 1:] - ends[0, :, :1]) / cells
        layer.grid.data = ends[0, :, :1] + width * torch.arange(-order, cells + order + 1)
        layer.coef.data = coef[0, :, 1:].transpose(1, 2).contiguous()
        layer.scale_base.data = coef[0, :, 0]
        layer.scale_sp.data = torch.ones_like(coef[0, :, 0])
    with torch.no_grad():
        torch.testing.assert_close(net.activations(x)[-1][0], reference(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("hidden", [(), (3,), (3, 2)])
@orders
def test_the_linearisation_is_the_jacobian(hidden, order):
    net, x = some_kan((3, *hidden, 1), order=order), randn(10, 3, seed=5)
    # The first grid is shared, since masks are.
    net = KAN((net.grids[0][:1].expand(2, -1, -1), *net.grids[1:]), net.coefs, net.bias, order)
    first = features(x[None], net.grids[0][:1], net.coefs[0].shape[2], order)
    prediction, jacobian = kan._linearised(net, first)
    torch.testing.assert_close(prediction, net(x))
    whole = jacrev(lambda theta: kan._unflat(theta, net)(x))(kan._flat(net))
    for e in range(2):
        torch.testing.assert_close(jacobian[e], whole[e, :, e])


def test_flattened_parameters_are_unflattened():
    net, x = some_kan([3, 2, 1]), randn(10, 3, seed=5)
    assert torch.equal(kan._unflat(kan._flat(net), net)(x), net(x))


@orders
def test_a_new_grid_keeps_the_function(order):
    x, n = randn(400, 3), 1 + 6 + order
    start = kan._initial(x, [2], 6, order, [0, 1], 0)
    first = features(x[None], start.grids[0][:1], n, order)
    # Coefficients that are quadratic in their index make a quadratic function, which is a spline on every grid.
    index = torch.linspace(-1, 1, n - 1, dtype=torch.float64)[:, None]
    last = start.coefs[1].clone()
    last[:, 0, 1:] = 1 + index - 2 * index**2
    last[:, 1, 1:] = 0.5 - index
    wide = KAN((start.grids[0], start.grids[1] * 1.3), (start.coefs[0], last), start.bias, order)
    laid = kan._regridded(wide, x, first)
    assert ((laid.grids[1] - wide.grids[1]).abs() > 1e-3).all()
    deviation = wide(x).std(1)
    assert ((laid(x) - wide(x)).square().mean(1).sqrt() < 5e-3 * deviation).all()
    hidden = laid.activations(x)[1]
    assert (laid.grids[1][..., 0] <= hidden.amin(1)).all()
    assert (laid.grids[1][..., 1] >= hidden.amax(1)).all()


def test_a_new_grid_keeps_coefficients_where_no_activation_falls():
    x = randn(100, 3)
    start = kan._initial(x, [2], 6, 3, [0], 0)
    dead = start.coefs[0].clone()
    dead[..., 0] = 0
    start = KAN(start.grids, (dead, start.coefs[1]), start.bias, 3)
    laid = kan._regridded(start, x, features(x[None], start.grids[0][:1], 10, 3))
    silent = features(torch.zeros(1, 1, 2, dtype=x.dtype), laid.grids[1], 10, 3)[0, 0, 0] == 0
    assert 4 <= silent.sum() < 10
    torch.testing.assert_close(laid.coefs[1][0, 0, silent], start.coefs[1][0, 0, silent])
    torch.testing.assert_close(laid(x), start(x), atol=0.05, rtol=0)


def test_without_hidden_layers_a_fit_is_ridge_regression_with_a_free_bias():
    (x, y, v, _), ridge = problem(), 0.03
    y, n = y[:1] + 10, 1 + 3 + 3
    low, high = x.amin(0), x.amax(0)
    # The grid covers the masks and a twentieth more.
    ends = torch.stack([low - 0.05 * (high - low), high + 0.05 * (high - low)], -1)[None]

    def design(s):
        return torch.cat([features(s[None], ends, n, 3)[0].flatten(1), torch.ones(len(s), 1, dtype=s.dtype)], 1)

    penalty = ridge * torch.eye(3 * n + 1, dtype=x.dtype)
    penalty[-1, -1] = 0
    standard = (y[0] - y.mean()) / y.std()
    theta = torch.linalg.solve(design(x).T @ design(x) / len(x) + penalty, design(x).T @ standard / len(x))
    optimum = (design(v) @ theta * y.std() + y.mean())[None]
    found = kan.fit(x, y, v, optimum, hidden=[], grid=3, ridges=[ridge], restarts=1, iterations=30)
    torch.testing.assert_close(found.kan(v), optimum, rtol=1e-5, atol=1e-5)


def test_the_step_with_the_lowest_validation_error_is_kept():
    x, v, y, w = randn(40, 3), randn(30, 3, seed=1), randn(2, 40, seed=2), randn(2, 30, seed=3)
    errors = [
        kan.fit(x, y, v, w, hidden=[2], ridges=[1e-6], restarts=1, iterations=n).validation_mse for n in (1, 4, 20)
    ]
    # Noise is soon fitted too well.
    assert (errors[0] >= errors[1]).all()
    assert (errors[1] >= errors[2]).all()
    late = kan.fit(x, y, v, w, hidden=[2], ridges=[1e-6], restarts=1, iterations=20)
    assert (late.steps < 20).all()
    torch.testing.assert_close(late.validation_mse, (late.kan(v) - w).square().mean(1), rtol=1e-4, atol=0)


def test_a_fit_recovers_functions_a_kan_can_represent(fitted):
    true = fitted.true(fitted.test)
    error = (fitted.kan(fitted.test) - true).square().mean(1) / true.var(1)
    assert (error < 1e-2).all()


def test_the_reported_validation_error_is_the_fits():
    data = problem()
    found = kan.fit(*data, hidden=[2], restarts=2, iterations=12)
    expected = (found.kan(data[2]) - data[3]).square().mean(1)
    torch.testing.assert_close(found.validation_mse, expected, rtol=1e-4, atol=1e-9)


def problem(dtype=torch.float64, scale=1.0):
    """Masks of three components and two examples' responses, fit and validation."""
    x, v = randn(120, 3, dtype=dtype), randn(60, 3, seed=1, dtype=dtype)

    def true(s):
        return scale * torch.stack([s[:, 0] * s[:, 1] + 2, 50 * torch.tanh(s[:, 2] - s[:, 0])])

    return x, true(x), v, true(v)


SMALL = {"hidden": [2], "grid": 3, "ridges": [1e-4, 1e-2], "restarts": 2, "iterations": 8}


def test_examples_fitted_together_are_fitted_as_if_alone():
    x, y, v, w = problem()
    together = kan.fit(x, y, v, w, **SMALL)
    for e in range(2):
        alone = kan.fit(x, y[e : e + 1], v, w[e : e + 1], **SMALL)
        assert (alone.ridge[0], alone.restart[0], alone.steps[0]) == (
            *(together.ridge[e], together.restart[e], together.steps[e]),
        )
        torch.testing.assert_close(alone.kan(v)[0], together.kan(v)[e], rtol=1e-5, atol=1e-6)


def test_equal_fits_are_equal_to_the_bit(same_global_rng):
    data = problem(torch.float32)
    first, again = (kan.fit(*data, **SMALL) for _ in range(2))
    for a, b in zip(first.kan.to_tensors().values(), again.kan.to_tensors().values(), strict=True):
        assert torch.equal(a, b)


def test_another_seed_gives_another_fit():
    data = problem(torch.float32)
    one, other = (kan.fit(*data, **SMALL, seed=seed).kan.coefs[0] for seed in (0, 1))
    assert not torch.equal(one, other)


def test_the_best_ridge_and_restart_on_validation_are_kept():
    data = problem()
    found = kan.fit(*data, **SMALL)
    alone = torch.stack(
        [kan.fit(*data, **SMALL | {"ridges": [ridge]}).validation_mse for ridge in SMALL["ridges"]]
    )
    torch.testing.assert_close(found.validation_mse, alone.amin(0), rtol=1e-5, atol=0)
    assert found.ridge.tolist() == [SMALL["ridges"][i] for i in alone.argmin(0)]


def test_a_fit_scales_with_its_responses():
    x, y, v, w = problem()
    plain, scaled = kan.fit(x, y, v, w, **SMALL), kan.fit(x, 1e3 * y + 7, v, 1e3 * w + 7, **SMALL)
    torch.testing.assert_close(scaled.kan(v), 1e3 * plain.kan(v) + 7, rtol=1e-5, atol=1e-3)


def spoilt(where, value):
    x, y, v, w = problem(torch.float32)
    if where == "fit":
        y[1] = value if value == value and abs(value) < np.inf else y[1]
        y[1, 3] = value
    else:
        w[1, 3] = value
    return x, y, v, w


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("fit", 0.0),
        ("fit", 0.1),
        ("fit", np.nan),
        ("fit", np.inf),
        ("validation", np.nan),
        ("validation", -np.inf),
    ],
)
def test_responses_that_are_constant_or_not_finite_are_refused_by_example(where, value):
    with pytest.raises(BadInputError, match="responses of example 2 are constant or not finite"):
        kan.fit(*spoilt(where, value), **SMALL)


@pytest.mark.parametrize(
    "cut",
    [
        lambda x, y, v, w: (x[1:], y, v, w),
        lambda x, y, v, w: (x, y, v, w[:1]),
        lambda x, y, v, w: (x, y, v[1:], w),
        lambda x, y, v, w: (x, y, v[:, 1:], w),
        lambda x, y, v, w: (x, y, v[:, :1], w),
    ],
    ids=["masks", "examples", "validation masks", "components", "one component"],
)
def test_shapes_that_differ_are_refused(cut):
    with pytest.raises(BadInputError, match="expected"):
        kan.fit(*cut(*problem(torch.float32)), **SMALL)
