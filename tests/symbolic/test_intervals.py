import mpmath
import pytest
import sympy
import torch

from kanlib.symbolic.closed_forms import ClosedForm, X
from kanlib.symbolic.intervals import Interval, on_cells
from tests.helpers import randn

FORMS = [
    X,
    X**2 - 3 * X**3,
    X * (1.5 + X * (-0.7 + 2.0 * X**2)),
    sympy.exp(0.5 * X),
    sympy.exp(X * (0.2 - 1.1 * X)),
    sympy.tanh(1.3 * X - 0.4),
    sympy.sin(5 * X + 1),
    sympy.cos(9 * X) * X,
    1 / (1 + (2 * X - 1) ** 2),
    sympy.log(1 + sympy.exp(3 * X)),
    sympy.log(4 + X),
    (4 + X) ** sympy.Rational(3, 2),
    sympy.Float(2) - X,
]


def on(expression, low, high):
    form = ClosedForm.of(expression)
    return on_cells(
        form.template, [torch.tensor([c], dtype=torch.float64) for c in form.constants], low, high
    ), form


@pytest.mark.parametrize("expression", FORMS, ids=str)
@pytest.mark.parametrize("width", [1e-6, 0.05, 1.0])
def test_what_a_form_is_on_cells_holds_all_that_it_takes_there(expression, width):
    """Values and derivatives by arithmetic of fifty digits, at ends and between."""
    low = torch.linspace(-3, 3 - width, 23, dtype=torch.float64)
    high = low + width
    found, form = on(expression, low, high)
    for r, known in enumerate((found.value, found.slope, found.bend)):
        exact = sympy.lambdify(X, (form.expression - form.offset).diff(X, r), "mpmath")
        with mpmath.workdps(50):
            for k in range(len(low)):
                first, last = mpmath.mpf(float(low[k])), mpmath.mpf(float(high[k]))
                for share in (0, 0.3, 0.5, 0.9, 1):
                    value = exact(first + (last - first) * share)
                    assert float(known.low[k]) <= value <= float(known.high[k])


@pytest.mark.parametrize("expression", FORMS, ids=str)
def test_on_narrow_cells_little_is_given_away(expression):
    low = torch.linspace(-3, 3, 50, dtype=torch.float64)
    found, form = on(expression, low, low + 1e-7)
    torch.testing.assert_close(found.value.low, found.value.high, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.value.low, form.values(low) - form.offset, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.bend.low, found.bend.high, atol=1e-2, rtol=1e-2)


def test_ends_are_rounded_outwards():
    third = torch.tensor([1.0]).double() / 3
    product = Interval(third, third) * Interval(third, third)
    assert product.low < third * third < product.high


def test_where_nothing_is_known_everything_is_possible():
    low, high = torch.tensor([-1.0]).double(), torch.tensor([1.0]).double()
    found, _ = on(1 / X, low, high)
    assert found.value.low == -torch.inf
    assert found.value.high == torch.inf
    found, _ = on(sympy.log(X), low, high)
    assert found.value.size == torch.inf


def test_products_and_powers_of_either_sign():
    a, b = (randn(40, 2, seed=seed).sort(1).values for seed in (0, 1))
    share = torch.rand(100, 1, dtype=torch.float64)
    x, y = (v[:, 0] + (v[:, 1] - v[:, 0]) * share for v in (a, b))
    one, other = Interval(*a.unbind(1)), Interval(*b.unbind(1))
    for found, true in ((one * other, x * y), (one - other, x - y), (one**2, x**2), (one**3, x**3)):
        assert ((found.low <= true) & (true <= found.high)).all()
