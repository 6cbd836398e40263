"""What training images are worth to one prediction, where the last layer is trained anew, exactly, without them.

What the layers before hand on is fixed, ``h_i`` ``[d]`` of image i, and the last layer is a ridge regression of
the classes on it, whose minimum has a closed form. So a network that never saw some images costs one solution of
d linear equations, of many sets of images at a time, and weights between 0 and 1 are as good as sets: what a
group of images is worth has derivatives, and the first one is the influence function.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kanlib.errors import BadInputError
from kanlib.machine import generator
from kanlib.memory import room_for


def grouped(n: int, groups: int, seed: int) -> Tensor:
    """A group for each of n images, by chance and as even as can be, ``[n]``.

    Raises:
        BadInputError: there are fewer images than groups, or no group.
    """
    if not 1 <= groups <= n:
        raise BadInputError(
            f"{groups} groups of {n} training images were asked for, expected 1 to {n}; set groups."
        )
    return (torch.arange(n) % groups)[torch.randperm(n, generator=generator(seed, "groups"))]


@dataclass(frozen=True)
class Retrained:
    """The last layer as ridge regression: ``W(w) = (Σ_i w_i h_i h_i' + λ I)⁻¹ Σ_i w_i h_i t_i'``.

    Attributes:
        features: ``h`` ``[n, d]`` (fp64), a last column of ones among them for the constant.
        targets: ``t`` ``[n, K]``, 1 of the class and 0 of others, less the mean over classes.
        groups: of each image, ``[n]``, from 0 to G − 1.
        ridge: λ, as it is added.
        gram: ``Σ_{i∈g} h_i h_i'`` ``[G, d, d]``.
        moments: ``Σ_{i∈g} h_i t_i'`` ``[G, d, K]``.
    """

    features: Tensor
    targets: Tensor
    groups: Tensor
    ridge: float
    gram: Tensor
    moments: Tensor

    @classmethod
    def of(
        cls, features: Tensor, labels: Tensor, groups: Tensor, n_classes: int, ridge: float = 0.01
    ) -> "Retrained":
        """From what the last layer is given ``[n, d]``, a constant not among it.

        Args:
            features: of the training images.
            labels: ``[n]``.
            groups: ``[n]``, which image plays with which.
            n_classes: K.
            ridge: as a share of the mean square of a feature times n.

        Raises:
            BadInputError: the ridge is not above 0, labels do not fit, or memory does not hold the groups.
        """
        if ridge <= 0:
            raise BadInputError(
                f"ridge is {ridge:g}, expected above 0, as a layer without images has no other minimum; raise it."
            )
        alike = len(features) == len(labels) == len(groups)
        if not alike or int(labels.min()) < 0 or int(labels.max()) >= n_classes:
            raise BadInputError(
                f"{len(features)} features, {len(labels)} labels and {len(groups)} groups were given for "
                f"{n_classes} classes, expected one of each an image, and labels below the classes; correct them."
            )
        h = F.pad(features.double(), (0, 1), value=1.0)
        t = F.one_hot(labels, n_classes).double() - 1 / n_classes
        n_groups = int(groups.max()) + 1
        room_for(8 * n_groups * h.shape[1] ** 2, f"{n_groups} groups of {h.shape[1]} features", "take fewer")
        members = F.one_hot(groups, n_groups).double()
        gram = torch.stack([(h * member[:, None]).T @ h for member in members.T])
        moments = torch.einsum("ng,nd,nk->gdk", members, h, t)
        return cls(h, t, groups, ridge * float(h.square().sum(0).mean()), gram, moments)

    def logits(self, query: Tensor, weights: Tensor) -> Tensor:
        """``W(w)' q`` of an image with features q ``[d]`` for weights of groups ``[N, G]``, ``[N, K]``.

        One solution for q instead of one for each class: ``(A⁻¹ q)' Σ_g w_g b_g`` with A symmetric.
        """
        q = F.pad(query.double(), (0, 1), value=1.0)
        factor = self._factor(weights)
        solved = torch.cholesky_solve(q.expand(len(factor), -1)[..., None], factor)[..., 0]
        return (solved[:, :, None] * torch.tensordot(weights, self.moments, 1)).sum(1)

    def second(self, query: Tensor, slope: Tensor, weights: Tensor) -> Tensor:
        """Second derivatives of ``c · logits`` in the weights of groups, ``[N, G, G]``.

        ``H_gh = −(u_g' A⁻¹ r_h + u_h' A⁻¹ r_g)`` with ``u_g = G_g A⁻¹ q`` and ``r_g = (b_g − G_g W) c``, G and b
        being Gram matrices and moments: the influence of one group changes where another one weighs less.

        Args:
            query: features q ``[d]``.
            slope: c ``[K]``, of the output in the logits.
            weights: ``[N, G]``.
        """
        q, c = F.pad(query.double(), (0, 1), value=1.0), slope.double()
        factor, b = self._factor(weights), self.moments @ c
        both = torch.stack([q.expand(len(factor), -1), weights @ b], 2)
        solved = torch.cholesky_solve(both, factor)
        turned = torch.einsum("gde,nek->ngdk", self.gram, solved)
        u, r = turned[..., 0], b - turned[..., 1]
        found = u @ torch.cholesky_solve(r.transpose(1, 2), factor)
        return -(found + found.transpose(1, 2))

    def _factor(self, weights: Tensor) -> Tensor:
        a = torch.tensordot(weights, self.gram, 1)
        return torch.linalg.cholesky(a + self.ridge * torch.eye(a.shape[-1], dtype=a.dtype))

    def single(self, query: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """What each single image is worth to ``c · logits``: without it, and its influence, ``[n]`` twice.

        With ``A = Σ_i h_i h_i' + λ I``, the residual ``e_i = t_i − W' h_i`` and the leverage
        ``l_i = h_i' A⁻¹ h_i``, the influence is ``(q' A⁻¹ h_i) (c · e_i)``, and a layer that was trained without
        image i is worth that over ``1 − l_i`` less, exactly.

        Args:
            query: features ``[d]``.
            slope: c ``[K]``, of the output in the logits.

        Source: Cook and Weisberg (1982), section 2.2; Koh and Liang (2017), equation 2.
        """
        q = F.pad(query.double(), (0, 1), value=1.0)
        factor = torch.linalg.cholesky(self.gram.sum(0) + self.ridge * torch.eye(len(q), dtype=torch.float64))
        weights = torch.cholesky_solve(self.moments.sum(0), factor)
        error = (self.targets - self.features @ weights) @ slope.double()
        near = self.features @ torch.cholesky_solve(q[:, None], factor)[:, 0]
        leverage = (self.features * torch.cholesky_solve(self.features.T, factor).T).sum(1)
        influence = near * error
        return influence / (1 - leverage), influence


def tracin(features: Tensor, errors: Tensor, query: Tensor, slope: Tensor) -> Tensor:
    """By how much a step on each training image's loss moves an output, by gradients of the last layer, ``[n]``.

    ``−∇_W f · ∇_W ℓ_i = (c · (y_i − p_i)) (q · h_i)``, both with a 1 for the constant: TracIn at one checkpoint,
    with a rate of 1. Source: Pruthi et al. (2020), section 3.2.

    Args:
        features: ``h`` ``[n, d]`` of the training images.
        errors: ``y − p`` ``[n, K]``, the class less the probabilities.
        query: q ``[d]``.
        slope: c ``[K]``, the output's gradient in the logits.
    """
    return (errors.double() @ slope.double()) * (features.double() @ query.double() + 1)


def per_group(values: Tensor, groups: Tensor) -> Tensor:
    """Values of single images ``[n]``, added up over groups, ``[G]``."""
    return values.new_zeros(int(groups.max()) + 1).index_add_(0, groups, values)
