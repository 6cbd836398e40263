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


@dataclass(frozen=True)
class Interval:
    """All numbers from ``low`` to ``high``, tensors of one shape (fp64); an infinite end is no end."""

    low: Tensor
    high: Tensor

    __array_ufunc__ = None  # numbers of numpy leave arithmetic with intervals to them

    @classmethod
    def around(cls, low: Tensor, high: Tensor, ulps: int = 1) -> "Interval":
        """From ``low`` to ``high``, and so many floats beyond; everything where one of them is no number."""
        nowhere = low.isnan() | high.isnan()
        for _ in range(ulps):
            low, high = low.nextafter(low.new_tensor(-math.inf)), high.nextafter(high.new_tensor(math.inf))
        return cls(low.masked_fill(nowhere, -math.inf), high.masked_fill(nowhere, math.inf))

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
        other = Interval.exactly(other, self.low)
        return Interval.around(self.low + other.low, self.high + other.high)

    def __neg__(self):
        return Interval(-self.high, -self.low)

    def __sub__(self, other):
        return self + -Interval.exactly(other, self.low)

    def __mul__(self, other):
        other = Interval.exactly(other, self.low)
        ends = torch.stack([a * b for a in (self.low, self.high) for b in (other.low, other.high)])
        # 0 times anything is 0, also where the other end is beyond all bounds.
        zero = (self.low == 0) & (self.high == 0) | (other.low == 0) & (other.high == 0)
        return Interval.around(ends.amin(0).masked_fill(zero, 0), ends.amax(0).masked_fill(zero, 0))

    def __pow__(self, exponent):
        return _power(self, float(exponent))

    def __rsub__(self, other):
        return -self + other

    def __truediv__(self, other):
        return self * _power(Interval.exactly(other, self.low), -1.0)

    def __rtruediv__(self, other):
        return _power(self, -1.0) * other

    __radd__ = __add__
    __rmul__ = __mul__


@dataclass(frozen=True)
class Curve:
    """What a function of one variable, its first and its second derivative can be on cells of its domain."""

    value: Interval
    slope: Interval
    bend: Interval

    __array_ufunc__ = None

    @classmethod
    def variable(cls, low: Tensor, high: Tensor) -> "Curve":
        """The variable itself, on the cells from ``low`` to ``high``."""
        one, none = torch.ones_like(low), torch.zeros_like(low)
        return cls(Interval(low, high), Interval(one, one), Interval(none, none))

    def __add__(self, other):
        if isinstance(other, Curve):
            return Curve(self.value + other.value, self.slope + other.slope, self.bend + other.bend)
        return Curve(self.value + other, self.slope, self.bend)

    def __mul__(self, other):
        if not isinstance(other, Curve):
            return Curve(self.value * other, self.slope * other, self.bend * other)
        f, g = self, other
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
    x = Curve.variable(low, high)
    constant = [Curve(*(Interval.exactly(v, low) for v in (c, 0.0, 0.0))) for c in values]
    found = _function(template, len(values))(x, *constant)
    return found if isinstance(found, Curve) else Curve(*(Interval.exactly(v, low) for v in (found, 0.0, 0.0)))


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


def _exp(c: Curve) -> Curve:
    e = _rising(torch.exp, c.value)
    return c.through(e, e, e)


def _log(c: Curve) -> Curve:
    x = c.value
    found = Interval.around(x.low.log(), x.high.log(), _ULPS)
    inverse = _power(x, -1.0)
    return c.through(found, inverse, -(inverse**2))


def _tanh(c: Curve) -> Curve:
    t = _rising(torch.tanh, c.value)
    slope = 1 - t**2
    return c.through(t, slope, -2 * (t * slope))


def _softplus_of(c: Curve) -> Curve:
    s = _rising(torch.sigmoid, c.value)
    return c.through(_rising(_softplus, c.value), s, s * (1 - s))


#: What a form is made of beside sums, products and powers, of curves.
_FUNCTIONS = {
    "exp": _exp,
    "log": _log,
    "sin": lambda c: c.through(_sine(c.value), _cosine(c.value), -_sine(c.value)),
    "cos": lambda c: c.through(_cosine(c.value), -_sine(c.value), -_cosine(c.value)),
    "tanh": _tanh,
    "sqrt": lambda c: c**0.5,
    "softplus": _softplus_of,
}
