"""Encoders: what a feature is computed from before a sparsifier decides whether it is active.

All R runs of a batch are computed at once: parameters have a leading axis of runs, while vectors ``x`` ``[B, d]``
are shared by them. A *pre-activation* ``u`` is ``[R, B, m]``, of m features. What is learnt beyond a linear map
starts at zero, so that every encoder starts as the same one.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanlib.kan.splines import features, grid_over

#: Degree of the splines.
_CUBIC = 3


class Linear(nn.Module):
    """``u = x W + b``."""

    def __init__(self, directions: Tensor):
        """With the directions ``[R, m, d]`` of a decoder for its own, which is where autoencoders start."""
        super().__init__()
        self.weight = nn.Parameter(directions.transpose(1, 2).contiguous())
        self.bias = nn.Parameter(torch.zeros(directions.shape[:2], device=directions.device))

    def forward(self, x: Tensor) -> Tensor:
        """Pre-activations ``[R, B, m]``."""
        n_runs, d, m = self.weight.shape
        # One product for all runs, since they share x.
        u = (x @ self.weight.transpose(0, 1).reshape(d, n_runs * m)).view(-1, n_runs, m)
        return u.transpose(0, 1) + self.bias[:, None]

    def bent(self, u: Tensor, which: Tensor | None = None) -> Tensor:
        """What the sparsifier is given: ``u`` itself.

        Args:
            u: pre-activations of all features, ``[R, B, m]``, or of those that ``which`` numbers.
            which: ``[R, B, k]``.
        """
        return u

    @torch.no_grad()
    def renew(self, dead: Tensor, directions: Tensor) -> None:
        """Start the features of ``dead`` ``[R, m]`` again, at a fifth of these directions ``[R, m, d]``."""
        self.weight.copy_(torch.where(dead[:, None], 0.2 * directions.transpose(1, 2), self.weight))
        self.bias.masked_fill_(dead, 0)


class Spline(Linear):
    """K1: ``φ_i(u_i)``, ``φ_i(u) = u + Σ_c a_ic B_c(u)``: a cubic spline of its own bends each feature.

    The splines of all features share evenly spaced knots; beyond them ``φ_i(u) = u``.
    """

    ends: Tensor

    def __init__(self, directions: Tensor, range_: tuple[float, float], n_splines: int):
        """With ``n_splines`` ≥ 4 B-splines a feature over this range of pre-activations."""
        super().__init__(directions)
        self.register_buffer("ends", torch.tensor(range_, device=directions.device))
        self.n_splines = n_splines
        shape = (*directions.shape[:2], n_splines)
        self.coefficients = nn.Parameter(torch.zeros(shape, device=directions.device))

    def bent(self, u: Tensor, which: Tensor | None = None) -> Tensor:
        """φ of each feature at its pre-activation."""
        n_runs, m, n = self.coefficients.shape
        table = self._pieces().view(-1, 4)
        n_pieces = n + _CUBIC
        if which is None and not torch.is_grad_enabled() and not u.is_cuda:
            # Run by run: on a processor, all that is looked up for all of them at once takes long to write down.
            parts = [self._at(u[r], table[r * m * n_pieces : (r + 1) * m * n_pieces]) for r in range(n_runs)]
            return torch.stack(parts)
        first = torch.arange(n_runs, device=u.device)[:, None, None] * m
        return self._at(u, table, first + (torch.arange(m, device=u.device) if which is None else which))

    def _pieces(self) -> Tensor:
        """What is added to u between two knots, as a cubic of the way through: ``[R, m, n + 3, 4]``."""
        around = F.pad(self.coefficients, (_CUBIC, _CUBIC)).unfold(-1, _CUBIC + 1, 1)
        return around @ torch.tensor(_PIECES, device=around.device) / 6

    def _at(self, u: Tensor, table: Tensor, feature: Tensor | None = None) -> Tensor:
        """φ from the pieces of some features, which ``feature`` numbers; ``None``: of all in order."""
        n = self.n_splines
        # Where u lies, in intervals from the first of the knots; at either end the pieces are 0.
        low, high = self.ends
        at = (u - low) * ((n - _CUBIC) / (high - low)) + _CUBIC
        at = at.clamp(0, n + _CUBIC - 1e-3)
        interval = at.detach().floor()
        if feature is None:
            feature = torch.arange(u.shape[-1], device=u.device)
        a, b, c, d = F.embedding(interval.int() + feature.int() * (n + _CUBIC), table).unbind(-1)
        t = at - interval
        return u + a + t * (b + t * (c + t * d))

    def renew(self, dead: Tensor, directions: Tensor) -> None:
        """Start these features again, unbent."""
        super().renew(dead, directions)
        with torch.no_grad():
            self.coefficients.masked_fill_(dead[..., None], 0)


class Additive(Linear):
    """K2: ``u_i = x·w_i + b_i + Σ_j φ_ij(x_j)``, a layer of a KAN: a cubic spline for each input and feature.

    The splines of an input share their knots, which follow its quantiles; beyond them ``φ_ij`` is 0.
    """

    grid: Tensor

    def __init__(self, directions: Tensor, sample: Tensor, n_splines: int):
        """With ``n_splines`` ≥ 4 B-splines an input, over what ``sample`` ``[n, d]`` covers."""
        super().__init__(directions)
        n_runs, m, d = directions.shape
        self.register_buffer("grid", grid_over(sample.T[None], n_splines - _CUBIC))
        self.coefficients = nn.Parameter(torch.zeros(n_runs, d * n_splines, m, device=directions.device))

    def forward(self, x: Tensor) -> Tensor:
        """Pre-activations ``[R, B, m]``."""
        # Without silu, the first: the linear map stands in for it.
        basis = features(x.T[None], self.grid, _CUBIC)[0, :, 1:].flatten(0, 1)
        whole = torch.cat([x, basis.T], 1)
        weight = torch.cat([self.weight, self.coefficients], 1)
        n_runs, n, m = weight.shape
        u = (whole @ weight.transpose(0, 1).reshape(n, n_runs * m)).view(-1, n_runs, m)
        return u.transpose(0, 1) + self.bias[:, None]

    def renew(self, dead: Tensor, directions: Tensor) -> None:
        """Start these features again, linear."""
        super().renew(dead, directions)
        with torch.no_grad():
            self.coefficients.masked_fill_(dead[:, None], 0)


class Perceptron(Linear):
    """The control of K2: ``u = x W + b + silu(x A + c) V`` with hidden units for as many parameters."""

    def __init__(self, directions: Tensor, n_splines: int, sources: Sequence[torch.Generator]):
        """With about the parameters of :class:`Additive` with ``n_splines``; A is drawn from a run's source."""
        super().__init__(directions)
        n_runs, m, d = directions.shape
        h = round(d * n_splines * m / (d + 1 + m))
        # Drawn on the CPU, so that every device has the same.
        drawn = torch.stack([torch.randn(d, h, generator=source) for source in sources]) / math.sqrt(d)
        self.inner = nn.Parameter(drawn.to(directions))
        self.shift = nn.Parameter(torch.zeros(n_runs, h, device=directions.device))
        self.outer = nn.Parameter(torch.zeros(n_runs, h, m, device=directions.device))

    def forward(self, x: Tensor) -> Tensor:
        """Pre-activations ``[R, B, m]``."""
        hidden = F.silu(torch.einsum("bd,rdh->rbh", x, self.inner) + self.shift[:, None])
        return torch.baddbmm(super().forward(x), hidden, self.outer)

    def renew(self, dead: Tensor, directions: Tensor) -> None:
        """Start these features again, linear."""
        super().renew(dead, directions)
        with torch.no_grad():
            self.outer.masked_fill_(dead[:, None], 0)


#: The four cubic B-splines that are not 0 in an interval, the one that ends there first: six times their
#: coefficients of 1, t, t² and t³, for knots at whole numbers. Source: de Boor (1978), *A Practical Guide to
#: Splines*.
_PIECES = [[1.0, -3.0, 3.0, -1.0], [4.0, 0.0, -6.0, 3.0], [1.0, 3.0, 3.0, -3.0], [0.0, 0.0, 0.0, 1.0]]


def n_parameters(encoder: nn.Module) -> int:
    """Parameters of a run of an encoder."""
    return sum(p[0].numel() for p in encoder.parameters())
