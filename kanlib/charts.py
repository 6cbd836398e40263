"""Charts: every figure of the notebooks and of the book.

A chart leaves a notebook as a Vega-Lite specification with its data inside. Notebook front ends draw it
themselves; the book's extension writes the same specification into the page, where a script draws it in the
page's colours, and no wider than the page. Every chart takes ``describe``, one sentence for readers who cannot see
it. Marks are opaque, so that they keep the contrast of :mod:`kanlib.looks`.
"""

import json
import sys
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import torch
from IPython.display import HTML
from PIL import Image
from torch import Tensor

from kanlib import looks
from kanlib.metrics import TITLES

# JupyterLab 4.6 draws what is marked as version 5 and shows version 6 as plain text; Altair 6 writes 6.
VEGALITE = "application/vnd.vegalite.v5+json"
_PANEL = 230  # pixels of a chart that stands beside another one
_EDGES = 12  # edge functions that are drawn


def _renderer(spec: dict, **metadata: object) -> dict[str, object]:
    """Return the display data of one chart: the specification, and words where nothing can draw it.

    There is no ``text/html`` on purpose: JupyterLab would prefer it to the specification.
    """
    return {VEGALITE: spec, "text/plain": "<Vega-Lite chart>"}


alt.renderers.register("book", _renderer)


def enable() -> None:
    """Make every Altair chart of this process look and travel as the book's charts do.

    Turns on the theme ``kanlib`` (see :mod:`kanlib.looks`) and the renderer ``book``, and lifts Altair's limit of
    5,000 rows. A chart's data go into the notebook and the page as they are: aggregate or sample them first, and
    say so beside the chart. ``.properties(width="container")`` makes a chart as wide as the text; panels of a
    facet with ``columns`` are put under each other where the page is narrow.

    It takes no arguments, returns nothing and raises nothing. Calling it again changes nothing.
    """
    alt.theme.enable("kanlib")
    # Colab draws no specifications, only HTML.
    alt.renderers.enable("colab" if "google.colab" in sys.modules else "book")
    alt.data_transformers.enable("default", max_rows=None)


