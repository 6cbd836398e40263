"""How far sympy may work an expression out.

It does so to any size, whatever the numbers: ``exp(exp(exp(1000)))`` as long as there is memory, and the real part
of a sum to the power of 64 term by term. So numbers take the place of symbols, and templates from a file are put
together, by functions that stop before.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from math import prod

import sympy

from kanlib.errors import BadInputError, cause, shown
from kanlib.symbolic.grammar import check, check_arguments, check_length, seeks_real_parts

_LARGEST_BITS = 1024  # of a number, which is fp64's
_WIDEST_BITS = 2**16  # of a factor that stands apart, such as that of exp(c + x)
_MOST_TERMS = 1_000


def plain(expression: sympy.Expr) -> sympy.Expr:
    """The expression with numbers that are written as expressions, such as √2 or π, worked out.

    Raises:
        BadInputError: it is too long to be written.
    """
    found = [node for node in check_length(expression) if _written_out(node)]
    return expression.xreplace({node: node.evalf() for node in found})


def substituted(expression: sympy.Expr, given: Mapping[sympy.Expr, sympy.Expr]) -> sympy.Expr:
    """``expression.xreplace(given)``, unless the numbers that come of it grow beyond what fp64 holds.

    Raises:
        BadInputError: one does.
    """
    if expression in given:
        return given[expression]
    parts = [substituted(part, given) for part in expression.args]
    if all(new is old for new, old in zip(parts, expression.args, strict=True)):
        return expression
    return _made(expression, parts)


@lru_cache(maxsize=4096)
def worked_out(template: sympy.Expr) -> sympy.Expr:
    """The template as sympy makes it of its parts: itself, where sympy wrote it.

    Raises:
        BadInputError: what comes of it is not allowed.
    """

    def again(node: sympy.Expr) -> sympy.Expr:
        return _made(node, list(map(again, node.args))) if node.args else node

    return check_arguments(check(again(template)))


@contextmanager
def written_out() -> Iterator[None]:
    """Turn what sympy raises of expressions that it cannot write out into a sentence."""
    try:
        yield
    # Python compiles no more than 200 brackets inside each other.
    except (RecursionError, ArithmeticError, MemoryError, SyntaxError) as error:
        raise BadInputError(
            f"an expression cannot be written out ({cause(error)}), expected less depth and smaller numbers; take "
            "the symbolic KAN layer by layer."
        ) from error


def _written_out(node: sympy.Basic) -> bool:
    return node.is_number and (bool(node.args) or isinstance(node, sympy.NumberSymbol))


def _made(node: sympy.Expr, parts: list[sympy.Expr]) -> sympy.Expr:
    """A node of other parts, unless sympy makes too much of them."""
    if seeks_real_parts(node) and not parts[0].is_extended_real and _n_terms(parts[0]) > _MOST_TERMS:
        raise BadInputError(
            f"a closed form holds {shown(node.func)} of a sum to a high power that may be complex, expected one "
            "of real numbers; leave the form out."
        )
    made = node.func(*parts)
    factors = [*made.args, *(inner for part in made.args for inner in part.args)]
    if _bits(made) > _LARGEST_BITS or any(_bits(factor) > _WIDEST_BITS for factor in factors):
        raise BadInputError(
            f"a closed form with {shown(node, 40)} comes to a number beyond fp64, expected one within; leave the "
            "form out."
        )
    return made


@lru_cache(maxsize=4096)
def _n_terms(node: sympy.Basic) -> int:
    """About how many terms it has when it is multiplied out; capped."""
    inside = [_n_terms(part) for part in node.args]
    if isinstance(node, sympy.Rational):
        found = max(1, abs(node.p))  # e to that power
    elif isinstance(node, sympy.Mul):
        found = prod(inside)
    elif isinstance(node, sympy.Pow):
        found = inside[0] ** min(max(1, abs(int(node.exp))), _MOST_TERMS)
    else:
        found = sum(inside) or 1
    return min(found, 2 * _MOST_TERMS)


def _bits(node: sympy.Basic) -> int:
    """How many binary digits a number has before its point, or zeros after it; 0 of what is no number."""
    if isinstance(node, sympy.Rational):
        return max(int(node.p).bit_length(), int(node.q).bit_length())
    return abs(int(node.num.exp + node.num.bc)) if isinstance(node, sympy.Float) else 0
