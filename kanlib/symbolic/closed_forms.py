"""Closed forms of one variable: a template, its constants, and what both are worth on an edge.

A form is a sympy expression with every constant pulled out, ``c_0, c_1, …``: forms that share a template are
evaluated, differentiated and refitted together. The additive constant stands apart: it belongs to the node that
the edge leads to, which needs one only, whatever the number of its edges.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import sympy
import torch
from torch import Tensor

from kanlib.errors import BadInputError, shown
from kanlib.symbolic.grammar import FUNCTIONS, VARIABLE, check, parse
from kanlib.symbolic.limits import plain, substituted, worked_out

X = VARIABLE
_TORCH = {name: getattr(torch, name) for name in (*FUNCTIONS, "sqrt")}
_TORCH["softplus"] = lambda z: torch.logaddexp(z, torch.zeros_like(z))
_MOST_CONSTANTS = 1000
_LARGEST = 1e308
_FINITE_POINTS = 1001  # at which a form is proven finite, twice over


def constants(n: int) -> list[sympy.Symbol]:
    """The symbols ``c_0 … c_{n−1}`` of a template."""
    return [sympy.Symbol(f"c_{k}", real=True) for k in range(n)]


@dataclass(frozen=True)
class ClosedForm:
    """One edge, ``template(x; constants) + offset``.

    Attributes:
        template: in :data:`X` and the symbols of :func:`constants`.
        constants: their values.
        offset: the additive constant, which a node takes over from its edges.
        r2: weighted R² on the edge that the form stands for.
        misfit: ``1 − r2``, plus what derivatives at rest are off where that was asked for; forms are chosen by it.
    """

    template: sympy.Expr
    constants: tuple[float, ...]
    offset: float = 0.0
    r2: float | None = None
    misfit: float | None = None

    @classmethod
    def of(cls, expression: sympy.Expr, **measured: float) -> "ClosedForm":
        """The form of any expression in :data:`X`.

        Raises:
            BadInputError: it holds another symbol, a function without a name here, or a constant that is not a
                finite real number.
        """
        try:
            # Strictly: sympy would run a text as Python.
            expression = check(plain(sympy.sympify(expression, strict=True)))
        except sympy.SympifyError as error:
            raise BadInputError(
                f"a closed form is {shown(expression)}, expected an expression of sympy; parse it first."
            ) from error
        if others := expression.free_symbols - {X}:
            raise BadInputError(f"a closed form holds {shown(others)}, expected x alone; name it x.")
        offset, rest = expression.as_independent(X, as_Add=True)
        values: list[float] = []

        def pulled(node: sympy.Expr) -> sympy.Expr:
            if node.is_Float:
                values.append(float(node))
                return constants(len(values))[-1]
            if isinstance(node, sympy.Pow):
                # Exponents are structure.
                return pulled(node.base) ** node.exp
            return node.func(*map(pulled, node.args)) if node.args else node

        return cls(pulled(rest), tuple(values), float(offset), **measured)

    @cached_property
    def expression(self) -> sympy.Expr:
        """The form in :data:`X`, offset included."""
        return self.at(X)

    def at(self, symbol: sympy.Symbol) -> sympy.Expr:
        """The form in another symbol."""
        symbols = constants(len(self.constants))
        given = {c: sympy.Float(v) for c, v in zip(symbols, self.constants, strict=True)} | {X: symbol}
        return substituted(worked_out(self.template), given) + (sympy.Float(self.offset) if self.offset else 0)

    @property
    def known_misfit(self) -> float:
        """The misfit; infinite where it was not measured."""
        return math.inf if self.misfit is None else self.misfit

    @property
    def without_offset(self) -> "ClosedForm":
        """The form less its offset."""
        return replace(self, offset=0.0)

    def with_constants(self, constants: tuple[float, ...]) -> "ClosedForm":
        """The form with other constants; what was measured no longer holds."""
        return replace(self, constants=constants, r2=None, misfit=None)

    @property
    def length(self) -> int:
        """Operations and leaves of the expression without its offset, as sympy counts them."""
        return _length(self.template, tuple((c > 0) - (c < 0) for c in self.constants))

    def values(self, x: Tensor) -> Tensor:
        """The function at points ``x``, any shape (fp64)."""
        out = compiled(self.template, len(self.constants))(x.double(), *self.constants)
        return torch.as_tensor(out, dtype=torch.float64).expand(x.shape) + self.offset

    def finite(self, low: float, high: float) -> bool:
        """Whether the form has no pole, no logarithm or root of a negative number and no overflow on the interval.

        Every denominator, radicand and argument of a logarithm must keep its sign, at evenly spaced points and
        again at points around the one where it comes closest to 0.
        """
        x = torch.linspace(low, high, _FINITE_POINTS, dtype=torch.float64)
        if not self.values(x).isfinite().all():
            return False
        for base, of_either_sign in _guarded(self.template):
            part = ClosedForm(base, self.constants)
            coarse = part.values(x)
            at = int(coarse.abs().nan_to_num(0.0).argmin())
            near = torch.linspace(float(x[max(at - 1, 0)]), float(x[min(at + 1, len(x) - 1)]), _FINITE_POINTS)
            fine = torch.cat([coarse, part.values(near)])
            if not ((fine > 0).all() or (of_either_sign and (fine < 0).all())):
                return False
        return True

    def to_json(self) -> dict:
        """A JSON value from which :meth:`from_json` restores every number exactly."""
        return {
            "template": sympy.srepr(self.template),
            "constants": list(self.constants),
            "offset": self.offset,
            "r2": self.r2,
            "misfit": self.misfit,
        }

    @classmethod
    def from_json(cls, value: dict) -> "ClosedForm":
        """Read :meth:`to_json`; nothing is evaluated but constructors of numbers and known functions.

        Raises:
            BadInputError: it is something else.
        """
        match value:
            case {
                "template": str(text),
                "constants": list(given),
                "offset": offset,
                "r2": r2,
                "misfit": misfit,
            } if len(given) <= _MOST_CONSTANTS:
                template = parse(text)
                held = [int(symbol.name[2:]) for symbol in template.free_symbols - {X}]
                if not all(k < len(given) for k in held):
                    raise BadInputError(
                        f"a stored form has {len(given)} constants and names c_{max(held)}, expected as many as "
                        "it names; run 03_symbolic again."
                    )
                measured = (None if v is None else number(v) for v in (r2, misfit))
                return cls(template, tuple(map(number, given)), number(offset), *measured)
        raise BadInputError(
            f"a stored form is {shown(value)}, expected its template, constants, offset, r2 and misfit; "
            "run 03_symbolic again."
        )


def number(value: object) -> float:
    """A finite number of a stored form.

    Raises:
        BadInputError: it is something else.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST:
        return float(value)
    raise BadInputError(f"a stored form holds {shown(value)}, expected a finite number; run 03_symbolic again.")


