"""Was the spline needed? Every spline of K1 beside the two functions that sparse autoencoders do with."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kanlib.errors import BadInputError
from kanlib.sae.autoencoder import Autoencoder
from kanlib.sae.encoders import Spline

_POINTS = 200  # of each spline
_LOWEST = 0.001  # quantile of pre-activations at which its range begins
#: What counts as the same function.
SAME = 0.999


@dataclass(frozen=True)
class Shapes:
    """The splines of m features of one run, where their pre-activations lie.

    Attributes:
        u: evenly spaced over what each feature was given, ``[m, 200]``.
        values: ``relu(φ_i(u))``, what the sparsifier passes on, ``[m, 200]``.
        relu: R² of ``a · relu(u − b)``, ``[m]``.
        jump: R² of ``(a u − c) · 1[u > b]``, ``[m]``, at least that of ``relu``.
        bend: ``b`` of the first, ``[m]``.
        slope: ``a`` of the first, ``[m]``.
    """

    u: Tensor
    values: Tensor
    relu: Tensor
    jump: Tensor
    bend: Tensor
    slope: Tensor

    @property
    def simple(self) -> Tensor:
        """Whether a shifted ReLU or JumpReLU has an R² of 0.999 or more, ``[m]``."""
        return self.jump.maximum(self.relu) >= SAME


@torch.inference_mode()
def shapes(model: Autoencoder, run: int, vectors: Tensor) -> Shapes:
    """The splines of one run of arm ``k1`` over the range of their pre-activations on these vectors ``[n, d]``.

    Raises:
        BadInputError: the arm has no splines.
    """
    if not isinstance(model.encoder, Spline):
        raise BadInputError(f"arm {model.arm} has no spline a feature, expected k1; train that one.")
    alone = model.one(run)
    given = alone.encoder(alone.standardised(vectors))[0].T.contiguous()
    low = given.sort(1).values[:, int(_LOWEST * given.shape[1])]
    u = low[:, None] + torch.linspace(0, 1, _POINTS, device=low.device) * (given.amax(1) - low)[:, None]
    values = alone.encoder.bent(u.T[None].contiguous())[0].T.clamp_min(0)
    return fitted(u.double().cpu(), values.double().cpu())


def fitted(u: Tensor, values: Tensor) -> Shapes:
    """Both functions by least squares for functions given by values ``[m, n]`` at ``u`` ``[m, n]``.

    The places b are those of the points; given b all else is linear, and the best b is taken. Between two points
    the bend of a ReLU is refined by the line through the points beyond it, where that has the smaller error.
    """
    whole = (values - values.mean(1, keepdim=True)).square().sum(1)
    flat = whole <= 1e-12 * values.square().sum(1).clamp_min(1e-300)
    n = u.shape[1]
    # Sums over the points beyond each place, [m, n].
    sums = {
        name: part.flip(1).cumsum(1).flip(1)
        for name, part in {"1": torch.ones_like(u), "u": u, "uu": u * u, "y": values, "uy": u * values}.items()
    }
    below = values.square().cumsum(1) - values.square()
    beyond = values.square().flip(1).cumsum(1).flip(1)
    # ReLU: y ≈ a (u − b) for u ≥ b, and 0 before.
    s_uu = sums["uu"] - 2 * u * sums["u"] + u * u * sums["1"]
    s_uy = sums["uy"] - u * sums["y"]
    slope = s_uy / s_uu.clamp_min(1e-300)
    relu_error = below + beyond - slope * s_uy
    # Jump: a line of its own beyond b.
    mean_u, mean_y = sums["u"] / sums["1"], sums["y"] / sums["1"]
    c_uu, c_uy = sums["uu"] - sums["u"] * mean_u, sums["uy"] - sums["u"] * mean_y
    own = torch.where(c_uu > 1e-12, c_uy / c_uu.clamp_min(1e-300), 0.0)
    jump_error = below + (beyond - sums["y"] * mean_y) - own * c_uy
    # That line crosses 0 at a bend which need not be one of the points.
    crossing = mean_u - mean_y / torch.where(own.abs() > 1e-12, own, 1.0)
    step = (u[:, 1] - u[:, 0])[:, None]
    continuous = (own.abs() > 1e-12) & (crossing <= u) & (crossing >= u - step)
    between = torch.where(continuous, jump_error, torch.inf)
    best, place = torch.cat([relu_error, between], 1).min(1)
    rows = torch.arange(len(u))
    bend, a = torch.cat([u, crossing], 1)[rows, place], torch.cat([slope, own], 1)[rows, place]
    r2 = [1 - error.clamp_min(0) / whole.clamp_min(1e-300) for error in (best, jump_error[:, : n - 1].amin(1))]
    relu, jump = (torch.where(flat, 1.0, value) for value in r2)
    return Shapes(u, values, relu, jump.maximum(relu), bend, a)
