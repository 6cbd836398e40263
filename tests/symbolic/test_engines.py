import sys
import types

import numpy as np
import pytest
import sympy

from kanlib.errors import BadInputError
from kanlib.symbolic import engines
from kanlib.symbolic.closed_forms import ClosedForm, X, constants
from kanlib.symbolic.engines import BACKENDS, admissible
from tests.helpers import edges, form_of, points, symbolic_knobs, values, weighted_r2


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
    asked = symbolic_knobs(backend=backend, evaluations=2000, max_degree=3, seed=1)
    fronts = engines.fronts(given, asked)
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
    again = engines.fronts(given, asked)
    assert [[f.expression for f in forms] for forms in again] == [
        [f.expression for f in forms] for forms in fronts
    ]


@pytest.mark.parametrize(("name", "extra"), [("operon", "operon"), ("pykan", "paper"), ("pysr", "pysr")])
def test_a_backend_that_is_not_installed_says_so(monkeypatch, name, extra):
    monkeypatch.setattr(engines, "find_spec", lambda module: None)
    with pytest.raises(BadInputError, match=rf"backend {name} needs \w+, which is not installed; .*{extra}"):
        form_of(points(), backend=name)


def test_pysr_without_julia_says_so_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr(engines, "find_spec", lambda module: module)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("PYTHON_JULIAPKG_EXE", raising=False)
    monkeypatch.delenv("PYTHON_JULIAPKG_OFFLINE", raising=False)
    with pytest.raises(BadInputError, match="backend pysr needs Julia, and there is none here"):
        form_of(points(), backend="pysr")
    monkeypatch.setenv("PYTHON_JULIAPKG_OFFLINE", "no")
    assert engines.missing("pysr") == ""


def test_what_operon_writes_and_no_form_may_hold_is_left_out(monkeypatch):
    class Found:
        def __init__(self, **options):
            self.pareto_front_ = [{"tree": text} for text in ("nan * X1", "exp(1e6 * X1 + 1e6)", "(0.5 * X1)")]

        def fit(self, x, y):
            pass

        def get_model_string(self, tree, digits):
            return tree

    sklearn = types.SimpleNamespace(SymbolicRegressor=Found)
    monkeypatch.setitem(sys.modules, "pyoperon", types.SimpleNamespace(sklearn=sklearn))
    monkeypatch.setitem(sys.modules, "pyoperon.sklearn", sklearn)
    monkeypatch.setattr(engines, "find_spec", lambda module: module)
    (front,) = engines.fronts(edges(points()), symbolic_knobs(backend="operon"))
    (form,) = front[1:]
    assert form.template == constants(1)[0] * X
    assert form.constants == pytest.approx((1.5,))


def test_an_unknown_backend_is_refused():
    with pytest.raises(BadInputError, match="backend is 'gplearn', expected library"):
        form_of(points(), backend="gplearn")


def test_what_is_not_real_and_finite_on_the_domain_is_left_out():
    given = edges(points())
    bad = [sympy.nan, sympy.I * X, sympy.zoo, 1 / (X - sympy.Float(0.1)), sympy.log(X), sympy.exp(X * 1000)]
    forms = admissible([*bad, X], given, 0)
    assert [form.expression for form in forms] == [X]
    assert forms[0].r2 == pytest.approx(1)


def test_the_shortest_form_that_suffices_is_taken():
    y = 2 * points() + 1 + 1e-3 * points() ** 2
    assert form_of(y, r2=0.999).length == 3
    assert sympy.degree(form_of(y, r2=1 - 1e-10).expression, X) == 2


@pytest.mark.parametrize("r2", [0.9, 0.9995, 1.0])
def test_the_stated_r2_is_the_forms_own(r2):
    x = points()
    weights = np.exp(-(x**2))
    weights /= weights.sum()
    for y in (np.abs(x), np.exp(-x) * np.sin(3 * x), np.tanh(4 * x) + x**2):
        form = form_of(y, x, weights, r2=r2, max_degree=5)
        assert form.r2 == pytest.approx(weighted_r2(y, values(form, x), weights), abs=1e-6)


def test_measured_forms_are_closed_forms():
    assert isinstance(form_of(points()), ClosedForm)
