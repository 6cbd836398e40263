import json

import numpy as np
import pytest
import sympy
import torch
import vl_convert

from kanlib.errors import BadInputError
from kanlib.symbolic.closed_forms import X
from kanlib.symbolic.notation import html, latex, latex_lines, latex_whole, vega
from tests.helpers import symbolic_kan

S = sympy.symbols("sigma_1:4", real=True)
f = sympy.Float
WRITTEN = {
    "sums and products": f(0.1) * S[0] - f(1 / 3) * S[1] * S[2] + 7,
    "powers": (S[0] + 2) ** 3 / (1 + S[1] ** 2) + sympy.sqrt(S[2] + 9),
    "functions": sympy.exp(-S[0]) * sympy.sin(S[1]) + sympy.log(3 + S[2]) - sympy.cos(S[0]) * sympy.tanh(S[1]),
    "numbers": sympy.Rational(2, 7) * S[0] + sympy.pi - f(1.5e-12) * S[1] + f(2e20) * S[2],
    "far": sympy.tanh(1000 * S[0]) + sympy.tanh(-1000 * S[1]) + S[2],
}


def computed(text, rows):
    """What Vega makes of an expression: drawn as text by Vega itself, and read off the drawing."""
    spec = {
        "$schema": "https://vega.github.io/schema/vega/v5.json",
        "data": [{"name": "rows", "values": rows, "transform": []}],
        "marks": [],
    }
    variables = {name: f"datum.{name}" for name in rows[0]}
    for name, datum in variables.items():
        text = text.replace(name, datum)
    spec["data"][0]["transform"] = [{"type": "formula", "expr": f"'<' + ({text}) + '>'", "as": "text"}]
    spec["marks"] = [{"type": "text", "from": {"data": "rows"}, "encode": {"enter": {"text": {"field": "text"}}}}]
    drawing = vl_convert.vega_to_svg(json.dumps(spec))
    return [float(part.split("&gt;")[0]) for part in drawing.split("&lt;")[1:]]


@pytest.mark.parametrize("name", WRITTEN)
def test_vega_computes_what_sympy_does(name):
    points = np.random.default_rng(0).normal(size=(5, 3))
    rows = [{str(s): float(v) for s, v in zip(S, point, strict=True)} for point in points]
    expected = [float(WRITTEN[name].subs(dict(zip(S, point, strict=True)))) for point in points]
    np.testing.assert_allclose(computed(vega(WRITTEN[name]), rows), expected, rtol=1e-12)


def test_vega_computes_a_symbolic_kan(hand_made):
    masks = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = [{str(s): float(v) for s, v in zip(S, point, strict=True)} for point in masks]
    np.testing.assert_allclose(computed(vega(hand_made.expression), rows), hand_made(masks), rtol=1e-12)


def test_what_vega_lacks_is_refused():
    for expression in (sympy.besselj(0, S[0]), sympy.Symbol("alert(1)"), S[0] + sympy.Symbol("y;x")):
        with pytest.raises(BadInputError, match="a closed form holds "):
            vega(expression)


def test_pasted_equations_are_for_mathjax():
    assert html(r"a &< b") == r'<div class="math notranslate nohighlight">\[a &amp;&lt; b\]</div>'


def test_latex_rounds_for_display_only():
    expression = f(0.123456) * X + f(-2.0)
    assert latex(expression) == "0.123 x - 2.0"
    assert latex(expression, digits=2) == "0.12 x - 2.0"
    assert expression.coeff(X) == f(0.123456)


@pytest.mark.parametrize("value", [1e15, 1e300, 5e-324, f("1e10000"), f("1e-10000")])
def test_latex_rounds_numbers_of_any_size(value):
    assert latex(f(value) * X) == latex(f(value)) + " x"


def test_latex_lines_name_every_node_that_is_used(hand_made):
    first, last = latex_lines(hand_made, 0), latex_lines(hand_made, -1)
    assert "h_{1} &=" in first
    assert "h_{2} &=" in first
    assert r"\sigma_{3}" in first
    assert r"\hat g &=" in last
    assert "h_{2}" in last
    assert "0.25" in last
    assert latex_lines(hand_made, 1) == last
    kept = symbolic_kan([[[X, sympy.sin(X)]], [[X**2], [sympy.Float(3)]]], 0.0)
    assert "h_{2}" not in latex_lines(kept, 0) + latex_lines(kept, 1)


def test_terms_come_by_their_effect():
    form = symbolic_kan([[[f(0.1) * X], [f(5) * X], [f(1) * X]]], 2.0)
    masks = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    text = latex_lines(form, 0, masks=masks)
    places = [text.index(rf"\sigma_{{{i}}}") for i in (2, 3, 1)]
    assert places == sorted(places)
    assert latex_lines(form, 0).index(r"\sigma_{1}") < latex_lines(form, 0).index(r"\sigma_{2}")


def test_the_whole_is_one_line():
    form = symbolic_kan([[[f(0.5) * X], [X**2]]], 2.0)
    assert latex_whole(form) == r"\hat g(\sigma) = 0.5 \sigma_{1} + \sigma_{2}^{2} + 2.0"
