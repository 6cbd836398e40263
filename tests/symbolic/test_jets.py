import numpy as np
import pytest
import sympy

from kanlib.masks import subsets
from kanlib.symbolic.closed_forms import X, constants
from kanlib.symbolic.jets import FUNCTIONS, lifted, units


def parts(jet):
    return dict(zip([(), *subsets(3, 3)], jet.parts.tolist(), strict=True))


def test_units_are_the_components_at_rest():
    for j, unit in enumerate(units(3, 3)):
        assert parts(unit) == {s: float(s == (j,)) for s in [(), *subsets(3, 3)]}


def test_products_keep_what_has_no_square():
    a, b, c = units(3, 3)
    found = parts((2 + a) * (b - 3 * c) * (1 - a * b))
    expected = {(1,): 2, (2,): -6, (0, 1): 1, (0, 2): -3, (0, 1, 2): 6}
    assert {s: value for s, value in found.items() if value} == expected


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_composed_by_their_derivatives(name):
    a, b, c = units(3, 3)
    found = parts(FUNCTIONS[name](0.7 + a + 2 * b - c))
    x = sympy.Symbol("x")
    derivatives = [float(getattr(sympy, name)(x).diff(x, r).subs(x, 0.7)) for r in range(4)]
    slope = {0: 1, 1: 2, 2: -1}
    for subset, value in found.items():
        expected = derivatives[len(subset)] * np.prod([slope[j] for j in subset])
        assert value == pytest.approx(expected)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_numbers_are_numpys(name):
    assert FUNCTIONS[name](0.7) == getattr(np, name)(0.7)


def test_quotients_and_powers_are_taylor_series():
    a, b, _ = units(3, 3)
    found = parts(1 / (2 + a) - (1 + b) ** 0.5 / (1 - a))
    expected = {(): -0.5, (0,): -0.25 - 1, (1,): -0.5, (0, 1): -0.5}
    assert {s: value for s, value in found.items() if value} == pytest.approx(expected)


def test_a_template_takes_jets_and_numbers():
    c0, c1 = constants(2)
    function = lifted(c0 * sympy.tanh(c1 * X) + X**2, 2)
    assert function(0.5, 2.0, 3.0) == pytest.approx(2 * np.tanh(1.5) + 0.25)
    a, *_ = units(3, 3)
    assert parts(function(0.5 + a, 2.0, 3.0))[0,] == pytest.approx(6 * (1 - np.tanh(1.5) ** 2) + 1)
