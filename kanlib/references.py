"""References: derivatives of the network itself with respect to its masks."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from kanlib.components import Site, gated
from kanlib.errors import BadInputError
from kanlib.perturbation import OUTPUT_FUNCTIONS, enough_memory

Subset = tuple[int, ...]


def subsets(m: int, max_order: int) -> list[Subset]:
    """All subsets of ``{0, …, m − 1}`` of size 1 to ``max_order``, by size, then in lexicographic order.

    Raises:
        BadInputError: ``max_order`` is not between 1 and ``min(m, 4)``.
    """
    if not 1 <= max_order <= min(m, 4):
        raise BadInputError(
            f"max_order is {max_order}, expected 1 to {min(m, 4)} for {m} components; set max_order."
        )
    return [s for r in range(1, max_order + 1) for s in combinations(range(m), r)]


def local_derivatives(
    model: nn.Module,
    components: Sequence[str],
    x: Tensor,
    labels: Tensor,
    *,
    max_order: int = 2,
    site: Site = "branch",
    output_function: str = "margin",
    batch_size: int = 4,
    progress: bool = True,
) -> Tensor:
    """The network's own ``∂_S f(z, σ)`` at ``σ = 0``, by backward passes through backward passes, in float64.

    Order r takes a pass for each subset of r − 1 components, for ``batch_size`` examples at once. Attention
    runs on its mathematical backend: the fused ones cannot be differentiated twice.

    Args:
        model: in evaluation mode; a copy of it is differentiated.
        components: names of the m modules to gate.
        x: examples ``[E, ...]``.
        labels: ``[E]``.
        max_order: the highest order, 1 to 4 and at most m.
        site: see :func:`kanlib.components.gated`.
        output_function: a key of :data:`kanlib.perturbation.OUTPUT_FUNCTIONS`.
        batch_size: examples at once.
        progress: show a bar.

    Returns:
        ``[E, n_S]`` in the order of :func:`subsets`, in units of the output function (fp64), on the CPU.

    Raises:
        BadInputError: ``max_order`` out of range, the network cannot be differentiated, or memory runs out.
    """
    index = subsets(len(components), max_order)
    read = OUTPUT_FUNCTIONS[output_function]
    rows = []
    batches = list(zip(x.double().split(batch_size), labels.split(batch_size), strict=True))
    with gated(deepcopy(model).double(), components, site) as gates, sdpa_kernel(SDPBackend.MATH):
        for examples, label in tqdm(
            batches, "exact derivatives", unit="batch", mininterval=1, disable=not progress
        ):
            # A tensor for each component: a backward pass then ends at the first gate that it is asked about.
            sigma = [examples.new_zeros(len(examples), requires_grad=True) for _ in components]
            with enough_memory(batch_size):
                found = dict(_partials(read(gates(examples, sigma), label), sigma, max_order))
            rows.append(torch.stack([found[subset] for subset in index], 1).cpu())
    return torch.cat(rows)


def _partials(
    value: Tensor, sigma: Sequence[Tensor], order: int, of: Subset = ()
) -> Iterator[tuple[Subset, Tensor]]:
    """``∂_S value`` ``[E]`` for every S that prolongs ``of`` by 1 to ``order`` later components."""
    later = range(of[-1] + 1 if of else 0, len(sigma))
    if not later:
        return
    asked = [sigma[j] for j in later]
    try:
        # What is linear in its masks has no graph left to go back through.
        slopes = (
            torch.autograd.grad(value.sum(), asked, create_graph=order > 1, retain_graph=True, allow_unused=True)
            if value.requires_grad
            else [None] * len(asked)
        )
    except RuntimeError as error:
        raise BadInputError(
            f"the network cannot be differentiated in its masks to order {len(of) + 1} "
            f"({str(error).splitlines()[0]}); lower max_order."
        ) from error
    for j, slope in zip(later, slopes, strict=True):
        slope = torch.zeros_like(value) if slope is None else slope
        yield (*of, j), slope.detach()
        if order > 1:
            yield from _partials(slope, sigma, order - 1, (*of, j))


def gradients(
    model: nn.Module,
    components: Sequence[str],
    x: Tensor,
    labels: Tensor,
    sigma: Tensor,
    *,
    site: Site = "branch",
    output_function: str = "margin",
    batch_size: int = 25,
    progress: bool = True,
) -> Tensor:
    """``∂f(z, σ)/∂σ`` of every example at every mask, ``[E, N, m]``, by one backward pass a batch.

    Args:
        model: in evaluation mode, its parameters not asking for gradients.
        components: names of the m modules to gate.
        x: examples ``[E, ...]``, on the model's device and in its precision, which is that of the gradients.
        labels: ``[E]``.
        sigma: masks ``[N, m]``.
        site: see :func:`kanlib.components.gated`.
        output_function: a key of :data:`kanlib.perturbation.OUTPUT_FUNCTIONS`.
        batch_size: masks a forward pass.
        progress: show a bar.
    """
    read = OUTPUT_FUNCTIONS[output_function]
    out = x.new_empty(len(x), *sigma.shape, device="cpu")
    bar = tqdm(total=len(x) * len(sigma), desc="gradients", unit="mask", mininterval=1, disable=not progress)
    with gated(model, components, site) as gates, bar, enough_memory(batch_size):
        for e in range(len(x)):
            rows = []
            for batch in sigma.to(x).split(batch_size):
                at = batch.clone().requires_grad_(True)
                value = read(gates(x[e : e + 1], at), labels[e].expand(len(at))).sum()
                rows.append(torch.autograd.grad(value, at)[0].cpu())
                bar.update(len(at))
            out[e] = torch.cat(rows)
    return out


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
        Estimates and their standard errors, ``[E, n_S]`` (fp64), in the order of :func:`subsets`.
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
        Estimates and their standard errors, ``[E, n_S]`` (fp64), in the order of :func:`subsets`.
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
