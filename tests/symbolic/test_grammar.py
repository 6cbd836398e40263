import pytest
import sympy
from sympy.parsing.sympy_parser import convert_xor, parse_expr, standard_transformations

from kanlib.attribution.coefficients import of_expression
from kanlib.errors import BadInputError
from kanlib.store import Artifact
from kanlib.symbolic import Batch, SymbolicKAN
from kanlib.symbolic.closed_forms import ClosedForm, X, compiled, constants
from kanlib.symbolic.grammar import check, infix, parse
from kanlib.symbolic.jets import lifted
from kanlib.symbolic.library import FUNCTIONS
from tests.helpers import randn, symbolic_kan

C = constants(3)
COMMAND = '__import__("pathlib").Path("executed").touch()'


def symbol(name):
    return f"Symbol({name!r}, real=True)"


def horner(coefficients):
    """The polynomial as the library writes it, which is the deepest that it does."""
    out = sympy.Integer(0)
    for c in coefficients:
        out = X * (out + c)
    return out


FORMS = [
    X,
    sympy.Integer(0),
    C[0] * X**2 + C[1] * X - C[2] * X**13,
    C[0] * sympy.exp(-C[1] * (X - C[2]) ** 2),
    C[0] * sympy.tanh(C[1] * X + C[2]),
    sympy.log(1 + sympy.exp(C[0] * X)) * C[1],
    C[0] * sympy.sin(C[1] * X) + sympy.cos(X) / (1 + X**2),
    C[0] * sympy.sqrt(X**2 + C[1]),
    sum((sympy.Symbol(f"c_{k}", real=True) * X**k for k in range(1, 51)), sympy.Integer(0)),
    sympy.Float("0.1") * X + sympy.Rational(-1, 3),
    -2 * X - 3 * C[0] * X**2 + sympy.Rational(-5, 7) * X**3,
    sympy.Float(-1e-300) * X * sympy.sin(X) + sympy.Float(1e300),
    sympy.log(X + C[0]) / sympy.sqrt(C[1] * X + 7) - X ** sympy.Float(1.5),
    sympy.tanh(sympy.tanh(sympy.sin(sympy.exp(C[0] * X)) ** 2 + 1)),
    horner(constants(50)),
    *(function.template for function in FUNCTIONS.values()),
]


def parts(expression):
    return [expression, *(inner for part in expression.args for inner in parts(part))]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_what_a_form_may_hold_is_read_back(form):
    assert check(form) is form
    # Equal to the order of its parts, by which sums are rounded.
    assert parts(parse(sympy.srepr(form))) == parts(form)


