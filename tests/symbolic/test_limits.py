"""What a stored symbolic KAN may say, and sympy would not come back from, or that ends in an error of its own."""

import pytest
import sympy

from kanlib.attribution.coefficients import of_expression, of_symbolic
from kanlib.errors import BadInputError
from kanlib.symbolic import Batch, SymbolicKAN, edge_table, latex_lines, latex_whole, vega
from kanlib.symbolic.closed_forms import ClosedForm, X, constants
from kanlib.symbolic.grammar import parse
from kanlib.symbolic.limits import plain, substituted, worked_out
from tests.helpers import randn

C = constants(3)
x, c = (sympy.srepr(symbol) for symbol in (X, C[0]))


def form(template, *given):
    return {"template": template, "constants": list(given), "offset": 0.0, "r2": None, "misfit": None}


def chain(*forms, bias=0.0):
    """A symbolic KAN with an edge a layer, and ``bias`` at the first node."""
    biases = [[bias], *[[0.0]] * (len(forms) - 1)]
    return SymbolicKAN.from_json({"edges": [[[f]] for f in forms], "biases": biases})


def test_substituted_is_xreplace_where_numbers_are_those_of_fp64():
    expression = C[0] * sympy.exp(C[1] * X + C[2]) / (1 + X**2) - sympy.log(1 + sympy.exp(C[2] * X))
    for values in ((0.5, -1.5, 0.25), (0.0, 0.0, 0.0), (1e300, -700.0, 800.0)):
        given = {symbol: sympy.Float(value) for symbol, value in zip(C, values, strict=True)}
        assert sympy.srepr(substituted(expression, given)) == sympy.srepr(expression.xreplace(given))


TOWER = sympy.exp(sympy.exp(sympy.exp(C[0] * X + C[1])))


@pytest.mark.parametrize(
    ("expression", "values"),
    [
        (TOWER, (0.0, 1000.0)),
        (sympy.sin(TOWER), (0.0, 10.0)),
        (sympy.exp(C[0] * X + C[1]), (1.0, 1e6)),
        (sympy.exp(C[0] * X + C[1]), (1.0, -1e308)),
        ((X * C[0] + C[1]) ** 64, (0.0, 1e308)),
        (sympy.exp(X + sympy.exp(C[0] * X + C[1])), (0.0, 700.0)),
    ],
    ids=str,
)
def test_numbers_beyond_fp64_are_not_worked_out(expression, values):
    with pytest.raises(BadInputError, match="comes to a number beyond fp64, expected one within"):
        substituted(expression, dict(zip(C, map(sympy.Float, values), strict=False)))


def test_what_sympy_wrote_is_worked_out_to_itself():
    for template in (TOWER, X * (C[0] * X + C[1]), C[0] * sympy.sqrt(X**2 + 1), -2 * X / (1 + sympy.exp(X))):
        assert sympy.srepr(worked_out(template)) == sympy.srepr(template)


@pytest.mark.parametrize(
    "text",
    [
        f"exp(Add({c}, Mul(Integer(0), {x})))",
        f"Pow(Mul({x}, {x}), Rational(1, 2))",
        f"exp(Add({x}, Float('1e308', precision=53)))",
        f"Pow(Mul(Integer({2**62}), {x}), Integer(64))",
        f"Pow(Mul(Integer(-8), {x}, {x}), Rational(1, 3))",
        f"Mul({x}, Pow(Mul({x}, {x}, Integer(0)), Integer(-1)))",
    ],
)
def test_what_comes_of_a_template_is_checked(text):
    template = parse(text)
    for use in (
        lambda: ClosedForm(template, (1.0,)).values(randn(3)),
        lambda: ClosedForm(template, (1.0,)).expression,
        lambda: ClosedForm(template, (1.0,)).length,
        lambda: of_symbolic(chain(form(text, 1.0)), 1),
    ):
        with pytest.raises(BadInputError, match="a closed form "):
            use()


def test_numbers_are_worked_out_and_texts_are_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert plain(sympy.sqrt(2) + sympy.pi * X) == sympy.sqrt(2).evalf() + sympy.pi.evalf() * X
    for text in ('open("executed", "w")', ['open("executed", "w")'], None):
        with pytest.raises(BadInputError, match="expected an expression of sympy"):
            ClosedForm.of(text)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("symbolic", "true"),
    [
        (chain(form("Integer(1)")), 1.0),
        (chain(form("Float('1.5', precision=53)")), 1.5),
        (chain(form(c, 0.5)), 0.5),
        (chain(form(f"Mul({c}, Integer(3))", 0.5)), 1.5),
        (chain(form("Integer(0)"), form(f"Pow({x}, Integer(2))"), bias=3.0), 9.0),
    ],
    ids=range(5),
)
def test_an_edge_may_be_a_constant(symbolic, true):
    assert symbolic(randn(4, 1)).tolist() == [true] * 4
    assert float(symbolic.expression) == true
    assert of_symbolic(symbolic, 1)[1].tolist() == [0.0]


