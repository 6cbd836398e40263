import json
import re
import sys
from base64 import b64decode
from io import BytesIO

import altair as alt
import pandas as pd
import pytest
import torch
import vl_convert
from PIL import Image

from kanlib import charts, coefficient_charts, looks
from kanlib.metrics import TITLES
from kanlib.setups import Symbolic
from kanlib.symbolic import edge_curves, replace_edges


@pytest.fixture(autouse=True)
def _enabled():
    charts.enable()


def test_colab_is_given_html(monkeypatch):
    assert alt.renderers.active == "book"
    monkeypatch.setitem(sys.modules, "google.colab", sys)
    charts.enable()
    assert "text/html" in alt.renderers.get()({"$schema": "https://vega.github.io/schema/vega-lite/v6.json"})


PAIR, SINGLE = (0, 1), (1,)


def drawn():
    """One of each chart, by name."""
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [1.0, 10.0, 100.0], "c": ["u", "u", "v"]})
    scores = pd.DataFrame({"surrogate": ["linear", "kan"], "example": [1, 1], "pearson": [0.4, 0.9]})
    alone = pd.DataFrame({"σ": [-1.0, 1.0] * 2, "Δf": [-2.0, 1.0, -1.0, 3.0], "component": ["p", "p", "q", "q"]})
    edges = pd.DataFrame({"input": "p", "node": "h1", "x": [0.0, 1.0] * 2, "φ": [0.0, 1.0] * 2})
    points = pd.DataFrame({"example": [1, 1, 2], "length": [5, 50, 10], "1 − R²": [0.5, 0.1, 0.2]})
    true = torch.linspace(-1, 1, 50)
    values = {"left": {PAIR: -1.0, SINGLE: 2.0}, "right": {PAIR: 0.5, SINGLE: 1.0}}
    matrix = torch.tensor([[0.0, -2.0], [-2.0, 0.0]])
    return {
        "line": charts.line(frame, x="a", y="b", log=True, describe="d"),
        "one by one": charts.one_by_one(alone, flip=-1.5, describe="d"),
        "no flip": charts.one_by_one(alone, flip=None, describe="d"),
        "learning": charts.learning(frame, x="a", y="b", color="c", describe="d"),
        "sweep": charts.sweep(frame, x="a", y="b", describe="d"),
        "panels": charts.panels(
            frame.assign(d="e", f="g"), x="a", y="b", color="c", row="d", column="f", describe="d"
        ),
        "columns": charts.panels(frame.assign(d="e"), x="a", y="b", color="c", column="d", log=True, describe="d"),
        "paired": charts.paired(scores, "pearson", describe="d"),
        "ranked": charts.ranked(scores.rename(columns={"surrogate": "method"}), "pearson", describe="d"),
        "dots": charts.dots(
            frame.assign(d="e", u=0, v=4, w=5), x="a", y="d", color="c", low="u", high="v", limit="w", describe="d"
        ),
        "predicted": charts.predicted_against_true({"kan": true**3}, true, describe="d"),
        "edges": charts.edge_curves(
            edges.assign(**{"edge function": ["spline"] * 2 + ["closed form"] * 2}), describe="d"
        ),
        "front": charts.front(points, points.iloc[1:], 0.05, describe="d"),
        "squares": coefficient_charts.squares({"over": matrix}, ["p", "q"], title="L", describe="d"),
        "arcs": coefficient_charts.arcs({PAIR: -1.0, (0, 2): 2.0}, ["p", "q", "r"], title="L", describe="d"),
        "bars": coefficient_charts.bars(values, ["p", "q"], title="L", describe="d"),
        "whiskers": coefficient_charts.bars(values, ["p", "q"], title="L", errors=values, describe="d"),
    }


def parts(spec):
    """All objects within a specification, its data left out."""
    if isinstance(spec, list):
        for value in spec:
            yield from parts(value)
    if isinstance(spec, dict):
        yield spec
        for name, value in spec.items():
            if name != "datasets":
                yield from parts(value)


def contrast(one, other):
    """Of two colours, as WCAG 2 defines it."""

    def luminance(colour):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", list(drawn()))
def test_every_chart_is_valid_described_and_carries_its_data(name):
    spec = drawn()[name].to_dict()  # Altair validates against the schema
    assert "d" in (spec.get("description"), spec.get("layer", [{}])[0].get("description"))
    assert next(iter(spec["datasets"].values()))