HOSTILE = [
    symbol(COMMAND),
    symbol("alert(1)"),
    symbol("lambda"),
    symbol("x y"),
    symbol("sigma_1"),
    symbol("c_" + "9" * 50),
    symbol(""),
    "Symbol('x')",
    "Symbol('x', commutative=False)",
    "Symbol('x', real=True, positive=True)",
    "Symbol('x', real=1)",
    "Symbol(x, real=True)",
    f"exp({symbol(COMMAND)})",
    f"Add({symbol('x')}, {symbol('c_0);import os#')})",
    COMMAND,
    "x",
    "__import__('os').system('touch executed')",
    "Lambda(x, x)",
    "Function('f')(x)",
    "sympify('__import__(\"os\")')",
    "eval('1')",
    "(lambda: 0)()",
    "[x for x in (1,)]",
    "Add(*[1] * 10 ** 9)",
    "Pow(Integer(9), Pow(Integer(9), Integer(9)))",
    "Pow(Pow(Pow(Integer(9), Integer(64)), Integer(64)), Integer(64))",
    f"Pow({symbol('x')}, Integer(65))",
    f"Pow({symbol('x')}, {symbol('x')})",
    f"Pow({symbol('x')}, {symbol('c_0')})",
    "Pow(Integer(0), Integer(-1))",
    "Pow(Integer(-1), Rational(1, 2))",
    f"Integer({'9' * 4000})",
    f"Integer({'9' * 5000})",
    f"Integer({2**63})",
    "Integer(True)",
    "Integer(1.5)",
    "Integer('1')",
    "Integer(--1)",
    "Rational(1, 0)",
    "Rational(1, 2, 3)",
    "Rational('1/2')",
    "Float('nan')",
    "Float('inf')",
    "Float('0x1', precision=53)",
    "Float('1e999999999', precision=53)",
    "Float('1e309', precision=53)",
    "Float('1', precision=1000000000)",
    "Float('1', dps=1000000)",
    f"Float('{'1' * 5000}', precision=53)",
    "exp(exp(exp(Float('1000.0', precision=53))))",
    "exp(Integer(100000))",
    "log(Integer(0))",
    "log(Integer(-1))",
    "exp()",
    "exp(Integer(1), Integer(2))",
    "Pow(Integer(1))",
    "besselj(Integer(0), Integer(1))",
    "gamma(Integer(5))",
    "factorial(Integer(1000000))",
    symbol("c_1\N{ARABIC-INDIC DIGIT TWO}"),
    symbol("c_\N{FULLWIDTH DIGIT ONE}"),
    "Float('\N{ARABIC-INDIC DIGIT TWO}', precision=53)",
    "Float('1_0', precision=53)",
    "Float('1e-99999', precision=53)",
    "Integer(-True)",
    "Integer(0x10)",
    "Integer(1_0)",
    f"Mul(Integer({2**62}), Integer({2**62}), {symbol('x')})",
    "sin(exp(exp(Float('1e3', precision=53))))",
    f"exp({symbol('c_0')})",
    f"Pow({symbol('c_0')}, Rational(1, 2))",
    f"Mul({symbol('x')}, log(Add({symbol('c_0')}, Integer(1))))",
    f"tanh(Pow(Add(log({symbol('x')}), {symbol('c_0')}, {symbol('x')}), Integer(-64)))",
    f"tanh(exp(Add(Pow({symbol('x')}, Integer(-1)), Integer({2**62}))))",
    f"Pow(Pow(Add(log({symbol('x')}), Integer(1)), Integer(64)), Rational(1, 2))",
    f"Abs({symbol('x')})",
    f"Mul({symbol('x')})",
    f"Add({symbol('x')},{symbol('x')})",
    f"Add({symbol('x')}, {symbol('x')}",
    f"Add(({symbol('x')}), {symbol('x')})",
    f"{symbol('x')}, {symbol('x')}",
    f"{symbol('x')} + {symbol('x')}",
    f"{symbol('x')} # {symbol('x')}",
    f"Add({symbol('x')}, *[{symbol('x')}])",
    f"Add({symbol('x')}, {symbol('x')}, evaluate=False)",
    f"Add(, {symbol('x')})",
    f"exp({symbol('x')}))",
    "exp(" * 25 + symbol("x") + ")" * 25,
    f"Add({symbol('x')}, " * 121 + symbol("x") + ")" * 121,
    "~" * 19_000 + "1",
    "not " * 4_000 + "1",
    "1if 1else " * 1_900 + "1",
    "x" + "[0]" * 6_000,
    "[" * 19_000,
    "(" * 50_000,
    "-" * 40_000 + "1",
    "Add(" + ", ".join([symbol("x")] * 2_000) + ")",
    "Add(" + "Integer(1), " * 10_000 + "Integer(1))",
    "x" * 60_000,
    "",
    "Integer(1",
    "Integer(1)\0",
    "Integer(1); Integer(2)",
    "é",
    "\ud800",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_what_a_form_may_not_hold_is_refused_and_not_run(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError, match=r"^a (stored expression begins|closed form holds) .*") as refused:
        parse(text)
    assert len(str(refused.value)) < 500
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "use",
    [
        lambda template: compiled(template, 1),
        lambda template: lifted(template, 1),
        lambda template: ClosedForm(template, (1.0,)).values(randn(3)),
        lambda template: ClosedForm(template, (1.0,)).finite(-1, 1),
        lambda template: SymbolicKAN([[[ClosedForm(template, (1.0,))]]], [[0.0]])(randn(3, 1)),
        lambda template: Batch([SymbolicKAN([[[ClosedForm(template, (1.0,))]]], [[0.0]])])(randn(3, 1)),
        ClosedForm.of,
        lambda template: of_expression(template, [X], 1),
    ],
)
def test_a_name_that_is_code_is_refused_wherever_an_expression_is_used(tmp_path, monkeypatch, use):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError, match="a closed form holds"):
        use(sympy.Symbol(COMMAND, real=True) * X)
    assert not list(tmp_path.iterdir())