def script_json(value: object) -> str:
    """A JSON value as the text of a script element: ``<`` as an escape, so that no string in it can close it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def images(x: Tensor, labels: Sequence[str]) -> HTML:
    """A grid of images ``[n, 3, H, W]``, each stretched to its own range and captioned by its label."""
    return HTML(
        '<div class="image-grid">'
        + "".join(
            f'<figure><img src="{data_url(image)}" alt="{escape(label)}" width="72">'
            f"<figcaption>{escape(label)}</figcaption></figure>"
            for image, label in zip(x, labels, strict=True)
        )
        + "</div>"
    )


def tokens(pieces: Sequence[str], values: Tensor) -> HTML:
    """A text whose tokens are underlined by a value ``[T]`` of each: the thicker, the further from 0.

    Blue is above 0 and orange, dashed, below. A token names its value when it is pointed at; one whose value is
    less than a twentieth of the largest has no line.
    """
    largest = float(values.abs().max()) or 1.0
    spans = []
    for piece, value in zip(pieces, values.tolist(), strict=True):
        line, colour = ("solid", looks.SIGNS["positive"]) if value > 0 else ("dashed", looks.SIGNS["negative"])
        thick = round(6 * abs(value) / largest, 1)
        style = f"border-bottom:{max(thick, 1)}px {line} {colour}" if thick >= 0.3 else ""
        spans.append(f'<span title="{value:+.2f}" style="{style}">{escape(piece)}</span>')
    return HTML(f'<p class="tokens" style="line-height:2.2;white-space:pre-wrap">{"".join(spans)}</p>')


def data_url(image: Tensor) -> str:
    """An image ``[3, H, W]``, stretched to its own range, as the address of a PNG that holds it itself."""
    low, high = image.amin(), image.amax()
    pixels = (255 * (image - low) / (high - low).clamp_min(1e-6)).byte()
    buffer = BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"


def line(frame: pd.DataFrame, *, x: str, y: str, describe: str, log: bool = False) -> alt.Chart:
    """One curve of column ``y`` against column ``x``, on a logarithmic axis where ``log``."""
    return (
        alt.Chart(frame, description=describe)
        .mark_line()
        .encode(
            alt.X(x, type="quantitative"),
            alt.Y(y, type="quantitative", scale=alt.Scale(type="log" if log else "linear")),
        )
        .properties(width="container")
    )


def one_by_one(curves: pd.DataFrame, *, flip: float | None, describe: str) -> alt.Chart:
    """Response ``Δf`` against ``σ``, a curve for each ``component``; hovering over a legend entry singles it out.

    Colours go from the input to the output.

    Args:
        curves: with these three columns, components in their order.
        flip: the response at which the class flips, where a rule is drawn.
        describe: see above.
    """
    names = list(dict.fromkeys(curves["component"]))
    depth = alt.Scale(domain=names, range=looks.by_depth(len(names)))
    single = alt.selection_point(fields=["component"], bind="legend")
    drawn = (
        alt.Chart(curves.round(3), description=describe)
        .mark_line()
        .encode(
            alt.X("σ:Q", scale=alt.Scale(nice=False), axis=alt.Axis(tickCount=6, format="~g")),
            alt.Y("Δf:Q", title="response Δf"),
            alt.Color("component:N", scale=depth, legend=alt.Legend(orient="bottom", columns=3, title=None)),
            opacity=alt.condition(single, alt.value(1), alt.value(0.15)),
            tooltip=["component:N", alt.Tooltip("σ:Q", format=".2f"), alt.Tooltip("Δf:Q", format=".2f")],
        )
        .add_params(single)
    )
    if flip is not None:
        at = alt.Chart(pd.DataFrame({"Δf": [flip], "what": ["below this line: another class"]}))
        words = at.mark_text(align="right", dx=-4, dy=10).encode(x=alt.value("width"), text="what:N")
        drawn += at.mark_rule(strokeDash=[4, 4]).encode(y="Δf:Q") + words.encode(y="Δf:Q")
    return drawn.properties(width="container", height=300)


def learning(means: pd.DataFrame, *, x: str, y: str, color: str, describe: str) -> alt.Chart:
    """``y`` at a few values of ``x`` on a logarithmic axis, a marked curve for each ``color``."""
    single = alt.selection_point(fields=[color], bind="legend")
    at = alt.Axis(values=sorted(means[x].unique().tolist()), format="~g")
    legend = alt.Legend(orient="bottom", columns=3, title=None)
    return (
        alt.Chart(means.round({y: 4}), description=describe)
        .mark_line(point=True)
        .encode(
            alt.X(x, type="quantitative", scale=alt.Scale(type="log", nice=False, padding=10), axis=at),
            alt.Y(y, type="quantitative", title=f"test {TITLES.get(y, y)}"),
            alt.Color(color, type="nominal", scale=looks.scale(means[color]), legend=legend),
            opacity=alt.condition(single, alt.value(1), alt.value(0.15)),
            tooltip=[color, x, alt.Tooltip(y, format=".3f")],
        )
        .add_params(single)
        .properties(width="container")
    )


def sweep(frame: pd.DataFrame, *, x: str, y: str, describe: str, log: bool = True) -> alt.Chart:
    """``y`` at a few values of ``x``, both on logarithmic axes: a power law is a straight line.

    Without ``log`` the axis of ``y`` begins at 0, so that what does not grow looks flat.
    """
    scale = alt.Scale(type="log", nice=False, padding=10)
    return (
        alt.Chart(frame[[x, y]], description=describe)
        .mark_line(point=True)
        .encode(
            alt.X(x, type="quantitative", scale=scale, axis=alt.Axis(values=frame[x].tolist())),
            alt.Y(y, type="quantitative", scale=scale if log else alt.Scale(zero=True)),
            tooltip=[x, alt.Tooltip(y, type="quantitative", format=".3")],
        )
        .properties(width="container", height=200)
    )


def panels(
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    color: str,
    column: str,
    row: str | None = None,
    log: bool = False,
    title: str | None = None,
    describe: str,
) -> alt.Chart:
    """``y`` at a few values of ``x``, a curve for each ``color``, a panel for each ``column`` and ``row``.

    ``title`` is that of the axis of ``y``, where its column's name does not say it.
    """
    used = [x, y, color, column, *([row] if row else [])]
    at = alt.Axis(values=sorted(frame[x].unique()), labelOverlap=True, format="~g")
    legend = alt.Legend(orient="bottom", columns=2, title=None)
    drawn = (
        alt.Chart(frame[used].round({y: 4}))
        .mark_line(point=True)
        .encode(
            alt.X(x, type="quantitative", scale=alt.Scale(type="log" if log else "linear"), axis=at),
            alt.Y(y, type="quantitative", title=title or TITLES.get(y, y)),
            alt.Color(color, type="nominal", scale=looks.scale(frame[color]), legend=legend),
            alt.StrokeDash(color, type="nominal", sort=None, legend=None),
            tooltip=[*used[2:], x, alt.Tooltip(y, type="quantitative", format=".3f")],
        )
        .properties(width=_PANEL, height=170)
    )
    order = list(dict.fromkeys(frame[column]))
    sides: dict[str, Any] = {"facet": alt.Facet(column, type="nominal", sort=order, title=None), "columns": 2}
    if row:
        sides = {
            "column": alt.Column(column, type="nominal", sort=order),
            "row": alt.Row(row, type="nominal", sort=None),
        }
    return drawn.facet(**sides).properties(description=describe)


def paired(scores: pd.DataFrame, metric: str, *, describe: str) -> alt.Chart:
    """``metric`` of each example (a thin line) under each surrogate (a row).

    Args:
        scores: a row for each surrogate and example, as :func:`kanlib.metrics.scores` makes it.
        metric: the column to draw.
        describe: see above.
    """
    titled = scores[["surrogate", "example", metric]].replace({"surrogate": TITLES}).round({metric: 4})
    names = list(dict.fromkeys(titled["surrogate"]))
    titled["place"] = titled["surrogate"].map(names.index)
    base = alt.Chart(titled, description=describe).encode(
        alt.X(metric, type="quantitative", title=f"test {TITLES[metric]}"),
        alt.Y("surrogate:N", sort=names, title=None, axis=alt.Axis(grid=True)),
        tooltip=["example:N", "surrogate:N", alt.Tooltip(metric, type="quantitative", format=".3f")],
    )
    lines = base.mark_line(color=looks.TEXT, strokeWidth=0.75).encode(detail="example:N", order="place:Q")
    dots = base.mark_point(filled=True, opacity=1, size=55).encode(
        alt.Color("surrogate:N", scale=looks.scale(names), legend=None)
    )
    return (lines + dots).properties(width="container", height=34 * len(names))


def ranked(scores: pd.DataFrame, metric: str, *, describe: str) -> alt.Chart:
    """``metric`` of each example (a ring) under each method (a row, the best mean first); a bar marks the mean.

    A method that failed on an example has no bar.
    """
    mean = scores.groupby("method", sort=False)[metric].mean(skipna=False)
    order = [TITLES.get(name, name) for name in mean.sort_values(ascending=False).index]
    dots, bars = (
        frame[["method", metric, *more]].dropna().replace({"method": TITLES}).round(4)
        for frame, more in ((scores, ["example"]), (mean.reset_index(), []))
    )
    x = alt.X(metric, type="quantitative", title=f"test {TITLES[metric]}")
    y = alt.Y("method", type="nominal", sort=order, title=None)
    colour = alt.Color("method:N", scale=looks.scale(order), legend=None)
    seen = [alt.Tooltip(metric, type="quantitative", format=".3f")]
    return (
        alt.Chart(dots, description=describe)
        .mark_point(opacity=1, size=50)
        .encode(x, y, colour, tooltip=["method:N", "example:N", *seen])
        + alt.Chart(bars)
        .mark_tick(opacity=1, thickness=3, size=16)
        .encode(x, y, colour, tooltip=["method:N", *seen])
    ).properties(width="container", height=26 * len(order))


def dots(
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    color: str,
    describe: str,
    low: str | None = None,
    high: str | None = None,
    limit: str | None = None,
) -> alt.LayerChart | alt.FacetChart:
    """``x`` as a dot in the row ``y`` for each ``color``, all in the order of the table.

    Columns ``low`` and ``high`` are the ends of its interval, a line; ``limit`` is what it can reach, a tick.
    """
    given = [name for name in (low, high, limit) if name]
    shape: dict[str, Any] = {
        "domain": list(dict.fromkeys(frame[color])),
        "range": ["circle", "diamond", "square", "triangle-up"],
    }
    base = alt.Chart(frame[[x, y, color, *given]].round(4)).encode(
        alt.Y(y, type="nominal", sort=None, title=None, axis=alt.Axis(labelLimit=150)),
        alt.YOffset(color, type="nominal", sort=None),
        alt.Color(
            color,
            type="nominal",
            sort=None,
            title=None,
            scale=looks.scale(frame[color]),
            legend=alt.Legend(orient="top", columns=3),
        ),
        tooltip=[y, color, *(alt.Tooltip(name, type="quantitative", format=".3f") for name in [x, *given])],
    )
    at = alt.X(x, type="quantitative", title=x, scale=alt.Scale(zero=True))
    drawn = alt.Shape(color, type="nominal", sort=None, title=None, legend=None, scale=alt.Scale(**shape))
    layers = [base.mark_point(filled=True, size=80, opacity=1).encode(at, drawn)]
    if low and high:
        ends = alt.X(low, type="quantitative", title=x), alt.X2(high)
        layers.append(base.mark_rule(strokeWidth=2).encode(*ends))
    if limit:
        layers.append(base.mark_tick(thickness=3, size=16).encode(alt.X(limit, type="quantitative", title=x)))
    return alt.layer(*layers).properties(width="container", height=60 * frame[y].nunique(), description=describe)


def predicted_against_true(
    predicted: Mapping[str, Tensor], true: Tensor | Mapping[str, Tensor], *, describe: str
) -> alt.Chart:
    """One panel a surrogate: predicted over true responses ``[N]``, its own or those of all, with the diagonal.

    Axes stop at the 0.5th and 99.5th percentile of the true responses; dots beyond lie on the frame.
    """
    of = true if isinstance(true, Mapping) else dict.fromkeys(predicted, true)
    low, high = np.quantile(torch.cat([of[name] for name in predicted]).numpy(), [0.005, 0.995]).tolist()
    scale = alt.Scale(domain=[low, high], clamp=True, nice=False)
    titles = [TITLES.get(name, name) for name in predicted]
    frame = pd.concat(
        [
            pd.DataFrame({"surrogate": title, "true": of[name], "predicted": v.to(of[name])})
            for title, (name, v) in zip(titles, predicted.items(), strict=True)
        ]
    ).round(3)
    dots = (
        alt.Chart(frame)
        .mark_circle(opacity=1, size=7)
        .encode(
            alt.X("true:Q", scale=scale, title="true Δf"),
            alt.Y("predicted:Q", scale=scale, title="predicted Δf"),
            alt.Color("surrogate:N", scale=looks.scale(titles), legend=None),
            tooltip=[alt.Tooltip("true:Q"), alt.Tooltip("predicted:Q")],
        )
    )
    diagonal = (
        alt.Chart(frame)
        .mark_rule(strokeDash=[4, 4])
        .encode(x=alt.datum(low), y=alt.datum(low), x2=alt.datum(high), y2=alt.datum(high))
    )
    facet = alt.Facet("surrogate:N", sort=titles, title=None)
    square = (dots + diagonal).properties(width=_PANEL, height=_PANEL)
    return square.facet(facet=facet, columns=2).properties(description=describe)


def edge_curves(curves: pd.DataFrame, *, describe: str) -> alt.Chart:
    """The edge functions that vary most, spline and closed form, a panel each.

    Args:
        curves: from :func:`kanlib.symbolic.edge_curves`.
        describe: see above.
    """
    named = curves.assign(edge=curves["input"] + " → " + curves["node"]).round(3)
    most = list(named.groupby("edge", sort=False)["φ"].std().nlargest(_EDGES).index)
    kinds = alt.Scale(domain=["spline", "closed form"], range=[looks.SURROGATES["KAN"], looks.CATEGORIES[1]])
    bare = alt.Axis(ticks=False, labels=False)
    return (
        alt.Chart(named[named["edge"].isin(most)])
        .mark_line()
        .encode(
            alt.X("x:Q", title=None, axis=bare),
            alt.Y("φ:Q", title=None, axis=bare),
            alt.Color("edge function:N", scale=kinds, legend=alt.Legend(orient="bottom", title=None)),
            alt.StrokeDash("edge function:N", scale=alt.Scale(domain=kinds.domain, range=[[1, 0], [5, 5]])),
        )
        .properties(width=130, height=80)
        .facet(facet=alt.Facet("edge:N", sort=most, title=None), columns=4, spacing=12)
        .properties(description=describe)
    )


def front(points: pd.DataFrame, chosen: pd.DataFrame, level: float, *, describe: str) -> alt.Chart:
    """What expressions leave unexplained against their length, on two logarithmic axes.

    A line is an example, a dot the expression that was chosen for it, and a rule the KANs' mean.

    Args:
        points: columns ``example``, ``length`` and ``1 − R²``.
        chosen: a row of these for each example.
        level: the KANs' mean ``1 − R²``.
        describe: see above.
    """
    logarithmic = alt.Scale(type="log", nice=False, padding=8)
    # With a label at every number a reader sees none.
    axis = alt.Axis(values=[digit * 10.0**power for power in range(-6, 7) for digit in (1, 2, 5)], format="~g")
    x = alt.X("length:Q", scale=logarithmic, axis=axis, title="operations and leaves")
    y = alt.Y("1 − R²:Q", scale=logarithmic, axis=axis, title="1 − R² on validation masks")
    seen = ["example:N", "length:Q", alt.Tooltip("1 − R²:Q", format=".3f")]
    lines = alt.Chart(points.round(5), description=describe).mark_line(color=looks.TEXT, strokeWidth=1)
    dots = alt.Chart(chosen.round(5)).mark_point(
        filled=True, opacity=1, size=80, color=looks.SURROGATES[TITLES["short"]]
    )
    kan = alt.Chart(pd.DataFrame({"1 − R²": [level], "what": ["mean of the KANs"]}))
    blue = looks.SURROGATES["KAN"]
    words = kan.mark_text(align="left", dx=4, dy=10).encode(x=alt.value(0), y=y, text="what:N")
    return (
        lines.encode(x, y, alt.Detail("example:N"), tooltip=seen)
        + kan.mark_rule(color=blue, strokeDash=[4, 4]).encode(y=y)
        + words
        + dots.encode(x, y, tooltip=seen)
    ).properties(width="container", height=280)
