"""What an expression may hold, and how one is read from text: by a list of what is allowed, never by evaluation.

sympy's own readers run text as Python, and its compilers paste the names of symbols into code. So text is read
here, piece by piece, and no expression is compiled or printed for a browser before :func:`check` has seen it.
"""

import ast
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cmp_to_key, lru_cache

import sympy

from kanlib.errors import BadInputError, cause, shown

#: What a form is a function of.
VARIABLE = sympy.Symbol("x", real=True)
#: Functions of one variable that an expression may hold, beside sums, products and powers.
FUNCTIONS = ("exp", "log", "sin", "cos", "tanh")
#: Names of symbols: the variable of a form, its constants, and what enters a layer.
NAME = re.compile(r"x|(?:c|h|sigma)_(?:0|[1-9][0-9]{0,4})")
#: Exponents in a text are numbers, of this size at most; where powers of powers are merged, of its square.
HIGHEST_POWER = 64
_LARGEST = 1.7976931348623157e308
_LARGEST_WHOLE = 2**63  # beyond, torch takes no integer
_MOST_DIGITS = 400  # of a number in a text: fp64 without an exponent
_MOST_TEXT = 20_000  # characters
_DEEPEST = 120  # a polynomial of degree 50 is 101 deep
_FUNCTION_DEPTH = 5
_MOST_WRITTEN = 10**6  # parts of an expression, each as often as it is written
_CALLS = ("Add", "Mul", "Pow", *FUNCTIONS)
_TOKEN = re.compile(
    r"Symbol\('(?P<symbol>x|c_(?:0|[1-9][0-9]{0,4}))', real=True\)"
    r"|Float\('(?P<float>-?[0-9]{1,40}(?:\.[0-9]{0,40})?(?:e[+-]?[0-9]{1,3})?)', precision=53\)"
    r"|Integer\((?P<integer>-?[0-9]{1,19})\)"
    r"|Rational\((?P<above>-?[0-9]{1,19}), (?P<below>[0-9]{1,19})\)"
    rf"|(?P<call>{'|'.join(_CALLS)})\("
    r"|(?P<mark>, |\))"
)
_INFIX: dict[type, Callable] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


def check(expression: sympy.Expr) -> sympy.Expr:
    """The expression, which holds nothing but what is allowed.

    That is symbols called as :data:`NAME` says, finite real numbers of fp64, sums, products, powers whose
    exponents are numbers, and :data:`FUNCTIONS`.

    Raises:
        BadInputError: it holds something else, which is named, or is too long to be written.
    """
    for node in check_length(expression):
        if not _allowed(node):
            raise BadInputError(
                f"a closed form holds {shown(node, 40)}, expected x, finite real constants, and sums, "
                "products, constant powers, exp, log, sin, cos and tanh of them; leave the form out."
            )
    return expression


def check_length(expression: sympy.Expr) -> list[sympy.Basic]:
    """The different parts of an expression, inner ones first.

    Where it shares parts, there may be too many ever to visit each as often as it is written.

    Raises:
        BadInputError: it is written with more than a million parts.
    """
    lengths: dict[sympy.Basic, int] = {}
    waiting: list[sympy.Basic] = [expression]
    while waiting:
        node = waiting[-1]
        if inside := [part for part in node.args if part not in lengths]:
            waiting += inside
            continue
        waiting.pop()
        lengths[node] = 1 + sum(lengths[part] for part in node.args)
    if lengths[expression] > _MOST_WRITTEN:
        raise BadInputError(
            f"an expression is written with more than {_MOST_WRITTEN:,} parts, expected at most so many; "
            "take the symbolic KAN layer by layer."
        )
    return list(lengths)


def check_arguments(template: sympy.Expr) -> sympy.Expr:
    """The template, whose functions and powers are of x, none of constants alone.

    There is no need of those, torch's functions take no numbers, and Python's powers of numbers may be complex.

    Raises:
        BadInputError: one is of constants alone.
    """
    for node in template.atoms(sympy.Pow, sympy.Function):
        if VARIABLE not in node.free_symbols:
            raise BadInputError(
                f"a closed form holds {shown(node, 40)}, expected functions and powers of x; leave the form out."
            )
    return template


def seeks_real_parts(node: sympy.Basic) -> bool:
    """Whether sympy multiplies out what this function is of, to find the real part, unless it is known as real."""
    return isinstance(node, sympy.tanh) or (isinstance(node, sympy.Pow) and not node.exp.is_Integer)


@lru_cache(maxsize=4096)
def parse(text: str) -> sympy.Expr:
    """The template of a form in x and c_0, c_1 …, as ``sympy.srepr`` writes it.

    Raises:
        BadInputError: the text holds anything but what :func:`check` allows, is longer or nested more deeply than
            a form can be, or holds numbers beyond the range of fp64.
    """
    return _read(text, _constructed)


def infix(text: str, variable: str) -> sympy.Expr:
    """The expression in x of a text such as ``0.5 * sin(X1) ^ 2``, where the variable has that name.

    Raises:
        BadInputError: as :func:`parse`.
    """
    named = {variable: VARIABLE}

    def calculated(text: str) -> sympy.Expr:
        return _calculated(ast.parse(text, mode="eval").body, text, named)

    return _read(text.replace("^", "**").strip(), calculated)


