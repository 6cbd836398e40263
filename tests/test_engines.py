import numpy as np
import pytest
import sympy
import torch

from kanlib import engines
from kanlib.closed_forms import ClosedForm, X
from kanlib.edges import Edges, Rest
from kanlib.engines import BACKENDS, admitted, symbolize
from kanlib.errors import BadInputError

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


def points(low=-2.0, high=3.0, n=101):
    return np.linspace(low, high, n)


def edges(y, x=None, weights=None):
    x = points() if x is None else x
    weights = np.full_like(x, 1 / x.shape[-1]) if weights is None else weights
    return Edges(*(torch.from_numpy(np.atleast_2d(np.asarray(v, dtype=float))) for v in (x, y, weights)))


def symbolized(y, x=None, weights=None, r2=0.9995, max_degree=3, **options):
    return symbolize(edges(y, x, weights), r2=r2, max_degree=max_degree, **options)[0]


def weighted_r2(y, fitted, weights):
    mean = np.average(y, weights=weights)
    return 1 - np.average((y - fitted) ** 2, weights=weights) / np.average((y - mean) ** 2, weights=weights)


def values(form, x):
    return form.values(torch.from_numpy(x)).numpy()


@pytest.fixture(params=BACKENDS)
def backend(request):
    if reason := engines.missing(request.param):
        pytest.skip(reason)
    return request.param


def test_every_backend_keeps_the_contract(backend, same_global_rng):
    """Real finite forms whose stated R² is their own; a constant is a constant; equal seeds, equal forms."""
    x = points(-1, 2)
    y = np.stack([0.8 * np.exp(0.6 * x) - 1, 2 * x + 1, np.full_like(x, 0.3)])
    given = edges(y, np.stack([x] * 3), np.full_like(y, 1 / len(x)))
    options = {"backend": backend, "evaluations": 2000, "max_degree": 3, "seed": 1}
    fronts = engines.fronts(given, **options)
    best = [min(forms, key=lambda form: form.misfit) for forms in fronts]
    assert len(fronts) == 3
    for edge, forms in enumerate(fronts):
        for form in forms:
            if form.misfit < np.inf:
                assert form.finite(-1, 2)
        fitted = values(best[edge], x)
        assert fitted == pytest.approx(y[edge], abs=0.15)
    for edge in (0, 1):
        stated = weighted_r2(y[edge], values(best[edge], x), np.ones_like(x))
        assert best[edge].r2 == pytest.approx(stated, abs=1e-6)
        assert stated > 0.98
    shortest = engines.shortest(fronts[2], r2=0.999)
    assert not shortest.expression.free_symbols
    assert shortest.expression == pytest.approx(0.3)
    again = engines.fronts(given, **options)
    assert [[f.expression for f in forms] for forms in again] == [
        [f.expression for f in forms] for forms in fronts
    ]


@pytest.mark.parametrize(("name", "extra"), [("operon", "operon"), ("pykan", "paper"), ("pysr", "pysr")])
def test_a_backend_that_is_not_installed_says_so(monkeypatch, name, extra):
    monkeypatch.setattr(engines, "find_spec", lambda module: None)
    with pytest.raises(BadInputError, match=rf"backend {name} needs \w+, which is not installed; .*{extra}"):
        symbolized(points(), backend=name)


def test_pysr_without_julia_says_so_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr(engines, "find_spec", lambda module: module)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("PYTHON_JULIAPKG_EXE", raising=False)
    monkeypatch.delenv("PYTHON_JULIAPKG_OFFLINE", raising=False)
    with pytest.raises(BadInputError, match="backend pysr needs Julia, and there is none here"):
        symbolized(points(), backend="pysr")
    monkeypatch.setenv("PYTHON_JULIAPKG_OFFLINE", "no")
    assert engines.missing("pysr") == ""


def test_an_unknown_backend_is_refused():
    with pytest.raises(BadInputError, match="backend is 'gplearn', expected library"):
        symbolized(points(), backend="gplearn")


def test_what_is_not_real_and_finite_on_the_domain_is_left_out():
    given = edges(points())
    bad = [sympy.nan, sympy.I * X, sympy.zoo, 1 / (X - sympy.Float(0.1)), sympy.log(X), sympy.exp(X * 1000)]
    forms = admitted([*bad, X], given, 0)
    assert [form.expression for form in forms] == [X]
    assert forms[0].r2 == pytest.approx(1)


@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_of_the_library_is_recovered(name):
    f, function = MEMBERS[name]
    form = symbolized(f(points()), r2=1 - 1e-7)
    between = points(n=333)
    assert weighted_r2(f(between), values(form, between), np.ones(333)) > 1 - 1e-6
    assert function is None or form.expression.has(function)


