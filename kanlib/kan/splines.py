"""What an edge of a KAN is made of: silu and B-splines, with their derivatives, for many edges at once."""

import torch
from torch import Tensor

_GRID_MARGIN = 0.05  # share of a grid's length by which it goes beyond its inputs, on each side
_EVEN_SHARE = 0.3  # of even spacing in a grid; the rest follows the inputs' quantiles (pykan's grid_eps)
_QUANTILE_SAMPLE = 500  # about so many inputs place a grid's inner points


def features(x: Tensor, grid: Tensor, order: int, derivative: int = 0) -> Tensor:
    """Silu and the G + k B-splines of order k at ``x``, or a derivative of them: ``[E, in, 1 + G + k, N]``.

    Args:
        x: ``[E, in, N]``.
        grid: G + 1 increasing points for each input, ``[E, in, G + 1]``, extended as pykan does by k points on
            either side, ``(last − first)/G`` apart. Beyond the extended grid the splines are 0.
        order: spline order k.
        derivative: r = 0, 1, 2, 3; the k-th is piecewise constant.
    """
    t = knots(grid, order)
    splines = _splines(x, t, order - derivative)
    for degree in range(order - derivative + 1, order + 1):
        splines = _slope(splines, t, degree)
    return torch.cat([_silu(x, derivative)[:, :, None], splines], 2)


def values_and_slopes(x: Tensor, grid: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """:func:`features` and their first derivatives, which share all work but the last step."""
    t = knots(grid, order)
    lower = _splines(x, t, order - 1)
    return (
        torch.cat([_silu(x, 0)[:, :, None], _raised(lower, x, t, order)], 2),
        torch.cat([_silu(x, 1)[:, :, None], _slope(lower, t, order)], 2),
    )


def knots(grid: Tensor, order: int) -> Tensor:
    """``grid`` ``[..., G + 1]`` extended by k evenly spaced points on either side: ``[..., G + 1 + 2k]``."""
    first, last = grid[..., :1], grid[..., -1:]
    beyond = (
        (last - first) / (grid.shape[-1] - 1) * torch.arange(1, order + 1, dtype=grid.dtype, device=grid.device)
    )
    return torch.cat([first - beyond.flip(-1), grid, last + beyond], -1)


def grid_over(h: Tensor, grid: int, outside: float = 0.0) -> Tensor:
    """Grids ``[C, in, G + 1]`` over inputs ``[C, in, N]``, spaced in part evenly, in part by their quantiles.

    Of the inputs a share of about ``outside`` < 1/G is left beyond either end, where a grid is extended.
    """
    some = h[:, :, :: max(1, h.shape[2] // _QUANTILE_SAMPLE)].sort(2).values
    beyond = round(outside * (some.shape[2] - 1))
    ends = some[:, :, beyond : some.shape[2] - beyond] if beyond else h
    low, high = ends.amin(2, keepdim=True), ends.amax(2, keepdim=True)
    pad = _GRID_MARGIN * (high - low).clamp_min(1e-6)
    low, high = low - pad, high + pad
    at = torch.linspace(0, 1, grid + 1, dtype=h.dtype, device=h.device)
    inner = some[:, :, (at[1:-1] * some.shape[2]).long()]
    return _EVEN_SHARE * (low + (high - low) * at) + (1 - _EVEN_SHARE) * torch.cat([low, inner, high], 2)


def roughness(grid_intervals: int, order: int, **like) -> Tensor:
    """Matrix R ``[1 + G + k, 1 + G + k]``; ``cᵀRc`` is the sum of squared second differences of a spline.

    It is 0 for silu and wherever the spline's coefficients lie on a line.
    Source: Eilers and Marx (1996), *Flexible smoothing with B-splines and penalties*.
    """
    second = torch.eye(grid_intervals + order, **like).diff(n=2, dim=0)
    matrix = torch.zeros(1 + grid_intervals + order, 1 + grid_intervals + order, **like)
    matrix[1:, 1:] = second.T @ second
    return matrix


def _splines(x: Tensor, t: Tensor, degree: int) -> Tensor:
    """All B-splines of this degree at ``x`` by the Cox–de Boor recursion."""
    x, at = x[:, :, None], t[..., None]
    b = ((x >= at[:, :, :-1]) & (x < at[:, :, 1:])).to(x.dtype)
    for p in range(1, degree + 1):
        b = _raised(b, x[:, :, 0], t, p)
    return b


def _raised(b: Tensor, x: Tensor, t: Tensor, degree: int) -> Tensor:
    """From the B-splines of one degree less to those of ``degree``."""
    scale = 1 / (t[..., degree:] - t[..., :-degree])
    # The share of the way through its support at which x lies, for each spline of the lower degree.
    share = torch.addcmul(-(t[..., :-degree] * scale)[..., None], x[:, :, None], scale[..., None]) * b
    return share[:, :, :-1] - share[:, :, 1:] + b[:, :, 1:]


def _slope(b: Tensor, t: Tensor, degree: int) -> Tensor:
    """Derivatives of B-splines of ``degree`` from whatever stands for those of one degree less."""
    scaled = b * (degree / (t[..., degree:] - t[..., :-degree]))[..., None]
    return scaled[:, :, :-1] - scaled[:, :, 1:]


def _silu(x: Tensor, derivative: int) -> Tensor:
    s = torch.sigmoid(x)
    if derivative == 0:
        return x * s
    first = s * (1 - s)
    second = first * (1 - 2 * s)
    third = second * (1 - 2 * s) - 2 * first.square()
    lower, own = {1: (s, first), 2: (first, second), 3: (second, third)}[derivative]
    return derivative * lower + x * own