def _allowed(node: sympy.Basic) -> bool:
    """Whether a node may stand in an expression, all that it holds being allowed."""
    if isinstance(node, sympy.Symbol):
        return NAME.fullmatch(node.name) is not None
    if isinstance(node, sympy.Rational):
        return abs(node.p) < _LARGEST_WHOLE and node.q < _LARGEST_WHOLE
    if _is_number(node):
        return bool(node.is_finite and node.is_real and abs(node) <= _LARGEST)
    if all(map(_is_number, node.args)):
        # A compiler would hand it to a function of tensors.
        return False
    if isinstance(node, sympy.Pow):
        return _is_number(node.exp) and bool(abs(node.exp) <= HIGHEST_POWER**2)
    return type(node).__name__ in _CALLS and type(node) is getattr(sympy, type(node).__name__)


def _is_number(node: sympy.Basic) -> bool:
    return isinstance(node, sympy.Number | sympy.NumberSymbol)


def _read(text: str, build: Callable[[str], sympy.Expr]) -> sympy.Expr:
    try:
        if len(text) > _MOST_TEXT:
            raise ValueError(f"it is longer than {_MOST_TEXT} characters")
        return build(text)
    # Deep nesting exhausts Python's own parser in ways of its own.
    except (SyntaxError, TypeError, ValueError, ArithmeticError, RecursionError, MemoryError) as error:
        raise BadInputError(
            f"a stored expression begins {text[:40]!r}, expected sympy constructors of what a closed form holds "
            f"({cause(error)}); run 03_symbolic again."
        ) from error


def _constructed(text: str) -> sympy.Expr:
    """The expression of a text of constructors. Nothing is worked out: what sympy wrote has been."""
    tokens = _tokens(text)
    expression = check_arguments(check(_operand(tokens, 0)))
    if (left := next(tokens, None)) is not None:
        raise ValueError(f"{left[0]} comes after its end")
    return expression


def _tokens(text: str) -> Iterator[re.Match]:
    at = 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            raise ValueError(f"{shown(text[at : at + 20])} is no part of one")
        yield token
        at = token.end()


def _operand(tokens: Iterator[re.Match], depth: int) -> sympy.Expr:
    token = next(tokens, None)
    if token is None:
        raise ValueError("it ends too early")
    match token.lastgroup:
        case "symbol":
            return sympy.Symbol(token["symbol"], real=True)
        case "float":
            return sympy.Float(token["float"], precision=53)
        case "integer":
            return sympy.Integer(int(token["integer"]))
        case "below":
            return sympy.Rational(int(token["above"]), int(token["below"]))
        case "call":
            return _applied(token["call"], tokens, depth)
    raise ValueError(f"{token[0]!r} stands where a part should")


def _applied(name: str, tokens: Iterator[re.Match], depth: int) -> sympy.Expr:
    n_ary = name in ("Add", "Mul")
    # sympy reasons about functions of functions at length.
    depth += 1 if n_ary else _FUNCTION_DEPTH
    if depth > _DEEPEST:
        raise ValueError("it is nested too deeply")
    parts = [_operand(tokens, depth)]
    while (mark := next(tokens, None)) is not None and mark[0] == ", ":
        parts.append(_operand(tokens, depth))
    if mark is None or mark[0] != ")":
        raise ValueError("a bracket does not close")
    if not (len(parts) > 1 if n_ary else len(parts) == 1 + (name == "Pow")):
        raise ValueError(f"{name} has {len(parts)} parts")
    if name == "Pow":
        _check_power(parts[1])
    made = getattr(sympy, name)(*(_in_order(name, parts) if n_ary else parts), evaluate=False)
    if seeks_real_parts(made) and not parts[0].is_extended_real:
        raise ValueError(f"{name} is of {shown(parts[0], 40)}, which may be complex")
    return made


def _in_order(name: str, parts: list[sympy.Expr]) -> list[sympy.Expr]:
    """As sympy holds the parts of a sum or a product, and does not write them: in its own order, numbers first.

    The minus of a number before a product is written as a factor of its own.
    """
    numbers = [part for part in parts if _is_number(part)]
    others = sorted((part for part in parts if not _is_number(part)), key=cmp_to_key(sympy.Basic.compare))
    return [sympy.Mul(*numbers), *others] if name == "Mul" and numbers else [*numbers, *others]


def _check_power(exponent: sympy.Expr) -> None:
    if not (_is_number(exponent) and abs(exponent) <= HIGHEST_POWER):
        raise ValueError(f"an exponent is {shown(exponent, 40)}")


def _calculated(node: ast.expr, text: str, named: Mapping[str, sympy.Symbol]) -> sympy.Expr:
    match node:
        case ast.Name(id=name) if name in named:
            return named[name]
        case ast.Constant(value=int() | float() as number) if type(number) is not bool:
            # As it is written: the number that Python makes of it has lost digits.
            digits = ast.get_source_segment(text, node) or ""
            if len(digits) > _MOST_DIGITS:
                raise ValueError(f"the number {digits[:40]} is too long")
            return check(sympy.Integer(number) if isinstance(number, int) else sympy.Float(digits))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_calculated(operand, text, named)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _INFIX:
            parts = [_calculated(part, text, named) for part in (left, right)]
            if isinstance(op, ast.Pow):
                _check_power(parts[1])
            return check(_INFIX[type(op)](*parts))
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in FUNCTIONS:
            return check(getattr(sympy, name)(_calculated(argument, text, named)))
    raise TypeError(f"{shown(ast.unparse(node), 40)} is no part of one")
