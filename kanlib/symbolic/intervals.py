"""Interval arithmetic on tensors, rounded outwards, and what a form, its slope and its curvature can be on cells.

An interval holds every value that an expression can take where its variable runs over a cell: each operation takes
the ends of what it is given, and moves its own ends one float outwards. Source: Moore, Kearfott and Cloud (2009),
*Introduction to Interval Analysis*.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import sympy
import torch
from torch import Tensor

from kanlib.symbolic.closed_forms import X, constants
from kanlib.symbolic.limits import worked_out

_ULPS = 8  # by which functions of torch may be off
_EPS = 2.0**-52  # of a number, at least the distance to the next
_TINY = 1e-300


@dataclass(frozen=True)
class Interval:
    """All numbers from ``low`` to ``high``, tensors of one shape (fp64); an infinite end is no end."""

    low: Tensor
    high: Tensor

    __array_ufunc__ = None  # numbers of numpy leave arithmetic with intervals to them

    @classmethod
    def around(cls, low: Tensor, high: Tensor, ulps: int = 1) -> "Interval":
        """From ``low`` to ``high``, and so many floats beyond; everything where one of them is no number."""
        low = torch.sub(low, low.abs(), alpha=ulps * _EPS) - _TINY
        high = torch.add(high, high.abs(), alpha=ulps * _EPS) + _TINY
        return cls(low.nan_to_num(-math.inf, math.inf, -math.inf), high.nan_to_num(math.inf, math.inf, -math.inf))

    @classmethod
    def exactly(cls, value: "Interval | Tensor | float", like: Tensor) -> "Interval":
        """An interval as it is, a number as an interval of that one number."""
        if isinstance(value, Interval):
            return value
        at = torch.as_tensor(value, dtype=torch.float64).expand(like.shape)
        return cls(at, at)

    @property
    def size(self) -> Tensor:
        """The largest absolute value in it."""
        return torch.maximum(self.low.abs(), self.high.abs())

    def __add__(self, other):
        if isinstance(other, Curve):
            return NotImplemented
        other = Interval.exactly(other, self.low)
        return Interval.around(self.low + other.low, self.high + other.high)

    def __neg__(self):
        return Interval(-self.high, -self.low)

    def __sub__(self, other):
        if isinstance(other, Curve):
            return NotImplemented
        return self + -Interval.exactly(other, self.low)

    def __mul__(self, other):
        if isinstance(other, Curve):
            return NotImplemented
        other = Interval.exactly(other, self.low)
        first, second = self.low * other.low, self.high * other.low
        low, high = torch.minimum(first, second), torch.maximum(first, second)
        if other.low is not other.high:
            first, second = self.low * other.high, self.high * other.high
            low = torch.minimum(low, torch.minimum(first, second))
            high = torch.maximum(high, torch.maximum(first, second))
        return Interval.around(low, high)

    def __pow__(self, exponent):
        return _power(self, float(exponent))

    def __rsub__(self, other):
        return -self + other

    def __truediv__(self, other):
        return (
            NotImplemented if isinstance(other, Curve) else self * _power(Interval.exactly(other, self.low), -1.0)
        )

    def __rtruediv__(self, other):
        return _power(self, -1.0) * other

    __radd__ = __add__
    __rmul__ = __mul__


@dataclass(frozen=True)
class Curve:
    """What a function of one variable, its first and its second derivative can be on cells of its domain.

    Attributes:
        value, slope, bend: these three.
        plain: whether the function is the variable itself.
    """

    value: Interval
    slope: Interval
    bend: Interval
    plain: bool = False

    __array_ufunc__ = None

    @classmethod
    def variable(cls, low: Tensor, high: Tensor) -> "Curve":
        """The variable itself, on the cells from ``low`` to ``high``."""
        one, none = torch.ones_like(low), torch.zeros_like(low)
        return cls(Interval(low, high), Interval(one, one), Interval(none, none), plain=True)

    def __add__(self, other):
        if isinstance(other, Curve):
            return Curve(self.value + other.value, self.slope + other.slope, self.bend + other.bend)
        return Curve(self.value + other, self.slope, self.bend)

    def __mul__(self, other):
        if not isinstance(other, Curve):
            return Curve(self.value * other, self.slope * other, self.bend * other)
        f, g = (other, self) if other.plain else (self, other)
        if f.plain:
            return Curve(f.value * g.value, g.value + f.value * g.slope, 2 * g.slope + f.value * g.bend)
        return Curve(
            f.value * g.value,
            f.slope * g.value + f.value * g.slope,
            f.bend * g.value + 2 * (f.slope * g.slope) + f.value * g.bend,
        )

    def __neg__(self):
        return Curve(-self.value, -self.slope, -self.bend)

    def __sub__(self, other):
        return self + -other

    def __rsub__(self, other):
        return -self + other

    def __pow__(self, exponent):
        n, x = float(exponent), self.value
        return self.through(_power(x, n), n * _power(x, n - 1), n * (n - 1) * _power(x, n - 2))

    def __truediv__(self, other):
        return self * (other**-1 if isinstance(other, Curve) else 1 / other)

    def __rtruediv__(self, other):
        return self**-1 * other

    __radd__ = __add__
    __rmul__ = __mul__

    def through(self, value: Interval, slope: Interval, bend: Interval) -> "Curve":
        """``F`` of the function, where F and its derivatives are these at the function's values."""
        return Curve(value, slope * self.slope, bend * self.slope**2 + slope * self.bend)


