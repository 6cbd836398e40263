"""Closed forms for readers and for charts: LaTeX with rounded constants, and Vega expressions."""

from html import escape

import sympy
import torch
from sympy.printing.printer import Printer

from kanlib.symbolic.closed_forms import X
from kanlib.symbolic.grammar import check
from kanlib.symbolic.limits import written_out
from kanlib.symbolic.one_sum import OneSum
from kanlib.symbolic.symbolic_kan import SymbolicKAN

_LARGEST_WHOLE = 1e6  # that is written out


def latex(expression: sympy.Expr, digits: int = 3) -> str:
    """LaTeX with constants rounded to ``digits`` significant ones, for display only."""
    rounded = expression.xreplace({f: _rounded(f, digits) for f in expression.atoms(sympy.Float)})
    return sympy.latex(rounded, full_prec=False)


def latex_lines(symbolic: SymbolicKAN, layer: int, digits: int = 3, masks: torch.Tensor | None = None) -> str:
    """One layer of a symbolic KAN as aligned equations, a line for each term, for display only.

    Nodes that nothing leads on from are left out.

    Args:
        symbolic: what is written.
        layer: which of its layers; negative ones count from the last.
        digits: significant ones of the constants.
        masks: ``[N, m]``; terms come by the spread that they have on these, largest first. Without them they come
            in the order of the components.
    """
    layer %= len(symbolic.forms)
    last = layer == len(symbolic.forms) - 1
    lines = [
        (r"\hat g" if last else f"h_{{{o + 1}}}") + " &= " + r" \\ &\quad + ".join(terms).replace("+ -", "- ")
        for o, terms in enumerate(_terms(symbolic, layer, digits, masks))
        if last or o in symbolic.used[layer + 1]
    ]
    return r"\begin{aligned}" + r" \\ ".join(lines) + r"\end{aligned}"


def latex_whole(symbolic: SymbolicKAN, digits: int = 3) -> str:
    """``ĝ(σ)`` as one piece of LaTeX.

    Raises:
        BadInputError: it is too long, or nested too deeply, to be written so.
    """
    with written_out():
        return r"\hat g(\sigma) = " + latex(check(symbolic.expression), digits)


def latex_one_sum(formula: OneSum, digits: int = 2) -> str:
    """``ĝ(σ)`` of one sum u as aligned lines, those of u below, one for each weight."""
    groups = []
    for weight, group in zip(formula.weights, formula.groups, strict=True):
        listed = " + ".join(rf"\sigma_{{{i + 1}}}" for i in group)
        groups.append(
            f"{latex(sympy.Float(weight), digits)} " + (rf"\left({listed}\right)" if group[1:] else listed)
        )
    u = r" \\ &\quad + ".join(groups).replace("+ -", "- ")
    return rf"\begin{{aligned}}\hat g(\sigma) &= {latex(formula.of_sum, digits)} \\ u &= {u}\end{{aligned}}"


def html(latex: str) -> str:
    """LaTeX as the HTML of a displayed equation, which MathJax sets: for pages that paste it from a notebook."""
    return rf'<div class="math notranslate nohighlight">\[{escape(latex, quote=False)}\]</div>'


def vega(expression: sympy.Expr) -> str:
    """The expression in Vega's language, its symbols as variables: what a live chart computes.

    Numbers are written so that they are read back exactly.

    Raises:
        BadInputError: it holds what :func:`kanlib.symbolic.grammar.check` does not allow.
    """
    return _Vega().doprint(check(expression))


def _rounded(value: sympy.Float, digits: int) -> sympy.Number:
    """An integer where all significant digits stand before the point, which sympy would follow with a zero."""
    if abs(value) < _LARGEST_WHOLE:
        whole = round(float(value), digits - len(str(int(abs(value)))))
        if 10 ** (digits - 1) <= abs(whole) < _LARGEST_WHOLE:
            return sympy.Integer(int(whole))
    return sympy.Float(value, digits)


def _terms(symbolic: SymbolicKAN, layer: int, digits: int, masks: torch.Tensor | None) -> list[list[str]]:
    nodes = symbolic.nodes(layer)
    out = []
    for o, bias in enumerate(symbolic.biases[layer]):
        kept = [(row[o], i) for i, row in enumerate(symbolic.forms[layer]) if row[o].template != 0]
        if masks is not None:
            h = symbolic.activations(masks)[layer]
            kept.sort(key=lambda pair: -float(pair[0].values(h[pair[1]]).std()))
        terms = [latex(form.expression.xreplace({X: nodes[i]}), digits) for form, i in kept]
        out.append([*terms, latex(sympy.Float(bias), digits)] if bias or not terms else terms)
    return out


class _Vega(Printer):
    """Vega has JavaScript's operators and functions of its own for the rest."""

    def _print_Symbol(self, expr: sympy.Symbol) -> str:  # noqa: N802
        return expr.name

    def _print_Float(self, expr: sympy.Float) -> str:  # noqa: N802
        return f"({float(expr)!r})"

    def _print_Rational(self, expr: sympy.Rational) -> str:  # noqa: N802
        return f"({expr.p}/{expr.q})"

    def _print_Integer(self, expr: sympy.Integer) -> str:  # noqa: N802
        return f"({expr.p})"

    def _print_NumberSymbol(self, expr: sympy.NumberSymbol) -> str:  # noqa: N802
        return self._print_Float(expr.evalf(17))

    def _print_Add(self, expr: sympy.Add) -> str:  # noqa: N802
        return "(" + " + ".join(map(self._print, expr.args)) + ")"

    def _print_Mul(self, expr: sympy.Mul) -> str:  # noqa: N802
        return "(" + " * ".join(map(self._print, expr.args)) + ")"

    def _print_Pow(self, expr: sympy.Pow) -> str:  # noqa: N802
        return f"pow({self._print(expr.base)}, {self._print(expr.exp)})"

    def _print_exp(self, expr: sympy.exp) -> str:
        return f"exp({self._print(expr.args[0])})"

    def _print_log(self, expr: sympy.log) -> str:
        return f"log({self._print(expr.args[0])})"

    def _print_sin(self, expr: sympy.sin) -> str:
        return f"sin({self._print(expr.args[0])})"

    def _print_cos(self, expr: sympy.cos) -> str:
        return f"cos({self._print(expr.args[0])})"

    def _print_tanh(self, expr: sympy.tanh) -> str:
        # Vega has no tanh; this one is right for large arguments too.
        return f"(1 - 2 / (exp(2 * {self._print(expr.args[0])}) + 1))"
