"""How good autoencoders are: what they reconstruct, how sparsely, with how many live features, and how stably."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kanlib.networks import streams
from kanlib.networks.texts import Texts
from kanlib.sae.autoencoder import Autoencoder
from kanlib.sae.sparsifiers import count

_BATCH = 8192  # vectors at a time, over all runs


@dataclass(frozen=True)
class Measures:
    """Of R autoencoders on vectors that they were not trained on.

    Attributes:
        explained: ``1 − Σ‖x − x̂‖² / Σ‖x − mean‖²``, ``[R]``.
        l0: mean number of active features a token, ``[R]``.
        histogram: share of tokens with 0, 1, 2, … active features, ``[R, m + 1]``.
        density: share of tokens on which each feature is active, ``[R, m]``.
    """

    explained: Tensor
    l0: Tensor
    histogram: Tensor
    density: Tensor

    @property
    def live(self) -> Tensor:
        """Share of features that are active on any token, ``[R]``; the rest is dead."""
        return (self.density > 0).float().mean(1)


@torch.inference_mode()
def measured(model: Autoencoder, vectors: Tensor) -> Measures:
    """Measures on vectors ``[n, d]``, on the CPU, in fp64."""
    m, n_runs = model.directions.shape[1], len(model.runs)
    mean = vectors.double().mean(0)
    left = torch.zeros(n_runs, dtype=torch.float64)
    whole = torch.zeros((), dtype=torch.float64)
    active, tokens = torch.zeros(n_runs, m), torch.zeros(n_runs, m + 1)
    for x in vectors.split(_BATCH):
        z = model.encode(x)
        left += (model.decode(z) - x).square().sum((1, 2), dtype=torch.float64).cpu()
        whole += (x - mean).square().sum().cpu()
        active += (z > 0).sum(1).cpu()
        tokens += torch.stack([row.long().bincount(minlength=m + 1) for row in count(z).cpu()])
    n = len(vectors)
    l0 = (tokens.double() @ torch.arange(m + 1.0, dtype=torch.float64)) / n
    return Measures(1 - left / whole, l0, tokens.double() / n, active.double() / n)


@torch.inference_mode()
def text_losses(model: Autoencoder, network: nn.Module, texts: Texts, name: str, batch_size: int = 100) -> Tensor:
    """Losses of each text with each run's reconstruction of what module ``name`` puts out, ``[R, n]``.

    In nats, summed over tokens; see :func:`kanlib.networks.streams.losses`.
    """
    found = []
    for run in range(len(model.runs)):
        with streams.replaced(network, name, model.replacement(run)):
            found.append(streams.losses(network, texts, batch_size))
    return torch.stack(found)


def stability(directions: Tensor, live: Tensor) -> Tensor:
    """Mean over live features of the largest cosine to a live feature of another seed, of each pair of seeds.

    1: both found the same directions. Source: Sharkey et al. (2022), *Taking features out of superposition with
    sparse autoencoders*.

    Args:
        directions: of S seeds, ``[S, m, d]``, of length 1.
        live: ``[S, m]``.

    Returns:
        Of the ordered pairs, ``[S (S − 1)]``; nan where either has no live feature.
    """
    found = []
    for i, (mine, here) in enumerate(zip(directions, live, strict=True)):
        for j, (theirs, there) in enumerate(zip(directions, live, strict=True)):
            if i != j:
                cosines = mine[here] @ theirs[there].T
                found.append(cosines.amax(1).mean() if cosines.numel() else torch.tensor(float("nan")))
    return torch.stack(found)
