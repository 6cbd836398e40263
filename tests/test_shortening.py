from dataclasses import replace

import pytest
import sympy
import torch

from kanlib import shortening
from kanlib.closed_forms import ClosedForm, X
from kanlib.interactions import derivative_errors
from kanlib.kan import KAN
from kanlib.metrics import pearson
from kanlib.refit import refitted
from kanlib.shortening import Stage, best_of, candidates, front, knee, shortened, symbolic_kans, table
from tests.test_symbolic import network


@pytest.fixture(scope="module")
def found(fitted):
    return candidates(fitted.kan, fitted.fit, max_degree=5)


def test_a_refit_finds_the_constants_that_made_the_responses():
    f = sympy.Float
    masks = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))

    def made(a, b, c, bias):
        first = [[f(a) * sympy.tanh(f(b) * X), X], [X, f(c) * X**2]]
        return network([first, [[sympy.sin(X)], [f(0.5) * X]]], [0, 0], bias)

    true, start = made(1.5, 0.8, -0.4, 2.0), made(1.2, 1.0, -0.1, 1.0)
    y = true(masks)[None]
    (again,) = refitted([start], masks[:300], y[:, :300], masks[300:], y[:, 300:], steps=30)
    torch.testing.assert_close(again(masks), y[0], rtol=1e-5, atol=1e-5)
    assert again.edges[0][0][0].constants == pytest.approx((1.5, 0.8), rel=1e-4)


def test_a_refit_keeps_what_validation_prefers(fitted):
    forms = symbolic_kans(fitted.kan, fitted.fit, max_degree=4)
    truth = torch.stack([form(fitted.test) for form in forms])
    noise = torch.randn(2, len(fitted.fit), generator=torch.Generator().manual_seed(0))
    again = refitted(forms, fitted.fit, noise, fitted.test, truth, steps=5)
    for form, kept in zip(forms, again, strict=True):
        assert torch.equal(form(fitted.test), kept(fitted.test))


def test_a_refit_that_would_put_a_pole_among_the_inputs_is_not_kept():
    masks = torch.linspace(-1, 1, 60)[:, None]
    start = network([[[1 / (X + sympy.Float(3))]]], [0], 0.0)
    y = 1 / (masks.double().T - 0.0123)
    (again,) = refitted([start], masks, y, masks, y, steps=200)
    assert again.edges[0][0][0].finite(-1, 1)


def test_refitted_alone_or_together_is_the_same(found, fitted):
    forms = [of_example.faithful(0.99, 12) for of_example in found]
    y, truth = fitted.true(fitted.fit), fitted.true(fitted.test)
    together = refitted(forms, fitted.fit, y, fitted.test, truth, steps=4)
    alone = refitted(forms[1:], fitted.fit, y[1:], fitted.test, truth[1:], steps=4)
    torch.testing.assert_close(together[1](fitted.test), alone[0](fitted.test), rtol=1e-4, atol=1e-4)


def test_a_higher_price_buys_shorter_networks(found):
    for of_example in found:
        lengths = [of_example.priced(price, 12).complexity for price in (0.0, 1e-4, 1e-2, 1.0, 1e6)]
        assert lengths == sorted(lengths, reverse=True)
        assert lengths[0] > lengths[2] > lengths[4] == 1


def test_nothing_leads_into_a_node_that_leads_nowhere(found):
    cheap = replace(found[0], effects=[found[0].effects[0], [[0.0] for _ in found[0].effects[1]]])
    form = cheap.priced(1e-6)
    assert all(edge.template == 0 for layer in form.edges for row in layer for edge in row)


def test_effects_are_the_variance_that_an_edge_brings_into_the_output(found, fitted):
    """For edges into the last node they are so, up to the part of the weights that is spread over the tails."""
    inside = fitted.kan.activations(fitted.fit)
    brought = fitted.kan.edges(1, inside[1])[:, :, 0].var(2) / inside[2].var(2)
    measured = torch.tensor([[row[0] for row in of_example.effects[1]] for of_example in found])
    torch.testing.assert_close(measured, brought.float(), rtol=1.5, atol=0.02)


