import numpy as np
import pytest
import torch

from kanlib import fitting
from kanlib import levenberg_marquardt as lm
from kanlib.errors import BadInputError
from kanlib.fitting import fit
from kanlib.kan import KAN
from kanlib.splines import features, roughness
from tests.test_kan import randn

SMALL = {"hidden": [2], "grid": 3, "penalties": [1e-4, 1e-2], "restarts": 2, "finalists": 2, "iterations": 16}
HIDDEN = [[3], [[2, 1]], [[1, 1], 2], [2, [0, 2], [1, 1]]]


def problem(dtype=torch.float64, scale=1.0):
    """Masks of three components and two examples' responses, fit and validation."""
    x, v = randn(160, 3, dtype=dtype), randn(60, 3, seed=1, dtype=dtype)

    def true(s):
        return scale * torch.stack([s[:, 0] * s[:, 1] + 2, 50 * torch.tanh(s[:, 2] - s[:, 0])])

    return x, true(x), v, true(v)


def test_without_hidden_layers_a_fit_is_penalised_regression_with_a_free_bias():
    (x, y, v, _), weight = problem(), 0.03
    y = y[:1] + 10
    grid = lm.laid(x.T[None], 3)

    def design(s):
        return torch.cat([features(s.T[None], grid, 3)[0].flatten(0, 1).T, torch.ones(len(s), 1).double()], 1)

    penalty = torch.block_diag(
        *[lm._LAST * weight * roughness(3, 3, dtype=torch.float64)] * 3, torch.zeros(1, 1).double()
    )
    penalty.diagonal()[:-1] += lm._RIDGE
    standard = (y[0] - y.mean()) / y.std()
    theta = torch.linalg.solve(design(x).T @ design(x) / len(x) + penalty, design(x).T @ standard / len(x))
    optimum = (design(v) @ theta * y.std() + y.mean())[None]
    found = fit(x, y, v, optimum, hidden=[], grid=3, penalties=[weight], restarts=1)
    torch.testing.assert_close(found.kan(v), optimum, rtol=1e-6, atol=1e-6)


def test_the_step_with_the_lowest_validation_error_is_kept():
    x, v, y, w = randn(90, 3), randn(30, 3, seed=1), randn(2, 90, seed=2), randn(2, 30, seed=3)
    tight = {"hidden": [2], "penalties": [1e-6], "restarts": 1}
    errors = [fit(x, y, v, w, **tight, iterations=n).validation_mse for n in (2, 8, 40)]
    late = fit(x, y, v, w, **tight, iterations=40)
    # Noise is soon fitted too well.
    assert (errors[2] <= errors[0] + 1e-9).all()
    assert (late.steps < 20).all()
    torch.testing.assert_close(late.validation_mse, (late.kan(v) - w).square().mean(1), rtol=1e-4, atol=0)


def test_a_fit_recovers_functions_a_kan_can_represent(fitted):
    true = fitted.true(fitted.test)
    error = (fitted.kan(fitted.test) - true).square().mean(1) / true.var(1)
    assert (error < 1e-2).all()


@pytest.mark.parametrize("hidden", HIDDEN, ids=str)
def test_any_depth_and_any_products_fit(hidden):
    x, y, v, w = problem()
    found = fit(x, y, v, w, hidden=hidden, grid=3, restarts=4, finalists=2)
    assert ((found.kan(v) - w).square().mean(1) < 0.4 * w.var(1)).all()
    torch.testing.assert_close(found.validation_mse, (found.kan(v) - w).square().mean(1), rtol=1e-4, atol=1e-9)


def test_a_product_node_does_what_a_sum_cannot():
    x, y, v, w = problem()
    settings = {"grid": 3, "restarts": 6, "penalties": [1e-4], "iterations": 40}
    product, alone = (fit(x, y[:1], v, w[:1], hidden=hidden, **settings) for hidden in ([[0, 1]], [1]))
    assert product.validation_mse < 0.1 * alone.validation_mse


def test_the_reported_validation_error_is_the_fits():
    data = problem()
    found = fit(*data, **SMALL)
    expected = (found.kan(data[2]) - data[3]).square().mean(1)
    torch.testing.assert_close(found.validation_mse, expected, rtol=1e-4, atol=1e-9)


def test_examples_fitted_together_are_fitted_as_if_alone():
    x, y, v, w = problem()
    together = fit(x, y, v, w, **SMALL)
    for e in range(2):
        alone = fit(x, y[e : e + 1], v, w[e : e + 1], **SMALL)
        assert (alone.penalty[0], alone.restart[0], alone.steps[0]) == (
            *(together.penalty[e], together.restart[e], together.steps[e]),
        )
        torch.testing.assert_close(alone.kan(v)[0], together.kan(v)[e], rtol=1e-5, atol=1e-6)


def test_little_memory_changes_nothing(monkeypatch):
    data = problem()
    whole = fit(*data, **SMALL)
    monkeypatch.setattr(fitting, "_NUMBERS", 1)
    monkeypatch.setattr(lm, "_PAIRS", 20_000)
    monkeypatch.setattr(lm, "_TILE", 7_000)
    torch.testing.assert_close(fit(*data, **SMALL).kan(data[2]), whole.kan(data[2]), rtol=1e-5, atol=1e-6)


def test_equal_fits_are_equal_to_the_bit(same_global_rng):
    data = problem(torch.float32)
    first, again = (fit(*data, **SMALL) for _ in range(2))
    for a, b in zip(first.kan.to_tensors().values(), again.kan.to_tensors().values(), strict=True):
        assert torch.equal(a, b)


def test_another_seed_gives_another_fit():
    data = problem(torch.float32)
    one, other = (fit(*data, **SMALL, seed=seed).kan.coefs[0] for seed in (0, 1))
    assert not torch.equal(one, other)


