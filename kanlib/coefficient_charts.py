"""Charts of what is said: interaction coefficients of sets of components, panels side by side on the same scales.

Blue is above 0 and orange below, in all of them.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from torch import Tensor

from kanlib import looks
from kanlib.masks import Subset

_PANEL = 230  # pixels of a panel of bars
_FADED = 0.3


def squares(values: Mapping[str, Tensor], names: Sequence[str], *, title: str, describe: str) -> alt.Chart:
    """Symmetric matrices ``[m, m]``, a panel each: size is size and colour the sign (a Hinton diagram).

    The diagonal is left out, and so is what is nan, which may be all. Panels share their scale.
    """
    rows = [
        {"panel": panel, "from": a, "to": b, title: float(matrix[i, j])}
        for panel, matrix in values.items()
        for i, a in enumerate(names)
        for j, b in enumerate(names)
        if i != j
    ]
    frame = pd.DataFrame(rows)
    # What is unknown is there without a size: a panel in which all of it were left out would be none.
    known = frame[title].notna()
    frame["size"] = frame[title].abs().fillna(0.0)
    frame["sign"] = _sign(frame[title])
    side = max(14, min(26, 290 // len(names)))
    reach = float(frame["size"].max()) or 1.0
    area = alt.Scale(domain=[0, reach], range=[0, (side - 2) ** 2])
    sizes = alt.Legend(
        orient="bottom", title=f"|{title}|", symbolFillColor=looks.TEXT, symbolStrokeWidth=0, tickCount=3
    )
    pointed = _pointed("from", "to")
    drawn = (
        alt.Chart(frame)
        .mark_square(opacity=1)
        .encode(
            alt.X("from:N", scale=alt.Scale(domain=list(names)), title=None, axis=_every(labelAngle=-40)),
            alt.Y("to:N", scale=alt.Scale(domain=list(names)), title=None, axis=_every(grid=True)),
            alt.Size("size:Q", scale=area, legend=sizes),
            # A legend of no colours would have no bounds, and with it the chart.
            _sign_colour(frame.loc[known, "sign"], legend=bool(known.any())),
            opacity=_fading(pointed),
            tooltip=["from:N", "to:N", alt.Tooltip(title, type="quantitative", format=".3g")],
        )
        .add_params(pointed)
        .properties(width=side * len(names), height=side * len(names))
    )
    return _beside(drawn, list(values)).properties(description=describe)


def bars(
    values: Mapping[str, Mapping[Subset, float]],
    names: Sequence[str],
    *,
    title: str,
    describe: str,
    errors: Mapping[str, Mapping[Subset, float]] | None = None,
) -> alt.Chart:
    """A bar for each subset of components, in the order given; colour repeats the sign.

    Args:
        values: panel → subset → value. Panels share their axes.
        names: of the components.
        title: of the values.
        describe: see above.
        errors: standard errors of the values, drawn as whiskers of two of them to either side.
    """
    frame = pd.DataFrame(
        [
            {"panel": panel, "components": " · ".join(names[j] for j in s), title: float(v)}
            | {side: v + times * _error(errors, panel, s) for side, times in (("low", -2), ("high", 2))}
            for panel, of_panel in values.items()
            for s, v in of_panel.items()
        ]
    )
    frame["sign"] = _sign(frame[title])
    order = list(dict.fromkeys(frame["components"]))
    pointed = _pointed("components")
    base = alt.Chart().encode(alt.Y("components:N", sort=order, title=None, axis=_every(labelLimit=300)))
    drawn = base.mark_bar(size=11).encode(
        alt.X(title, type="quantitative"),
        _sign_colour(frame["sign"], legend=False),
        opacity=_fading(pointed),
        tooltip=["components:N", alt.Tooltip(title, type="quantitative", format=".3g")],
    )
    whiskers = base.mark_rule(strokeWidth=1.5).encode(alt.X("low:Q", title=title), x2="high:Q")
    layered = alt.layer(drawn.add_params(pointed), *([whiskers] if errors else []), data=frame.round(4))
    shape = {"width": _PANEL, "height": 21 * len(order)}
    return _beside(layered.properties(**shape), list(values)).properties(description=describe)


def arcs(values: Mapping[Subset, float], names: Sequence[str], *, title: str, describe: str) -> alt.Chart:
    """Pairs as arcs between their components, which stand in a row.

    Width is size, colour and dashes are the sign.
    """
    turn = np.linspace(0, np.pi, 31)
    parts = []
    for (i, j), value in values.items():
        what = {"components": f"{names[i]} · {names[j]}", title: float(value), "size": abs(float(value))}
        half = (j - i) / 2
        parts.append(pd.DataFrame({"at": i + half * (1 - np.cos(turn)), "height": half * np.sin(turn)} | what))
    frame = pd.concat(parts).round({"at": 3, "height": 3})
    frame["sign"] = _sign(frame[title])
    name = f"{json.dumps(list(names))}[datum.value]"
    axis = _every(values=list(range(len(names))), labelExpr=name, labelAngle=-40)
    dashes = alt.Scale(domain=list(looks.SIGNS), range=[[1, 0], [6, 4]])
    return (
        alt.Chart(frame, description=describe)
        .mark_line()
        .encode(
            alt.X("at:Q", title=None, axis=axis, scale=alt.Scale(domain=[-0.5, len(names) - 0.5], nice=False)),
            alt.Y("height:Q", axis=None),
            alt.StrokeWidth("size:Q", legend=None, scale=alt.Scale(range=[0.75, 7], zero=True)),
            _sign_colour(frame["sign"], legend=True),
            alt.StrokeDash("sign:N", legend=None, scale=dashes),
            alt.Detail("components:N"),
            tooltip=["components:N", alt.Tooltip(title, type="quantitative", format=".3g")],
        )
        .properties(width="container", height=200)
    )


def _sign(values: pd.Series) -> np.ndarray:
    return np.where(values < 0, "negative", "positive")


def _sign_colour(present: pd.Series, *, legend: bool) -> alt.Color:
    shown = alt.Legend(orient="bottom", title=None) if legend else None
    return alt.Color("sign:N", scale=looks.signs(present), legend=shown)


def _every(**options: Any) -> alt.Axis:
    """An axis that leaves no label out."""
    return alt.Axis(labelOverlap=False, **options)


def _pointed(*fields: str) -> alt.Parameter:
    return alt.selection_point(name="pointed", fields=list(fields), on="pointerover", clear="pointerout")


def _fading(pointed: alt.Parameter) -> Any:
    """All fade but what the pointer is on, in every panel."""
    return alt.when(pointed).then(alt.value(1)).otherwise(alt.value(_FADED))


def _error(errors: Mapping[str, Mapping[Subset, float]] | None, panel: str, s: Subset) -> float:
    return float(errors[panel].get(s, 0.0)) if errors else 0.0


def _beside(drawn: Any, panel_names: list[str]) -> Any:
    """A panel for each name, side by side on the same scales."""
    facet = alt.Facet("panel:N", sort=panel_names, title=None)
    return drawn.facet(facet=facet, columns=2)
