import numpy as np
import pytest
import torch

from kanlib.errors import BadInputError
from kanlib.kan.kan import KAN, averaged, weighted_sums
from kanlib.kan.splines import features
from kanlib.store import Artifact
from tests.helpers import SHAPES, randn, some_kan

orders = pytest.mark.parametrize("order", [3, 5])
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


@shapes
def test_a_kan_sums_its_edges(shape):
    net, x = some_kan(shape), randn(20, 3, seed=5)
    assert net.widths == shape
    for e in range(2):
        h = x.T
        for grid, coef in zip(net.grids, net.coefs, strict=True):
            f = features(h[None], grid[e : e + 1], 3)[0]
            h = torch.stack([sum(row[i] @ f[i] for i in range(len(f))) for row in coef[e]])
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
    for layer, (grid, coef) in enumerate(zip(net.grids, net.coefs, strict=True)):
        values = net.edge_values(layer, inputs[layer])
        torch.testing.assert_close(values.sum(1), inputs[layer + 1])
        torch.testing.assert_close(weighted_sums(coef, features(inputs[layer], grid, 3)), inputs[layer + 1])
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
    assert (again.order, again.widths) == (5, net.widths)
    assert torch.equal(again(x), net(x))


def test_a_kan_is_read_from_what_was_fitted():
    net, x = some_kan(SHAPES[2], dtype=torch.float32), randn(20, 3, seed=5, dtype=torch.float32)
    content = {f"kan.{name}": value for name, value in net.to_tensors().items()}
    read = KAN.read(Artifact(content | {"linear.weights": torch.ones(2)}, {}, ""))
    assert torch.equal(read(x), net(x))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: c.clear(), r"kan\.order is missing"),
        (lambda c: c.update({"kan.order": torch.tensor(10**9)}), r"kan\.order is 1000000000, expected 3 or 5"),
        (lambda c: c.update({"kan.order": torch.tensor(3.0)}), r"kan\.order is \(\) of torch\.float32"),
        (lambda c: c.pop("kan.bias"), r"kan\.bias is missing"),
        (lambda c: c.update({"kan.bias": torch.ones(2).double()}), r"kan\.bias is \(2\) of torch\.float64"),
        (lambda c: c.update({"kan.bias": torch.ones(3)}), r"kan\.grids\.0 is .*expected \(3, any, any\)"),
        (lambda c: c.pop("kan.grids.1"), r"kan\.grids\.1 is missing"),
        (lambda c: c.pop("kan.coefs.0"), r"kan\.coefs\.0 is missing"),
        (lambda c: c.update({"kan.coefs.9": torch.ones(1)}), r"expected \(2, any, 3, 8\)|is missing"),
        (lambda c: c.update({"kan.coefs.1": c["kan.coefs.1"][:, [0, 0]]}), r"kan\.coefs\.1 .*expected \(2, 1, 3"),
        (lambda c: c.update({"kan.grids.1": c["kan.grids.1"][:, :2]}), r"kan\.grids\.1 .*expected \(2, 3, any\)"),
        (lambda c: c["kan.grids.0"].zero_(), r"kan\.grids\.0 holds points that do not rise"),
        (lambda c: [c.pop(k) for k in [*c] if "s." in k], "it holds no KAN"),
    ],
)
def test_what_is_no_kan_is_refused(change, sentence):
    net = some_kan((3, 3, 1), dtype=torch.float32)
    content = {f"kan.{name}": value for name, value in net.to_tensors().items()}
    change(content)
    with pytest.raises(BadInputError, match=sentence):
        KAN.read(Artifact(content, {}, ""))


def test_masks_of_other_components_are_refused():
    with pytest.raises(BadInputError, match="masks have 4 components, expected 3 as the KAN"):
        some_kan((3, 1))(randn(5, 4))


def test_a_kan_in_another_precision_is_the_same_to_rounding():
    net, x = some_kan(SHAPES[3]), randn(20, 3, seed=5)
    single = net.to(torch.float32)
    assert {v.dtype for v in (*single.grids, *single.coefs, single.bias)} == {torch.float32}
    assert single.order == net.order
    torch.testing.assert_close(single(x.float()).double(), net(x), rtol=1e-4, atol=1e-4)


def test_a_detached_kan_leads_back_to_nothing():
    net, x = some_kan(SHAPES[1]), randn(20, 3, seed=5)
    asking = KAN(net.grids, tuple(c.clone().requires_grad_() for c in net.coefs), net.bias, net.order)
    assert asking(x).requires_grad
    assert not asking.detached()(x).requires_grad
    assert torch.equal(asking.detached()(x), net(x))


@shapes
@pytest.mark.parametrize("members", [1, 2, 3])
def test_the_average_of_kans_is_a_kan(shape, members):
    net, x = some_kan(shape, n=6), randn(20, 3, seed=5)
    # Averaged KANs look at the same masks over the same first grid.
    net = KAN((net.grids[0][:1].expand(6, -1, -1), *net.grids[1:]), net.coefs, net.bias, net.order)
    mean = averaged(net, members)
    torch.testing.assert_close(mean(x), net(x).unflatten(0, (-1, members)).mean(1))
    assert mean.widths == (3, *(members * w for w in net.widths[1:-1]), 1)


def test_nothing_explodes_far_outside_the_grid():
    net = some_kan(SHAPES[2])
    far = 1e3 * randn(20, 3, seed=5)
    assert net(far).isfinite().all()
    assert np.isfinite(net.derivatives(far, 3)[3].numpy()).all()
