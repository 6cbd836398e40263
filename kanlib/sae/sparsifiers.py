"""Sparsifiers: which features are active, and how few of them on average.

Each is made for the L0 that its runs are to have, a number of active features a token each, and reaches it in its
own way: by construction (TopK), by a threshold (BatchTopK), by a penalty on the number itself (JumpReLU), or by a
penalty on their sum whose weight follows (standard, gated). What is left to the target after training, a threshold
settles: ``cut`` ``[R, 1, 1]`` is found by bisection on training vectors (:meth:`Sparsifier.settle`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Of the features, all or those of given numbers: :meth:`kanlib.sae.encoders.Linear.bent`.
Bent = Callable[..., Tensor]
_BISECTIONS = 30
_FOLLOW = 0.02  # by how much the logarithm of a penalty's weight follows that of L0 in a step
_ASKED = 0.1  # how much JumpReLU's distance to the target counts beside the error
_BANDWIDTH = 0.1  # of JumpReLU's kernel, where vectors have a variance of 1


class Sparsifier(nn.Module):
    """No sparsity: ``z = u``. What the others share.

    Attributes:
        targets: L0 of each run.
        cut: what settles the rest, ``[R, 1, 1]``.
    """

    cut: Tensor
    goal: Tensor
    #: ``cut`` at rest, and between what it is looked for; none: L0 is met by construction, or not asked for.
    rest: float = 0.0
    bounds: tuple[float, float] | None = None

    def __init__(self, targets: Sequence[int], m: int):
        super().__init__()
        self.targets = list(targets)
        self.register_buffer("cut", torch.full((len(targets), 1, 1), self.rest))
        self.register_buffer("goal", torch.tensor(self.targets, dtype=torch.float32))

    def forward(self, u: Tensor, bent: Bent) -> Tensor:
        """Activations ``z`` ``[R, B, m]`` from pre-activations."""
        return bent(u)

    def penalty(self, u: Tensor, z: Tensor, x: Tensor, decode: Callable[[Tensor], Tensor]) -> Tensor | None:
        """What is added to the normalised squared error of each run, ``[R]``.

        Args:
            u: pre-activations.
            z: activations.
            x: the vectors ``[B, d]``.
            decode: ``[R, B, m] → [R, B, d]``, without gradients of its parameters.
        """
        return None

    @torch.no_grad()
    def settle(self, u: Tensor, bent: Bent) -> None:
        """Choose ``cut`` so that the mean number of active features of these tokens is the target.

        Args:
            u: pre-activations of training vectors, ``[R, N, m]``.
            bent: see :meth:`forward`.
        """
        if self.bounds is None:
            return
        # The most that a threshold lets through comes first.
        low, high = (torch.full_like(self.cut, bound) for bound in self.bounds)
        for _ in range(_BISECTIONS):
            self.cut.copy_((low + high) / 2)
            too_many = (count(self(u, bent)).mean(1) > self.goal)[:, None, None]
            low, high = torch.where(too_many, self.cut, low), torch.where(too_many, high, self.cut)
        self.cut.copy_(high)


class TopK(Sparsifier):
    """``z = relu(u)`` of the k features of the largest u, k = L0, and 0 of all others.

    Source: Gao et al. (2024), *Scaling and evaluating sparse autoencoders*, arXiv 2406.04093.
    """

    def forward(self, u: Tensor, bent: Bent) -> Tensor:
        """At most k activations a token."""
        most = max(self.targets)
        # Only what is chosen has gradients, so that only it is computed with them.
        with torch.no_grad():
            which = bent(u).topk(most, dim=-1).indices
        chosen = F.relu(bent(u.gather(-1, which), which))
        if min(self.targets) < most:
            chosen = chosen * (torch.arange(most, device=u.device) < self.goal[:, None, None])
        return torch.zeros_like(u).scatter(-1, which, chosen)


class BatchTopK(Sparsifier):
    """``z = relu(u)`` of the k·B largest u in a batch of B tokens; afterwards of all above a threshold.

    Source: Bussmann et al. (2024), arXiv 2412.06410. While it trains, the threshold is the batch's own.
    """

    bounds = (0.0, 100.0)

    def forward(self, u: Tensor, bent: Bent) -> Tensor:
        """Activations, k a token on average."""
        bent_u = F.relu(bent(u))
        if self.training:
            with torch.no_grad():
                ks = [min(k * u.shape[1], u[0].numel()) for k in self.targets]
                least = [
                    run.flatten().topk(k, sorted=False).values.amin() for run, k in zip(bent_u, ks, strict=True)
                ]
                kept = bent_u >= torch.stack(least)[:, None, None]
        else:
            kept = bent_u > self.cut
        return bent_u * kept


class Penalised(Sparsifier):
    """A penalty whose weight λ follows L0, run by run: ``log λ`` grows with ``log(L0 / target)``."""

    log_weight: Tensor

    def __init__(self, targets: Sequence[int], m: int):
        super().__init__(targets, m)
        # Almost none at first, so that features are there before they are made few.
        self.register_buffer("log_weight", torch.full((len(targets),), 1e-3).log())

    @torch.no_grad()
    def follow(self, z: Tensor) -> None:
        """One step of the weight."""
        if self.training:
            off = (count(z).mean(1).clamp_min(0.1) / self.goal).log()
            self.log_weight += _FOLLOW * off.clamp(-0.5, 0.5)


class Standard(Penalised):
    """``z = relu(u − cut)`` with the penalty ``λ Σ_i z_i``.

    Source: Cunningham et al. (2023), arXiv 2309.08600. Directions have unit length, so that it cannot be evaded.
    """

    bounds = (-5.0, 5.0)

    def forward(self, u: Tensor, bent: Bent) -> Tensor:
        """Activations."""
        return F.relu(bent(u) - self.cut)

    def penalty(self, u: Tensor, z: Tensor, x: Tensor, decode: Callable[[Tensor], Tensor]) -> Tensor:
        """``λ Σ_i z_i``, mean over tokens."""
        self.follow(z)
        return self.log_weight.exp() * z.sum(-1).mean(1)


class Gated(Penalised):
    """``z = 1[u > cut] relu(e^r u + c)``: a gate decides, a magnitude of its own scale and shift says how much.

    The penalty is ``λ Σ_i relu(u_i)``, and ``relu(u)`` must reconstruct x as well, through a decoder that it does
    not train. Source: Rajamanoharan et al. (2024), arXiv 2404.16014.
    """

    bounds = (-5.0, 5.0)

    def __init__(self, targets: Sequence[int], m: int):
        super().__init__(targets, m)
        self.scale, self.shift = (nn.Parameter(torch.zeros(len(targets), 1, m)) for _ in range(2))

    def forward(self, u: Tensor, bent: Bent) -> Tensor:
        """Activations."""
        u = bent(u)
        return F.relu(torch.addcmul(self.shift, self.scale.exp(), u)) * (u > self.cut)

    def penalty(self, u: Tensor, z: Tensor, x: Tensor, decode: Callable[[Tensor], Tensor]) -> Tensor:
        """``λ Σ_i relu(u_i)`` and the squared error of ``relu(u)``."""
        self.follow(z)
        gate = F.relu(u)
        return self.log_weight.exp() * gate.sum(-1).mean(1) + normalised_error(decode(gate), x)


class JumpReLU(Sparsifier):
    """``z = u · 1[u > cut · θ]`` with thresholds θ that are learnt through a kernel.

    The penalty is ``0.1 (L0 / target − 1)²``, which asks for the target itself. Source: Rajamanoharan et al.
    (2024), *Jumping ahead*, arXiv 2407.14435; the target is as in its appendix.
    """

    rest = 1.0
    bounds = (0.02, 50.0)

    def __init__(self, targets: Sequence[int], m: int):
        super().__init__(targets, m)
        self.log_threshold = nn.Parameter(torch.full((len(targets), 1, m), 0.5).log())

    def forward(self, u: Tensor, bent: Bent) -> Tensor:
        """Activations."""
        return Jump.apply(bent(u), self.cut * self.log_threshold.exp(), _BANDWIDTH)

    def penalty(self, u: Tensor, z: Tensor, x: Tensor, decode: Callable[[Tensor], Tensor]) -> Tensor:
        """``0.1 (L0 / target − 1)²``, where L0 is the batch's."""
        l0 = Step.apply(u, self.log_threshold.exp(), _BANDWIDTH).sum(-1).mean(1)
        return _ASKED * (l0 / self.goal - 1).square()


