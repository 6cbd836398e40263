import math

import numpy as np
import pytest
import sympy
import torch

from kanlib.symbolic import engines, library
from kanlib.symbolic.closed_forms import X, length
from kanlib.symbolic.edges import Edges
from kanlib.symbolic.library import least_squares
from tests.helpers import edges, form_of, forms_of, points, randn, symbolic_knobs, values, weighted_r2

#: Members of the library's families, with an affine wrap, and the function that must turn up in the closed form.
MEMBERS = {
    "cubic": (lambda x: 0.5 * x**3 - 2 * x**2 + 0.1 * x - 7, None),
    "line": (lambda x: 3 * x - 100, None),
    "exp": (lambda x: 0.4 * np.exp(0.9 * x - 1) - 0.7 * x + 2, sympy.exp),
    "sin": (lambda x: -2 * np.sin(2.2 * x + 0.4) + 0.5 * x, sympy.sin),
    "tanh": (lambda x: 1.5 * np.tanh(1.7 * x - 0.8) + 0.2 * x + 30, sympy.tanh),
    "gaussian": (lambda x: 3 * np.exp(-((1.4 * x - 0.5) ** 2)) - 1, sympy.exp),
    "lorentzian": (lambda x: 2 / (1 + (1.8 * x - 0.5) ** 2) - 0.3 * x, None),
    "softplus": (lambda x: -2 * np.log1p(np.exp(2.5 * x - 0.8)) + 1, sympy.log),
    "two slopes": (lambda x: x * (0.7 * np.tanh(2 * x - 1) + 0.3) + 2, sympy.tanh),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_of_the_library_is_recovered(name):
    f, function = MEMBERS[name]
    form = form_of(f(points()), r2=1 - 1e-7)
    between = points(n=333)
    assert weighted_r2(f(between), values(form, between), np.ones(333)) > 1 - 1e-6
    assert function is None or form.expression.has(function)


def test_a_polynomial_is_recovered_coefficient_by_coefficient():
    form = form_of(MEMBERS["cubic"][0](points()), r2=1 - 1e-12)
    found = [float(sympy.expand(form.expression).coeff(X, p)) for p in range(4)]
    assert found == pytest.approx([-7, 0.1, -2, 0.5], rel=1e-8)


def test_all_edges_are_matched_at_once_as_if_alone():
    x = np.stack([points(), points(-1, 1), points(0, 9)])
    y = np.stack([np.tanh(x[0]), 4 * x[1] ** 2, np.sin(x[2])])
    together = forms_of(edges(y, x), max_degree=5)
    for edge, form in enumerate(together):
        alone = form_of(y[edge], x[edge], max_degree=5)
        np.testing.assert_allclose(values(form, x[edge]), values(alone, x[edge]), atol=1e-5)


@pytest.mark.parametrize("max_length", [1, 8, 12, 20])
@pytest.mark.parametrize("name", ["sin", "tanh"])
def test_families_that_are_too_long_are_left_out_and_no_other(name, max_length):
    given = edges(MEMBERS[name][0](points()))

    def templates(functions, most):
        return [form.template for form in library.fronts(given, 3, functions, most)[0]]

    polynomials, every = templates(False, max_length), templates(True, math.inf)
    short = [template for template in every[len(polynomials) :] if length(template) <= max_length]
    assert templates(True, max_length) == polynomials + short


@pytest.mark.parametrize("degree", [2, 4])
def test_no_polynomial_exceeds_the_highest_degree(degree):
    expression = form_of(
        points() ** (degree + 1), r2=1.0, max_degree=max(degree, 3), backend="polynomials"
    ).expression
    assert sympy.degree(expression, X) <= max(degree, 3)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6 / 3])
def test_a_constant_edge_is_a_constant(value):
    form = form_of(np.full(101, value))
    assert not form.expression.free_symbols
    assert float(form.expression) == pytest.approx(value, rel=1e-12)
    assert form.r2 == 1


def test_the_error_is_weighted():
    x = points()
    left = np.where(x < 0, 1.0, 1e-9)
    form = form_of(np.abs(x), x, left / left.sum(), backend="polynomials", max_degree=1)
    np.testing.assert_allclose(values(form, x)[x < 0], -x[x < 0], atol=1e-3)


def test_what_is_usable_is_finite_as_written_far_from_zero():
    """A bell far from 0 is ``c·exp(−b²)·exp(b² − …)``: nothing times infinity, where b is large."""
    x = torch.linspace(24, 33, 101, dtype=torch.float64)[None].repeat(2, 1)
    y = torch.stack([(-1.5 * (x[0] - 29).square()).exp(), (-0.05 * (x[1] - 29).square()).exp()])
    fronts = engines.fronts(Edges(x, y, torch.full_like(x, 1 / 101)), symbolic_knobs(max_degree=5))
    for forms, at, true in zip(fronts, x, y, strict=True):
        for form in forms:
            if form.misfit < 1e-6:
                assert (form.values(at) - true).square().mean() < 1e-5 * true.var()
            elif form.misfit < float("inf"):
                assert form.values(at).isfinite().all()
    # Where b is small enough, the bell is found.
    assert min(form.misfit for form in fronts[1]) < 1e-9


def test_least_squares_is_numpys_whatever_the_size_of_a_column():
    size = torch.tensor([1.0, 1e-9, 1e6, 1.0], dtype=torch.float64)
    basis, target = randn(2, 30, 4), randn(2, 30, seed=1)
    found = least_squares(basis * size, target)
    for e in range(2):
        expected = np.linalg.lstsq(basis[e].numpy(), target[e].numpy(), rcond=None)[0]
        np.testing.assert_allclose(found[e] * size, expected, rtol=1e-9)
