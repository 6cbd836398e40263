import numpy as np
import pytest
import torch

from kanlib.errors import BadInputError
from kanlib.kan import gauss_newton, search, second_order
from kanlib.kan.fitting import fit
from kanlib.kan.kan import KAN
from kanlib.kan.splines import features, grid_over, roughness
from kanlib.masks import Split
from tests.helpers import knobs, randn

SMALL = {"hidden": [2], "grid": 3, "penalties": [1e-4, 1e-2], "restarts": 2, "finalists": 2, "iterations": 16}
HIDDEN = [[3], [2, 2], [2, 2, 2]]


def problem(dtype=torch.float64):
    """Masks of three components and two examples' responses, which are 0 at rest, fit and validation."""
    x, v = randn(160, 3, dtype=dtype), randn(60, 3, seed=1, dtype=dtype)

    def true(s):
        return torch.stack([s[:, 0] * s[:, 1], 50 * torch.tanh(s[:, 2] - s[:, 0])])

    return Split(x, true(x)), Split(v, true(v))


def small(**changes):
    return knobs(**SMALL | changes)


def errors_of(found, split):
    return (found.kan(split.masks) - split.responses).square().mean(1)


def test_without_hidden_layers_a_fit_is_penalised_regression_with_a_free_bias():
    (data, validation), weight = problem(), 0.03
    v, whole = validation.masks, data.of(slice(1)).with_rest()
    x, y = whole.masks, whole.responses[0]
    grid = grid_over(x.T[None], 3)

    def design(s):
        return torch.cat([features(s.T[None], grid, 3)[0].flatten(0, 1).T, torch.ones(len(s), 1).double()], 1)

    penalty = torch.block_diag(
        *[search._LAST_PENALTY * weight * roughness(3, 3, dtype=torch.float64)] * 3, torch.zeros(1, 1).double()
    )
    penalty.diagonal()[:-1] += search._RIDGE
    standard = (y - y.mean()) / y.std()
    theta = torch.linalg.solve(design(x).T @ design(x) / len(x) + penalty, design(x).T @ standard / len(x))
    rest = design(torch.zeros_like(v[:1])) @ theta
    optimum = ((design(v) @ theta - rest) * y.std())[None]
    found = fit(data.of(slice(1)), Split(v, optimum), knobs(hidden=[], grid=3, penalties=[weight], restarts=1))
    torch.testing.assert_close(found.kan(v), optimum, rtol=1e-6, atol=1e-6)


def test_the_step_with_the_lowest_validation_error_is_kept():
    data, validation = Split(randn(90, 3), randn(2, 90, seed=2)), Split(randn(30, 3, seed=1), randn(2, 30, seed=3))
    tight = {"hidden": [2], "penalties": [1e-6], "restarts": 1}
    errors = [fit(data, validation, knobs(**tight, iterations=n)).validation_mse for n in (2, 8, 40)]
    late = fit(data, validation, knobs(**tight, iterations=40))
    # Noise is soon fitted too well.
    assert (errors[2] <= errors[0] + 1e-9).all()
    assert (late.steps < 20).all()
    torch.testing.assert_close(late.validation_mse, errors_of(late, validation), rtol=1e-4, atol=0)


def test_a_fit_recovers_functions_a_kan_can_represent(fitted):
    error = errors_of(fitted, fitted.test) / fitted.test.responses.var(1)
    assert (error < 1e-2).all()


@pytest.mark.parametrize("hidden", HIDDEN, ids=str)
def test_any_depth_fits(hidden):
    data, validation = problem()
    found = fit(data, validation, knobs(hidden=hidden, grid=3, restarts=4, finalists=2))
    assert (errors_of(found, validation) < 0.4 * validation.responses.var(1)).all()
    torch.testing.assert_close(found.validation_mse, errors_of(found, validation), rtol=1e-4, atol=1e-9)


