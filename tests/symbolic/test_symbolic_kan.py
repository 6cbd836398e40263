import json

import numpy as np
import pytest
import sympy
import torch

from kanlib.store import Artifact
from kanlib.symbolic.closed_forms import X
from kanlib.symbolic.shortening import replace_edges
from kanlib.symbolic.symbolic_kan import Batch, SymbolicKAN
from tests.helpers import randn, symbolic_kan, symbolic_knobs


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
    assert all(form.offset == 0 for layer in hand_made.forms for row in layer for form in row)


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
    kept = symbolic_kan([[[X, sympy.sin(X)]], [[X**2], [sympy.Float(3)]]], 0.0)
    assert kept.used == [{0}, {0}]
    # σ_1; h_1, 2, the power, 3 and the sum.
    assert kept.length == 6
    assert symbolic_kan([[[sympy.Float(1)]]], 0.5).used == [set()]


def test_json_restores_every_number_exactly(hand_made, fitted, masks):
    for form in (hand_made, *replace_edges(fitted.kan, fitted.fit.masks, symbolic_knobs(max_degree=4))):
        again = SymbolicKAN.from_json(json.loads(json.dumps(form.to_json())))
        assert again.expression == form.expression
        assert torch.equal(again(masks), form(masks))
        assert [f.r2 for layer in again.forms for row in layer for f in row] == [
            f.r2 for layer in form.forms for row in layer for f in row
        ]


def test_a_batch_is_its_networks_and_differentiable_in_every_constant(hand_made, masks):
    other = symbolic_kan(
        [[[sympy.sin(X), X], [X, sympy.Float(0.5) * X], [X**3, sympy.Float(2) * X]], [[X], [X**2]]], 0
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
    forms = replace_edges(fitted.kan, fitted.fit.masks, symbolic_knobs())
    predicted = fitted.kan(fitted.test.masks)
    assert len(forms) == len(predicted)
    for form, true in zip(forms, predicted, strict=True):
        assert np.corrcoef(form(fitted.test.masks), true)[0, 1] > 0.99


def test_equal_kans_give_equal_closed_forms(fitted):
    first, again = (
        replace_edges(fitted.kan, fitted.fit.masks, symbolic_knobs(max_degree=4))[0].to_json() for _ in range(2)
    )
    assert first == again


def test_an_example_has_the_same_closed_form_alone(fitted):
    together = replace_edges(fitted.kan, fitted.fit.masks, symbolic_knobs(max_degree=4))[1]
    (alone,) = replace_edges(fitted.kan.select(torch.tensor([1])), fitted.fit.masks, symbolic_knobs(max_degree=4))
    x = fitted.test.masks
    torch.testing.assert_close(alone(x), together(x), rtol=1e-3, atol=1e-3)


def test_the_faithful_and_the_short_ones_are_read_from_what_was_written(hand_made, masks):
    short = symbolic_kan([[[X], [X], [sympy.Float(0)]]], 0.0)
    content = {"faithful": [hand_made.to_json()] * 2, "short": [short.to_json()]}
    closed = Artifact(json.loads(json.dumps(content)), {}, "")
    faithful = SymbolicKAN.read(closed, "faithful")
    assert [form.expression for form in faithful] == [hand_made.expression] * 2
    assert torch.equal(SymbolicKAN.read(closed, "short")[0](masks), short(masks))


def test_json_has_edges_and_biases_and_nothing_else(hand_made):
    assert hand_made.to_json().keys() == {"edges", "biases"}


def test_what_it_answers_at_rest_can_be_taken_off():
    one = symbolic_kan([[[X**2 + 3], [sympy.exp(X)]], [[sympy.sin(X) + 1]]], 0.5)
    shifted = one.through_rest()
    masks = randn(20, 2)
    assert abs(float(shifted(torch.zeros(1, 2))[0])) <= 1e-12
    torch.testing.assert_close(shifted(masks), one(masks) - one(torch.zeros(1, 2)))
