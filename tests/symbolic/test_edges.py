import numpy as np
import pytest
import torch

from kanlib.errors import BadInputError
from kanlib.symbolic.closed_forms import X
from kanlib.symbolic.edges import Edges, Rest, domain, of_layer
from tests.helpers import SHAPES, edges, forms_of, points, randn, some_kan


def test_an_edge_that_is_not_finite_is_refused_by_number():
    y = np.stack([points()] * 3)
    y[1, 7] = np.nan
    with pytest.raises(BadInputError, match="edge 1 is not finite"):
        edges(y, np.stack([points()] * 3), np.full_like(y, 1 / 101))


def test_edges_of_two_shapes_are_refused():
    with pytest.raises(BadInputError, match="expected one shape"):
        Edges(torch.zeros(2, 9), torch.zeros(2, 9), torch.ones(9))


def test_derivatives_at_rest_count_where_asked_for():
    x, step = points(), 0.01
    near = 0.5 + step * np.arange(-2, 3)

    def kinked(x):
        return np.abs(x) + 0.3 * np.sin(4 * x)

    slope = 1 + 1.2 * np.cos(2)
    rows = [torch.from_numpy(v)[None] for v in (near, kinked(near))]
    plain = edges(kinked(x))
    off = []
    for weight in (1e-9, 10.0):
        rest = Rest(*rows, torch.ones(1).double(), weight)
        form = forms_of(Edges(plain.x_domain, plain.y, plain.weights, rest), r2=1.0, max_degree=7)[0]
        off.append(abs(float(form.expression.diff(X).subs(X, 0.5)) - slope))
        assert form.misfit >= 1 - form.r2 - 1e-12
    assert off[1] < 0.3 * off[0]


def test_the_variance_is_weighted_and_the_quality_is_measured_by_it():
    x = points()
    weights = np.exp(-(x**2))
    weights /= weights.sum()
    given = edges(np.sin(x), x, weights)
    mean = np.average(np.sin(x), weights=weights)
    variance = np.average((np.sin(x) - mean) ** 2, weights=weights)
    assert given.variance.item() == pytest.approx(variance)
    r2, misfit = given.quality(given.rows(torch.full((1, 101, 1), mean, dtype=torch.float64))[..., 0])
    assert r2.item() == pytest.approx(0)
    assert misfit.item() == pytest.approx(1)
    r2, misfit = given.quality(given.target)
    assert (r2.item(), misfit.item()) == (1, 0)


def test_edges_of_a_layer_are_the_kans_where_its_inputs_lie():
    net, masks = some_kan(SHAPES[1]), randn(400, 3, seed=5)
    inputs, at_rest = net.activations(masks), net.activations(torch.zeros(1, 3, dtype=torch.float64))
    given = of_layer(net, 0, inputs[0], at_rest[0], 10.0)
    assert len(given.y) == 2 * 3 * 2
    for place, (e, i, o) in enumerate((e, i, o) for e in range(2) for i in range(3) for o in range(2)):
        points = given.x_domain[place]
        assert points[0] < masks[:, i].min() < masks[:, i].max() < points[-1]
        values = net.edge_values(0, points.expand(2, 3, -1))[e, i, o]
        torch.testing.assert_close(given.y[place], values)
    # A coefficient differentiates once by each component: no more than a slope of an edge out of one counts.
    assert given.rest.order == 1
    assert of_layer(net, 1, inputs[1], at_rest[1], 10.0).rest.order == 3
    assert of_layer(net, 1, inputs[1], at_rest[1], 0).rest is None


def test_a_part_is_one_of_the_edges():
    net, masks = some_kan(SHAPES[1]), randn(400, 3, seed=5)
    inputs, at_rest = net.activations(masks), net.activations(torch.zeros(1, 3, dtype=torch.float64))
    given = of_layer(net, 1, inputs[1], at_rest[1], 10.0)
    for place in range(len(given.y)):
        torch.testing.assert_close(given.part(place).target[0], given.target[place])


def test_a_domain_goes_beyond_its_inputs_and_weighs_them_by_their_density():
    inputs = randn(1, 1, 5000)
    points, weights = domain(inputs)
    assert points[0, 0, 0] < inputs.min() < inputs.max() < points[0, 0, -1]
    torch.testing.assert_close(weights.sum(2), torch.ones(1, 1, dtype=torch.float64))
    assert (weights > 0).all()
    near, far = (weights[0, 0, (points[0, 0].abs() - at).abs() < 0.3].mean() for at in (0.0, 2.5))
    assert near > 5 * far
