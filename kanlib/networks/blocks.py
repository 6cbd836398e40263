"""What blocks of a network put out for images, and how abnormal the output's gradients are there."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanlib.errors import BadInputError
from kanlib.networks.outputs import answered, logits_of

_AT_ONCE = 128  # images in a forward pass


def block_outputs(model: nn.Module, names: Sequence[str], x: Tensor, *, slopes: bool = False) -> list[Tensor]:
    """What modules put out for images x, ``[B, channels, …]`` each, on the CPU.

    With ``slopes`` it is ``∂ log p / ∂y`` instead, p the probability of the likeliest class.

    Raises:
        BadInputError: a module puts out no tensor ``[B, channels, …]``, or does not run.
    """
    seen: dict[str, Tensor] = {}

    def keep(name: str, y: Tensor) -> Tensor:
        # What no parameter leads to asks for no gradient by itself.
        if not isinstance(y, Tensor):
            raise BadInputError(
                f"module {name} puts out a {type(y).__name__}, expected a tensor; choose other components."
            )
        seen[name] = y.clone().requires_grad_(True) if not y.requires_grad else y.clone()
        return seen[name].clone()

    modules = dict(model.named_modules())
    if unknown := [name for name in names if name not in modules]:
        raise BadInputError(
            f"{unknown[0]} is not a module of this model, expected whole modules, not parts or groups of them; "
            "choose other components."
        )
    handles = [modules[name].register_forward_hook(lambda _, __, y, name=name: keep(name, y)) for name in names]
    try:
        with torch.set_grad_enabled(slopes):
            logits = logits_of(answered(model, x, len(x)), len(x))
            outputs = [seen[name] for name in names]
            if slopes:
                likely = F.log_softmax(logits, 1).amax(1).sum()
                found = list(torch.autograd.grad(likely, outputs))
            else:
                found = [y.detach() for y in outputs]
    except KeyError as error:
        raise BadInputError(f"module {error.args[0]} does not run in a forward pass; leave it out.") from None
    finally:
        for handle in handles:
            handle.remove()
    return [y.double().cpu() for y in found]


def abnormality(model: nn.Module, names: Sequence[str], x: Tensor) -> Tensor:
    """``sqrt(Σ_j Σ_c g_jc²)`` of each image, ``[B]``: g_jc the mean slope of log p in channel c of block j.

    The likeliest class of an image that the network knows well has a probability that hardly moves. Source: after
    Chen et al. (2023), GAIA-A, whose channel averages and Frobenius norm these are, without their fusion with the
    output's own gradients.

    Args:
        model: a classifier.
        names: of the blocks.
        x: images ``[B, 3, H, W]``.
    """
    norms = []
    for part in x.split(_AT_ONCE):
        found = block_outputs(model, names, part, slopes=True)
        norms.append(torch.cat([y.reshape(*y.shape[:2], -1).mean(2) for y in found], 1).norm(dim=1))
    return torch.cat(norms)


def likelihood(model: nn.Module, x: Tensor) -> Tensor:
    """The largest probability of each image, ``[B]`` (fp64): the usual score of what a network knows."""
    with torch.inference_mode():
        logits = [logits_of(answered(model, part, len(part)), len(part)) for part in x.split(_AT_ONCE)]
    return torch.cat(logits).double().softmax(1).amax(1).cpu()


def strangers(x: Tensor, source: torch.Generator) -> dict[str, Tensor]:
    """Images that a network of images ``[n, C, H, W]`` has not learned: noise, and its own turned and inverted.

    Noise has each channel's mean and deviation; inverted images have their range turned round.
    """
    mean, deviation = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True)
    noise = torch.randn(x.shape, generator=source).to(x)
    ends = x.amin((0, 2, 3), keepdim=True) + x.amax((0, 2, 3), keepdim=True)
    return {"noise": mean + deviation * noise, "turned by 90°": x.rot90(1, (2, 3)), "inverted": ends - x}