def test_an_image_is_stretched_into_a_png():
    image = torch.tensor([[[1.0, 3.0]], [[1.0, 3.0]], [[2.0, 1.0]]])
    found = Image.open(BytesIO(b64decode(charts.data_url(image).removeprefix("data:image/png;base64,"))))
    assert [found.getpixel((x, 0)) for x in (0, 1)] == [(0, 0, 127), (255, 255, 0)]


def test_a_method_that_failed_on_an_example_has_no_bar():
    scores = pd.DataFrame({"method": ["linear", "linear", "kan", "kan"], "example": [1, 2, 1, 2]})
    spec = charts.ranked(scores.assign(spearman=[0.5, 0.7, 0.9, float("nan")]), "spearman", describe="d").to_dict()
    dots, bars = (spec["datasets"][layer["data"]["name"]] for layer in spec["layer"])
    assert len(dots) == 3
    assert bars == [{"method": "COAR (linear)", "spearman": 0.6}]


def test_edges_are_drawn_beside_their_closed_forms(fitted):
    names = [f"c{i}" for i in range(fitted.fit.masks.shape[1])]
    (symbolic,) = replace_edges(first := fitted.kan.select(torch.tensor([0])), fitted.fit.masks, Symbolic())
    spec = charts.edge_curves(edge_curves(first, symbolic, names, most=2), describe="d").to_dict()
    assert spec["description"] == "d"
    frame = pd.DataFrame(next(iter(spec["datasets"].values())))
    assert set(frame["input"]) == set(names)
    assert frame["node"].nunique() == min(2, first.coefs[0].shape[1])
    values = frame.pivot(index=["input", "node", "x"], columns="edge function", values="φ")
    assert (values["spline"] - values["closed form"]).abs().max() < 0.1 * values["spline"].abs().max()
    assert values.xs(0.0, level="x").abs().max().max() == 0


def test_squares_are_a_symmetric_matrix_without_its_diagonal():
    matrix = torch.tensor([[5.0, 2.0], [2.0, 5.0]])
    spec = coefficient_charts.squares({"over": matrix}, ["p", "q"], title="L", describe="d").to_dict()
    (rows,) = spec["datasets"].values()
    assert {(r["from"], r["to"]): r["L"] for r in rows} == {("p", "q"): 2.0, ("q", "p"): 2.0}


def test_a_coefficient_that_is_not_known_has_no_square():
    matrix = torch.tensor([[0.0, torch.nan], [torch.nan, 0.0]])
    spec = coefficient_charts.squares(
        {"a": matrix, "b": -torch.eye(2) - 1}, ["p", "q"], title="L", describe="d"
    ).to_dict()
    (rows,) = spec["datasets"].values()
    assert [row["size"] for row in rows if row["panel"] == "a"] == [0.0, 0.0]


def test_squares_may_all_be_unknown():
    matrix = torch.full((2, 2), torch.nan)
    spec = coefficient_charts.squares({"over": matrix}, ["p", "q"], title="L", describe="d").to_dict()
    json.dumps(spec, allow_nan=False)
    assert "e+308" not in vl_convert.vegalite_to_svg(spec)


def test_bars_name_subsets_and_tell_signs_apart():
    spec = coefficient_charts.bars({"a": {PAIR: -1.0}}, ["p", "q"], title="L", describe="d").to_dict()
    (rows,) = spec["datasets"].values()
    assert [(r["components"], r["L"], r["sign"]) for r in rows] == [("p · q", -1.0, "negative")]


def test_whiskers_are_two_errors_long():
    errors = {"a": {SINGLE: 0.5}}
    spec = coefficient_charts.bars(
        {"a": {SINGLE: 2.0}}, ["p", "q"], title="L", errors=errors, describe="d"
    ).to_dict()
    (rows,) = spec["datasets"].values()
    assert [(r["low"], r["high"]) for r in rows] == [(1.0, 3.0)]


def test_panels_of_coefficients_share_their_axes():
    for name in ("bars", "squares"):
        spec = drawn()[name].to_dict()
        assert spec["columns"] == 2
        assert "resolve" not in spec


