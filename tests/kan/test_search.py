import pytest
import torch
from torch.func import jacrev

from kanlib.kan import search
from kanlib.kan.gauss_newton import Pairs, Shape, gauss_newton
from kanlib.kan.kan import weighted_sums
from kanlib.kan.search import Problem, Search, first_features, regridded
from kanlib.kan.second_order import _start
from kanlib.kan.splines import features, grid_over, roughness
from kanlib.kan.trees import tree_map
from tests.helpers import randn

HIDDEN = [[3], [2, 2], [2, 3, 2]]


def begun(hidden, order=3):
    """Two searches and a point somewhere on their way."""
    x = randn(160, 3)
    y = torch.stack([x[:, 0] * x[:, 1] + 2, 50 * torch.tanh(x[:, 2] - x[:, 0])])
    shape = Shape(3, tuple(hidden), 4, order)
    posed = Problem(first_features(x, grid_over(x.T[None], 4), order), y / y.std(1, keepdim=True))
    starts = [_start(shape, restart, 0, x) for restart in (0, 1)]
    coefs = tuple(torch.stack(layer) for layer in zip(*starts, strict=True))
    penalty = torch.tensor([1e-3, 1e-2], dtype=torch.float64)
    searches = Search(shape, posed, Pairs(posed.features), posed, penalty)
    return searches, searches.point(coefs, ())


def output(theta, point, searches):
    """The networks' outputs ``[C, N]`` as a function of all parameters ``[C, P]``, grids held."""
    *parts, bias = theta.split([*(c[0].numel() for c in point.coefs), 1], 1)
    coefs = [part.view_as(c) for part, c in zip(parts, point.coefs, strict=True)]
    h = coefs[0].flatten(2) @ searches.problem.features
    for grid, coef in zip(point.grids, coefs[1:], strict=True):
        h = weighted_sums(coef, features(h, grid, searches.shape.order))
    return h[:, 0] + bias


def flat(point):
    return torch.cat([*(c.flatten(1) for c in point.coefs), point.bias[:, None]], 1)


@pytest.mark.parametrize("order", [3, 5])
@pytest.mark.parametrize("hidden", HIDDEN, ids=str)
def test_the_gauss_newton_matrix_is_that_of_the_jacobian(hidden, order):
    searches, point = begun(hidden, order)
    whole = jacrev(lambda theta: output(theta, point, searches))(flat(point))
    normal, gradient = gauss_newton(point, searches.shape, searches.problem.features, searches.pairs)
    for c in range(2):
        jacobian = whole[c, :, c]
        n = len(jacobian)
        torch.testing.assert_close(normal[c].tril(), (jacobian.T @ jacobian).tril() / n)
        torch.testing.assert_close(gradient[c], jacobian.T @ point.residual[c] / n)
    torch.testing.assert_close(searches.problem.y - output(flat(point), point, searches), point.residual)


@pytest.mark.parametrize("hidden", HIDDEN, ids=str)
def test_a_step_solves_the_damped_normal_equations(hidden):
    searches, point = begun(hidden)
    y, penalty = searches.problem.y, searches.penalty
    damping = torch.tensor([0.1, 2.0], dtype=torch.float64)
    move, solvable = searches.system(point).step(damping)
    assert solvable.all()

    def objective(theta):
        *parts, _ = theta.split([*(c[0].numel() for c in point.coefs), 1], 1)
        rough = roughness(4, 3, dtype=torch.float64)
        loss = (y - output(theta, point, searches)).square().mean(1)
        for c, part in enumerate(parts):
            edges = part.unflatten(1, (-1, len(rough)))
            weight = penalty * (search._LAST_PENALTY if c == len(parts) - 1 else 1)
            loss = loss + weight * ((edges @ rough) * edges).sum((1, 2)) + search._RIDGE * part.square().sum(1)
        return loss

    theta = flat(point)
    torch.testing.assert_close(objective(theta), point.loss)
    whole = jacrev(lambda t: output(t, point, searches))(theta)
    gradient = jacrev(lambda t: objective(t).sum())(theta)
    for c in range(2):
        jacobian = whole[c, :, c]
        gauss = jacobian.T @ jacobian / y.shape[1]
        diagonal = gauss.diagonal()
        system = gauss + damping[c] * torch.diag(diagonal + 1e-3 * diagonal.mean())
        rough = torch.block_diag(*[roughness(4, 3, dtype=torch.float64)] * ((len(theta[c]) - 1) // 8))
        weight = penalty[c] * torch.ones(len(theta[c]) - 1).double()
        weight[-point.coefs[-1][0].numel() :] *= search._LAST_PENALTY
        system[:-1, :-1] += weight[:, None] * rough
        system += search._RIDGE * torch.eye(len(system))
        expected = torch.linalg.solve(system, -gradient[c] / 2)
        torch.testing.assert_close(move[c], expected, rtol=1e-5, atol=1e-8)


def test_the_systems_of_some_searches_are_put_among_the_others():
    searches, point = begun([2, 2])
    whole, expected = searches.system(point), searches.system(point)
    some = torch.tensor([1])
    other = searches.of(some).system(tree_map(lambda v: v[some], point))
    whole.matrix[1], whole.scale[1], whole.descent[1] = 0.0, 0.0, 0.0
    whole.put(some, other)
    for found, true in zip(vars(whole).values(), vars(expected).values(), strict=True):
        torch.testing.assert_close(found, true)


def test_the_step_that_validation_likes_best_is_kept():
    searches, point = begun([3])
    first = searches.judged(point, 0)
    found = searches.run(point.coefs[:-1], (), 12)
    assert (found.error < first.error).all()
    assert (found.step > 0).all()
    error = searches.judged(searches.point(found.coefs[:-1], ()), 0).error
    torch.testing.assert_close(found.error, error, rtol=1e-6, atol=0)


def test_new_middle_grids_keep_the_function():
    searches, point = begun([3, 2])
    coefs, grids = regridded(point, searches.shape)
    again = searches.point(coefs, grids)
    drift = (again.residual - point.residual).square().mean(1)
    assert (drift < 1e-3 * searches.problem.y.var(1)).all()
    assert (grids[0][..., 0] <= point.nodes[0].amin(2)).all()
    assert (grids[0][..., -1] >= point.nodes[0].amax(2)).all()
