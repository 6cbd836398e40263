"""Training of all autoencoders of an arm at once, by Adam on the same minibatches."""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from kanlib.errors import BadInputError
from kanlib.machine import generator, side_by_side, workers
from kanlib.sae.autoencoder import Autoencoder, Run
from kanlib.sae.sparsifiers import normalised_error

_FALL = 0.3  # of the steps, in which the rate falls to 0
_WARM = 0.02  # of the steps, in which it rises
#: Where dead features start again, in shares of the steps. The rest is time to learn.
_RENEWALS = (0.15, 0.3, 0.45)
_WINDOW = 0.1  # share of the steps for which a feature that is dead was never active
_SETTLED_ON = 16_384  # vectors that thresholds are settled on
#: Runs that a processor trains at once: the numbers of so many stay in its cache.
_AT_ONCE = 3


class Knobs(Protocol):
    """What a training is told; :class:`kanlib.setups.SparseAutoencoder` has the defaults and the ranges."""

    @property
    def features(self) -> int:
        """Features m."""
        ...

    @property
    def splines(self) -> int:
        """B-splines of K1 and K2."""
        ...

    @property
    def steps(self) -> int:
        """Minibatch steps."""
        ...

    @property
    def minibatch(self) -> int:
        """Vectors a step."""
        ...

    @property
    def rate(self) -> float:
        """Highest learning rate."""
        ...

    @property
    def renew(self) -> bool:
        """Whether dead features start again."""
        ...

    @property
    def seed(self) -> int:
        """Of the order of vectors."""
        ...


def train(
    arm: str, vectors: Tensor, runs: Sequence[Run], knobs: Knobs, progress: str | None = None
) -> Autoencoder:
    """Autoencoders that minimise ``mean ‖x − x̂‖² / d`` and what their sparsifier adds to it.

    The rate rises for a fiftieth of the steps and falls to 0 in the last three tenths. All arms and runs are given
    the same vectors in the same order. In the first half, a feature that was not active for a tenth of the steps
    starts again, three times at most, in the direction of a vector that is reconstructed badly. Thresholds are
    settled at the end.

    Args:
        arm: a key of :data:`kanlib.sae.autoencoder.ARMS`.
        vectors: of training tokens ``[n, d]``; on their device all is computed.
        runs: R of them.
        knobs: see :class:`Knobs`.
        progress: title of a progress bar; ``None``: none.

    Returns:
        In evaluation mode.

    Raises:
        BadInputError: fewer vectors than a minibatch, or as :class:`kanlib.sae.autoencoder.Autoencoder`.
    """
    n, steps = len(vectors), knobs.steps
    if n < knobs.minibatch:
        raise BadInputError(
            f"there are {n:,} vectors, expected at least {knobs.minibatch:,}, a minibatch; sample more tokens, or "
            "lower minibatch."
        )
    model = Autoencoder(arm, runs, vectors, knobs.features, knobs.splines)
    parts = torch.arange(len(runs)).split(len(runs) if vectors.is_cuda else _AT_ONCE)
    total, hidden = steps * len(parts), progress is None
    with tqdm(total=total, desc=progress, unit="step", mininterval=1, disable=hidden) as bar:

        def trained(which: Tensor) -> Autoencoder:
            part = model.some(which.tolist())
            _descend(part, vectors, knobs, which, len(runs), bar)
            return part

        model.take(side_by_side(trained, parts, workers(vectors.device)))
    return model.eval()


