"""Charts: one look for every figure, in the notebooks and in the book.

A chart leaves a notebook as a Vega-Lite specification with its data inside. Notebook front ends draw it
themselves; the book's extension writes the same specification into the page, where a script draws it in the
page's colours.
"""

import altair as alt

__all__ = ["enable"]

# Okabe and Ito's palette, which stays apart under the common colour blindnesses. Its black, invisible on a
# dark page, is a grey here; its yellow, faint on a white one, comes last.
CATEGORIES = ["#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#8C8C8C", "#F0E442"]
# Readable on white and on black. The book replaces both by the page's own colours.
TEXT = "#767676"
LINE = "#8C8C8C4D"
# JupyterLab 4.6 draws what is marked as version 5 and shows version 6 as plain text; Altair 6 writes 6.
VEGALITE = "application/vnd.vegalite.v5+json"


@alt.theme.register("kanlib", enable=False)
def _theme() -> alt.theme.ThemeConfig:
    """Return the configuration that Altair merges under every chart's own."""
    guide = {"labelColor": TEXT, "titleColor": TEXT, "labelFontSize": 12, "titleFontSize": 12}
    return {
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