@lru_cache(maxsize=4096)
def compiled(template: sympy.Expr, n_constants: int):
    """``f(x, c_0, c_1, …)`` on torch tensors that broadcast against each other, differentiable."""
    template = worked_out(template)
    # log(1 + exp(z)) as written overflows, and so does its derivative. What takes its place is real as it is.
    z, softplus = sympy.Wild("z"), sympy.Function("softplus", real=True)
    safe = template.replace(sympy.log(1 + sympy.exp(z)), softplus(z))
    return sympy.lambdify([X, *constants(n_constants)], safe, modules=[_TORCH, "math"])


def length(expression: sympy.Expr) -> int:
    """Operations (``sympy.count_ops``) and leaves of an expression."""
    return int(expression.count_ops()) + sum(1 for n in sympy.preorder_traversal(expression) if not n.args)


@lru_cache(maxsize=65536)
def _length(template: sympy.Expr, signs: Sequence[int]) -> int:
    # sympy counts a leading minus, so that the count depends on signs, but on nothing else of a constant.
    given = zip(constants(len(signs)), signs, strict=True)
    return length(substituted(worked_out(template), {c: sympy.Float(1.5 * sign) for c, sign in given}))


@lru_cache(maxsize=4096)
def _guarded(template: sympy.Expr) -> list[tuple[sympy.Expr, bool]]:
    """What must not vanish: denominators (of either sign), radicands and arguments of logarithms (positive)."""
    powers = [(p.base, float(p.exp)) for p in template.atoms(sympy.Pow) if p.base.has(X)]
    found = [(base, power.is_integer()) for base, power in powers if power < 0 or not power.is_integer()]
    return found + [(f.args[0], False) for f in template.atoms(sympy.log) if f.has(X)]
