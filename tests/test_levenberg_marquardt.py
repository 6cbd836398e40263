import pytest
import torch
from torch.func import jacrev

from kanlib import levenberg_marquardt as lm
from kanlib.fitting import _start
from kanlib.kan import mixed, multiplied
from kanlib.splines import features, roughness
from tests.test_kan import randn

HIDDEN = [[3], [[2, 1]], [[1, 1], 2], [2, [0, 2], [1, 1]]]


def begun(hidden, order=3):
    """A point somewhere on the way, with all it belongs to."""
    x = randn(160, 3)
    y = torch.stack([x[:, 0] * x[:, 1] + 2, 50 * torch.tanh(x[:, 2] - x[:, 0])])
    shape = lm.Shape(3, tuple((n, 0) if isinstance(n, int) else tuple(n) for n in hidden), 4, order)
    first = lm.laid(x.T[None], 4)
    posed = lm.Problem(lm.first_features(x, first, order), y / y.std(1, keepdim=True))
    starts = [_start(shape, restart, 0, x) for restart in (0, 1)]
    coefs = tuple(torch.stack(layer) for layer in zip(*starts, strict=True))
    penalty = torch.tensor([1e-3, 1e-2], dtype=torch.float64)
    return shape, posed, penalty, lm._at(coefs, (), shape, posed, penalty)


def output(theta, point, shape, posed):
    """The networks' outputs ``[C, N]`` as a function of all parameters ``[C, P]``, grids held."""
    *parts, bias = theta.split([*(c[0].numel() for c in point.coefs), 1], 1)
    coefs = [part.view_as(c) for part, c in zip(parts, point.coefs, strict=True)]
    s = coefs[0].flatten(2) @ posed.features
    for layer, grid in enumerate(point.grids):
        s = mixed(coefs[layer + 1], features(multiplied(s, shape.products[layer]), grid, shape.order))
    return s[:, 0] + bias


def flat(point):
    return torch.cat([*(c.flatten(1) for c in point.coefs), point.bias[:, None]], 1)


@pytest.mark.parametrize("order", [3, 5])
@pytest.mark.parametrize("hidden", HIDDEN, ids=str)
def test_the_gauss_newton_matrix_is_that_of_the_jacobian(hidden, order):
    shape, posed, _, point = begun(hidden, order)
    whole = jacrev(lambda theta: output(theta, point, shape, posed))(flat(point))
    normal, gradient = lm._normal(point, shape, posed.features, lm.Pairs(posed.features))
    for c in range(2):
        jacobian = whole[c, :, c]
        n = len(jacobian)
        torch.testing.assert_close(normal[c].tril(), (jacobian.T @ jacobian).tril() / n)
        torch.testing.assert_close(gradient[c], jacobian.T @ point.residual[c] / n)
    torch.testing.assert_close(posed.y - output(flat(point), point, shape, posed), point.residual)


@pytest.mark.parametrize("hidden", HIDDEN, ids=str)
def test_a_step_solves_the_damped_normal_equations(hidden):
    shape, posed, penalty, point = begun(hidden)
    damping = torch.tensor([0.1, 2.0], dtype=torch.float64)
    move, solvable = lm._solved_for(lm._system(point, shape, posed, lm.Pairs(posed.features), penalty), damping)
    assert solvable.all()

    def objective(theta):
        *parts, _ = theta.split([*(c[0].numel() for c in point.coefs), 1], 1)
        rough = roughness(4, 3, dtype=torch.float64)
        loss = (posed.y - output(theta, point, shape, posed)).square().mean(1)
        for c, part in enumerate(parts):
            edges = part.unflatten(1, (-1, len(rough)))
            weight = penalty * (lm._LAST if c == len(parts) - 1 else 1)
            loss = loss + weight * ((edges @ rough) * edges).sum((1, 2)) + lm._RIDGE * part.square().sum(1)
        return loss

    theta = flat(point)
    torch.testing.assert_close(objective(theta), point.loss)
    whole = jacrev(lambda t: output(t, point, shape, posed))(theta)
    gradient = jacrev(lambda t: objective(t).sum())(theta)
    for c in range(2):
        jacobian = whole[c, :, c]
        gauss = jacobian.T @ jacobian / posed.y.shape[1]
        diagonal = gauss.diagonal()
        system = gauss + damping[c] * torch.diag(diagonal + 1e-3 * diagonal.mean())
        rough = torch.block_diag(*[roughness(4, 3, dtype=torch.float64)] * ((len(theta[c]) - 1) // 8))
        weight = penalty[c] * torch.ones(len(theta[c]) - 1).double()
        weight[-point.coefs[-1][0].numel() :] *= lm._LAST
        system[:-1, :-1] += weight[:, None] * rough
        system += lm._RIDGE * torch.eye(len(system))
        expected = torch.linalg.solve(system, -gradient[c] / 2)
        torch.testing.assert_close(move[c], expected, rtol=1e-5, atol=1e-8)


def test_new_middle_grids_keep_the_function():
    shape, posed, penalty, point = begun([3, 2])
    coefs, grids = lm._relaid(point, shape)
    again = lm._at(coefs, grids, shape, posed, penalty)
    drift = (again.residual - point.residual).square().mean(1)
    assert (drift < 1e-3 * posed.y.var(1)).all()
    hidden = multiplied(point.sums[0], 0)
    assert (grids[0][..., 0] <= hidden.amin(2)).all()
    assert (grids[0][..., -1] >= hidden.amax(2)).all()


def test_grids_increase_whatever_enters_them():
    for h in (randn(2, 3, 400), torch.zeros(1, 2, 50), torch.tensor([0.0] * 90 + [1.0] * 10).expand(1, 1, -1)):
        grid = lm.laid(h, 6)
        assert grid.shape == (*h.shape[:2], 7)
        assert (grid.diff(dim=2) > 0).all()
        assert (grid[..., 0] <= h.amin(2)).all()
        assert (grid[..., -1] >= h.amax(2)).all()


def test_grids_increase_with_inputs_beyond_their_ends():
    for h in (randn(2, 3, 400), torch.zeros(1, 2, 50), torch.tensor([0.0] * 90 + [1.0] * 10).expand(1, 1, -1)):
        grid = lm.laid(h, 6, 0.1)
        assert (grid.diff(dim=2) > 0).all()
        for out in (h < grid[..., :1], h > grid[..., -1:]):
            assert (out.double().mean(2) <= 0.11).all()