def _descend(model: Autoencoder, vectors: Tensor, knobs: Knobs, which: Tensor, n_runs: int, bar: tqdm) -> None:
    """Train these autoencoders, numbers ``which`` of ``n_runs``, and settle their thresholds."""
    n, steps = len(vectors), knobs.steps
    model.train()
    optimiser = torch.optim.Adam(model.parameters(), lr=knobs.rate, fused=True)
    source = generator(knobs.seed, "minibatches")
    renewals = {round(share * steps) for share in _RENEWALS} if knobs.renew else set()
    window = max(1, round(_WINDOW * steps))
    active = torch.zeros(len(which), knobs.features, dtype=torch.bool, device=vectors.device)
    order, at = torch.randperm(n, generator=source).to(vectors.device), 0
    for step in range(steps):
        if at + knobs.minibatch > n:
            order, at = torch.randperm(n, generator=source).to(vectors.device), 0
        x = model.standardised(vectors[order[at : at + knobs.minibatch]])
        at += knobs.minibatch
        for group in optimiser.param_groups:
            group["lr"] = knobs.rate * share_of_rate(step, steps)
        z, error, loss = losses(model, x)
        optimiser.zero_grad()
        loss.sum().backward()
        optimiser.step()
        if any(step > end - window and step <= end for end in renewals):
            active |= (z > 0).any(1)
        if step in renewals:
            draws = torch.rand(n_runs, knobs.features, generator=generator(knobs.seed, "renewals", step))
            _renew(model, optimiser, ~active, x, error, draws[which].to(vectors.device))
            active.zero_()
        bar.update()
    model.eval()
    _settle(model, vectors)


def losses(model: Autoencoder, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Activations ``[R, B, m]``, what the reconstructions lack ``[R, B, d]``, and the loss of each run ``[R]``.

    Args:
        model: the autoencoders.
        x: standardised vectors ``[B, d]``.
    """
    u = model.encoder(x)
    z = model.sparsifier(u, model.encoder.bent)
    rows = model.rows
    reconstructed = torch.baddbmm(model.bias, z, rows)
    fixed, still = rows.detach(), model.bias.detach()
    penalty = model.sparsifier.penalty(u, z, x, lambda other: torch.baddbmm(still, other, fixed))
    loss = normalised_error(reconstructed, x)
    return z, (x - reconstructed).detach(), loss if penalty is None else loss + penalty


def share_of_rate(step: int, steps: int) -> float:
    """Of the highest rate."""
    return min(1.0, (step + 1) / max(1.0, _WARM * steps), (steps - step) / max(1.0, _FALL * steps))


@torch.no_grad()
def _renew(
    model: Autoencoder,
    optimiser: torch.optim.Optimizer,
    dead: Tensor,
    x: Tensor,
    error: Tensor,
    draws: Tensor,
) -> None:
    """Start dead features ``[R, m]`` again in the direction of vectors drawn by their squared error.

    Each of ``draws`` ``[R, m]``, uniform between 0 and 1, draws one.

    Source: Bricken et al. (2023), *Towards monosemanticity*, on resampling; the moments of Adam are cleared too.
    """
    n_runs, m = dead.shape
    passed = error.square().sum(-1).cumsum(-1)
    which = torch.searchsorted(passed, draws * passed[:, -1:]).clamp_max(len(x) - 1)
    directions = F.normalize(error.gather(1, which[..., None].expand(-1, -1, x.shape[1])), dim=-1)
    model.directions.copy_(torch.where(dead[..., None], directions, model.directions))
    model.encoder.renew(dead, directions)
    for parameter in model.parameters():
        axis = next((i for i in range(1, parameter.ndim) if parameter.shape[i] == m), None)
        if axis is None or parameter not in optimiser.state:
            continue
        shape = [n_runs, *(m if i == axis else 1 for i in range(1, parameter.ndim))]
        for moment in ("exp_avg", "exp_avg_sq"):
            optimiser.state[parameter][moment].masked_fill_(dead.view(shape), 0)


@torch.no_grad()
def _settle(model: Autoencoder, vectors: Tensor) -> None:
    if model.sparsifier.bounds is None:
        return
    some = vectors[:: max(1, len(vectors) // _SETTLED_ON)][:_SETTLED_ON]
    model.sparsifier.settle(model.encoder(model.standardised(some)), model.encoder.bent)
