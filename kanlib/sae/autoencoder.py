"""Sparse autoencoders of one kind, R runs at once: ``x̂ = z D + b`` with sparse ``z`` and rows of D of length 1."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanlib.errors import BadInputError, unknown
from kanlib.machine import generator
from kanlib.sae.encoders import Additive, Linear, Perceptron, Spline
from kanlib.sae.sparsifiers import BatchTopK, Gated, JumpReLU, Sparsifier, Standard, TopK

#: Arm of the comparison → its encoder and its sparsifier. K1 with its splines at rest is ``topk`` itself.
ARMS: dict[str, tuple[str, type[Sparsifier]]] = {
    "standard": ("linear", Standard),
    "gated": ("linear", Gated),
    "jumprelu": ("linear", JumpReLU),
    "topk": ("linear", TopK),
    "batchtopk": ("linear", BatchTopK),
    "k1": ("spline", TopK),
    "k2": ("additive", TopK),
    "mlp": ("perceptron", TopK),
    "dense": ("linear", Sparsifier),
}
#: What they are called.
TITLES = {
    "standard": "standard (L1)",
    "gated": "gated",
    "jumprelu": "JumpReLU",
    "topk": "TopK",
    "batchtopk": "BatchTopK",
    "k1": "K1: spline + TopK",
    "k2": "K2: additive KAN + TopK",
    "mlp": "MLP + TopK",
    "dense": "not sparse",
}


@dataclass(frozen=True)
class Run:
    """One autoencoder of a batch.

    Attributes:
        l0: the number of active features a token that it is to have.
        seed: of its first directions.
    """

    l0: int
    seed: int


class Autoencoder(nn.Module):
    """R autoencoders of m features that share an arm, and differ in L0 and seed.

    Vectors are standardised by one mean and one scale, for all runs. The encoder starts as three tenths of the
    transpose of the decoder, whose rows are drawn by the seed, so that runs of one seed start alike in every arm.

    Attributes:
        arm: a key of :data:`ARMS`.
        runs: R of them.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, arm: str, runs: Sequence[Run], vectors: Tensor, m: int, n_splines: int = 10):
        """With the mean and the spread of training vectors.

        Args:
            arm: a key of :data:`ARMS`.
            runs: one or more.
            vectors: ``[n, d]``, of which statistics and the ranges of splines are taken; on the device to be.
            m: features.
            n_splines: B-splines of K1 a feature, and of K2 an input and feature; the MLP has as many parameters
                as K2.

        Raises:
            BadInputError: no such arm; no features, or an L0 that is not among 1 to m.
        """
        super().__init__()
        if arm not in ARMS:
            raise unknown("arm", arm, ARMS, "kanlib.sae")
        if m < 1 or not runs:
            raise BadInputError(f"{len(runs)} autoencoders of {m} features were asked for, expected 1 or more.")
        for run in runs:
            if not 1 <= run.l0 <= m:
                raise BadInputError(
                    f"an autoencoder of {m} features with {run.l0} active ones a token was asked for, expected 1 "
                    f"to {m}; set l0."
                )
        self.arm, self.runs, d = arm, list(runs), vectors.shape[1]
        self.register_buffer("mean", vectors.mean(0))
        self.register_buffer("spread", (vectors - self.mean).square().mean().sqrt())
        drawn = [torch.randn(m, d, generator=generator(run.seed, "directions")) for run in runs]
        directions = _START * F.normalize(torch.stack(drawn), dim=-1).to(vectors)
        self.directions = nn.Parameter(directions.clone())
        self.bias = nn.Parameter(torch.zeros(len(runs), 1, d, device=vectors.device))
        kind, sparsifier = ARMS[arm]
        sample = self.standardised(vectors[:: max(1, len(vectors) // 4096)])
        self.encoder: Linear = _encoder(kind, directions, sample, n_splines, runs)
        self.sparsifier = sparsifier([run.l0 for run in runs], m).to(vectors.device)

    def standardised(self, x: Tensor) -> Tensor:
        """Vectors with mean 0 and a mean square of 1."""
        return (x - self.mean) / self.spread

    @property
    def rows(self) -> Tensor:
        """The decoder's directions D ``[R, m, d]``, each of length 1."""
        return F.normalize(self.directions, dim=-1)

    def encode(self, x: Tensor) -> Tensor:
        """Activations z ``[R, B, m]`` of vectors ``[B, d]``."""
        return self.sparsifier(self.encoder(self.standardised(x)), self.encoder.bent)

    def decode(self, z: Tensor) -> Tensor:
        """Reconstructions x̂ ``[R, B, d]``."""
        return torch.baddbmm(self.bias, z, self.rows) * self.spread + self.mean

    def forward(self, x: Tensor) -> Tensor:
        """Reconstructions ``[R, B, d]`` of vectors ``[B, d]``."""
        return self.decode(self.encode(x))

    def replacement(self, run: int) -> Callable[[Tensor], Tensor]:
        """The reconstruction of one run, of vectors ``[..., d]``, for :func:`kanlib.networks.streams.replaced`."""
        alone = self.one(run)
        return lambda x: alone(x.reshape(-1, x.shape[-1]))[0].view_as(x)

    def one(self, run: int) -> "Autoencoder":
        """One run alone, in evaluation mode; see :meth:`some`."""
        return self.some([run]).eval()

    def some(self, which: Sequence[int]) -> "Autoencoder":
        """The runs of these numbers; they share nothing with the others, nor with this."""
        part = copy.deepcopy(self)
        part.runs = [self.runs[i] for i in which]
        part.sparsifier.targets = [run.l0 for run in part.runs]
        for _, values in part._of_runs():
            values.data = values.data[list(which)].clone()
        return part

    def take(self, parts: Sequence["Autoencoder"]) -> None:
        """Take over what :meth:`some` gave, after it was trained, from the first run on."""
        kept = [dict(part._of_runs()) for part in parts]
        for name, values in self._of_runs():
            values.data.copy_(torch.cat([part[name].detach() for part in kept]))

    def _of_runs(self) -> list[tuple[str, Tensor]]:
        """What has an axis of runs, by name."""
        buffers = [(name, buffer) for name, buffer in self.named_buffers() if name.split(".")[-1] in _OF_RUNS]
        return [*self.named_parameters(), *buffers]


#: Length of directions at first. As features are many, those of length 1 overshoot, and turn slowly.
_START = 0.3
#: Buffers with an axis of runs; the others are of all.
_OF_RUNS = {"cut", "goal", "log_weight"}


def _encoder(kind: str, directions: Tensor, sample: Tensor, n_splines: int, runs: Sequence[Run]) -> Linear:
    if kind == "spline":
        # Where pre-activations lie once it is trained.
        u = sample @ F.normalize(directions[0], dim=-1).T
        low, high = (u.flatten()[:: max(1, u.numel() // 2**20)].quantile(q).item() for q in _RANGE)
        return Spline(directions, (low, high), n_splines)
    if kind == "additive":
        return Additive(directions, sample, n_splines)
    if kind == "perceptron":
        return Perceptron(directions, n_splines, [generator(run.seed, "hidden units") for run in runs])
    return Linear(directions)


#: Quantiles of the first pre-activations between which K1's splines lie.
_RANGE = (0.001, 0.9999)
