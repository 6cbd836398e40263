"""Charts: one look for every figure, in the notebooks and in the book.

A chart leaves a notebook as a Vega-Lite specification with its data inside. Notebook front ends draw it
themselves; the book's extension writes the same specification into the page, where a script draws it in the
page's colours. Every chart takes ``describe``, one sentence for readers who cannot see it.
"""

import json
import warnings
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from itertools import pairwise
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from IPython.display import HTML
from PIL import Image
from torch import Tensor

from kanlib.masks import Subset
from kanlib.metrics import TITLES

# Okabe and Ito's palette, which stays apart under the common colour blindnesses. Its black, invisible on a
# dark page, is a grey here; its yellow, faint on a white one, comes last.
CATEGORIES = ["#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#8C8C8C", "#F0E442"]
# Readable on white and on black. The book replaces both by the page's own colours.
TEXT = "#767676"
LINE = "#8C8C8C4D"
# JupyterLab 4.6 draws what is marked as version 5 and shows version 6 as plain text; Altair 6 writes 6.
VEGALITE = "application/vnd.vegalite.v5+json"
_BESIDE = 210  # pixels of a chart that stands beside another one


@alt.theme.register("kanlib", enable=False)
def _theme() -> alt.theme.ThemeConfig:
    """Return the configuration that Altair merges under every chart's own."""
    guide = {"labelColor": TEXT, "titleColor": TEXT, "labelFontSize": 12, "titleFontSize": 12}
    theme: Any = {
        "config": {
            "background": "transparent",
            "font": "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif",
            "axis": {
                **guide,
                "domainColor": TEXT,
                "gridColor": LINE,
                "labelOverlap": True,
                "tickColor": TEXT,
                "tickSize": 4,
                "titleFontWeight": "normal",
                "titlePadding": 8,
            },
            "header": guide,
            "legend": {**guide, "titleFontWeight": "normal"},
            "mark": {"color": CATEGORIES[0]},
            "range": {
                "category": CATEGORIES,
                "diverging": {"scheme": "blueorange"},
                "heatmap": {"scheme": "viridis"},
                "ramp": {"scheme": "viridis"},
            },
            "rule": {"color": TEXT},
            "text": {"color": TEXT, "fontSize": 12},
            "title": {"anchor": "start", "color": TEXT, "fontSize": 13, "subtitleColor": TEXT},
            "view": {"stroke": None, "continuousWidth": 480, "continuousHeight": 280},
        }
    }
    return theme


def _renderer(spec: dict, **metadata: object) -> dict[str, object]:
    """Return the display data of one chart: the specification, and words where nothing can draw it.

    There is no ``text/html`` on purpose: JupyterLab would prefer it to the specification.
    """
    return {VEGALITE: spec, "text/plain": "<Vega-Lite chart>"}


alt.renderers.register("book", _renderer)


def enable() -> None:
    """Make every Altair chart of this process look and travel as the book's charts do.

    Turns on the theme ``kanlib`` (transparent background, restrained axes, a palette safe for colour-blind
    readers) and the renderer ``book``, and lifts Altair's limit of 5,000 rows. A chart's data go into the
    notebook and the page as they are: aggregate or sample them first, and say so beside the chart.
    ``.properties(width="container")`` makes a chart as wide as the text, which narrow screens need; a chart
    with a width of its own scrolls in its box.

    It takes no arguments, returns nothing and raises nothing. Calling it again changes nothing.
    """
    alt.theme.enable("kanlib")
    alt.renderers.enable("book")
    alt.data_transformers.enable("default", max_rows=None)


