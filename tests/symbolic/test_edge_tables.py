import torch

from kanlib.symbolic.edge_tables import edge_curves, edge_table
from kanlib.symbolic.shortening import replace_edges
from tests.helpers import symbolic_knobs


def test_the_table_of_edges_has_a_row_for_each(hand_made):
    table = edge_table([hand_made, hand_made])
    assert list(table) == ["example", "layer", "kept", "R²", "length"]
    assert table["example"].tolist() == [1] * 8 + [2] * 8
    assert table["layer"].tolist() == [*[1] * 6, 2, 2] * 2
    forms = [form for layer in hand_made.forms for row in layer for form in row]
    assert table["length"].tolist() == [form.length for form in forms] * 2
    # The third row's second edge is a constant.
    assert table["kept"].tolist() == [True, True, True, False, True, True, True, True] * 2


def test_curves_are_edges_beside_their_closed_forms_less_their_values_at_rest(fitted):
    names = ["a", "b", "c"]
    first = fitted.kan.select(torch.tensor([0]))
    (form,) = replace_edges(first, fitted.fit.masks, symbolic_knobs())
    curves = edge_curves(first, form, names, most=2)
    assert list(curves) == ["input", "node", "x", "edge function", "φ"]
    assert set(curves["input"]) == set(names)
    assert curves["node"].nunique() == min(2, first.widths[1])
    values = curves.round({"x": 4}).pivot(index=["input", "node", "x"], columns="edge function", values="φ")
    assert (values["spline"] - values["closed form"]).abs().max() < 0.1 * values["spline"].abs().max()
    assert values.xs(0.0, level="x").abs().max().max() == 0
    at = torch.tensor(sorted(set(curves["x"])))
    splines = first.edge_values(0, at.expand(1, 3, -1))[0]
    assert (at[0], at[-1]) == (-3, 3)
    spread = splines.std(2).sum(0)
    shown = {f"h{o + 1}" for o in spread.topk(2).indices.tolist()}
    assert set(curves["node"]) == shown


def test_every_node_is_shown_where_there_are_few(fitted):
    first = fitted.kan.select(torch.tensor([0]))
    (form,) = replace_edges(first, fitted.fit.masks, symbolic_knobs(max_degree=3))
    assert edge_curves(first, form, ["a", "b", "c"])["node"].nunique() == first.widths[1]
