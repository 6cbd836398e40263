import json

import altair as alt
import pandas as pd
import pytest
import torch

from kanlib import charts
from kanlib.setups import Symbolic
from kanlib.symbolic import edge_curves, replace_edges


@pytest.fixture(autouse=True)
def _enabled():
    charts.enable()


def drawn():
    """One of each chart, by name."""
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [1.0, 10.0, 100.0], "c": ["u", "u", "v"]})
    scores = pd.DataFrame({"surrogate": ["linear", "kan"], "example": [1, 1], "pearson": [0.4, 0.9]})
    true = torch.linspace(-1, 1, 50)
    return {
        "line": charts.line(frame, x="a", y="b", log=True, describe="d"),
        "lines": charts.lines(frame, x="a", y="b", color="c", describe="d"),
        "few lines": charts.lines(frame, x="a", y="b", color="c", few=True, describe="d"),
        "sweep": charts.sweep(frame, x="a", y="b", describe="d"),
        "panels": charts.panels(
            frame.assign(d="e", f="g"), x="a", y="b", color="c", row="d", column="f", describe="d"
        ),
        "columns": charts.panels(frame.assign(d="e"), x="a", y="b", color="c", column="d", log=True, describe="d"),
        "paired": charts.paired(scores, "pearson", describe="d"),
        "ranked": charts.ranked(scores.rename(columns={"surrogate": "method"}), "pearson", describe="d"),
        "predicted": charts.predicted_against_true({"kan": true**3}, true, describe="d"),
        "heat_map": charts.heat_map(torch.tensor([[0.0, -2.0], [-2.0, 0.0]]), ["p", "q"], title="L", describe="d"),
        "beside": charts.beside(
            {side: charts.bars({(0,): -1.0}, ["p"], title="L", describe="d") for side in ("left", "right")},
            by=["components"],
            describe="d",
        ),
        "arcs": charts.arcs({(0, 1): -1.0, (0, 1, 2): 2.0}, ["p", "q", "r"], title="L", describe="d"),
        "bars": charts.bars({(0, 1): -1.0, (1,): 2.0}, ["p", "q"], title="L", describe="d"),
    }


@pytest.mark.parametrize("name", list(drawn()))
def test_every_chart_is_valid_described_and_carries_its_data(name):
    spec = drawn()[name].to_dict()  # Altair validates against the schema
    assert "d" in (spec.get("description"), spec.get("layer", [{}])[0].get("description"))
    assert next(iter(spec["datasets"].values()))


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


def test_a_heat_map_is_symmetric_without_its_diagonal():
    spec = charts.heat_map(torch.tensor([[5.0, 2.0], [2.0, 5.0]]), ["p", "q"], title="L", describe="d").to_dict()
    (rows,) = spec["datasets"].values()
    assert {(r["from"], r["to"]): r["L"] for r in rows} == {("p", "q"): 2.0, ("q", "p"): 2.0}


def test_bars_name_subsets_and_tell_signs_apart():
    spec = charts.bars({(0, 1): -1.0}, ["p", "q"], title="L", describe="d").to_dict()
    (rows,) = spec["datasets"].values()
    assert rows == [{"components": "p · q", "L": -1.0, "sign": "negative"}]


def test_arcs_lead_from_component_to_component():
    values = {(0, 2): -1.0, (0, 1, 3): 2.0}
    (rows,) = charts.arcs(values, list("pqrs"), title="L", describe="d").to_dict()["datasets"].values()
    frame = pd.DataFrame(rows)
    ends = {arc: (part["at"].min(), part["at"].max()) for arc, part in frame.groupby("arc")}
    assert ends == {"(0, 2) 0": (0, 2), "(0, 1, 3) 0": (0, 1), "(0, 1, 3) 1": (1, 3)}
    pair = frame["components"] == "p · r"
    assert (frame.loc[pair, "height"] >= 0).all()
    assert (frame.loc[~pair, "height"] <= 0).all()
    assert set(zip(frame["components"], frame["L"], frame["sign"], strict=True)) == {
        ("p · r", -1.0, "negative"),
        ("p · q · s", 2.0, "positive"),
    }


def test_images_are_pictures_with_escaped_labels():
    html = charts.images(torch.rand(2, 3, 8, 8), ["<one>", "two"]).data
    assert html.count("data:image/png;base64,") == 2
    assert 'alt="&lt;one&gt;"' in html


def test_a_chart_leaves_a_notebook_as_data_without_script():
    bundle = alt.renderers.get()(drawn()["line"].to_dict())
    assert "text/html" not in bundle
    json.dumps(bundle)
