import json

import numpy as np
import pytest
import sympy
import torch

from kanlib.closed_forms import ClosedForm, X
from kanlib.shortening import symbolic_kans
from kanlib.symbolic import Batch, SymbolicKAN
from tests.test_kan import some_kan


def network(layers, products, bias):
    return SymbolicKAN.of([[[ClosedForm.of(e) for e in row] for row in layer] for layer in layers], products, bias)


@pytest.fixture(scope="module")
def hand_made():
    """Two layers, 3 → 2 → 1, one edge a constant."""
    f = sympy.Float
    layers = [
        [[sympy.exp(f(0.3) * X), X**2], [sympy.tanh(X) + f(0.1) * X, f(0.7)], [sympy.sin(X), X]],
        [[1 / (1 + (f(0.5) * X) ** 2)], [sympy.log(1 + sympy.exp(X))]],
    ]
    return network(layers, [0, 0], 0.25)


def by_hand(s):
    s = s.double().numpy()
    h1 = np.exp(0.3 * s[:, 0]) + np.tanh(s[:, 1]) + 0.1 * s[:, 1] + np.sin(s[:, 2])
    h2 = s[:, 0] ** 2 + 0.7 + s[:, 2]
    return 1 / (1 + (0.5 * h1) ** 2) + np.log1p(np.exp(h2)) + 0.25


@pytest.fixture
def masks():
    return torch.randn(50, 3, generator=torch.Generator().manual_seed(0))


def test_a_symbolic_kan_is_its_edges_composed(hand_made, masks):
    np.testing.assert_allclose(hand_made(masks), by_hand(masks), rtol=1e-12)


def test_offsets_of_edges_belong_to_the_nodes(hand_made):
    assert hand_made.biases == [[0.0, 0.7], [0.25]]
    assert all(form.offset == 0 for layer in hand_made.edges for row in layer for form in row)


def test_the_expression_is_the_symbolic_kan(hand_made, masks):
    assert [str(s) for s in hand_made.symbols] == ["sigma_1", "sigma_2", "sigma_3"]
    assert hand_made.expression.free_symbols == set(hand_made.symbols)
    values = sympy.lambdify(hand_made.symbols, hand_made.expression, "numpy")(*masks.double().numpy().T)
    np.testing.assert_allclose(values, hand_made(masks), rtol=1e-12)


def test_the_hidden_nodes_compose_to_the_expression(hand_made, masks):
    first, last = hand_made.hidden
    h = [sympy.lambdify(hand_made.symbols, e, "numpy")(*masks.double().numpy().T) for e in first]
    out = sympy.lambdify(hand_made.nodes(1), last[0], "numpy")(*h)
    np.testing.assert_allclose(out, hand_made(masks), rtol=1e-12)
    np.testing.assert_allclose(hand_made.activations(masks)[1], np.stack(h), rtol=1e-12)


def test_what_leads_nowhere_does_not_count():
    kept = network([[[X, sympy.sin(X)]], [[X**2], [sympy.Float(3)]]], [0, 0], 0.0)
    assert kept.used == [{0}, {0}]
    # σ_1; h_1, 2, the power, 3 and the sum.
    assert kept.complexity == 6
    assert network([[[sympy.Float(1)]]], [0], 0.5).used == [set()]


def test_json_restores_every_number_exactly(hand_made, fitted, masks):
    for form in (hand_made, *symbolic_kans(fitted.kan, fitted.fit, max_degree=4)):
        again = SymbolicKAN.from_json(json.loads(json.dumps(form.to_json())))
        assert again.expression == form.expression
        assert torch.equal(again(masks), form(masks))
        assert [f.r2 for layer in again.edges for row in layer for f in row] == [
            f.r2 for layer in form.edges for row in layer for f in row
        ]


def test_a_batch_is_its_networks_and_differentiable_in_every_constant(hand_made, masks):
    other = network(
        [[[sympy.sin(X), X], [X, sympy.Float(0.5) * X], [X**3, sympy.Float(2) * X]], [[X], [X**2]]], [0, 0], 0
    )
    batch = Batch([hand_made, other])
    torch.testing.assert_close(batch(masks), torch.stack([hand_made(masks), other(masks)]))
    moved = batch.start + 0.1 * torch.randn(batch.start.shape, generator=torch.Generator().manual_seed(1))
    again = batch.with_constants(moved)
    torch.testing.assert_close(batch(masks, moved), torch.stack([form(masks) for form in again]))
    assert torch.autograd.gradcheck(lambda c: batch(masks[:4], c), moved.requires_grad_())
    values, slopes = batch.slopes(masks[:4], moved)
    torch.testing.assert_close(values, batch(masks[:4], moved))
    expected = torch.autograd.functional.jacobian(lambda c: batch(masks[:4], c).sum(0), moved)
    torch.testing.assert_close(slopes, expected.permute(1, 2, 0))


def test_the_symbolic_surrogate_follows_its_kan(fitted):
    forms = symbolic_kans(fitted.kan, fitted.fit)
    predicted = fitted.kan(fitted.test)
    assert len(forms) == len(predicted)
    for form, true in zip(forms, predicted, strict=True):
        assert np.corrcoef(form(fitted.test), true)[0, 1] > 0.99


def test_products_of_sums_are_products_of_closed_forms(fitted):
    net, x = some_kan([(3, 0), (1, 1), (1, 0)], n=1), fitted.test.double()
    (form,) = symbolic_kans(net, x, r2=1.0)
    again = SymbolicKAN.from_json(json.loads(json.dumps(form.to_json())))
    whole = sympy.lambdify(form.symbols, form.expression, "numpy")(*x.T.numpy())
    np.testing.assert_allclose(form(x), whole, rtol=1e-6, atol=1e-8)
    assert torch.equal(again(x), form(x))
    h = [sum(row[o].values(x[:, i]) for i, row in enumerate(form.edges[0])) + form.biases[0][o] for o in range(3)]
    nodes = [h[0], h[1] * h[2]]
    expected = sum(row[0].values(node) for row, node in zip(form.edges[1], nodes, strict=True)) + form.biases[1][0]
    torch.testing.assert_close(form(x), expected)


def test_equal_kans_give_equal_closed_forms(fitted):
    first, again = (symbolic_kans(fitted.kan, fitted.fit, max_degree=4)[0].to_json() for _ in range(2))
    assert first == again


def test_an_example_has_the_same_closed_form_alone(fitted):
    together = symbolic_kans(fitted.kan, fitted.fit, max_degree=4)[1]
    (alone,) = symbolic_kans(fitted.kan.select(torch.tensor([1])), fitted.fit, max_degree=4)
    torch.testing.assert_close(alone(fitted.test), together(fitted.test), rtol=1e-3, atol=1e-3)
