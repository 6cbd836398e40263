"""What closed forms are fitted to: the edge functions of a KAN, where their inputs lie and where they rest."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from kanlib.errors import BadInputError
from kanlib.kan.kan import KAN

_POINTS = 101  # of a domain
#: The domain reaches this share of the inputs' range beyond them, so that tails stay tame.
OVERHANG = 0.1
_EVEN_WEIGHT = 0.1  # is spread evenly over the domain, for the same reason
_STENCIL = 0.02  # distance of the points around rest, in standard deviations of the inputs
#: The value in the middle of five points and the central differences of order 1, 2 and 3.
_DIFFERENCES = torch.tensor(
    [[0, 0, 1, 0, 0], [0, -0.5, 0, 0.5, 0], [0, 1, -2, 1, 0], [-0.5, 1, 0, -1, 0.5]], dtype=torch.float64
)
_FACTORIALS = torch.tensor([1.0, 1.0, 2.0, 6.0], dtype=torch.float64)


@dataclass(frozen=True)
class Rest:
    """Five points ``x [n, 5]`` around where each edge rests, the functions ``y`` there, and how much they count.

    What counts are the Taylor coefficients up to ``order`` (1 to 3) over a distance ``scale [n]``, each with
    ``weight`` against the mean square error: interaction coefficients are derivatives there.
    """

    x: Tensor
    y: Tensor
    scale: Tensor
    weight: float
    order: int = 3


@dataclass(frozen=True)
class Edges:
    """n functions of one variable to be put in closed form.

    Attributes:
        x_domain: points ``[n, points]``, each row evenly spaced and rising (fp64).
        y: the functions there.
        weights: non-negative, each row sums to 1.
        rest: where derivatives count as well.

    Raises:
        BadInputError: a value that is not finite (the edge is named), or shapes that differ.
    """

    x_domain: Tensor
    y: Tensor
    weights: Tensor
    rest: Rest | None = None

    def __post_init__(self):
        if not self.x_domain.shape == self.y.shape == self.weights.shape:
            raise BadInputError(
                f"points, values and weights of the edges are {tuple(self.x_domain.shape)}, {tuple(self.y.shape)} "
                f"and {tuple(self.weights.shape)}, expected one shape; pass one row an edge."
            )
        for edge in (~self.y.isfinite().all(1)).nonzero().flatten().tolist():
            raise BadInputError(f"edge {edge} is not finite on its domain; refit the KAN.")

    @property
    def n_points(self) -> int:
        """Points of a domain."""
        return self.x_domain.shape[1]

    @cached_property
    def middle(self) -> Tensor:
        """Of each domain, ``[n]``."""
        return (self.x_domain[:, -1] + self.x_domain[:, 0]) / 2

    @cached_property
    def half(self) -> Tensor:
        """Half the width of each domain, ``[n]``."""
        return (self.x_domain[:, -1] - self.x_domain[:, 0]) / 2

    @cached_property
    def x(self) -> Tensor:
        """All points, those around rest last."""
        return self.x_domain if self.rest is None else torch.cat([self.x_domain, self.rest.x], 1)

    @cached_property
    def u(self) -> Tensor:
        """The points ``x`` with every domain laid on −1 to 1."""
        return (self.x - self.middle[:, None]) / self.half[:, None]

    @cached_property
    def root(self) -> Tensor:
        """Square roots of the weights."""
        return self.weights.sqrt()

    @cached_property
    def target(self) -> Tensor:
        """The functions as :meth:`rows`, ``[n, R]``."""
        y = self.y if self.rest is None else torch.cat([self.y, self.rest.y], 1)
        return self.rows(y[..., None])[..., 0]

    def rows(self, values: Tensor) -> Tensor:
        """What least squares sees of functions with these ``values [n, all points, K]``: ``[n, R, K]``.

        Weighted values, then weighted Taylor coefficients at rest.
        """
        weighted = self.root[..., None] * values[:, : self.n_points]
        if self.rest is None:
            return weighted
        step = self.rest.x[:, 1] - self.rest.x[:, 0]
        orders = self.rest.order + 1
        taylor = (self.rest.scale / step)[:, None] ** torch.arange(orders) / _FACTORIALS[:orders]
        scaled = self.rest.weight**0.5 * taylor[..., None] * _DIFFERENCES[:orders]
        return torch.cat([weighted, scaled @ values[:, self.n_points :]], 1)

    def part(self, edge: int) -> "Edges":
        """One of the functions."""
        one = slice(edge, edge + 1)
        near = self.rest and replace(self.rest, **{k: getattr(self.rest, k)[one] for k in ("x", "y", "scale")})
        return Edges(self.x_domain[one], self.y[one], self.weights[one], near)

    @cached_property
    def variance(self) -> Tensor:
        """Weighted variance of each function, ``[n]``."""
        centred = self.y - (self.weights * self.y).sum(1, keepdim=True)
        return (self.weights * centred.square()).sum(1)

    def quality(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """R² and misfit ``[n]`` of fits that come to these ``rows [n, R]``."""
        squared = (self.target - rows).square()
        # A fit that is off by no more than rounding is exact, also where there is no variance to explain.
        rounding = 1e-20 * (self.weights * self.y.square()).sum(1) + 1e-300
        r2, misfit = (
            (error / self.variance.clamp_min(1e-300)).where(error > rounding, torch.zeros_like(error))
            for error in (squared[:, : self.n_points].sum(1), squared.sum(1))
        )
        return 1 - r2, misfit


def of_layer(kan: KAN, layer: int, inputs: Tensor, at_rest: Tensor, rest_weight: float) -> Edges:
    """The edges of one layer, ``[E · in · out]`` in this order, where their inputs lie.

    Args:
        kan: E of them (fp64).
        layer: which of its layers.
        inputs: what enters that layer, ``[E, in, N]``.
        at_rest: what enters it at σ = 0, ``[E, in, 1]``.
        rest_weight: how much derivatives there count; 0: not at all.
    """
    points, weights = domain(inputs)
    deviation = inputs.std(2).clamp_min(1e-6)
    near = at_rest + _STENCIL * deviation[..., None] * torch.arange(-2, 3, dtype=torch.float64)
    n_out = kan.coefs[layer].shape[1]

    def each(of_nodes: Tensor) -> Tensor:
        return of_nodes.repeat_interleave(n_out, dim=1).flatten(0, 1)

    values, around = (kan.edge_values(layer, x).flatten(0, 2) for x in (points, near))
    # A coefficient differentiates once by each component, so that edges out of these need no more than a slope.
    rest = Rest(each(near), around, each(deviation), rest_weight, 3 if layer else 1) if rest_weight else None
    return Edges(each(points), values, each(weights), rest)


def domain(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Even points ``[E, in, points]`` over each node's inputs ``[E, in, N]``, and their density as weights."""
    low, high = inputs.amin(2), inputs.amax(2)
    pad = OVERHANG * (high - low).clamp_min(1e-6)
    low, high = low - pad, high + pad
    u = torch.linspace(0, 1, _POINTS, dtype=torch.float64)
    points = low[..., None] + (high - low)[..., None] * u
    bins = ((inputs - low[..., None]) / (high - low)[..., None] * (_POINTS - 1)).round().long()
    density = torch.zeros(points.shape, dtype=torch.float64)
    density.scatter_add_(2, bins, torch.ones_like(bins, dtype=torch.float64))
    density /= density.sum(-1, keepdim=True)
    return points, (1 - _EVEN_WEIGHT) * density + _EVEN_WEIGHT / _POINTS
