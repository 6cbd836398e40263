"""Truncated Taylor arithmetic: numbers ``a + Σ_S c_S ε_S`` with ``ε_j² = 0``, up to an order.

A mixed partial over *different* components needs no derivative twice in the same direction. So an expression that
is evaluated once in such numbers gives all of them at once, exactly: the coefficient ``c_S`` that comes out is the
derivative over S.
"""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations
from math import factorial

import numpy as np
import sympy

from kanlib.masks import subsets
from kanlib.symbolic.closed_forms import X, constants
from kanlib.symbolic.limits import worked_out

_HIGHEST = 4  # order


class Jet:
    """``Σ_S parts_S ε_S`` over subsets S of at most k directions, the empty one first."""

    __slots__ = ("algebra", "parts")
    __array_ufunc__ = None  # numbers of numpy leave arithmetic with jets to them

    def __init__(self, parts: np.ndarray, algebra: tuple[np.ndarray, ...]):
        self.parts = parts
        self.algebra = algebra

    def __add__(self, other):
        if isinstance(other, Jet):
            return Jet(self.parts + other.parts, self.algebra)
        parts = self.parts.copy()
        parts[0] += other
        return Jet(parts, self.algebra)

    def __mul__(self, other):
        if not isinstance(other, Jet):
            return Jet(self.parts * float(other), self.algebra)
        left, right, product = self.algebra
        terms = self.parts[left] * other.parts[right]
        return Jet(np.bincount(product, weights=terms, minlength=len(self.parts)), self.algebra)

    def __pow__(self, exponent):
        return self.compose(("pow", exponent))

    def __rtruediv__(self, other):
        return self**-1 * other

    def __truediv__(self, other):
        return self * (other**-1 if isinstance(other, Jet) else 1 / other)

    def __neg__(self):
        return self * -1

    def __abs__(self):
        return self if self.parts[0] >= 0 else -self

    def __sub__(self, other):
        return self + -other

    def __rsub__(self, other):
        return -self + other

    __radd__ = __add__
    __rmul__ = __mul__

    def compose(self, function) -> "Jet":
        """``f(a + n) = Σ_r f^(r)(a) n^r / r!``, where n, without constant part, is nilpotent."""
        nilpotent = Jet(np.concatenate([[0.0], self.parts[1:]]), self.algebra)
        out, power = Jet(np.zeros_like(self.parts), self.algebra) + _value(function, 0, self.parts[0]), nilpotent
        for r in range(1, _HIGHEST + 1):
            if not power.parts.any():
                break
            out = out + power * (_value(function, r, self.parts[0]) / factorial(r))
            power = power * nilpotent
        return out


def units(m: int, max_order: int) -> list[Jet]:
    """σ_1 … σ_m at 0."""
    algebra = _algebra(m, max_order)
    return [Jet(row, algebra) for row in np.eye(1 + len(subsets(m, max_order)))[1 : 1 + m]]


@cache
def lifted(template: sympy.Expr, n_constants: int) -> Callable:
    """``f(x, c_0, c_1, …)`` where x may be a :class:`Jet`."""
    return of_jets([X, *constants(n_constants)], worked_out(template))


def of_jets(symbols: Sequence[sympy.Symbol], expression: sympy.Expr) -> Callable:
    """The expression as a function of jets and numbers, what it holds more than once computed once."""
    return sympy.lambdify(symbols, expression, modules=[FUNCTIONS, "math"], cse=_shared)


def _shared(expression: sympy.Expr) -> tuple:
    # Real like what they stand for: for real parts of others, sympy expands powers, however high.
    return sympy.cse(expression, sympy.numbered_symbols("x", real=True), list=False)


@cache
def _algebra(m: int, max_order: int) -> tuple[np.ndarray, ...]:
    """Which pairs of disjoint subsets multiply into which: three index arrays."""
    index = [(), *subsets(m, max_order)]
    position = {s: i for i, s in enumerate(index)}
    triples = [
        (position[a], position[tuple(x for x in s if x not in a)], i)
        for i, s in enumerate(index)
        for r in range(len(s) + 1)
        for a in combinations(s, r)
    ]
    return tuple(np.array(column) for column in zip(*triples, strict=True))


def _value(function, r: int, at: float) -> float:
    return float(_derivative(function, r)(at))


@cache
def _derivative(function, r: int) -> Callable:
    x = sympy.Symbol("x")
    f = x ** function[1] if isinstance(function, tuple) else getattr(sympy, function)(x)
    return sympy.lambdify(x, f.diff(x, r), "numpy")


def _of_jets(name: str):
    return lambda z: z.compose(name) if isinstance(z, Jet) else getattr(np, name)(z)


#: What a closed form is made of beside sums, products and powers, of jets or of numbers.
FUNCTIONS = {name: _of_jets(name) for name in ("exp", "log", "sin", "cos", "tanh", "sqrt")}
