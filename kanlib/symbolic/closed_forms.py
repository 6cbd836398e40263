"""Closed forms of one variable: a template, its constants, and what both are worth on an edge.

A form is a sympy expression with every constant pulled out, ``c_0, c_1, …``: forms that share a template are
evaluated, differentiated and refitted together. The additive constant stands apart: it belongs to the node that
the edge leads to, which needs one only, whatever the number of its edges.
"""

import ast
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import sympy
import torch
from torch import Tensor

from kanlib.errors import BadInputError

X = sympy.Symbol("x", real=True)
_NAMES = {"Add", "Mul", "Pow", "Integer", "Rational", "exp", "sin", "cos", "tanh", "log"}
_TORCH = {name: getattr(torch, name) for name in ("exp", "sin", "cos", "tanh", "log", "sqrt")}
_TORCH["softplus"] = lambda z: torch.logaddexp(z, torch.zeros_like(z))
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
        expression = sympy.sympify(expression)
        _check(expression)
        expression = expression.xreplace({c: c.evalf() for c in expression.atoms(sympy.NumberSymbol)})
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
        symbols = constants(len(self.constants))
        given = {c: sympy.Float(v) for c, v in zip(symbols, self.constants, strict=True)}
        return self.template.xreplace(given) + (sympy.Float(self.offset) if self.offset else 0)

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
        """Read :meth:`to_json`; nothing is evaluated but constructors of numbers and known functions."""
        return cls(parse(value["template"]), tuple(value["constants"]), *(value[k] for k in _MEASURED))


_MEASURED = ("offset", "r2", "misfit")


@lru_cache(maxsize=4096)
def compiled(template: sympy.Expr, n_constants: int):
    """``f(x, c_0, c_1, …)`` on torch tensors that broadcast against each other, differentiable."""
    # log(1 + exp(z)) as written overflows, and so does its derivative.
    z = sympy.Wild("z")
    safe = template.replace(sympy.log(1 + sympy.exp(z)), sympy.Function("softplus")(z))
    return sympy.lambdify([X, *constants(n_constants)], safe, modules=[_TORCH, "math"])


def length(expression: sympy.Expr) -> int:
    """Operations (``sympy.count_ops``) and leaves of an expression."""
    return int(expression.count_ops()) + sum(1 for n in sympy.preorder_traversal(expression) if not n.args)


@lru_cache(maxsize=65536)
def _length(template: sympy.Expr, signs: Sequence[int]) -> int:
    # sympy counts a leading minus, so that the count depends on signs, but on nothing else of a constant.
    given = zip(constants(len(signs)), signs, strict=True)
    return length(template.xreplace({c: sympy.Float(1.5 * sign) for c, sign in given}))


@lru_cache(maxsize=4096)
def _guarded(template: sympy.Expr) -> list[tuple[sympy.Expr, bool]]:
    """What must not vanish: denominators (of either sign), radicands and arguments of logarithms (positive)."""
    powers = [(p.base, float(p.exp)) for p in template.atoms(sympy.Pow) if p.base.has(X)]
    found = [(base, power.is_integer()) for base, power in powers if power < 0 or not power.is_integer()]
    return found + [(f.args[0], False) for f in template.atoms(sympy.log) if f.has(X)]


def _check(expression: sympy.Expr) -> None:
    for node in sympy.preorder_traversal(expression):
        name = type(node).__name__
        known = (
            node == X
            or (node.is_number and not node.args and node.is_finite and node.is_real)
            or (node.args and name in _NAMES and not (name == "Pow" and node.exp.has(X)))
        )
        if not known:
            raise BadInputError(
                f"a closed form holds {str(node)[:40]}, expected x, finite real constants, and sums, "
                "products, constant powers, exp, log, sin, cos and tanh of them; leave the form out."
            )


def parse(text: str) -> sympy.Expr:
    """The expression of a ``sympy.srepr`` string, read without evaluating code.

    Raises:
        BadInputError: the text holds anything but numbers, symbols and the functions this module writes.
    """

    def build(node: ast.AST):
        match node:
            case ast.Expression(body=body):
                return build(body)
            # Text reaches only the two that take it literally: sympy evaluates what other constructors are given.
            case ast.Call(
                func=ast.Name(id="Symbol" | "Float" as name),
                args=[ast.Constant(value=str() as value)],
                keywords=keywords,
            ):
                return getattr(sympy, name)(value, **{str(k.arg): build(k.value) for k in keywords})
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _NAMES:
                return getattr(sympy, name)(*map(build, args))
            case ast.Constant(value=int() as value):
                return value
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -build(operand)
        raise TypeError(ast.unparse(node))

    try:
        return build(ast.parse(text, mode="eval"))
    except (SyntaxError, TypeError, ValueError, AttributeError) as error:
        raise BadInputError(
            f"a stored expression begins {text[:40]!r}, expected sympy constructors; run 03_symbolic again."
        ) from error
