"""COAR for thousands of components: one regression for all examples, by normal equations that they share."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kanlib.errors import BadInputError
from kanlib.masks import Split
from kanlib.memory import room_for

#: Ridges to choose from, as shares of the masks' own variance.
RIDGES = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)
_BLOCK = 1000  # masks


@dataclass
class Coar:
    """``g(σ) = b + w·σ`` by ridge regression; validation chooses each example's ridge.

    With more masks than components the least ridges are least squares, as the authors fit it; with fewer only a
    ridge makes the equations solvable at all. The constant b is theirs too: masks that all remove a tenth of the
    network are far from σ = 0. (:class:`kanlib.attribution.surrogates.Linear` is COAR on masks about σ = 0, where
    the constant is known to be 0.)

    ``(X'X + ρ N v I) W = X'Y`` with centred masks X ``[N, m]``, their mean variance v and centred responses
    Y ``[N, E]`` is factorised once a ridge ρ, for all examples.

    Attributes:
        ridges: ρ, to choose from.
        weights: ``w`` ``[E, m]`` (fp64), the attributions: what an output gains where a component is kept.
        constant: ``b`` ``[E]``.
        chosen: the ridge of each example, ``[E]``.

    Source: Shah, Ilyas and Madry (2024), section 3.
    """

    ridges: Sequence[float] = RIDGES
    weights: Tensor = field(init=False)
    constant: Tensor = field(init=False)
    chosen: Tensor = field(init=False)

    def fit(self, data: Split, validation: Split) -> "Coar":
        """Set ``weights``, ``constant`` and ``chosen``.

        Raises:
            BadInputError: two masks at least are needed, all of the same components and examples; or memory does
                not hold the normal equations.
        """
        n, m = data.masks.shape
        if n < 2 or validation.masks.shape[1] != m or len(validation.responses) != len(data.responses):
            raise BadInputError(
                f"COAR was given {n} masks of {m} components, expected two at least, and validation masks and "
                "responses of the same components and examples; ask for more masks."
            )
        room_for(8 * (3 * m * m + n * m), f"normal equations of {m} components", "take fewer components or masks")
        mean, y_mean = data.masks.mean(0, dtype=torch.float64), data.responses.double().mean(1)
        unseen = validation.masks.double() - mean
        truth = (validation.responses.double() - y_mean[:, None]).T
        centred = data.responses.double() - y_mean[:, None]
        # Of fewer masks than components, the products of masks are the smaller system: W = X'(XX' + ρ N v I)⁻¹ Y.
        rows = data.masks.double() - mean if n < m else None
        if rows is None:
            gram, target = _normal_equations(data.masks, mean, centred)
        else:
            gram, target, unseen = rows @ rows.T, centred.T, unseen @ rows.T
        size = float(gram.trace()) / m
        shifts = (gram.new_full((len(gram),), ridge * size) for ridge in self.ridges)
        weights, choice = by_validation(gram, target, shifts, unseen, truth)
        if rows is not None:
            weights = rows.T @ weights
        self.weights, self.chosen = weights.T.contiguous(), gram.new_tensor(list(self.ridges))[choice]
        self.constant = y_mean - self.weights @ mean
        return self

    def predict(self, masks: Tensor) -> Tensor:
        """``b + w·σ`` of masks ``[N, m]``, ``[E, N]`` (fp64)."""
        return self.constant[:, None] + self.weights @ masks.double().T


def _normal_equations(masks: Tensor, mean: Tensor, centred: Tensor) -> tuple[Tensor, Tensor]:
    """``X'X`` ``[m, m]`` and ``X'Y`` ``[m, E]`` (fp64), of masks less their mean and responses less theirs."""
    # Products of removals are counts, which fp32 holds exactly; other masks are multiplied in fp64.
    counts = bool(((masks == 0) | (masks == -1)).all())
    x = masks.float() if counts else masks.double()
    gram = (x.T @ x).double().addr_(mean, mean, alpha=-float(len(masks)))
    # In blocks: a copy of all masks in fp64 would be the largest thing in memory.
    target = torch.zeros(masks.shape[1], len(centred), dtype=torch.float64)
    for some, y in zip(x.split(_BLOCK), centred.split(_BLOCK, 1), strict=True):
        target += some.double().T @ y.T
    return gram, target


def by_validation(
    gram: Tensor, target: Tensor, shifts: Iterable[Tensor], unseen: Tensor, truth: Tensor
) -> tuple[Tensor, Tensor]:
    """Solutions of ``(G + diag(s)) W = T`` for several ridges s, of which validation chooses one for each column.

    Each matrix is factorised once, for all columns.

    Args:
        gram: G ``[p, p]`` (fp64).
        target: T ``[p, E]``.
        shifts: ridges s ``[p]`` to choose from.
        unseen: terms of the validation masks ``[N, p]``.
        truth: responses to these ``[N, E]``.

    Returns:
        W ``[p, E]``, and the number of the ridge of each column ``[E]``.

    Raises:
        BadInputError: no ridge makes the equations solvable.
    """
    best = truth.new_full((truth.shape[1],), torch.inf)
    weights, choice = torch.zeros_like(target), torch.zeros_like(best, dtype=torch.long)
    for i, shift in enumerate(shifts):
        shifted = gram.clone()
        shifted.diagonal().add_(shift)
        factor, info = torch.linalg.cholesky_ex(shifted)
        if int(info):
            continue
        found = torch.cholesky_solve(target, factor)
        error = (unseen @ found - truth).square().mean(0)
        better = error < best
        best, choice = torch.where(better, error, best), torch.where(better, i, choice)
        weights = torch.where(better, found, weights)
    if not best.isfinite().all():
        raise BadInputError(
            "the equations cannot be solved with any ridge, expected masks that differ; draw others."
        )
    return weights, choice


def spanned(weights: Tensor, n: int) -> Tensor:
    """The directions ``[m, n]`` that attributions ``[E, m]`` span: their first n right singular vectors.

    Raises:
        BadInputError: n is not between 1 and both of E and m.
    """
    if not 1 <= n <= min(weights.shape):
        raise BadInputError(
            f"{n} directions were asked for, expected 1 to {min(weights.shape)} for {len(weights)} examples of "
            f"{weights.shape[1]} components; ask for fewer."
        )
    return torch.linalg.svd(weights.double(), full_matrices=False).Vh[:n].T.contiguous()


def of_singles(single: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights ``w`` ``[E, m]`` of the methods that need no masks, for ``g(σ) = w·σ``.

    - ``leave_one_out``: ``f(0) − f(−e_j)``, what a component is missed by when it alone is removed;
    - ``gradient``: ``∂f/∂σ_j`` at rest, which for weights that are removed is gradient times parameter;
    - ``conductance`` and ``influence``: as they are.

    Args:
        single: ``alone``, ``gradient``, ``conductance`` and ``influence``, see
            :class:`kanlib.networks.removing.Removals`.

    Source: Shah, Ilyas and Madry (2024), section 4 and appendix A.3. A removal is σ_j = −1, hence the sign.
    """
    return {"leave_one_out": -single["alone"]} | {
        name: single[name] for name in ("gradient", "conductance", "influence")
    }