def test_the_reported_validation_error_is_the_fits():
    data, validation = problem()
    found = fit(data, validation, small())
    torch.testing.assert_close(found.validation_mse, errors_of(found, validation), rtol=1e-4, atol=1e-9)


def test_examples_fitted_together_are_fitted_as_if_alone():
    data, validation = problem()
    together = fit(data, validation, small())
    for e in range(2):
        own = slice(e, e + 1)
        alone = fit(data.of(own), validation.of(own), small())
        assert (alone.penalty[0], alone.restart[0], alone.steps[0]) == (
            *(together.penalty[e], together.restart[e], together.steps[e]),
        )
        predicted = together.kan(validation.masks)[e]
        torch.testing.assert_close(alone.kan(validation.masks)[0], predicted, rtol=1e-5, atol=1e-6)


def test_little_memory_changes_nothing(monkeypatch):
    data, validation = problem()
    whole = fit(data, validation, small())
    monkeypatch.setattr(second_order, "_BATCH_NUMBERS", 1)
    monkeypatch.setattr(gauss_newton, "_KEPT_PAIRS", 20_000)
    monkeypatch.setattr(gauss_newton, "_PAIRS_AT_ONCE", 7_000)
    again = fit(data, validation, small())
    v = validation.masks
    torch.testing.assert_close(again.kan(v), whole.kan(v), rtol=1e-5, atol=1e-6)


def test_equal_fits_are_equal_to_the_bit(same_global_rng):
    data = problem(torch.float32)
    first, again = (fit(*data, small()) for _ in range(2))
    for a, b in zip(first.kan.to_tensors().values(), again.kan.to_tensors().values(), strict=True):
        assert torch.equal(a, b)


def test_another_seed_gives_another_fit():
    data = problem(torch.float32)
    one, other = (fit(*data, small(seed=seed)).kan.coefs[0] for seed in (0, 1))
    assert not torch.equal(one, other)


def test_a_seed_of_its_own_goes_before_the_knobs():
    data = problem(torch.float32)
    one, same = fit(*data, small(), seed=1), fit(*data, small(seed=1))
    assert torch.equal(one.kan.coefs[0], same.kan.coefs[0])


def test_the_best_penalty_and_restart_on_validation_are_kept():
    data = problem()
    found = fit(*data, small(finalists=4))
    alone = torch.stack([fit(*data, small(finalists=4, penalties=[p])).validation_mse for p in SMALL["penalties"]])
    torch.testing.assert_close(found.validation_mse, alone.amin(0), rtol=1e-5, atol=0)
    assert found.penalty.tolist() == [SMALL["penalties"][i] for i in alone.argmin(0)]


def test_without_a_contest_every_candidate_goes_all_the_way():
    data = problem()
    found = fit(*data, small(contest=1))
    alone = torch.stack([fit(*data, small(contest=1, penalties=[p])).validation_mse for p in SMALL["penalties"]])
    torch.testing.assert_close(found.validation_mse, alone.amin(0), rtol=1e-5, atol=0)


def test_a_relaxed_penalty_shrinks_less_and_keeps_a_late_step():
    data, validation = problem()
    changes = {"penalties": [1e-2], "restarts": 1, "contest": 1, "iterations": 30}
    tight, relaxed = (fit(data, validation, small(**changes, relaxed=r)) for r in (1.0, 0.1))
    assert (errors_of(relaxed, data) < errors_of(tight, data)).all()
    assert (relaxed.steps >= 20).all()
    assert (relaxed.penalty == tight.penalty).all()


def test_hidden_nodes_may_leave_their_grids():
    data, validation = problem()
    inside, beyond = (fit(data, validation, small(outside=share)).kan for share in (0.0, 0.1))
    for kan, low, high in ((inside, 0.0, 0.0), (beyond, 0.01, 0.1)):
        hidden, grid = kan.activations(data.masks)[1], kan.grids[1]
        for out in (hidden < grid[..., :1], hidden > grid[..., -1:]):
            assert (out.double().mean(2) >= low).all()
            assert (out.double().mean(2) <= high).all()