def script_json(value: object) -> str:
    """A JSON value as the text of a script element: ``<`` as an escape, so that no string in it can close it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def images(x: Tensor, labels: Sequence[str]) -> HTML:
    """A grid of images ``[n, 3, H, W]``, each stretched to its own range and captioned by its label."""
    return HTML(
        '<div class="image-grid">'
        + "".join(
            f'<figure><img src="data:image/png;base64,{_png(image)}" alt="{escape(label)}" width="72">'
            f"<figcaption>{escape(label)}</figcaption></figure>"
            for image, label in zip(x, labels, strict=True)
        )
        + "</div>"
    )


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


def lines(frame: pd.DataFrame, *, x: str, y: str, color: str, describe: str, few: bool = False) -> alt.Chart:
    """A curve of ``y`` against ``x`` for each value of ``color``; hovering over a legend entry singles it out.

    Where there are ``few`` values of ``x`` they are marked, on a logarithmic axis.
    """
    single = alt.selection_point(fields=[color], bind="legend")
    return (
        alt.Chart(frame, description=describe)
        .mark_line(point=few)
        .encode(
            alt.X(x, type="quantitative", scale=alt.Scale(type="log" if few else "linear", nice=not few)),
            alt.Y(y, type="quantitative"),
            alt.Color(color, type="nominal", sort=None),
            opacity=alt.condition(single, alt.value(1), alt.value(0.15)),
            tooltip=[color, alt.Tooltip(x, format=".2f"), alt.Tooltip(y, format=".2f")],
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
    describe: str,
) -> alt.Chart:
    """``y`` at a few values of ``x``, a curve for each ``color``, a panel for each ``column`` and ``row``."""
    used = [x, y, color, column, *([row] if row else [])]
    sides: dict[str, Any] = {"column": alt.Column(column, type="nominal", sort=None)}
    if row:
        sides["row"] = alt.Row(row, type="nominal", sort=None)
    at = alt.Axis(values=sorted(frame[x].unique()), labelOverlap=True, format="~g")
    return (
        alt.Chart(frame[used].round({y: 4}))
        .mark_line(point=True)
        .encode(
            alt.X(x, type="quantitative", scale=alt.Scale(type="log" if log else "linear"), axis=at),
            alt.Y(y, type="quantitative"),
            alt.Color(color, type="nominal", sort=None, legend=alt.Legend(orient="bottom", columns=3)),
            alt.StrokeDash(color, type="nominal", sort=None),
            tooltip=[*used[2:], x, alt.Tooltip(y, type="quantitative", format=".3f")],
        )
        .properties(width=230, height=170)
        .facet(**sides)
        .properties(description=describe)
    )


def paired(scores: pd.DataFrame, metric: str, *, describe: str) -> alt.Chart:
    """``metric`` of each example (a line) under each surrogate (a place on the axis).

    Args:
        scores: a row for each surrogate and example, as :func:`kanlib.metrics.scores` makes it.
        metric: the column to draw.
        describe: see above.
    """
    titled = scores.assign(surrogate=scores["surrogate"].replace(TITLES))
    base = alt.Chart(titled, description=describe).encode(
        alt.X("surrogate:N", sort=None, title=None, axis=alt.Axis(labelAngle=0)),
        alt.Y(metric, type="quantitative", title=f"test {TITLES[metric]}"),
        alt.Detail("example:N"),
        tooltip=["example:N", "surrogate:N", alt.Tooltip(metric, type="quantitative", format=".3f")],
    )
    return (base.mark_line(opacity=0.4) + base.mark_point(filled=True, size=50, opacity=0.7)).properties(
        width="container", height=300
    )


def ranked(scores: pd.DataFrame, metric: str, *, describe: str) -> alt.Chart:
    """``metric`` of each example (a dot) under each method (a row, the best mean first); a bar marks the mean.

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
    seen = [alt.Tooltip(metric, type="quantitative", format=".3f")]
    return (
        alt.Chart(dots, description=describe)
        .mark_point(filled=True, size=50, opacity=0.6)
        .encode(x, y, tooltip=["method:N", "example:N", *seen])
        + alt.Chart(bars).mark_tick(thickness=3, size=16).encode(x, y, tooltip=["method:N", *seen])
    ).properties(width="container", height=26 * len(order))


