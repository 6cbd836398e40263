"""Active features of one token as components: gated like blocks of a classifier, so that a KAN can explain them.

At one token, k features are active, and each adds a step ``z_j d_j`` to the stream. A mask scales them,

    x ← x + Σ_j σ_j z_j d_j,

so that σ = 0 is the network as it is, with all that the autoencoder leaves out, and σ_j = −1 takes feature j away.
What answers is the log-probability of the token that comes next. A margin would have a kink wherever another token
comes second, and no second derivative there.
"""

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import hessian, jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel

from kanlib.errors import BadInputError
from kanlib.networks.llama import Llama
from kanlib.networks.outputs import OUTPUT_FUNCTIONS
from kanlib.sae.autoencoder import Autoencoder


@dataclass(frozen=True)
class Gates:
    """The gates of one token, and what follows it in the network.

    Attributes:
        network: the Llama.
        layer: number of the layer after which the stream is.
        stream: vectors of the text up to the token, ``[T, d]``.
        features: numbers of those that are active, ``[k]``.
        steps: what each adds, ``[k, d]``.
        following: the token that comes next.
    """

    network: Llama
    layer: int
    stream: Tensor
    features: Tensor
    steps: Tensor
    following: int

    @torch.inference_mode()
    def log_probs(self, masks: Tensor, batch_size: int = 250) -> Tensor:
        """``log p`` of the following token under each mask ``[N, k]``: ``[N]``, in nats."""
        return torch.cat([self._log_probs(self.network, some) for some in masks.split(batch_size)])

    def derivatives(self) -> tuple[Tensor, Tensor]:
        """First and second derivatives of ``log p`` by the gates at rest, ``[k]`` and ``[k, k]``, exact, fp64."""
        exact = deepcopy(self.network).double()

        def log_prob(sigma: Tensor) -> Tensor:
            return self._log_probs(exact, sigma[None])[0]

        rest = torch.zeros(len(self.steps), dtype=torch.float64, device=self.steps.device)
        with sdpa_kernel(SDPBackend.MATH):
            return jacrev(log_prob)(rest), hessian(log_prob)(rest)

    def _log_probs(self, network: Llama, masks: Tensor) -> Tensor:
        x = self.stream.to(masks.dtype)
        last = x[-1] + masks @ self.steps.to(masks.dtype)
        x = torch.cat([x[:-1].expand(len(masks), -1, -1), last[:, None]], 1)
        for layer in list(network.layers)[self.layer + 1 :]:
            x = layer(x, network.turns[:, : x.shape[1]])
        logits = network.output(network.norm(x[:, -1]))
        labels = torch.full((len(masks),), self.following, device=masks.device)
        return OUTPUT_FUNCTIONS["log_prob"](logits, labels)


def gates(
    model: Autoencoder, network: Llama, layer: int, stream: Tensor, following: int, k: int | None = None
) -> Gates:
    """The k most active features of the last of these vectors; ``None``: all that are active.

    Args:
        model: one autoencoder, of the stream after that layer.
        network: the Llama.
        layer: its number.
        stream: vectors of a text up to the token, ``[T, d]``.
        following: the token that comes next.
        k: how many.

    Raises:
        BadInputError: the network has no such layer, or fewer features are active.
    """
    if not 0 <= layer < len(network.layers):
        raise BadInputError(
            f"layer {layer} was asked for, expected 0 to {len(network.layers) - 1}; name one that the network has."
        )
    with torch.inference_mode():
        z, rows = model.encode(stream[-1:])[0, 0], model.rows[0] * model.spread
        active = int((z > 0).sum())
        k = active if k is None else k
        if not 1 <= k <= active:
            raise BadInputError(f"{k} active features were asked for, expected 1 to {active}, as are there.")
        values, features = z.topk(k)
        return Gates(network, layer, stream, features, values[:, None] * rows[features], following)
