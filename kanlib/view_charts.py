"""One picture of one prediction: the image with its patches, the training images behind it, and its components."""

from collections.abc import Sequence
from html import escape

from IPython.display import HTML
from torch import Tensor

from kanlib import looks
from kanlib.charts import data_url

_SIDE, _ROW = 200, 20  # pixels of the image, and of the row of a bar


def three_views(
    image: Tensor,
    patches: Tensor,
    training: Sequence[tuple[Tensor, str, float]],
    components: Sequence[tuple[str, float]],
) -> HTML:
    """What patches, training images and components are worth to one prediction, side by side.

    Blue is above 0 and orange below; a square's area and a bar's length are the size, and
    a training image has a line of its sign's colour. Each part has its own scale.

    Args:
        image: ``[3, H, W]``.
        patches: ``[side, side]``.
        training: images ``[3, H, W]``, what they are called, and their worth; may be empty.
        components: names and their worth, in the network's order.
    """
    parts = [_figure("patches", _SIDE, _SIDE, _squares(image, patches))]
    if training:
        pictures = "".join(
            f'<figure style="margin:0"><img src="{data_url(picture)}" alt="{escape(name)}" width="60">'
            f'<figcaption style="border-top:3px solid {_colour(value)}">'
            f"{escape(name)}<br>{value:+.3f}</figcaption></figure>"
            for picture, name, value in training
        )
        grid = f'<div class="image-grid" style="max-width:{_SIDE + 20}px">{pictures}</div>'
        parts.append(f"<div><p>training images</p>{grid}</div>")
    parts.append(_figure("components", 260, _ROW * len(components), _bars(components)))
    return HTML(f'<div style="display:flex;flex-wrap:wrap;gap:24px;align-items:flex-start">{"".join(parts)}</div>')


def _figure(name: str, width: int, height: int, inside: str) -> str:
    return (
        f'<div><p>{name}</p><svg role="img" aria-label="{name}" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" style="max-width:100%">{inside}</svg></div>'
    )


def _colour(value: float) -> str:
    return looks.SIGNS["positive" if value >= 0 else "negative"]


def _squares(image: Tensor, patches: Tensor) -> str:
    step = _SIDE / len(patches)
    reach = float(patches.abs().max()) or 1.0
    drawn = [
        f'<image href="{data_url(image)}" width="{_SIDE}" height="{_SIDE}" preserveAspectRatio="none" '
        'style="image-rendering:pixelated"/>'
    ]
    for row, values in enumerate(patches.tolist()):
        for column, value in enumerate(values):
            side = 0.8 * step * (abs(value) / reach) ** 0.5
            x, y = (column + 0.5) * step - side / 2, (row + 0.5) * step - side / 2
            drawn.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{side:.1f}" height="{side:.1f}" fill="{_colour(value)}" '
                f'stroke="white"><title>{row + 1}·{column + 1}: {value:+.3f}</title></rect>'
            )
    return "".join(drawn)


def _bars(components: Sequence[tuple[str, float]]) -> str:
    reach = max((abs(value) for _, value in components), default=0.0) or 1.0
    drawn = []
    for row, (name, value) in enumerate(components):
        long, y = 70 * abs(value) / reach, row * _ROW
        x = 180 - (long if value < 0 else 0)
        drawn.append(
            f'<text x="100" y="{y + 14}" text-anchor="end" font-size="12" fill="{looks.TEXT}">'
            f"{escape(name)}</text>"
            f'<rect x="{x:.1f}" y="{y + 4}" width="{long:.1f}" height="{_ROW - 8}" fill="{_colour(value)}">'
            f"<title>{escape(name)}: {value:+.3f}</title></rect>"
        )
    return "".join(drawn)