class Jump(torch.autograd.Function):
    """``u · 1[u > θ]``, θ > 0; by θ it changes at a rate of ``−θ/ε`` where u is within ε/2 of it."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        """Activations."""
        ctx.save_for_backward(u, threshold)
        ctx.bandwidth = bandwidth
        return u * (u > threshold)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Gradients by u and by θ."""
        (grad,), (u, threshold) = grads, ctx.saved_tensors
        near = (u - threshold).abs() < ctx.bandwidth / 2
        by_threshold = -(threshold / ctx.bandwidth) * (grad * near).sum(1, keepdim=True)
        return grad * (u > threshold), by_threshold, None


class Step(torch.autograd.Function):
    """``1[u > θ]``; by θ it changes at a rate of ``−1/ε`` where u is within ε/2 of it, by u not at all."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        """Activations."""
        ctx.save_for_backward(u, threshold)
        ctx.bandwidth = bandwidth
        return (u > threshold).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Gradients by u and by θ."""
        (grad,), (u, threshold) = grads, ctx.saved_tensors
        near = (u - threshold).abs() < ctx.bandwidth / 2
        return None, -(grad * near).sum(1, keepdim=True) / ctx.bandwidth, None


def count(z: Tensor) -> Tensor:
    """Number of active features of each token, ``[R, B]``."""
    return (z > 0).sum(-1, dtype=torch.float32)


def normalised_error(reconstructed: Tensor, x: Tensor) -> Tensor:
    """``mean ‖x − x̂‖² / d`` over tokens, ``[R]``: of vectors that are standardised, the variance left."""
    return (reconstructed - x).square().mean((1, 2))