def test_a_polynomial_is_recovered_coefficient_by_coefficient():
    form = symbolized(MEMBERS["cubic"][0](points()), r2=1 - 1e-12)
    found = [float(sympy.expand(form.expression).coeff(X, p)) for p in range(4)]
    assert found == pytest.approx([-7, 0.1, -2, 0.5], rel=1e-8)


def test_all_edges_are_matched_at_once_as_if_alone():
    x = np.stack([points(), points(-1, 1), points(0, 9)])
    y = np.stack([np.tanh(x[0]), 4 * x[1] ** 2, np.sin(x[2])])
    together = symbolize(edges(y, x), r2=0.9995, max_degree=5)
    for edge, form in enumerate(together):
        alone = symbolized(y[edge], x[edge], max_degree=5)
        np.testing.assert_allclose(values(form, x[edge]), values(alone, x[edge]), atol=1e-5)


def test_the_shortest_form_that_suffices_is_taken():
    y = 2 * points() + 1 + 1e-3 * points() ** 2
    assert symbolized(y, r2=0.999).complexity == 3
    assert sympy.degree(symbolized(y, r2=1 - 1e-10).expression, X) == 2


@pytest.mark.parametrize("max_nodes", [1, 3, 8, 12])
def test_no_form_exceeds_the_cap(max_nodes):
    for y in (np.abs(points()), np.sin(3 * points()), points() ** 3):
        assert symbolized(y, r2=1.0, max_nodes=max_nodes).complexity <= max_nodes


@pytest.mark.parametrize("degree", [2, 4])
def test_no_polynomial_exceeds_the_highest_degree(degree):
    expression = symbolized(
        points() ** (degree + 1), r2=1.0, max_degree=max(degree, 3), backend="polynomials"
    ).expression
    assert sympy.degree(expression, X) <= max(degree, 3)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6 / 3])
def test_a_constant_edge_is_a_constant(value):
    form = symbolized(np.full(101, value))
    assert not form.expression.free_symbols
    assert float(form.expression) == pytest.approx(value, rel=1e-12)
    assert form.r2 == 1


def test_an_edge_that_is_not_finite_is_refused_by_number():
    y = np.stack([points()] * 3)
    y[1, 7] = np.nan
    with pytest.raises(BadInputError, match="edge 1 is not finite"):
        edges(y, np.stack([points()] * 3), np.full_like(y, 1 / 101))


def test_edges_of_two_shapes_are_refused():
    with pytest.raises(BadInputError, match="expected one shape"):
        Edges(torch.zeros(2, 9), torch.zeros(2, 9), torch.ones(9))


@pytest.mark.parametrize("r2", [0.9, 0.9995, 1.0])
def test_the_stated_r2_is_the_forms_own(r2):
    x = points()
    weights = np.exp(-(x**2))
    weights /= weights.sum()
    for y in (np.abs(x), np.exp(-x) * np.sin(3 * x), np.tanh(4 * x) + x**2):
        form = symbolized(y, x, weights, r2, 5)
        assert form.r2 == pytest.approx(weighted_r2(y, values(form, x), weights), abs=1e-6)


def test_the_error_is_weighted():
    x = points()
    left = np.where(x < 0, 1.0, 1e-9)
    form = symbolized(np.abs(x), x, left / left.sum(), backend="polynomials", max_nodes=4)
    np.testing.assert_allclose(values(form, x)[x < 0], -x[x < 0], atol=1e-3)


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
        form = symbolize(Edges(plain.x_domain, plain.y, plain.weights, rest), r2=1.0, max_degree=7)[0]
        off.append(abs(float(form.expression.diff(X).subs(X, 0.5)) - slope))
        assert form.misfit >= 1 - form.r2 - 1e-12
    assert off[1] < 0.3 * off[0]


def test_measured_forms_are_closed_forms():
    assert isinstance(symbolized(points()), ClosedForm)


def test_what_is_usable_is_finite_as_written_far_from_zero():
    """A bell far from 0 is ``c·exp(−b²)·exp(b² − …)``: nothing times infinity, where b is large."""
    x = torch.linspace(24, 33, 101, dtype=torch.float64)[None].repeat(2, 1)
    y = torch.stack([(-1.5 * (x[0] - 29).square()).exp(), (-0.05 * (x[1] - 29).square()).exp()])
    fronts = engines.fronts(Edges(x, y, torch.full_like(x, 1 / 101)), backend="library", max_degree=5)
    for forms, at, true in zip(fronts, x, y, strict=True):
        for form in forms:
            if form.misfit < 1e-6:
                assert (form.values(at) - true).square().mean() < 1e-5 * true.var()
            elif form.misfit < float("inf"):
                assert form.values(at).isfinite().all()
    # Where b is small enough, the bell is found.
    assert min(form.misfit for form in fronts[1]) < 1e-9