@pytest.mark.parametrize(
    "symbolic",
    [
        chain(form("Integer(0)"), form(f"Pow({x}, Integer(-1))")),
        chain(form("Integer(0)"), form(f"Pow({x}, Rational(1, 3))"), bias=-1.0),
        chain(form("Integer(0)"), form(f"log({x})"), bias=-1.0),
        chain(form("Integer(0)"), form(f"Pow({x}, Integer(2))"), bias=1e200),
        chain(form(f"Mul({c}, {x})", 1e300), form(f"Mul({c}, Add({x}, Integer(1)))", 1e300), bias=1e300),
        chain(form(f"Add({x}, log(Add({x}, Integer(-1))))")),
    ],
    ids=range(6),
)
def test_what_has_no_value_at_rest_has_no_coefficients(symbolic):
    with pytest.raises(BadInputError, match=r"the closed form is (nan|inf|-inf) at 0, expected a finite number"):
        of_symbolic(symbolic, 1)


def everything(symbolic, masks):
    """How often what notebooks and the book make of a symbolic KAN ends in a sentence."""
    batch = Batch([symbolic])
    sentences = []
    for use in (
        lambda: symbolic(masks),
        lambda: batch.slopes(masks, batch.start),
        lambda: of_symbolic(symbolic, 1),
        lambda: of_expression(symbolic.expression, symbolic.symbols, 1),
        lambda: [vega(output) for layer in symbolic.hidden for output in layer],
        lambda: [latex_lines(symbolic, layer, masks=masks) for layer in range(len(symbolic.forms))],
        lambda: latex_whole(symbolic),
        lambda: edge_table([symbolic]),
        lambda: symbolic.length,
    ):
        try:
            use()
        except BadInputError as error:
            sentences.append(str(error))
    assert all(len(sentence) < 500 for sentence in sentences)
    return len(sentences)


SOFTPLUS = f"log(Add(Integer(1), exp({x})))"


@pytest.mark.parametrize(
    ("forms", "bias"),
    [
        ([form("Integer(0)"), form(f"exp(exp(exp({x})))")], 1000.0),
        ([form("Integer(0)"), form(f"sin(exp(exp({x})))")], 100.0),
        ([form(f"log({x})"), form(f"Pow(Add({x}, Integer(1)), Integer(64))"), form(f"tanh({x})")], 0.0),
        ([form(f"Pow({x}, Integer(-1))"), form(f"exp({x})"), form(f"tanh({x})")], 1e300),
        ([form(f"exp(Mul({c}, {x}))", 1e307)] * 9, 1e307),
        ([form("sin(" * 24 + x + ")" * 24)] * 10, 0.0),
        ([form(f"Mul({x}, Add({c}, " * 50 + x + "))" * 50, 0.5)] * 10, 0.0),
        ([form(f"Add(sin({x}), cos({x}), exp({x}), tanh({x}))")] * 10, 0.0),
    ],
    ids=range(8),
)
def test_a_hostile_symbolic_kan_ends_in_sentences(forms, bias):
    assert everything(chain(*forms, bias=bias), randn(4, 1)) > 0


def test_a_sound_symbolic_kan_ends_in_none():
    bell = f"exp(Mul({c}, Pow({x}, Integer(2))))"
    assert everything(chain(form(bell, -0.5), form(SOFTPLUS), form(f"tanh({x})")), randn(4, 1)) == 0
    inner = f"Pow(tanh(Add({SOFTPLUS}, tanh({x}))), Integer(64))"
    assert everything(chain(form(f"log(tanh(exp({inner})))")), randn(4, 1)) == 0


def test_jets_have_absolute_values():
    symbol = sympy.Symbol("sigma_1", real=True)
    one = sympy.log(symbol + sympy.Float(0.5))
    assert of_expression(sympy.sqrt(one**2) + one, [symbol], 1)[1].tolist() == [0.0]
    assert of_expression(sympy.sqrt(one**2) - one, [symbol], 1)[1].tolist() == [-4.0]
