import pytest
import sympy
import torch

from kanlib.masks import Split
from kanlib.symbolic.closed_forms import X
from kanlib.symbolic.refit import refitted
from kanlib.symbolic.shortening import replace_edges
from tests.helpers import symbolic_kan, symbolic_knobs


def test_a_refit_finds_the_constants_that_made_the_responses():
    f = sympy.Float
    masks = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))

    def made(a, b, c, bias):
        first = [[f(a) * sympy.tanh(f(b) * X), X], [X, f(c) * X**2]]
        return symbolic_kan([first, [[sympy.sin(X)], [f(0.5) * X]]], bias)

    true, start = made(1.5, 0.8, -0.4, 0.0), made(1.2, 1.0, -0.1, 1.0)
    y = true(masks)[None]
    data, validation = Split(masks[:300], y[:, :300]), Split(masks[300:], y[:, 300:])
    (again,) = refitted([start], data, validation, steps=30)
    torch.testing.assert_close(again(masks), y[0], rtol=1e-5, atol=1e-5)
    assert again.forms[0][0][0].constants == pytest.approx((1.5, 0.8), rel=1e-4)


def test_a_refit_keeps_what_validation_prefers(fitted):
    forms = replace_edges(fitted.kan, fitted.fit.masks, symbolic_knobs(max_degree=4))
    x = fitted.test.masks
    validation = Split(x, torch.stack([form(x) for form in forms]))
    noise = torch.randn(2, len(fitted.fit.masks), generator=torch.Generator().manual_seed(0))
    again = refitted(forms, Split(fitted.fit.masks, noise), validation, steps=5)
    for form, kept in zip(forms, again, strict=True):
        assert torch.equal(form(x), kept(x))


def test_a_refit_that_would_put_a_pole_among_the_inputs_is_not_kept():
    masks = torch.linspace(-1, 1, 60)[:, None]
    start = symbolic_kan([[[1 / (X + sympy.Float(3))]]], 0.0)
    data = Split(masks, 1 / (masks.double().T - 0.0123))
    (again,) = refitted([start], data, data, steps=200)
    assert again.forms[0][0][0].finite(-1, 1)


def test_refitted_alone_or_together_is_the_same(fitted):
    forms = replace_edges(fitted.kan, fitted.fit.masks, symbolic_knobs(max_degree=5, r2=0.99))
    together = refitted(forms, fitted.fit, fitted.test, steps=4)
    last = slice(1, None)
    alone = refitted(forms[1:], fitted.fit.of(last), fitted.test.of(last), steps=4)
    x = fitted.test.masks
    torch.testing.assert_close(together[1](x), alone[0](x), rtol=1e-4, atol=1e-4)