def test_arcs_lead_from_component_to_component():
    values = {(0, 2): -1.0, (0, 1): 2.0}
    spec = coefficient_charts.arcs(values, list("pqr"), title="L", describe="d").to_dict()
    (rows,) = spec["datasets"].values()
    frame = pd.DataFrame(rows)
    ends = {name: (part["at"].min(), part["at"].max()) for name, part in frame.groupby("components")}
    assert ends == {"p · r": (0, 2), "p · q": (0, 1)}
    assert set(zip(frame["components"], frame["L"], frame["sign"], strict=True)) == {
        ("p · r", -1.0, "negative"),
        ("p · q", 2.0, "positive"),
    }


def test_a_sign_has_one_colour_in_every_chart():
    scales = {
        tuple(part["domain"]): part["range"]
        for chart in drawn().values()
        for part in parts(chart.to_dict())
        if set(part.get("domain", ())) & looks.SIGNS.keys() and str(part.get("range", [""])[0]).startswith("#")
    }
    assert {("positive", "negative"), ("negative",)} & scales.keys()
    for domain, colours in scales.items():
        assert dict(zip(domain, colours, strict=True)).items() <= looks.SIGNS.items()


def test_a_surrogate_has_one_colour_whatever_stands_beside_it():
    for names in (["KAN"], ["COAR (linear)", "KAN"], list(looks.SURROGATES)):
        scale = looks.scale(names)
        assert dict(zip(scale.domain, scale.range, strict=True))["KAN"] == looks.SURROGATES["KAN"]
    assert looks.scale(["bf16", "fp32"]).range == looks.CATEGORIES
    assert looks.SURROGATES.keys() <= set(TITLES.values())


@pytest.mark.parametrize("page", ["#FFFFFF", "#121212", "#14181E"])
def test_every_colour_stands_out_from_the_page(page):
    colours = {
        *looks.CATEGORIES,
        *looks.SURROGATES.values(),
        *looks.SIGNS.values(),
        *looks.by_depth(12),
        looks.TEXT,
    }
    assert {colour: contrast(colour, page) for colour in colours if contrast(colour, page) < 3} == {}


def test_the_contrast_is_that_of_wcag():
    assert contrast("#FFFFFF", "#000000") == pytest.approx(21)
    assert contrast("#767676", "#FFFFFF") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("name", list(drawn()))
def test_marks_are_opaque_and_of_the_palette(name):
    palette = {
        *looks.CATEGORIES,
        *looks.SURROGATES.values(),
        *looks.SIGNS.values(),
        *looks.by_depth(2),
        looks.TEXT,
    }
    spec = drawn()[name].to_dict()
    spec.pop("config")
    for part in parts(spec):
        assert part.get("opacity", 1) == 1 or isinstance(part["opacity"], dict)
        named = [part.get("color"), *part["range"]] if isinstance(part.get("range"), list) else [part.get("color")]
        assert {colour for colour in named if isinstance(colour, str) and colour.startswith("#")} <= palette


def test_depth_is_an_order_of_colours():
    assert looks.by_depth(4) == looks.DEPTH
    assert len(set(looks.by_depth(12))) == 12


def test_images_are_pictures_with_escaped_labels():
    html = charts.images(torch.rand(2, 3, 8, 8), ["<one>", "two"]).data
    assert html.count("data:image/png;base64,") == 2
    assert 'alt="&lt;one&gt;"' in html


def test_tokens_are_underlined_by_what_they_are_worth():
    html = charts.tokens(["<s>", " a", " b", " c"], torch.tensor([2.0, -1.0, 0.04, 0.0])).data
    styles = re.findall(r'<span title="([^"]*)" style="([^"]*)">([^<]*)</span>', html)
    assert [text for _, _, text in styles] == ["&lt;s&gt;", " a", " b", " c"]
    assert [value for value, _, _ in styles] == ["+2.00", "-1.00", "+0.04", "+0.00"]
    assert styles[0][1] == f"border-bottom:6.0px solid {looks.SIGNS['positive']}"
    assert styles[1][1] == f"border-bottom:3.0px dashed {looks.SIGNS['negative']}"
    assert styles[2][1] == styles[3][1] == ""


def test_tokens_of_nothing_have_no_line():
    assert "border" not in charts.tokens(["a"], torch.zeros(1)).data


def test_a_chart_leaves_a_notebook_as_data_without_script():
    bundle = alt.renderers.get()(drawn()["line"].to_dict())
    assert "text/html" not in bundle
    json.dumps(bundle)