def on_cells(template: sympy.Expr, values: list[Tensor], low: Tensor, high: Tensor) -> Curve:
    """A form of these constants, its slope and its curvature on cells from ``low`` to ``high``.

    Args:
        template: see :class:`kanlib.symbolic.closed_forms.ClosedForm`.
        values: of its constants, which broadcast against the cells.
        low: lower ends of the cells, any shape.
        high: their upper ends.
    """
    found = _function(template, len(values))(Curve.variable(low, high), *_exact(values, low))
    if isinstance(found, Curve):
        return found
    none = Interval.exactly(0.0, low)
    return Curve(Interval.exactly(found, low), none, none)


def at_points(template: sympy.Expr, values: list[Tensor], x: Tensor) -> Interval:
    """The form's value at points ``x``, any shape, and what rounding may make of it."""
    found = _function(template, len(values))(Interval(x, x), *_exact(values, x))
    return Interval.exactly(found, x)


def _exact(values: list[Tensor], like: Tensor) -> list[Interval]:
    return [Interval.exactly(value, like) for value in values]


@lru_cache(maxsize=4096)
def _function(template: sympy.Expr, n_constants: int) -> Callable:
    z, softplus = sympy.Wild("z"), sympy.Function("softplus", real=True)
    safe = worked_out(template).replace(sympy.log(1 + sympy.exp(z)), softplus(z))
    return sympy.lambdify([X, *constants(n_constants)], safe, modules=[_FUNCTIONS, "math"])


def _rising(function: Callable[[Tensor], Tensor], x: Interval) -> Interval:
    return Interval.around(function(x.low), function(x.high), _ULPS)


def _power(x: Interval, n: float) -> Interval:
    """``x^n``; everything where x reaches what has no such power."""
    if n == 0:
        return Interval.exactly(1.0, x.low)
    if n == 1:
        return x
    ends = torch.stack([x.low**n, x.high**n])
    low, high = ends.amin(0), ends.amax(0)
    across = (x.low <= 0) & (x.high >= 0)
    if n.is_integer() and n > 0:
        low = low.masked_fill(across, 0.0) if n % 2 == 0 else low
    else:
        lost = across if n.is_integer() else x.low <= 0 if n < 0 else x.low < 0
        low, high = low.masked_fill(lost, -math.inf), high.masked_fill(lost, math.inf)
    return Interval.around(low, high, _ULPS)


def _wave(x: Interval, peak: float) -> Interval:
    """A cosine whose highest point is at ``peak``."""
    # The distance from a peak in half turns: at whole numbers the cosine is 1 or −1.
    first, last = ((end - peak) / math.pi for end in (x.low, x.high))
    margin = 1e-12 * (1 + first.abs() + last.abs())
    ends = torch.stack([(x.low - peak).cos(), (x.high - peak).cos()])
    slack = 1e-15 * (2 + x.size)

    def has(shift: float) -> Tensor:
        """Whether an even whole number, shifted, is between the two."""
        return ((last + margin - shift) / 2).floor() >= ((first - margin - shift) / 2).ceil()

    high = torch.where(has(0.0), torch.ones_like(first), ends.amax(0) + slack)
    low = torch.where(has(1.0), -torch.ones_like(first), ends.amin(0) - slack)
    return Interval.around(low, high)


def _sine(x: Interval) -> Interval:
    return _wave(x, math.pi / 2)


def _cosine(x: Interval) -> Interval:
    return _wave(x, 0.0)


def _softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))


_Derivatives = Callable[[Interval, Interval], tuple[Interval, Interval]]


def _of(value: Callable[[Interval], Interval], derivatives: _Derivatives) -> Callable:
    """A function of intervals, or of curves, whose derivatives follow from what it is of and what it comes to."""

    def function(x: Interval | Curve) -> Interval | Curve:
        if isinstance(x, Interval):
            return value(x)
        found = value(x.value)
        return x.through(found, *derivatives(x.value, found))

    return function


def _log(x: Interval) -> Interval:
    return Interval.around(x.low.log(), x.high.log(), _ULPS)


def _of_log(x: Interval, _: Interval) -> tuple[Interval, Interval]:
    inverse = _power(x, -1.0)
    return inverse, -(inverse**2)


def _of_tanh(_: Interval, t: Interval) -> tuple[Interval, Interval]:
    slope = 1 - t**2
    return slope, -2 * (t * slope)


def _of_softplus(x: Interval, _: Interval) -> tuple[Interval, Interval]:
    s = _rising(torch.sigmoid, x)
    return s, s * (1 - s)


#: What a form is made of beside sums, products and powers, of intervals and of curves.
_FUNCTIONS = {
    "exp": _of(lambda x: _rising(torch.exp, x), lambda _, e: (e, e)),
    "log": _of(_log, _of_log),
    "sin": _of(_sine, lambda x, s: (_cosine(x), -s)),
    "cos": _of(_cosine, lambda x, c: (-_sine(x), -c)),
    "tanh": _of(lambda x: _rising(torch.tanh, x), _of_tanh),
    "sqrt": lambda x: x**0.5,
    "softplus": _of(lambda x: _rising(_softplus, x), _of_softplus),
}
