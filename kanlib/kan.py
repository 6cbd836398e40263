"""Kolmogorov–Arnold networks, E independent ones at once, fitted by Levenberg–Marquardt.

Parametrisation as in pykan: an edge is ``φ(x) = w·silu(x) + Σ_b c_b B_b(x)`` with B-splines of order k on
a uniform grid of G intervals, extended by k intervals on each side; a node sums its edges. Both halves are
linear in the parameters, so one layer is one product of features and coefficients.
Source: Liu et al. (2024), *KAN: Kolmogorov–Arnold Networks*, section 2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from tqdm import tqdm

from kanlib.errors import BadInputError
from kanlib.setups import generator

_MARGIN = 0.05  # a grid covers the inputs it was laid over and this much more on each side
_REGRID = 5  # Levenberg–Marquardt steps between two looks at the hidden activations


@dataclass(frozen=True)
class KAN:
    """E independent KANs of one shape.

    Attributes:
        grids: for each layer the grid's ends ``[E, in, 2]``.
        coefs: for each layer ``[E, in, 1 + G + k, out]``: the weight of silu, then those of the B-splines.
        bias: ``[E]``, added to the output.
        order: spline order k.
    """

    grids: tuple[Tensor, ...]
    coefs: tuple[Tensor, ...]
    bias: Tensor
    order: int

    @property
    def widths(self) -> tuple[int, ...]:
        """Nodes a layer: ``(m, …, 1)``."""
        return (*(c.shape[1] for c in self.coefs), self.coefs[-1].shape[3])

    def __call__(self, x: Tensor) -> Tensor:
        """``g(x)`` ``[E, N]`` at masks ``x`` ``[N, m]``, shared, or ``[E, N, m]``, one set each."""
        return self.activations(x)[-1][..., 0] + self.bias[:, None]

    def activations(self, x: Tensor) -> list[Tensor]:
        """What enters each layer, and last what leaves the network before the bias: ``[E, N, width]`` each."""
        h = x.expand(len(self.bias), *x.shape[-2:])
        out = [h]
        for grid, coef in zip(self.grids, self.coefs, strict=True):
            h = _mix(features(h, grid, coef.shape[2], self.order), coef)
            out.append(h)
        return out

    def edges(self, layer: int, x: Tensor) -> Tensor:
        """Values ``[E, in, out, N]`` of one layer's edge functions at points ``x`` ``[E, N, in]``."""
        coef = self.coefs[layer]
        return torch.einsum("enib,eibo->eion", features(x, self.grids[layer], coef.shape[2], self.order), coef)

    def to_tensors(self) -> dict[str, Tensor]:
        """Plain arrays from which :meth:`from_tensors` restores the KANs."""
        layers = range(len(self.coefs))
        return (
            {f"grids.{i}": self.grids[i] for i in layers}
            | {f"coefs.{i}": self.coefs[i] for i in layers}
            | {"bias": self.bias, "order": torch.tensor(self.order)}
        )

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "KAN":
        """Read :meth:`to_tensors`."""
        layers = range(sum(name.startswith("coefs.") for name in tensors))
        return cls(
            tuple(tensors[f"grids.{i}"] for i in layers),
            tuple(tensors[f"coefs.{i}"] for i in layers),
            tensors["bias"],
            int(tensors["order"]),
        )

    def select(self, index: Tensor) -> "KAN":
        """The KANs at these positions of the batch."""
        return KAN(
            tuple(g[index] for g in self.grids),
            tuple(c[index] for c in self.coefs),
            self.bias[index],
            self.order,
        )


def features(x: Tensor, grid: Tensor, n: int, order: int, derivative: int = 0) -> Tensor:
    """Silu and the ``n − 1 = G + k`` B-splines at ``x``, or their derivative: ``[E, N, in, n]``.

    Args:
        x: ``[E, N, in]``.
        grid: ends of each input's grid, ``[E, in, 2]``. Beyond the extended grid the splines are 0.
        n: number of features, ``1 + G + k``.
        order: spline order k.
        derivative: 0 for the values, 1 for the first derivative.
    """
    low, high = grid[:, None, :, 0], grid[:, None, :, 1]
    cells = n - 1 - order
    per_unit = cells / (high - low)
    splines = _bsplines((x - low) * per_unit, cells, order, order - derivative)
    sigmoid = torch.sigmoid(x)
    if derivative == 0:
        base = x * sigmoid
    else:
        base = sigmoid * (1 + x * (1 - sigmoid))
        splines = (splines[..., :-1] - splines[..., 1:]) * per_unit[..., None]
    return torch.cat([base[..., None], splines], -1)


