import json

import numpy as np
import pytest
import sympy
import torch

from kanlib.symbolic.closed_forms import ClosedForm, X, length, parse

f = sympy.Float
EXPRESSIONS = [
    f(0.1) * sympy.exp(X * (f(-0.3) * X + f(0.7))) + f(1 / 3) * X - f(2),
    1 / (1 + (f(1.1) * X + f(0.3)) ** 2),
    sympy.log(1 + sympy.exp(f(2.5) * X)) * f(-2) + X**2,
    X * (X * (f(0.5) * X - f(0.25)) + f(7)),
    sympy.tanh(X) * sympy.sin(f(3) * X) - sympy.cos(X),
    f(4.25),
    sympy.pi * X + sympy.sqrt(2 + X**2),
]


def evaluated(expression, x):
    return np.broadcast_to(sympy.lambdify(X, expression, "numpy")(x), x.shape)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_form_is_its_expression(expression):
    form = ClosedForm.of(expression)
    x = np.linspace(-2, 3, 41)
    np.testing.assert_allclose(form.values(torch.from_numpy(x)), evaluated(expression, x), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(evaluated(form.expression, x), evaluated(expression, x), rtol=1e-13, atol=1e-13)
    assert not form.template.atoms(sympy.Float)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_json_restores_a_form_exactly(expression):
    form = ClosedForm.of(expression, r2=0.1, misfit=1 / 3)
    again = ClosedForm.from_json(json.loads(json.dumps(form.to_json())))
    assert again == form
    assert again.expression == form.expression


@pytest.mark.parametrize("shape", [(4,), (2, 3)])
def test_a_form_has_values_of_any_shape(shape):
    x = torch.rand(shape)
    assert torch.equal(ClosedForm.of(f(3)).values(x), torch.full(shape, 3.0).double())
    torch.testing.assert_close(ClosedForm.of(sympy.exp(X)).values(x), x.double().exp())


def test_length_counts_operations_and_leaves_but_no_offset():
    # Times, exp; 2, x.
    assert ClosedForm.of(f(2) * sympy.exp(X) + 1).length == 4
    assert ClosedForm.of(f(5)).length == 1
    for expression in EXPRESSIONS[:5]:
        bare = ClosedForm.of(expression).without_offset.expression
        leaves = sum(1 for node in sympy.preorder_traversal(bare) if not node.args)
        assert ClosedForm.of(expression).length == length(bare) == bare.count_ops() + leaves


@pytest.mark.parametrize(
    "expression",
    [
        sympy.nan,
        sympy.oo * X,
        sympy.zoo,
        sympy.I * X,
        sympy.sqrt(-2) * X + 1,
        sympy.Symbol("y") * X,
        sympy.gamma(X),
        f(2) ** X,
        sympy.Function("g")(X),
    ],
)
def test_what_is_not_a_real_form_is_refused(expression):
    with pytest.raises(ValueError, match="a closed form holds"):
        ClosedForm.of(expression)


@pytest.mark.parametrize(
    ("expression", "finite"),
    [
        (1 / (X - f(0.123456)), False),
        (1 / (X - f(0.123456)) ** 2, False),
        (1 / (X - f(5)), True),
        (1 / (1 + X**2), True),
        (sympy.log(X + f(1.5)), False),
        (sympy.log(X + f(2.5)), True),
        (sympy.sqrt(X), False),
        ((X + f(3)) ** f(1.5), True),
        (1 / (sympy.exp(X) - f(1.2)), False),
        (sympy.exp(f(900) * X), False),
        (X**3 - X, True),
        (f(2), True),
    ],
)
def test_poles_in_the_domain_are_found(expression, finite):
    assert ClosedForm.of(expression).finite(-2, 3) is finite


def test_softplus_and_its_slope_stay_finite():
    form = ClosedForm.of(f(2) * sympy.log(1 + sympy.exp(f(3) * X)))
    x = torch.tensor([-1e4, 0.0, 1e4], dtype=torch.float64, requires_grad=True)
    values = form.values(x)
    (slope,) = torch.autograd.grad(values.sum(), x)
    np.testing.assert_allclose(values.detach(), [0, 2 * np.log(2), 6e4])
    np.testing.assert_allclose(slope, [0, 3, 6])


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "open('executed', 'w')",
        "Symbol('x').__class__",
        "Float.__init__(1)",
        "(lambda: 1)()",
        "[Integer(1)]",
        "x",
        "Function('f')(Integer(1))",
        "sympify('1')",
        "exp(\"open('executed', 'w')\")",
        "Add(Integer(1), sin(\"open('executed', 'w')\"))",
        "Integer(\"open('executed', 'w')\")",
        "exp(*[Integer(1)])",
        "Symbol('x', **{'real': True})",
        "Symbol()",
        "Float('abc')",
        "Add(",
        "",
    ],
)
def test_no_code_is_read_as_an_expression(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    refusal = None
    try:
        parse(text)
    except Exception as error:
        refusal = error
    assert not (tmp_path / "executed").exists()
    assert type(refusal).__name__ == "BadInputError"