def test_numbers_that_are_written_out_are_worked_out():
    form = ClosedForm.of(sympy.sqrt(2) * X + sympy.exp(1) * sympy.pi * X**2)
    assert form.values(randn(3)) == pytest.approx(2**0.5 * randn(3) + 8.5397342226735656 * randn(3) ** 2)
    s = sympy.Symbol("s")
    assert of_expression(sympy.sqrt(2) * s, [s], 1)[1].tolist() == pytest.approx([2**0.5])


def test_the_symbols_of_a_caller_are_never_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = sympy.Symbol(COMMAND)
    assert of_expression(name**2 + 3 * name, [name], 1)[1].tolist() == [3.0]
    assert not list(tmp_path.iterdir())


TEXTS = [
    "0.5 * X1",
    "((-1.2345678901234567) + (0.12345678901234567 * sin((2.5 * X1))))",
    "exp((-0.5)) * tanh(X1 - 3) - X1",
    "X1 ^ 2 + 1e-05 * X1 ** 3",
    "-(X1 / 3)",
    "2 * 0.1 * 0.3 * X1",
    f"({2**90}.00000000000000000 * X1) - (-{10**38}.00000000000000000)",
    "0.00000000000000000 * exp(X1) + X1",
]


@pytest.mark.parametrize("text", TEXTS)
def test_infix_is_read_as_sympy_reads_it(text):
    transformations = (*standard_transformations, convert_xor)
    expected = parse_expr(text, local_dict={"X1": X}, transformations=transformations)
    assert infix(text, "X1") == expected
    assert sympy.srepr(infix(text, "X1")) == sympy.srepr(expected)


NO_INFIX = [
    "X2",
    COMMAND,
    "X1.is_real",
    "9**9**9",
    "X1 ** X1",
    "abs(X1)",
    "X1 if X1 else 1",
    "1 < X1",
    "(1,)",
    "1j",
    "nan * X1",
    "-inf",
    "1e309 * X1",
    f"{'9' * 401}.0",
    "exp(exp(exp(1000.0)))",
    "exp(1e6 - X1)",
    "(" * 300,
    "-" * 19_000 + "X1",
    "X1" + " + X1" * 3_000,
    "True * X1",
    "exp(X1, X1)",
    "exp(x=X1)",
    "",
]


@pytest.mark.parametrize("text", NO_INFIX, ids=range(len(NO_INFIX)))
def test_infix_that_is_no_form_is_refused(text):
    with pytest.raises(BadInputError, match="a stored expression begins"):
        infix(text, "X1")


def stored():
    one = symbolic_kan([[[X, 0.5 * X**2], [sympy.exp(X), X]], [[X], [sympy.sin(X)]]], 0.5)
    return one.to_json()


def changed(path, new):
    value = stored()
    at = value
    for key in path[:-1]:
        at = at[key]
    if new is KeyError:
        del at[path[-1]]
    else:
        at[path[-1]] = new
    return value


