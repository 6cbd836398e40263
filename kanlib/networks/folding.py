"""Gates folded into weights: where one mask serves many images, scaling a filter costs nothing."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from kanlib.networks.parts import n_heads
from kanlib.networks.patterns import members


def folds(model: nn.Module, components: Sequence[str]) -> bool:
    """Whether all components are filters, features or rows of weights, which :func:`folded` can scale."""
    return all(
        member.part is not None and _has_rows(model.get_submodule(member.module))
        for member in members(model, components)[0]
    )


@contextmanager
def folded(model: nn.Module, components: Sequence[str]) -> Iterator[Callable[[Tensor], None]]:
    """Scale components by ``1 + σ_j`` in the weights that give them; on exit these are the old ones, to the bit.

    ``(1 + σ_j) (w_j * x + b_j) = ((1 + σ_j) w_j) * x + (1 + σ_j) b_j``; the bias of rows of weights stays. As
    :func:`kanlib.networks.components.gated` up to rounding, for all images of a batch alike, at the cost of a copy
    of the weights.

    Args:
        model: changed in place while the context is open.
        components: for which :func:`folds` holds.

    Yields:
        A function that sets a mask ``[m]``.
    """
    found, owners = members(model, components)
    columns: dict[tuple[str, bool], tuple[list[int], list[int]]] = {}
    for member, j in zip(found, owners, strict=True):
        parts, of = columns.setdefault((member.module, member.rows), ([], []))
        parts.append(member.part if member.part is not None else -1)
        of.append(j)
    kept: dict[str, Tensor] = {}
    for name, _ in columns:
        module = model.get_submodule(name)
        kept |= {f"{name}.{kind}": value.clone() for kind, value in module.named_parameters(recurse=False)}

    @torch.no_grad()
    def scale(sigma: Tensor) -> None:
        for (name, rows), (parts, of) in columns.items():
            module = model.get_submodule(name)
            for kind, value in module.named_parameters(recurse=False):
                if kind == "bias" and rows:
                    continue
                factor = value.new_ones(len(value))
                factor[parts] = 1 + sigma[of].to(value)
                base = kept[f"{name}.{kind}"]
                torch.mul(base, factor.view(-1, *[1] * (base.ndim - 1)), out=value.data)

    try:
        yield scale
    finally:
        with torch.no_grad():
            for name, value in kept.items():
                model.get_parameter(name).copy_(value)


def _has_rows(module: nn.Module) -> bool:
    convolution = isinstance(module, _ConvNd) and not module.transposed
    return n_heads(module) is None and (convolution or isinstance(module, nn.Linear))
