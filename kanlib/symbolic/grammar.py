"""What an expression may hold, and how one is read from text: by a list of what is allowed, never by evaluation.

sympy's own readers run text as Python, its compilers paste the names of symbols into code, and its constructors
work out whatever numbers they are given. So text is read here, piece by piece, and no expression is compiled or
printed for a browser before :func:`check` has seen it.
"""

import ast
import operator
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import accumulate

import sympy

from kanlib.errors import BadInputError, cause, shown

#: Functions of one variable that an expression may hold, beside sums, products and powers.
FUNCTIONS = ("exp", "log", "sin", "cos", "tanh")
#: Names of symbols: the variable of a form, its constants, and what enters a layer.
NAME = re.compile(r"x|(?:c|h|sigma)_(?:0|[1-9]\d{0,4})")
#: Exponents are numbers, of this size at most.
HIGHEST_POWER = 64
_LARGEST = 1e300
_MOST_DIGITS = 40  # of a number in a text
_MOST_TEXT = 50_000
_MOST_NODES = 1_000
_DEEPEST = 40
_ARITY = {"Add": range(2, _MOST_NODES), "Mul": range(2, _MOST_NODES), "Pow": range(2, 3)} | dict.fromkeys(
    FUNCTIONS, range(1, 2)
)
_FLOAT = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d{1,3})?")
_INFIX: dict[type, Callable] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


def check(expression: sympy.Expr) -> sympy.Expr:
    """The expression, which holds nothing but what is allowed.

    That is symbols called as :data:`NAME` says, finite real numbers, sums, products, powers whose exponents are
    numbers of at most :data:`HIGHEST_POWER`, and :data:`FUNCTIONS`.

    Raises:
        BadInputError: it holds something else, which is named.
    """
    for node in sympy.postorder_traversal(expression):
        if not _allowed(node):
            raise BadInputError(
                f"a closed form holds {str(node)[:40]}, expected x, finite real constants, and sums, "
                "products, constant powers, exp, log, sin, cos and tanh of them; leave the form out."
            )
    return expression


def plain(expression: sympy.Expr) -> sympy.Expr:
    """The expression with numbers that are written as expressions, such as √2 or π, worked out."""
    found = [node for node in sympy.preorder_traversal(expression) if _written_out(node)]
    return expression.xreplace({node: node.evalf() for node in found})


def _written_out(node: sympy.Basic) -> bool:
    return node.is_number and (bool(node.args) or isinstance(node, sympy.NumberSymbol))


def _allowed(node: sympy.Basic) -> bool:
    if node.is_number and node.args:
        # A compiler would hand it to a function of tensors.
        return False
    if isinstance(node, sympy.Symbol):
        return NAME.fullmatch(node.name) is not None
    if isinstance(node, sympy.Rational):
        return abs(node.p) < _LARGEST and node.q < _LARGEST
    if node.is_number:
        return bool(node.is_finite and node.is_real and abs(node) < _LARGEST)
    if isinstance(node, sympy.Pow):
        return bool(node.exp.is_number and node.exp.is_real and abs(node.exp) <= HIGHEST_POWER)
    return type(node).__name__ in _ARITY and type(node) is getattr(sympy, type(node).__name__)


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
    named = {variable: sympy.Symbol("x", real=True)}
    return _read(text.replace("^", "**"), lambda node, text: _calculated(node, text, named))


def _read(text: str, build: Callable[[ast.expr, str], sympy.Expr]) -> sympy.Expr:
    try:
        depth = max(accumulate((char == "(") - (char == ")") for char in text), default=0)
        if len(text) > _MOST_TEXT or depth > _DEEPEST or "--" in text:
            raise ValueError("it is too long, or nested too deeply")
        return build(ast.parse(text.strip(), mode="eval").body, text.strip())
    # Deep nesting exhausts Python's own parser in ways of its own.
    except (SyntaxError, TypeError, ValueError, ArithmeticError, RecursionError, MemoryError) as error:
        raise BadInputError(
            f"a stored expression begins {text[:40]!r}, expected sympy constructors of what a closed form holds "
            f"({cause(error)}); run 03_symbolic again."
        ) from error


def _constructed(node: ast.expr, text: str) -> sympy.Expr:
    """The expression of a tree of constructors, bottom up; what sympy makes of each is checked."""
    left = [_MOST_NODES]

    def build(node: ast.AST) -> sympy.Expr:
        left[0] -= 1
        if left[0] < 0:
            raise ValueError(f"it has more than {_MOST_NODES} parts")
        match node:
            case ast.Call(
                func=ast.Name(id="Symbol"),
                args=[ast.Constant(value=str(name))],
                keywords=[ast.keyword(arg="real", value=ast.Constant(value=True))],
            ) if NAME.fullmatch(name) and name[0] in "xc":
                return sympy.Symbol(name, real=True)
            case ast.Call(
                func=ast.Name(id="Float"),
                args=[ast.Constant(value=str(digits))],
                keywords=[ast.keyword(arg="precision", value=ast.Constant(value=53))],
            ) if len(digits) <= _MOST_DIGITS and _FLOAT.fullmatch(digits):
                return check(sympy.Float(digits, precision=53))
            case ast.Call(func=ast.Name(id="Integer"), args=[number], keywords=[]):
                return sympy.Integer(_whole(number))
            case ast.Call(func=ast.Name(id="Rational"), args=[above, below], keywords=[]):
                return check(sympy.Rational(_whole(above), _whole(below)))
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if len(args) in _ARITY.get(name, ()):
                parts = [build(arg) for arg in args]
                if name == "Pow" and not (parts[1].is_Number and abs(parts[1]) <= HIGHEST_POWER):
                    raise ValueError(f"an exponent is {str(parts[1])[:40]}")
                return check(getattr(sympy, name)(*parts))
        raise TypeError(f"{shown(ast.unparse(node), 40)} is no part of one")

    return build(node)


def _whole(node: ast.expr) -> int:
    match node:
        case ast.Constant(value=int(number)) if type(number) is int and abs(number) < 2**63:
            return number
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(number))) if abs(number) < 2**63:
            return -number
    raise TypeError(f"{shown(ast.unparse(node), 40)} is no whole number of 64 bits")


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
            if isinstance(op, ast.Pow) and not (parts[1].is_number and abs(parts[1]) <= HIGHEST_POWER):
                raise ValueError(f"an exponent is {str(parts[1])[:40]}")
            return check(_INFIX[type(op)](*parts))
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in FUNCTIONS:
            return check(getattr(sympy, name)(_calculated(argument, text, named)))
    raise TypeError(f"{shown(ast.unparse(node), 40)} is no part of one")