@pytest.mark.parametrize("share", [-0.1, 1 / 3, np.nan])
def test_more_than_a_grid_can_leave_out_is_refused(share):
    with pytest.raises(BadInputError, match="outside is"):
        fit(*problem(), small(outside=share))


def test_members_are_averaged():
    data, validation = problem()
    changes = {"finalists": 4, "penalties": [1e-4], "restarts": 2}
    one, both = (fit(data, validation, small(**changes, members=n)) for n in (1, 2))
    assert both.kan.widths == (3, 4, 1)
    # What is left when the best is taken out of the mean is the other candidate, which validation likes less.
    other = 2 * both.kan(validation.masks) - one.kan(validation.masks)
    errors = (other - validation.responses).square().mean(1)
    assert (errors > one.validation_mse).all()
    assert (errors < validation.responses.var(1)).all()


def test_a_fit_scales_with_its_responses():
    data, validation = problem()
    large = [Split(s.masks, 1e3 * s.responses) for s in (data, validation)]
    plain, scaled = fit(data, validation, small()), fit(*large, small())
    v = validation.masks
    torch.testing.assert_close(scaled.kan(v), 1e3 * plain.kan(v), rtol=1e-4, atol=1e-2)


def spoilt(where, value):
    data, validation = problem(torch.float32)
    if where == "fit":
        if np.isfinite(value):
            data.responses[1] = value
        data.responses[1, 3] = value
    else:
        validation.responses[1, 3] = value
    return data, validation


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
        fit(*spoilt(where, value), small())


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
    data, validation = problem(torch.float32)
    x, y, v, w = cut(data.masks, data.responses, validation.masks, validation.responses)
    with pytest.raises(BadInputError, match="expected"):
        fit(Split(x, y), Split(v, w), small())


def test_masks_that_are_not_finite_are_refused():
    data, validation = problem()
    data.masks[5, 1] = np.nan
    with pytest.raises(BadInputError, match="mask 6 is not finite"):
        fit(data, validation, small())


def test_one_component_is_enough():
    x, v = randn(200, 1), randn(60, 1, seed=1)
    found = fit(Split(x, x.T.sin()), Split(v, v.T.sin()), small())
    assert found.validation_mse < 1e-3


def test_masks_may_repeat():
    data, validation = problem()
    found = fit(data.drawn(torch.arange(80).repeat(2)), validation, small())
    assert (errors_of(found, validation) < 0.2 * validation.responses.var(1)).all()


def test_masks_far_outside_the_grid_get_finite_predictions():
    found = fit(*problem(), small())
    assert found.kan(50 * randn(30, 3, seed=8)).isfinite().all()


def test_fewer_masks_than_parameters_are_fitted_with_a_warning():
    data, validation = problem()
    with pytest.warns(UserWarning, match="a KAN of 65 parameters is fitted to 40 masks"):
        found = fit(data.part(40), validation, knobs(hidden=[2], grid=4))
    assert (errors_of(found, validation) < validation.responses.var(1)).all()


def test_fp32_and_fp64_agree():
    ours, exact = (fit(*problem(dtype), small()) for dtype in (torch.float32, torch.float64))
    assert ours.kan.bias.dtype == torch.float32
    scale = exact.kan(problem()[1].masks).std(1)
    assert ((ours.validation_mse - exact.validation_mse).abs() < 0.05 * scale**2).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_finds_what_the_cpu_finds():
    data, device = problem(), torch.device("cuda")
    here, there = fit(*data, small()), fit(*(s.to(device) for s in data), small())
    v = data[1].masks
    torch.testing.assert_close(there.kan(v.cuda()).cpu(), here.kan(v), rtol=1e-4, atol=1e-4)


def test_kans_are_what_is_returned(fitted):
    assert isinstance(fitted.kan, KAN)
    assert fitted.kan.widths == (3, 3, 1)
