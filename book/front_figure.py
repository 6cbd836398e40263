"""The figure of README, drawn from what benchmarks left in ``data/``; ``python -m book.front_figure`` does it."""

import json

import altair as alt
import pandas as pd
import vl_convert

from kanlib import charts, store
from kanlib.files import write_whole
from kanlib.metrics import TITLES

TARGET = store.ROOT / "book" / "_static" / "front.svg"
NETWORKS = {"digits_resnet18": "digits", "cifar10_resnet18": "CIFAR-10", "imagenet_deit_tiny": "ImageNet"}
MASKS = 4000
#: One that every reader has, or that is as wide; vl-convert brings the first.
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
WIDTH, HEIGHT = 330, 220  # pixels of a panel


def svg() -> str:
    """The KAN and COAR's linear model against the scale of the masks, and beside all peers on three networks."""
    charts.enable()
    read = {name: pd.read_json(store.ROOT / "data" / f"{name}.json") for name in ("sensitivity", "peers")}
    cells = read["sensitivity"].query(
        "setup == 'digits_resnet18' and `gate site` == 'branch' and `output function` == 'margin'"
    )
    by_scale = cells.rename(columns={"COAR": TITLES["linear"], "scale": "scale of the masks"}).melt(
        "scale of the masks", [TITLES["kan"], TITLES["linear"]], "surrogate", "pearson"
    )
    scored = read["peers"].query("`gate site` == 'branch' and masks == @MASKS").replace({"setup": NETWORKS})
    # Of what starts at random the mean of its four members, as the claims ``….kan_minus_best`` compare them.
    scored = scored.sort_values("members").drop_duplicates(["setup", "surrogate"], keep="last")
    order = scored.groupby("surrogate")["Pearson"].mean().sort_values(ascending=False).index
    ranks = [*NETWORKS.values(), *order]
    scored = scored.sort_values(["setup", "surrogate"], key=lambda names: names.map(ranks.index))
    left = charts.learning(by_scale, x="scale of the masks", y="pearson", color="surrogate", describe="")
    right = charts.dots(
        scored.rename(columns={"Pearson": "test Pearson"}), x="test Pearson", y="setup", color="surrogate",
        low="low", high="high", describe="",
    )  # fmt: skip
    size = {"width": WIDTH, "height": HEIGHT}
    titles = "On wide masks a linear model says little", f"All peers, {MASKS:,} masks of scale 1"
    panels = [chart.properties(**size, title=title) for chart, title in zip((left, right), titles, strict=True)]
    spec = alt.hconcat(*panels, spacing=40).resolve_scale(color="independent").to_dict()
    spec["config"]["font"] = FONT
    first, second = spec["hconcat"]
    first["encoding"]["color"]["legend"] = None  # the second's holds for both
    for layer in second["layer"]:
        layer["encoding"]["color"]["legend"]["orient"] = "bottom"
    return vl_convert.vegalite_to_svg(json.dumps(spec))


if __name__ == "__main__":
    write_whole(TARGET, svg().encode())
