"""Cards of the features of a sparse autoencoder, on a page that needs no network.

The directive is ``{features}``: a closed card for each feature of a JSON file in ``data/``, as
:func:`kanlib.sae.profiles` makes them, under a field that filters them by their words. Without its script every
card is there.
"""

import json
from html import escape

from docutils import nodes
from docutils.parsers.rst import Directive

from kanlib import store

DATA = store.ROOT / "data"
_WIDTH, _HEIGHT = 120, 48  # of the drawings, in their own units
_MOMENTS = ("mean", "standard deviation", "skewness", "kurtosis")


class Features(Directive):
    """The cards of a file."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return them as HTML."""
        source = DATA / self.arguments[0]
        self.state.document.settings.env.note_dependency(str(source))
        if not source.is_file():
            raise self.error(f"data/{source.name} is missing; a script of benchmarks/ writes it.")
        whole = json.loads(source.read_text(encoding="utf8"))
        shown = {card["feature"] for card in whole["features"]}
        cards = "".join(card_html(card, shown) for card in whole["features"])
        return [
            nodes.raw(
                "", f'<div class="feature-filter"></div><div class="feature-cards">{cards}</div>', format="html"
            )
        ]


def card_html(card: dict, shown: set[int]) -> str:
    """One card: what it says closed, and what it says open."""
    number = card["feature"]
    shape = ", ".join(f"{name} {_said(v)}" for name, v in zip(_MOMENTS, card["moments"], strict=True))
    bars = _drawing(_bars(card["histogram"]), f"Histogram of the activations of feature {number}")
    parts = [
        f"<p>{bars}{_curve(card)}</p>",
        f"<ol>{''.join(map(_context, card['contexts']))}</ol>",
        _tokens("raises", card["raises"]),
        _tokens("lowers", card["lowers"]),
        f"<p>Logit weights: {shape}.</p>",
        f"<p>Goes with {_links(card['features'], shown)}{_neurons(card['neurons'])}.</p>",
    ]
    first = card["contexts"][0][1] if card["contexts"] else ""
    closed = (
        f"Feature {number}: <code>{_piece(first)}</code>, active on {_said(100 * card['density'])} % of tokens, "
        f"rule {_said(card['rule'])}"
    )
    opened = f"<summary>{closed}</summary>{''.join(parts)}"
    return f'<details class="feature-card" id="feature-{number}">{opened}</details>'


def _context(context: list) -> str:
    before, token, after, value = context
    return f"<li>{_piece(before)}<mark>{_piece(token)}</mark>{_piece(after)} <small>{_said(value)}</small></li>"


def _tokens(verb: str, tokens: list) -> str:
    words = " ".join(f"<code>{_piece(piece)}</code>&nbsp;{_said(weight)}" for piece, weight in tokens)
    return f"<p>It {verb} {words}.</p>"


def _links(features: list, shown: set[int]) -> str:
    def one(number: int) -> str:
        return f'<a href="#feature-{number}">feature {number}</a>' if number in shown else f"feature {number}"

    return ", ".join(f"{one(number)} ({_said(r)})" for number, r in features) or "no other feature"


def _neurons(neurons: list) -> str:
    return f"; neurons {', '.join(f'{number} ({_said(r)})' for number, r in neurons)}" if neurons else ""


def _curve(card: dict) -> str:
    if "shape" not in card:
        return ""
    u, values = card["shape"]
    low, wide = min(u), (max(u) - min(u)) or 1
    high = max(values) or 1
    points = " ".join(
        f"{(a - low) / wide * _WIDTH:.1f},{_HEIGHT - 2 - b / high * (_HEIGHT - 4):.1f}"
        for a, b in zip(u, values, strict=True)
    )
    line = f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="1.5"/>'
    said = f"Spline of feature {card['feature']}"
    return f"{_drawing(line, said)} A shifted ReLU meets its spline with an R² of {card['relu']:.4f}."


def _bars(counts: list[int]) -> str:
    wide, high = _WIDTH / len(counts), max(counts) or 1
    return "".join(
        f'<rect x="{i * wide:.1f}" y="{_HEIGHT * (1 - n / high):.1f}" width="{wide - 1:.1f}" '
        f'height="{_HEIGHT * n / high:.1f}" fill="currentColor"/>'
        for i, n in enumerate(counts)
        if n
    )


def _drawing(content: str, said: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        f'aria-label="{escape(said)}">{content}</svg> '
    )


def _piece(text: str) -> str:
    """A token's text, with its line breaks seen."""
    return escape(text.replace("\n", "↵"))


def _said(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


def setup(app):
    app.add_directive("features", Features)
    return {"version": "1", "parallel_read_safe": True}
