from itertools import pairwise

import numpy as np
import pytest
import torch

from kanlib.kan import KAN, averaged, multiplied
from kanlib.splines import features

orders = pytest.mark.parametrize("order", [3, 5])
#: Sums and products of each layer.
SHAPES = [[(3, 0), (1, 0)], [(3, 0), (2, 0), (1, 0)], [(3, 0), (2, 1), (1, 0)], [(3, 0), (0, 2), (1, 1), (1, 0)]]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def some_kan(shape, n=2, grid=4, order=3, dtype=torch.float64):
    """``n`` KANs of random coefficients, whose uneven grids differ and are shorter than their inputs reach."""
    grids, coefs = [], []
    for layer, ((h, q), (sums, products)) in enumerate(pairwise(shape)):
        steps = 0.3 + randn(n, h + q, grid + 1, seed=layer, dtype=dtype).sigmoid()
        grids.append(steps.cumsum(-1) - 2.5)
        coefs.append(0.5 * randn(n, sums + 2 * products, h + q, 1 + grid + order, seed=layer + 9, dtype=dtype))
    return KAN(tuple(grids), tuple(coefs), tuple(q for _, q in shape[1:]), randn(n, seed=99, dtype=dtype), order)


@shapes
def test_a_kan_sums_its_edges_and_multiplies_pairs_of_sums(shape):
    net, x = some_kan(shape), randn(20, 3, seed=5)
    assert net.widths == tuple(h + q for h, q in shape)
    for e in range(2):
        h = x.T
        for grid, coef, (alone, products) in zip(net.grids, net.coefs, shape[1:], strict=True):
            f = features(h[None], grid[e : e + 1], 3)[0]
            sums = [sum(coef[e, o, i] @ f[i] for i in range(len(f))) for o in range(coef.shape[1])]
            pairs = [sums[alone + 2 * p] * sums[alone + 2 * p + 1] for p in range(products)]
            h = torch.stack(sums[:alone] + pairs)
        torch.testing.assert_close(net(x)[e], h[0] + net.bias[e])


def test_masks_are_shared_or_one_set_a_kan():
    net, x = some_kan(SHAPES[2]), randn(2, 20, 3, seed=5)
    own = net(x)
    for e in range(2):
        torch.testing.assert_close(own[e], net(x[e])[e])


@shapes
def test_edges_add_up_to_what_enters_the_next_layer(shape):
    net, x = some_kan(shape), randn(20, 3, seed=5)
    inputs = net.activations(x)
    for layer, q in enumerate(net.products):
        values = net.edges(layer, inputs[layer])
        torch.testing.assert_close(multiplied(values.sum(1), q), inputs[layer + 1])
    torch.testing.assert_close(inputs[-1][:, 0] + net.bias[:, None], net(x))


@orders
@shapes
def test_derivatives_are_autograds(shape, order):
    net, x = some_kan(shape, order=order), randn(4, 3, seed=5)
    value, gradient, hessian, third = net.derivatives(x, 3)
    torch.testing.assert_close(value, net(x))
    for e in range(2):
        for i in range(4):

            def g(s, e=e):
                return net(s[None])[e, 0]

            def second(s):
                return torch.func.hessian(g)(s)

            torch.testing.assert_close(gradient[e, i], torch.func.grad(g)(x[i]), atol=1e-9, rtol=1e-7)
            torch.testing.assert_close(hessian[e, i], second(x[i]), atol=1e-9, rtol=1e-7)
            torch.testing.assert_close(third[e, i], torch.func.jacfwd(second)(x[i]), atol=1e-8, rtol=1e-7)


def test_lower_derivatives_do_not_depend_on_how_many_are_asked_for():
    net, x = some_kan(SHAPES[2]), randn(2, 6, 3, seed=5)
    whole = net.derivatives(x, 3)
    for order in (1, 2):
        for a, b in zip(net.derivatives(x, order), whole, strict=False):
            assert torch.equal(a, b)


def test_a_selected_kan_is_itself():
    net, x = some_kan(SHAPES[2], n=3), randn(20, 3, seed=5)
    torch.testing.assert_close(net.select(torch.tensor([2, 0]))(x), net(x)[[2, 0]])


@shapes
def test_a_kan_is_restored_from_its_tensors(shape):
    net, x = some_kan(shape, order=5), randn(20, 3, seed=5)
    again = KAN.from_tensors(net.to_tensors())
    assert (again.order, again.widths, again.products) == (5, net.widths, net.products)
    assert torch.equal(again(x), net(x))


@shapes
@pytest.mark.parametrize("members", [1, 2, 3])
def test_the_average_of_kans_is_a_kan(shape, members):
    net, x = some_kan(shape, n=6), randn(20, 3, seed=5)
    # Averaged KANs look at the same masks over the same first grid.
    net = KAN((net.grids[0][:1].expand(6, -1, -1), *net.grids[1:]), net.coefs, net.products, net.bias, net.order)
    mean = averaged(net, members)
    torch.testing.assert_close(mean(x), net(x).unflatten(0, (-1, members)).mean(1))
    assert mean.widths == (3, *(members * w for w in net.widths[1:-1]), 1)


def test_nothing_explodes_far_outside_the_grid():
    net = some_kan(SHAPES[2])
    far = 1e3 * randn(20, 3, seed=5)
    assert net(far).isfinite().all()
    assert np.isfinite(net.derivatives(far, 3)[3].numpy()).all()