FORM = ("edges", 0, 0, 1)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (None, "a stored symbolic KAN is None"),
        ([], "a stored symbolic KAN is"),
        (changed(["edges"], KeyError), "a stored symbolic KAN is"),
        (changed(["edges"], []), "a stored symbolic KAN is"),
        (changed(["edges"], "x"), "a stored symbolic KAN is"),
        (changed(["edges", 0], {}), "a stored symbolic KAN is"),
        (changed(["edges", 0, 0], []), "a stored symbolic KAN is"),
        (changed(["edges", 0, 0], stored()["edges"][0][0][:1]), "a stored symbolic KAN is"),
        (changed(["edges", 1], stored()["edges"][1][:1]), "a stored symbolic KAN is"),
        (changed(["edges", 1], stored()["edges"][0]), "a stored symbolic KAN is"),
        (changed(["edges"], stored()["edges"] * 6), "a stored symbolic KAN is"),
        (changed(["biases"], [[0.0, 0.0]]), "a stored symbolic KAN is"),
        (changed(["biases", 0], [0.0]), "a stored symbolic KAN is"),
        (changed(["biases", 0, 0], "0"), "a stored form holds '0', expected a finite number"),
        (changed(["biases", 0, 0], True), "a stored form holds True, expected a finite number"),
        (changed(["biases", 0, 0], 10**400), "a stored form holds 10+…, expected a finite number"),
        (changed(FORM, 3), "a stored form is 3"),
        (changed([*FORM, "template"], KeyError), "a stored form is"),
        (changed([*FORM, "template"], 3), "a stored form is"),
        (changed([*FORM, "template"], symbol(COMMAND)), "a stored expression begins"),
        (changed([*FORM, "constants"], []), "a stored form has 0 constants and names c_0"),
        (changed([*FORM, "constants"], [0.5] * 1001), "a stored form is"),
        (changed([*FORM, "constants"], ["1"]), "a stored form holds '1'"),
        (changed([*FORM, "constants"], [float("nan")]), "a stored form holds nan"),
        (changed([*FORM, "offset"], None), "a stored form holds None"),
        (changed([*FORM, "r2"], "1"), "a stored form holds '1'"),
        (changed([*FORM, "misfit"], float("inf")), "a stored form holds inf"),
    ],
)
def test_a_stored_symbolic_kan_that_is_none_is_refused(value, sentence):
    with pytest.raises(BadInputError, match=sentence) as refused:
        SymbolicKAN.from_json(value)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({}, "short is None"),
        ([], "short is None"),
        ({"short": []}, r"short is \[\]"),
        ({"short": {"a": 1}}, "short is "),
        ({"short": [stored(), symbolic_kan([[[X]]], 0.0).to_json()]}, "symbolic KANs of short differ in shape"),
    ],
)
def test_an_artifact_without_symbolic_kans_is_refused(content, sentence):
    with pytest.raises(BadInputError, match=f"is not what kanlib writes: .*{sentence}"):
        SymbolicKAN.read(Artifact(content, {}, ""), "short")


@pytest.mark.parametrize(
    ("masks", "sentence"),
    [
        (randn(4, 3), r"masks are \(4, 3\), expected \(N, 2\) or \(1, N, 2\)"),
        (randn(2), r"masks are \(2,\), expected"),
        (randn(1)[0], r"masks are \(\), expected"),
        (randn(3, 4, 2), r"masks are \(3, 4, 2\), expected"),
        (randn(1, 1, 4, 2), r"masks are \(1, 1, 4, 2\), expected"),
        (randn(4, 2).long(), "masks are torch.int64, expected a floating-point tensor"),
        (randn(4, 2) > 0, "masks are torch.bool, expected"),
        (randn(4, 2).cfloat(), "masks are torch.complex64, expected"),
        (randn(4, 2).numpy(), "masks are ndarray, expected"),
        (None, "masks are NoneType, expected"),
    ],
    ids=range(10),
)
def test_what_is_no_masks_is_refused(masks, sentence):
    one = SymbolicKAN.from_json(stored())
    for ask in (one, one.activations, Batch([one]), Batch([one]).activations):
        with pytest.raises(BadInputError, match=sentence):
            ask(masks)


def test_a_batch_that_memory_cannot_hold_is_refused(monkeypatch):
    monkeypatch.setattr("kanlib.memory.memory", lambda: 10)
    with pytest.raises(BadInputError, match=r"the constants of 1 symbolic KANs take .*; run 03_symbolic again"):
        Batch([SymbolicKAN.from_json(stored())])