def _bsplines(u: Tensor, cells: int, order: int, degree: int) -> Tensor:
    """All B-splines of this ``degree`` ≤ order at ``u`` on the knots −k, …, G + k (Cox–de Boor on unit cells)."""
    t = u[..., None] - torch.arange(-order, cells + order + 1, dtype=u.dtype, device=u.device)
    b = ((t[..., :-1] >= 0) & (t[..., 1:] < 0)).to(u.dtype)
    for p in range(1, degree + 1):
        b = (t[..., : -p - 1] * b[..., :-1] - t[..., p + 1 :] * b[..., 1:]) / p
    return b


@dataclass(frozen=True)
class Fit:
    """What :func:`fit` chose for each example."""

    kan: KAN
    validation_mse: Tensor
    ridge: Tensor
    restart: Tensor
    steps: Tensor


def fit(
    x: Tensor,
    y: Tensor,
    x_validation: Tensor,
    y_validation: Tensor,
    *,
    hidden: Sequence[int] = (5,),
    grid: int = 5,
    order: int = 3,
    ridges: Sequence[float] = (1e-4,),
    restarts: int = 4,
    iterations: int = 60,
    seed: int = 0,
) -> Fit:
    """Minimise equation 2, ``mean_i (g(σ_i; θ) − y_i)² / var(y) + ridge·‖θ‖²``, for every example at once.

    Levenberg–Marquardt with a damping and acceptance of its own for each fit. Every fit keeps the step with the
    lowest validation error; for every example the best of all ridges and restarts on validation is kept.
    Hidden grids follow the activations. Memory is bounded by 2²⁴ Jacobian entries at a time (64 MB in fp32, some
    thrice that with temporaries) or one fit's, whatever E.

    Args:
        x: fit masks ``[N, m]``, shared by all examples.
        y: responses ``[E, N]``.
        x_validation: ``[V, m]``.
        y_validation: ``[E, V]``.
        hidden: widths of the hidden layers.
        grid: intervals G of each edge's spline.
        order: spline order k.
        ridges: L2 penalties to choose from.
        restarts: random starts for each of them.
        iterations: steps at most.
        seed: of the random starts.

    Raises:
        BadInputError: responses that are constant or not finite (the example is named), or shapes that differ.
    """
    _check(x, y, x_validation, y_validation)
    mean, deviation = y.mean(1), y.std(1)
    candidates = [(e, ridge, r) for e in range(len(y)) for ridge in ridges for r in range(restarts)]
    example = torch.tensor([e for e, _, _ in candidates])
    ridge = torch.tensor([ridge for _, ridge, _ in candidates], dtype=torch.float64)
    restart = torch.tensor([r for _, _, r in candidates])
    n_parameters = (
        sum(i * (1 + grid + order) * o for i, o in zip((x.shape[1], *hidden), (*hidden, 1), strict=True)) + 1
    )
    chunk = max(1, 2**24 // (len(x) * n_parameters))
    standard = [(v - mean[:, None]) / deviation[:, None] for v in (y, y_validation)]
    fits = []
    with tqdm(total=len(candidates), desc="KAN fits", unit="fit", mininterval=1) as bar:
        for part in torch.arange(len(candidates)).split(chunk):
            start = _initial(x, hidden, grid, order, restart[part].tolist(), seed)
            ours, held_out = (v[example[part]] for v in standard)
            penalty = ridge[part].to(x)
            fits.append(
                _levenberg_marquardt(start, x, ours, x_validation, held_out, ridge=penalty, iterations=iterations)
            )
            bar.update(len(part))
    kan, error, steps = (
        _concatenated([f[0] for f in fits]),
        *(torch.cat([f[i] for f in fits]) for i in (1, 2)),
    )
    best = error.view(len(y), -1).argmin(1) + torch.arange(len(y)) * (len(candidates) // len(y))
    kan = kan.select(best)
    last = kan.coefs[-1] * deviation[:, None, None, None]
    kan = KAN(kan.grids, (*kan.coefs[:-1], last), kan.bias * deviation + mean, order)
    return Fit(kan, error[best] * deviation**2, ridge[best], restart[best], steps[best])


def _check(x: Tensor, y: Tensor, x_validation: Tensor, y_validation: Tensor) -> None:
    if y.shape[1] != len(x) or y_validation.shape != (len(y), len(x_validation)):
        raise BadInputError(
            f"responses are {tuple(y.shape)} and {tuple(y_validation.shape)}, expected {len(y)} examples by "
            f"{len(x)} and {len(x_validation)} masks; use the responses recorded with these masks."
        )
    if x_validation.shape[1] != x.shape[1]:
        raise BadInputError(
            f"validation masks have {x_validation.shape[1]} components, expected {x.shape[1]} as the fit masks."
        )
    for e in (~(y.std(1) > 0) | ~y_validation.isfinite().all(1)).nonzero().flatten().tolist():
        raise BadInputError(
            f"responses of example {e + 1} are constant or not finite, so there is nothing to fit; leave it out."
        )


def _initial(x: Tensor, hidden: Sequence[int], grid: int, order: int, restarts: Sequence[int], seed: int) -> KAN:
    """Random KANs, one a restart; equal restarts are equal KANs, whatever the batch."""
    widths = (x.shape[1], *hidden, 1)
    shapes = [(i, 1 + grid + order, o) for i, o in pairwise(widths)]
    batch = []
    for restart in restarts:
        source = generator(seed, "kan", restart)
        batch.append([torch.randn(s, generator=source, dtype=x.dtype) * (0.3 / s[0] ** 0.5) for s in shapes])
    coefs = tuple(torch.stack(layer).to(x.device) for layer in zip(*batch, strict=True))
    grids, h = [], x.expand(len(restarts), *x.shape)
    for coef in coefs:
        grids.append(_span(h))
        h = _mix(features(h, grids[-1], coef.shape[2], order), coef)
    return KAN(tuple(grids), coefs, torch.zeros(len(restarts), dtype=x.dtype, device=x.device), order)


def _levenberg_marquardt(
    kan: KAN,
    x: Tensor,
    y: Tensor,
    x_validation: Tensor,
    y_validation: Tensor,
    *,
    ridge: Tensor,
    iterations: int,
) -> tuple[KAN, Tensor, Tensor]:
    """Fit a batch; returns the KANs at their best validation error, that error ``[E]`` and their step ``[E]``."""
    first = features(x[None], kan.grids[0][:1], kan.coefs[0].shape[2], kan.order)
    first_validation = features(x_validation[None], kan.grids[0][:1], kan.coefs[0].shape[2], kan.order)

    def loss(k: KAN) -> Tensor:
        return (_predict(k, first) - y).square().mean(1) + ridge * sum(
            c.square().flatten(1).sum(1) for c in k.coefs
        )

    damping = torch.full_like(ridge, 1e-2)
    current = loss(kan)
    best, best_error = kan, torch.full_like(ridge, torch.inf)
    best_step = torch.zeros_like(ridge, dtype=torch.long)
    for step in range(1, iterations + 1):
        prediction, jacobian = _linearised(kan, first)
        normal = jacobian.mT @ jacobian / len(x)
        theta = _flat(kan)
        decay = ridge[:, None] * torch.ones_like(theta)
        decay[:, -1] = 0
        gradient = (jacobian.mT @ (y - prediction)[..., None])[..., 0] / len(x) - decay * theta
        diagonal = normal.diagonal(dim1=1, dim2=2)
        scale = diagonal + 1e-3 * diagonal.mean(1, keepdim=True)
        system = normal.double() + torch.diag_embed((damping[:, None] * scale + decay).double())
        system.diagonal(dim1=1, dim2=2).add_(1e-9)
        factor, failed = torch.linalg.cholesky_ex(system)
        move = torch.cholesky_solve(gradient.double()[..., None], factor)[..., 0].to(x.dtype)
        proposal = _unflat(theta + move.nan_to_num(), kan)
        proposed = loss(proposal)
        accepted = (proposed < current) & (failed == 0)
        damping = torch.where(accepted, damping / 4, damping * 5).clamp(1e-9, 1e6)
        kan = _where(accepted, proposal, kan)
        current = torch.where(accepted, proposed, current)
        if step % _REGRID == 0:
            kan = _regridded(kan, x, first)
            current = loss(kan)
        error = (_predict(kan, first_validation) - y_validation).square().mean(1)
        better = error < best_error
        best, best_error = _where(better, kan, best), torch.where(better, error, best_error)
        best_step = torch.where(better, step, best_step)
    return best, best_error, best_step


def _predict(kan: KAN, first: Tensor) -> Tensor:
    h = _mix(first, kan.coefs[0])
    for grid, coef in zip(kan.grids[1:], kan.coefs[1:], strict=True):
        h = _mix(features(h, grid, coef.shape[2], kan.order), coef)
    return h[..., 0] + kan.bias[:, None]


def _linearised(kan: KAN, first: Tensor) -> tuple[Tensor, Tensor]:
    """Prediction ``[E, N]`` and its Jacobian ``[E, N, P]`` in the order of :func:`_flat`."""
    inputs, feats = [None], [first]
    h = _mix(first, kan.coefs[0])
    for grid, coef in zip(kan.grids[1:], kan.coefs[1:], strict=True):
        inputs.append(h)
        feats.append(features(h, grid, coef.shape[2], kan.order))
        h = _mix(feats[-1], coef)
    delta = torch.ones_like(h)
    columns = [delta]
    for layer in reversed(range(len(kan.coefs))):
        coef = kan.coefs[layer]
        columns.insert(0, (feats[layer][..., None] * delta[:, :, None, None, :]).flatten(2))
        if layer:
            slope = features(inputs[layer], kan.grids[layer], coef.shape[2], kan.order, derivative=1)
            delta = torch.einsum("enib,eibo,eno->eni", slope, coef, delta)
    return h[..., 0] + kan.bias[:, None], torch.cat(columns, 2)


def _regridded(kan: KAN, x: Tensor, first: Tensor) -> KAN:
    """Lay each hidden grid over its activations anew and refit its edges by least squares, as pykan does."""
    grids, coefs = list(kan.grids), list(kan.coefs)
    h = _mix(first, coefs[0])
    for layer in range(1, len(coefs)):
        n = coefs[layer].shape[2]
        old = features(h, grids[layer], n, kan.order)
        values = torch.einsum("enib,eibo->eino", old, coefs[layer]).double()
        grids[layer] = _span(h)
        new = features(h, grids[layer], n, kan.order).transpose(1, 2).double()
        normal = new.mT @ new / h.shape[1]
        normal.diagonal(dim1=-2, dim2=-1).add_(1e-6)
        moment = new.mT @ values / h.shape[1]
        # Anchored at the old coefficients where no activation falls.
        anchor = 1e-6 * coefs[layer].double()
        coefs[layer] = torch.linalg.solve(normal, moment + anchor).to(x.dtype)
        h = _mix(features(h, grids[layer], n, kan.order), coefs[layer])
    return KAN(tuple(grids), tuple(coefs), kan.bias, kan.order)


def _span(h: Tensor) -> Tensor:
    low, high = h.amin(1), h.amax(1)
    pad = _MARGIN * (high - low).clamp_min(1e-6)
    return torch.stack([low - pad, high + pad], -1)


def _mix(feats: Tensor, coef: Tensor) -> Tensor:
    return feats.flatten(2) @ coef.flatten(1, 2)


def _flat(kan: KAN) -> Tensor:
    return torch.cat([*(c.flatten(1) for c in kan.coefs), kan.bias[:, None]], 1)


def _unflat(theta: Tensor, like: KAN) -> KAN:
    *parts, bias = theta.split([*(c[0].numel() for c in like.coefs), 1], 1)
    coefs = tuple(part.view_as(c) for part, c in zip(parts, like.coefs, strict=True))
    return KAN(like.grids, coefs, bias[:, 0], like.order)


def _where(choice: Tensor, yes: KAN, no: KAN) -> KAN:
    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(choice.view(-1, *[1] * (a.ndim - 1)), a, b)

    return KAN(
        tuple(map(pick, yes.grids, no.grids)),
        tuple(map(pick, yes.coefs, no.coefs)),
        pick(yes.bias, no.bias),
        no.order,
    )


def _concatenated(parts: Sequence[KAN]) -> KAN:
    return KAN(
        tuple(map(torch.cat, zip(*(p.grids for p in parts), strict=True))),
        tuple(map(torch.cat, zip(*(p.coefs for p in parts), strict=True))),
        torch.cat([p.bias for p in parts]),
        parts[0].order,
    )
