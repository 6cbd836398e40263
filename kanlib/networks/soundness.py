"""How far two answers are apart, and what makes a network's answers depend on more than its input."""

import torch
from torch import Tensor, nn

_NAMED = 3
_RANDOM = ("dropout", "droppath", "dropblock", "stochasticdepth", "rrelu", "noise")


def apart(one: Tensor, other: Tensor) -> float:
    """The largest difference of two tensors; equal infinities are equal, and so are two that are no number."""
    same = (one == other) | (one.isnan() & other.isnan())
    return float(torch.where(same, 0.0, (one - other).abs()).nan_to_num(torch.inf, torch.inf).max())


def tolerance(logits: Tensor) -> float:
    """How far equal logits may be apart: not at all on a CPU, but some devices sum in an order of their own."""
    finite = logits[logits.isfinite()]
    return 1e-5 * float(finite.abs().max()) if len(finite) else 0.0


def random_layers(model: nn.Module) -> str:
    """What may be random in a network, as an insertion into a sentence: best those that are in training mode."""
    on = [name for name, module in model.named_modules() if module.training]
    random = [name for name, module in model.named_modules() if _random(module)]
    both = [name for name in random if name in on]
    if both or not on:
        return _named(both or random, "random")
    return _named(on, "in training mode")


def mixing(model: nn.Module) -> str:
    """The modules that normalise by statistics of the batch, as an insertion into a sentence."""
    norms = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    names = [name for name, module in norms if module.training or module.running_mean is None]
    return _named(names, "statistics of the batch")


def _random(module: nn.Module) -> bool:
    return any(kind in type(module).__name__.lower() for kind in _RANDOM)


def _named(names: list[str], what: str) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f" ({what}: {', '.join(name or 'the network as a whole' for name in names[:_NAMED])}{more})"
