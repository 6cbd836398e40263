"""Derivatives averaged over the masks, ``E[∂_S f(σ)]`` for σ ~ N(0, s² I): no derivative is taken at a point.

By Stein's identity they follow from gradients, or from values alone; so they can be had of the network, of a
surrogate, and of what the surrogate leaves of the network.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kanlib import metrics
from kanlib.kan.kan import KAN
from kanlib.masks import Split, gaussian, subsets
from kanlib.symbolic.symbolic_kan import Batch, SymbolicKAN

#: E of them.
Surrogate = KAN | Sequence[SymbolicKAN]
_BATCH_MASKS = 2000


def smoothed(gradient: Tensor, masks: Tensor, scale: float, max_order: int) -> tuple[Tensor, Tensor]:
    """``E[∂_S f(σ)]`` over σ ~ N(0, s² I), from gradients alone, integrated by parts (gradient-Stein).

    For every k in S it is ``E[∂_k f(σ) ∏_{i ∈ S∖k} σ_i] / s^{2(|S| − 1)}``, and the mean over k is taken. That is
    right where f has kinks too, at which averages of second derivatives miss what the kink adds.

    Args:
        gradient: ``∂f(σ)/∂σ`` of E functions at N masks, ``[E, N, m]``.
        masks: those masks, ``[N, m]``.
        scale: s.
        max_order: the highest order, 1 to 4 and at most m.

    Returns:
        Estimates and their standard errors, ``[E, n_S]`` (fp64), in the order of :func:`kanlib.masks.subsets`.
    """
    g, sigma = gradient.double(), masks.double() / scale
    index = subsets(masks.shape[1], max_order)
    values, errors = [], []
    for r in range(1, max_order + 1):
        of_order = torch.tensor([s for s in index if len(s) == r])
        samples = torch.zeros(len(g), len(sigma), len(of_order), dtype=torch.float64)
        for k in range(r):
            others = torch.cat([of_order[:, :k], of_order[:, k + 1 :]], 1)
            samples += g[:, :, of_order[:, k]] * sigma[:, others].prod(2) / (r * scale ** (r - 1))
        values.append(samples.mean(1))
        errors.append(samples.std(1) / len(sigma) ** 0.5)
    return torch.cat(values, 1), torch.cat(errors, 1)


def smoothed_from_values(values: Tensor, masks: Tensor, scale: float, max_order: int) -> tuple[Tensor, Tensor]:
    """The same from values alone, ``E[f(σ) ∏_{j ∈ S} σ_j] / s^{2|S|}`` (Stein).

    Values have far more to average out than gradients, so it is for values that are small, such as what a
    surrogate leaves of responses.

    Args:
        values: ``f(σ)`` of E functions at N masks, ``[E, N]``.
        masks: those masks, ``[N, m]``.
        scale: s.
        max_order: the highest order, 1 to 4 and at most m.

    Returns:
        Estimates and their standard errors, ``[E, n_S]`` (fp64), in the order of :func:`kanlib.masks.subsets`.
    """
    centred = values.double() - values.double().mean(1, keepdim=True)
    sigma = masks.double() / scale
    means, errors = [], []
    for r in range(1, max_order + 1):
        of_order = torch.tensor([s for s in subsets(masks.shape[1], max_order) if len(s) == r])
        products = sigma[:, of_order].prod(2) / scale**r
        mean = centred @ products / len(sigma)
        means.append(mean)
        square = centred.square() @ products.square() / len(sigma) - mean.square()
        errors.append((square.clamp_min(0) / len(sigma)).sqrt())
    return torch.cat(means, 1), torch.cat(errors, 1)


def smoothed_of_surrogate(
    surrogate: Surrogate, m: int, scale: float, max_order: int = 3, *, n_masks: int = 20_000, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """``E[∂_S g(σ)]`` of E surrogates, by the estimator that the network's are found by.

    At masks of their own: with the network's, both would share what chance adds. Closed forms of several layers
    may run away on a few masks in ten thousand, and their average is then about these; the KANs do not.

    Args:
        surrogate: E KANs or symbolic KANs.
        m: number of components.
        scale: s.
        max_order: the highest order, 1 to 4 and at most m.
        n_masks: how many of them.
        seed: of those masks.

    Returns:
        Estimates and their standard errors, see :func:`smoothed`.
    """
    masks = gaussian(n_masks, m, scale, seed, "smoothed")
    return smoothed(gradients(surrogate, masks), masks, scale, max_order)


def smoothed_of_network(
    surrogate: Surrogate,
    level: Tensor,
    gradient: Tensor,
    masks: Tensor,
    scale: float,
    max_order: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """``E[∂_S f(σ)]`` of E networks, steadied by surrogates of theirs as control variates.

    Only what g leaves of the gradient, ``∂f − ∂g``, is averaged over the masks, and ``E[∂_S g]``, known from many
    more of them, is added. On average that is right whatever g is, so long as it was not fitted on these masks;
    the closer g is, the less is left to chance.

    Args:
        surrogate: E KANs or symbolic KANs.
        level: ``E[∂_S g(σ)]`` ``[E, n_S]``, as :func:`smoothed_of_surrogate` gives them.
        gradient: ``∂f(σ)/∂σ`` of the networks, ``[E, N, m]``.
        masks: at these masks, ``[N, m]``.
        scale: s.
        max_order: the highest order.

    Returns:
        Estimates and their standard errors ``[E, n_S]``, and their reliability ``[E, max_order]``: the correlation
        over subsets of one order between the estimates from even and from odd masks, corrected for their being
        halves (Spearman and Brown, ``2r / (1 + r)``).
    """
    left = gradient.double() - gradients(surrogate, masks)
    correction, error = smoothed(left, masks, scale, max_order)
    halves = [smoothed(left[:, h::2], masks[h::2], scale, max_order)[0] + level for h in (0, 1)]
    orders = torch.tensor([len(s) for s in subsets(masks.shape[1], max_order)])
    of_order = [orders == k for k in range(1, max_order + 1)]
    r = torch.stack([metrics.pearson(halves[0][:, chosen], halves[1][:, chosen]) for chosen in of_order], 1)
    return level + correction, error, 2 * r / (1 + r)


def bias_corrected(level: Tensor, surrogate: Callable[[Tensor], Tensor], split: Split, max_order: int) -> Tensor:
    """``E[∂_S f] = E[∂_S g] + E[(f − g) ∏_{j ∈ S} σ_j] / s^{2|S|}``: what a surrogate g misses of it is added.

    Args:
        level: ``E[∂_S g(σ)]`` of E surrogates, ``[E, n_S]``.
        surrogate: ``g(σ)`` ``[E, N]`` at masks ``[N, m]``.
        split: recorded responses f, at masks of the scale that is averaged over.
        max_order: the highest order.
    """
    residual = split.responses - surrogate(split.masks)
    return level + smoothed_from_values(residual, split.masks, split.scale, max_order)[0]


def gradients(surrogate: Surrogate, masks: Tensor) -> Tensor:
    """``∂g(σ)/∂σ`` of E KANs or symbolic KANs at masks ``[N, m]``: ``[E, N, m]`` (fp64)."""
    if isinstance(surrogate, KAN):
        parts = masks.to(surrogate.bias).split(_BATCH_MASKS)
        return torch.cat([surrogate.derivatives(part, 1)[1].double() for part in parts], 1)
    batch, rows = Batch(surrogate), []
    for part in masks.double().split(_BATCH_MASKS):
        at = part.expand(len(surrogate), -1, -1).clone().requires_grad_()
        # Where every edge is a constant there is nothing to go back through.
        total = (batch(at) + 0 * at.sum(2)).sum()
        rows.append(torch.autograd.grad(total, at)[0])
    return torch.cat(rows, 1)