def test_the_front_is_scored_on_validation_masks(found, fitted):
    y, truth = fitted.true(fitted.fit), fitted.true(fitted.test)
    stages = front(found, fitted.fit, y, fitted.test, truth, prices=(1e-4, 1e-1))
    assert [len(of_example) for of_example in stages] == [2, 2]
    for of_example, true in zip(stages, truth, strict=True):
        for stage in of_example:
            assert stage.pearson == pytest.approx(pearson(stage.form(fitted.test)[None], true[None]).item())
            # The refit may turn a sign, and sympy counts a minus.
            assert all(f.complexity <= 13 for layer in stage.form.edges for row in layer for f in row)
        assert of_example[0].pearson > 0.99
        assert of_example[0].form.complexity > of_example[1].form.complexity


def test_the_knee_is_the_shortest_within_the_budget():
    forms = [network([[[ClosedForm.of(e).expression]]], [0], 0.0) for e in (X**2 + 3 * X, X**2, X)]
    stages = [Stage(0.0, form, score) for form, score in zip(forms, (0.97, 0.966, 0.9), strict=True)]
    assert knee(stages, 0.97, 0.005) is stages[1]
    assert knee(stages, 0.97, 0.1) is stages[2]
    assert knee(stages, 0.99, 0.005) is stages[0]


def test_the_best_short_network_of_all_examples_is_found():
    long, middle, short = (network([[[ClosedForm.of(e).expression]]], [0], 0.0) for e in (X**2 + 3 * X, X**2, X))
    fronts = [
        [Stage(0.0, long, 0.99), Stage(0.0, short, 0.5)],
        [Stage(0.0, middle, 0.9), Stage(0.0, short, 0.6)],
    ]
    assert best_of(fronts, long.complexity) == (0, long)
    assert best_of(fronts, middle.complexity) == (1, middle)
    assert best_of(fronts, short.complexity - 1) == (1, short)


def test_what_is_chosen_is_refitted_to_the_end(found, fitted):
    y, truth = fitted.true(fitted.fit), fitted.true(fitted.test)
    stages = front(found, fitted.fit, y, fitted.test, truth, prices=(1e-4, 1e-1))
    short = shortened(stages, [0.0, 2.0], fitted.fit, y, fitted.test, truth, steps=24)
    for form, stage, true in zip(short, (stages[0][1], stages[1][0]), truth, strict=True):
        before, after = ((f(fitted.test) - true).square().mean() for f in (stage.form, form))
        assert after <= before
    assert table(stages)["nodes"].tolist() == [s.form.complexity for of_example in stages for s in of_example]


def test_a_kan_of_zeros_is_its_bias(fitted):
    zero = KAN(
        fitted.kan.grids,
        tuple(torch.zeros_like(c) for c in fitted.kan.coefs),
        fitted.kan.products,
        torch.tensor([0.0, 3.5]),
        fitted.kan.order,
    )
    for form, bias in zip(symbolic_kans(zero, fitted.fit), (0.0, 3.5), strict=True):
        assert form.expression == pytest.approx(bias)
        assert torch.equal(form(fitted.test), torch.full((len(fitted.test),), bias).double())
    stages = front(
        candidates(zero, fitted.fit),
        fitted.fit,
        fitted.true(fitted.fit),
        fitted.test,
        fitted.true(fitted.test),
        prices=(1e-3,),
    )
    assert not any(stage.form.expression.free_symbols for (stage,) in stages)


def test_derivatives_at_zero_are_the_kans(fitted):
    forms = symbolic_kans(fitted.kan, fitted.fit)
    errors = derivative_errors(forms, fitted.kan)
    assert errors.keys() == {1, 2, 3}
    assert errors[1] < 0.02
    assert errors[2] < 0.05
    assert errors[3] < 0.1
    loose = derivative_errors(symbolic_kans(fitted.kan, fitted.fit, rest=0, r2=0.9), fitted.kan)
    assert loose[2] > errors[2]


def test_examples_may_come_in_parts(fitted, monkeypatch):
    whole = symbolic_kans(fitted.kan, fitted.fit, max_degree=3)
    monkeypatch.setattr(shortening, "_EXAMPLES", 1)
    for one, other in zip(symbolic_kans(fitted.kan, fitted.fit, max_degree=3), whole, strict=True):
        torch.testing.assert_close(one(fitted.test), other(fitted.test), rtol=1e-3, atol=1e-3)
