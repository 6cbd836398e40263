"""How every figure looks: one palette, in which a colour means the same in all of them, and one theme.

Every colour of a mark stands out from a white page and from a dark one by at least 3 to 1, the least that WCAG
asks of graphics.
"""

from collections.abc import Iterable
from typing import Any

import altair as alt
import numpy as np

from kanlib.metrics import TITLES

#: What has no colour of its own takes these in order. They stay apart under the common colour blindnesses.
CATEGORIES = ["#0072B2", "#D55E00", "#009E73", "#A97A00", "#C8548F", "#1A8CA0", "#7F7F7F", "#7A5CC4"]
#: The colour of each surrogate, by its title: the same in every chart.
SURROGATES = {
    TITLES[name]: colour
    for name, colour in {
        "linear": "#D55E00",
        "quadratic": "#A97A00",
        "cubic": "#8C6D46",
        "trees": "#6B8E23",
        "mlp": "#009E73",
        "kan": "#0072B2",
        "pykan": "#0072B2",
        "gaussian_process": "#C8548F",
        "coar": "#D55E00",
        "gradient": "#8A4FBF",
        "conductance": "#1A8CA0",
        "influence": "#C8548F",
        "leave_one_out": "#7F7F7F",
        "pair_sums": "#B5485D",
        "fourier": "#8A4FBF",
        "proxyspex": "#B0588A",
        "kernelshapiq": "#C0453A",
        "spex": "#96694C",
        "symbolic": "#1A8CA0",
        "short": "#7A5CC4",
        "random": "#A97A00",
        "singles": "#C0453A",
        "greedy": "#009E73",
        "exact": "#0072B2",
        "exact_filters": "#1A8CA0",
    }.items()
}
#: What is above 0, and what is below.
SIGNS = {"positive": "#0072B2", "negative": "#D55E00"}
#: From the input of a network to its output.
DEPTH = ["#2166C4", "#8A4FBF", "#C23B80", "#D55E00"]
#: Readable on white and on black. The book replaces both by the page's own colours.
TEXT = "#767676"
LINE = "#8C8C8C4D"


def scale(names: Iterable[str]) -> alt.Scale:
    """The colours of these names: of surrogates their own, else the palette's in order."""
    domain = list(dict.fromkeys(names))
    if set(domain) <= SURROGATES.keys():
        return alt.Scale(domain=domain, range=[SURROGATES[name] for name in domain])
    return alt.Scale(domain=domain, range=CATEGORIES)


def signs(present: Iterable[str]) -> alt.Scale:
    """The colours of those signs that are ``present``."""
    domain = [sign for sign in SIGNS if sign in set(present)]
    return alt.Scale(domain=domain, range=[SIGNS[sign] for sign in domain])


def by_depth(n: int) -> list[str]:
    """``n`` colours in order, from the input to the output."""
    stops = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in DEPTH], float)
    at = np.linspace(0, len(DEPTH) - 1, n)
    mixed = np.stack([np.interp(at, range(len(DEPTH)), channel) for channel in stops.T], 1)
    return ["#{:02X}{:02X}{:02X}".format(*map(round, colour)) for colour in mixed.tolist()]


@alt.theme.register("kanlib", enable=False)
def theme() -> alt.theme.ThemeConfig:
    """Return the configuration that Altair merges under every chart's own."""
    guide = {"labelColor": TEXT, "titleColor": TEXT, "labelFontSize": 12, "titleFontSize": 12}
    whole: Any = {
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
            "range": {"category": CATEGORIES},
            "rule": {"color": TEXT},
            "text": {"color": TEXT, "fontSize": 12},
            "title": {"anchor": "start", "color": TEXT, "fontSize": 13, "subtitleColor": TEXT},
            "view": {"stroke": None, "continuousWidth": 480, "continuousHeight": 280},
        }
    }
    return whole
