"""The edges of symbolic KANs as tables: what stands for each, and how closely it follows the spline."""

from collections.abc import Sequence

import pandas as pd
import torch

from kanlib.kan.kan import KAN
from kanlib.symbolic.symbolic_kan import SymbolicKAN


def edge_table(symbolic: Sequence[SymbolicKAN]) -> pd.DataFrame:
    """A row for each edge of these symbolic KANs: ``example``, ``layer``, ``kept``, ``R²``, ``length``.

    An edge that is not kept is a constant.
    """
    return pd.DataFrame(
        [
            {
                "example": e + 1,
                "layer": layer + 1,
                "kept": form.template != 0,
                "R²": form.r2,
                "length": form.length,
            }
            for e, one in enumerate(symbolic)
            for layer, rows in enumerate(one.forms)
            for row in rows
            for form in row
        ]
    )


def edge_curves(kan: KAN, symbolic: SymbolicKAN, names: Sequence[str], most: int = 8) -> pd.DataFrame:
    """The first layer's edges as curves on −3 to 3, spline and closed form, each less its value at 0.

    Columns: ``input``, ``node``, ``x``, ``edge function`` (``spline`` or ``closed form``) and ``φ``.

    Args:
        kan: of one example.
        symbolic: what stands for it, unpruned.
        names: of the components.
        most: nodes that are shown, those that vary most.
    """
    points = torch.linspace(-3, 3, 41)
    splines = kan.edge_values(0, points.expand(1, len(names), -1))[0]
    most_varied = splines.std(2).sum(0).argsort(descending=True)[:most].sort().values.tolist()
    rows = []
    for i, name in enumerate(names):
        for o in most_varied:
            # Constants belong to the node.
            spline, closed = (
                v - v[len(points) // 2] for v in (splines[i, o], symbolic.forms[0][i][o].values(points))
            )
            kinds = {"spline": spline.tolist(), "closed form": closed.tolist()}
            rows.append(pd.DataFrame({"input": name, "node": f"h{o + 1}", "x": points.tolist(), **kinds}))
    return pd.concat(rows).melt(
        ["input", "node", "x"], ["spline", "closed form"], var_name="edge function", value_name="φ"
    )
