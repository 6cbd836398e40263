"""A network's output as a function of players' weights, patches or components, and what its last layer is given.

Each function of weights ``w`` ``[N, m]`` answers ``[N]`` and can be differentiated; a weight of 1 leaves a player
as it is, 0 takes it away. What is done with such functions does not know that there is a network.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from kanlib.errors import BadInputError
from kanlib.networks.architectures import copied
from kanlib.networks.components import gated
from kanlib.networks.images import Labelled
from kanlib.networks.outputs import answered, logits_of, values
from kanlib.networks.probe import Probe

Value = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Lead:
    """The output function ``logit_a − logit_b`` of two classes, which has no corner where a third one overtakes b.

    Attributes:
        label: a, the class that is explained.
        other: b, another one; of the intact network the runner-up.
    """

    label: int
    other: int

    def __call__(self, output: object, labels: Tensor) -> Tensor:
        """Of what a network put out for ``[B]`` labels, whatever they are, ``[B]``."""
        logits = logits_of(output, len(labels))
        return logits[:, self.label] - logits[:, self.other]

    def slope(self, n_classes: int) -> Tensor:
        """Its gradient in the logits, ``[K]`` (fp64)."""
        found = torch.zeros(n_classes, dtype=torch.float64)
        found[self.label], found[self.other] = 1, -1
        return found


def probe_of(
    model: nn.Module, components: Sequence[str], split: Labelled, position: int, batch_size: int
) -> tuple[Probe, Lead]:
    """One image of a split, and its output: the lead of its class over the one that the network puts next.

    Raises:
        BadInputError: the split has no such image.
    """
    if position >= len(split):
        raise BadInputError(
            f"image is {position}, expected a position from 0 to {len(split) - 1} of the test split; set image."
        )
    device = next(model.parameters()).device
    x, label = split.read(torch.tensor([position])).to(device), split.labels[[position]]
    with torch.inference_mode():
        logits = logits_of(answered(model, x, 1), 1, label)[0].cpu()
    others = logits.scatter(0, label, -torch.inf)
    lead = Lead(int(label), int(others.argmax()))
    return Probe(model, components, x, label.to(device), output_function=lead, batch_size=batch_size), lead


def of_patches(probe: Probe, side: int, baseline: Tensor) -> Value:
    """``f(x' + w · (x − x'))`` of the probe's first example x: w_j scales what patch j differs by from a baseline.

    Args:
        probe: of images.
        side: patches along each side; there are ``side²``, row by row.
        baseline: x', what an image without the patch is, ``[C, 1, 1]`` or ``[C, H, W]``.

    Raises:
        BadInputError: the images have fewer pixels a side than patches, or are none.
    """
    x = probe.x[:1]
    if x.ndim != 4 or not 1 <= side <= min(x.shape[-2:]):
        raise BadInputError(
            f"{side} patches a side were asked of examples of shape {list(x.shape[1:])}, expected images of at "
            "least as many pixels a side; lower side, or take images."
        )
    empty = baseline.to(x).expand_as(x)

    def value(weights: Tensor) -> Tensor:
        squares = F.interpolate(weights.to(x).unflatten(1, (1, side, side)), size=x.shape[-2:])
        return _read(probe, answered(probe.model, empty + squares * (x - empty), len(weights)), len(weights))

    return value


def of_gates(probe: Probe) -> Value:
    """``f(z, w − 1)`` of the probe's first example: w_j = 1 + σ_j scales component j, 0 removes it."""

    def value(weights: Tensor) -> Tensor:
        with (
            gated(probe.model, probe.components, probe.site) as gates,
            sdpa_kernel(SDPBackend.MATH),
        ):
            return _read(probe, gates(probe.x[:1], weights.to(probe.x) - 1), len(weights))

    return value


def smooth(model: nn.Module, sharpness: float = 10.0) -> nn.Module:
    """A copy with ``log(1 + exp(β x)) / β`` in place of every ReLU module, which can be differentiated twice.

    A network of ReLUs is piecewise linear in its input, so that its second derivatives there are 0. Source:
    Janizek, Sturmfels and Lee (2021), section 4.

    Args:
        model: with ReLU as modules; functions of torch stay.
        sharpness: β, the larger the nearer to ReLU.

    Raises:
        BadInputError: the model cannot be copied, or has no ReLU module.
    """
    found = copied(model, "softplus, which second derivatives need")
    places = [name for name, module in found.named_modules(remove_duplicate=False) if isinstance(module, nn.ReLU)]
    if not places:
        raise BadInputError(
            "the network has no ReLU module to smooth, expected some; take its second derivatives as they are."
        )
    for name in places:
        found.set_submodule(name, nn.Softplus(beta=sharpness))
    return found


def last_layer(model: nn.Module) -> str:
    """The name of the linear layer that puts the logits out, the last of the model's linear modules.

    Raises:
        BadInputError: it has none.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not names:
        raise BadInputError(
            "the network has no linear module, expected one that puts out the logits; leave the view of data out."
        )
    return names[-1]


@torch.inference_mode()
def before_last(
    model: nn.Module, split: Labelled, positions: Tensor, batch_size: int = 256
) -> tuple[Tensor, Tensor]:
    """What the last linear layer is given ``[n, d]`` for images, and its logits ``[n, classes]``, fp64 on the CPU.

    Args:
        model: that ends with a linear layer.
        split: of the images.
        positions: theirs ``[n]``.
        batch_size: images a forward pass.

    Raises:
        BadInputError: as :func:`last_layer`; or what that layer puts out is not the logits.
    """
    name, given, rows = last_layer(model), [], []
    layer = model.get_submodule(name)
    weight = layer.get_parameter("weight")
    handle = layer.register_forward_pre_hook(lambda _, args: given.append(args[0].double().cpu()))
    try:
        for some in positions.split(batch_size):
            logits = answered(model, split.read(some).to(weight), len(some))
            rows.append(logits_of(logits, len(some)).double().cpu())
    finally:
        handle.remove()
    features, logits = torch.cat(given), torch.cat(rows)
    bias = 0 if layer.bias is None else layer.get_parameter("bias").double().cpu()
    fits = features.ndim == 2 and logits.shape == (len(features), len(weight))
    if not fits or not torch.allclose(features @ weight.double().cpu().T + bias, logits, rtol=1e-3, atol=1e-3):
        raise BadInputError(
            f"the last linear module, {name}, does not put out the logits, expected a network that ends with it; "
            "leave the view of data out."
        )
    return features, logits


def _read(probe: Probe, output: object, rows: int) -> Tensor:
    return values(output, probe.labels[:1].expand(rows), [probe.output_function])[0]