def test_the_best_penalty_and_restart_on_validation_are_kept():
    data = problem()
    every = SMALL | {"finalists": 4}
    found = fit(*data, **every)
    alone = torch.stack([fit(*data, **every | {"penalties": [p]}).validation_mse for p in SMALL["penalties"]])
    torch.testing.assert_close(found.validation_mse, alone.amin(0), rtol=1e-5, atol=0)
    assert found.penalty.tolist() == [SMALL["penalties"][i] for i in alone.argmin(0)]


def test_without_a_contest_every_candidate_goes_all_the_way():
    data = problem()
    settings = SMALL | {"contest": 1}
    found = fit(*data, **settings)
    alone = torch.stack([fit(*data, **settings | {"penalties": [p]}).validation_mse for p in SMALL["penalties"]])
    torch.testing.assert_close(found.validation_mse, alone.amin(0), rtol=1e-5, atol=0)


def test_a_relaxed_penalty_shrinks_less_and_keeps_a_late_step():
    x, y, v, w = problem()
    settings = SMALL | {"penalties": [1e-2], "restarts": 1, "contest": 1, "iterations": 30}
    tight, relaxed = (fit(x, y, v, w, **settings, relaxed=r) for r in (1.0, 0.1))
    assert ((relaxed.kan(x) - y).square().mean(1) < (tight.kan(x) - y).square().mean(1)).all()
    assert (relaxed.steps >= 20).all()
    assert (relaxed.penalty == tight.penalty).all()


def test_hidden_nodes_may_leave_their_grids():
    x, y, v, w = problem()
    inside, beyond = (fit(x, y, v, w, **SMALL, outside=share).kan for share in (0.0, 0.1))
    for kan, low, high in ((inside, 0.0, 0.0), (beyond, 0.01, 0.1)):
        hidden, grid = kan.activations(x)[1], kan.grids[1]
        for out in (hidden < grid[..., :1], hidden > grid[..., -1:]):
            assert (out.double().mean(2) >= low).all()
            assert (out.double().mean(2) <= high).all()


@pytest.mark.parametrize("share", [-0.1, 1 / 3, np.nan])
def test_more_than_a_grid_can_leave_out_is_refused(share):
    with pytest.raises(BadInputError, match="outside is"):
        fit(*problem(), **SMALL, outside=share)


def test_members_are_averaged():
    data = problem()
    settings = SMALL | {"finalists": 4, "penalties": [1e-4], "restarts": 2}
    one, both = fit(*data, **settings), fit(*data, **settings | {"members": 2})
    assert both.kan.widths == (3, 4, 1)
    # What is left when the best is taken out of the mean is the other candidate, which validation likes less.
    other = 2 * both.kan(data[2]) - one.kan(data[2])
    errors = (other - data[3]).square().mean(1)
    assert (errors > one.validation_mse).all()
    assert (errors < data[3].var(1)).all()


def test_a_fit_scales_with_its_responses():
    x, y, v, w = problem()
    plain, scaled = fit(x, y, v, w, **SMALL), fit(x, 1e3 * y + 7, v, 1e3 * w + 7, **SMALL)
    torch.testing.assert_close(scaled.kan(v), 1e3 * plain.kan(v) + 7, rtol=1e-4, atol=1e-2)


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
        fit(*spoilt(where, value), **SMALL)


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
        fit(*cut(*problem(torch.float32)), **SMALL)


def test_a_layer_without_nodes_is_refused():
    with pytest.raises(BadInputError, match="hidden layer 2 has no nodes"):
        fit(*problem(), hidden=[2, [0, 0]])


def test_masks_that_are_not_finite_are_refused():
    x, y, v, w = problem()
    x[5, 1] = np.nan
    with pytest.raises(BadInputError, match="mask 6 is not finite"):
        fit(x, y, v, w, **SMALL)


def test_one_component_is_enough():
    x, v = randn(200, 1), randn(60, 1, seed=1)
    found = fit(x, x.T.sin(), v, v.T.sin(), **SMALL)
    assert found.validation_mse < 1e-3


def test_masks_may_repeat():
    x, y, v, w = problem()
    few = 80
    found = fit(x[:few].repeat(2, 1), y[:, :few].repeat(1, 2), v, w, **SMALL)
    assert ((found.kan(v) - w).square().mean(1) < 0.2 * w.var(1)).all()


def test_masks_far_outside_the_grid_get_finite_predictions():
    found = fit(*problem(), **SMALL)
    assert found.kan(50 * randn(30, 3, seed=8)).isfinite().all()


def test_fewer_masks_than_parameters_are_fitted_with_a_warning():
    x, y, v, w = problem()
    with pytest.warns(UserWarning, match="a KAN of 65 parameters is fitted to 40 masks"):
        found = fit(x[:40], y[:, :40], v, w, hidden=[2], grid=4)
    assert ((found.kan(v) - w).square().mean(1) < w.var(1)).all()


def test_fp32_and_fp64_agree():
    ours, exact = (fit(*problem(dtype), **SMALL) for dtype in (torch.float32, torch.float64))
    assert ours.kan.bias.dtype == torch.float32
    scale = exact.kan(problem()[2]).std(1)
    assert ((ours.validation_mse - exact.validation_mse).abs() < 0.05 * scale**2).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_finds_what_the_cpu_finds():
    data = problem()
    here, there = fit(*data, **SMALL), fit(*(v.cuda() for v in data), **SMALL)
    torch.testing.assert_close(there.kan(data[2].cuda()).cpu(), here.kan(data[2]), rtol=1e-4, atol=1e-4)


def test_kans_are_what_is_returned(fitted):
    assert isinstance(fitted.kan, KAN)
    assert fitted.kan.widths == (3, 3, 1)