def predicted_against_true(predicted: Mapping[str, Tensor], true: Tensor, *, describe: str) -> alt.Chart:
    """One panel a surrogate: predicted over true responses ``[N]``, with the diagonal.

    Axes stop at the 0.5th and 99.5th percentile of the true responses; dots beyond lie on the frame.
    """
    low, high = (float(v) for v in np.quantile(true.numpy(), [0.005, 0.995]))
    scale = alt.Scale(domain=[low, high], clamp=True, nice=False)
    frame = pd.concat(
        [
            pd.DataFrame({"surrogate": TITLES.get(k, k), "true": true, "predicted": v.to(true)})
            for k, v in predicted.items()
        ]
    ).round(3)
    dots = (
        alt.Chart(frame)
        .mark_circle(size=12, opacity=0.5)
        .encode(
            alt.X("true:Q", scale=scale, title="true Δf"),
            alt.Y("predicted:Q", scale=scale, title="predicted Δf"),
            tooltip=[alt.Tooltip("true:Q"), alt.Tooltip("predicted:Q")],
        )
        .properties(width=230, height=230)
    )
    diagonal = (
        alt.Chart(frame)
        .mark_rule(opacity=0.6)
        .encode(x=alt.datum(low), y=alt.datum(low), x2=alt.datum(high), y2=alt.datum(high))
    )
    return (
        (dots + diagonal)
        .facet(column=alt.Column("surrogate:N", sort=[TITLES.get(k, k) for k in predicted], title=None))
        .properties(description=describe)
    )


def edge_curves(curves: pd.DataFrame, *, describe: str) -> alt.Chart:
    """Small multiples of edge functions, spline and closed form, from :func:`kanlib.symbolic.edge_curves`."""
    return (
        alt.Chart(curves.round(3))
        .mark_line()
        .encode(
            alt.X("x:Q", title=None, axis=alt.Axis(ticks=False, labels=False)),
            alt.Y("φ:Q", title=None, axis=alt.Axis(ticks=False, labels=False)),
            alt.Color("edge function:N", sort=None),
            alt.StrokeDash("edge function:N", sort=None),
        )
        .properties(width=52, height=46)
        .facet(row=alt.Row("node:N", sort=None), column=alt.Column("input:N", sort=None), spacing=6)
        .resolve_scale(x="independent", y="shared")
        .properties(description=describe)
    )


def heat_map(matrix: Tensor, names: Sequence[str], *, title: str, describe: str) -> alt.Chart:
    """A symmetric matrix ``[m, m]`` over pairs of components, without its diagonal; colour diverges at 0."""
    rows = [
        {"from": a, "to": b, title: float(matrix[i, j])}
        for i, a in enumerate(names)
        for j, b in enumerate(names)
        if i != j
    ]
    frame = pd.DataFrame(rows)
    reach = float(frame[title].abs().max())
    signed = bool((frame[title] < 0).any())
    scale = alt.Scale(scheme="blueorange", domain=[-reach, reach]) if signed else alt.Scale(domain=[0, reach])
    base = alt.Chart(frame, description=describe).encode(
        alt.X("from:N", sort=list(names), title=None, axis=alt.Axis(labelAngle=-40)),
        alt.Y("to:N", sort=list(names), title=None),
    )
    tiles = base.mark_rect().encode(
        alt.Color(title, type="quantitative", scale=scale),
        tooltip=["from:N", "to:N", alt.Tooltip(title, type="quantitative", format=".3g")],
    )
    return tiles.properties(width="container", height=340)


def bars(values: Mapping[Subset, float], names: Sequence[str], *, title: str, describe: str) -> alt.Chart:
    """One bar a subset of components, in the order given; colour repeats the sign."""
    frame = pd.DataFrame(
        [{"components": " · ".join(names[j] for j in s), title: float(v)} for s, v in values.items()]
    )
    frame["sign"] = np.where(frame[title] < 0, "negative", "positive")
    return (
        alt.Chart(frame, description=describe)
        .mark_bar()
        .encode(
            alt.X(title, type="quantitative"),
            alt.Y("components:N", sort=None, title=None, axis=alt.Axis(labelLimit=300)),
            alt.Color("sign:N", legend=None, scale=alt.Scale(domain=["positive", "negative"])),
            tooltip=["components:N", alt.Tooltip(title, type="quantitative", format=".3g")],
        )
        .properties(width="container", height=24 * len(frame))
    )


def arcs(values: Mapping[Subset, float], names: Sequence[str], *, title: str, describe: str) -> alt.Chart:
    """Subsets as arcs between their components, which stand in a row: pairs above it, larger sets below.

    Width is size, colour and dashes are the sign.
    """
    turn = np.linspace(0, np.pi, 31)
    parts = []
    for s, value in values.items():
        what = {"components": " · ".join(names[j] for j in s), title: float(value), "size": abs(float(value))}
        for i, j in pairwise(s):
            half, side = (j - i) / 2, 1 if len(s) == 2 else -1
            path = {"at": i + half * (1 - np.cos(turn)), "height": side * half * np.sin(turn)}
            parts.append(pd.DataFrame(path | what | {"arc": f"{s} {i}"}))
    frame = pd.concat(parts).round({"at": 3, "height": 3})
    frame["sign"] = np.where(frame[title] < 0, "negative", "positive")
    signs = ["positive", "negative"]
    name = f"{json.dumps(list(names))}[datum.value]"
    axis = alt.Axis(values=list(range(len(names))), labelExpr=name, labelAngle=-40)
    scale = alt.Scale(domain=[-0.5, len(names) - 0.5], nice=False)
    return (
        alt.Chart(frame, description=describe)
        .mark_line()
        .encode(
            alt.X("at:Q", title=None, axis=axis, scale=scale),
            alt.Y("height:Q", axis=None),
            alt.StrokeWidth("size:Q", legend=None, scale=alt.Scale(range=[0.5, 7], zero=True)),
            alt.Color("sign:N", title=title, scale=alt.Scale(domain=signs)),
            alt.StrokeDash("sign:N", title=title, scale=alt.Scale(domain=signs)),
            alt.Detail("arc:N"),
            tooltip=["components:N", alt.Tooltip(title, type="quantitative", format=".3g")],
        )
        .properties(width="container", height=300)
    )


def beside(charts: Mapping[str, alt.Chart], *, by: Sequence[str], describe: str) -> alt.HConcatChart:
    """Charts of the same things side by side under their titles, linked: all fade but what the pointer is on.

    Args:
        charts: title → chart.
        by: columns that say which things are the same.
        describe: the figure in words.
    """
    pointed = alt.selection_point(name="pointed", fields=list(by), on="pointerover", clear="pointerout")
    faded = alt.when(pointed).then(alt.value(1)).otherwise(alt.value(0.3))
    parts = []
    for title, chart in charts.items():
        shape = {"width": _BESIDE, "height": min(chart.height, _BESIDE)}
        parts.append(chart.encode(opacity=faded).add_params(pointed).properties(title=title, **shape))
        if len(parts) > 1:
            parts[-1].encoding.y = parts[-1].encoding.y.axis(labels=False, ticks=False, title=None)
    with warnings.catch_warnings():
        # That one selection serves all of them is the point.
        warnings.filterwarnings("ignore", message="Automatically deduplicated selection")
        whole = alt.hconcat(*parts)
    whole = whole.resolve_scale(color="independent").properties(description=describe)
    return whole.configure_legend(orient="bottom", gradientLength=_BESIDE)


def _png(image: Tensor) -> str:
    low, high = image.amin(), image.amax()
    pixels = (255 * (image - low) / (high - low).clamp_min(1e-6)).byte()
    buffer = BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return b64encode(buffer.getvalue()).decode()
