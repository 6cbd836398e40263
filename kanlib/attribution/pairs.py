"""Attributions of single components and of pairs, from masks that remove many components."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

import torch
from torch import Tensor

from kanlib.attribution.coar import by_validation
from kanlib.errors import BadInputError
from kanlib.masks import Split
from kanlib.memory import room_for

#: Ridges of singles to choose from, as shares of the masks' own variance.
SINGLE_RIDGES = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
#: Ridges of products, as shares of a product's own variance; the last leaves none standing.
PAIR_RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 1e6)


@dataclass
class Pairs:
    """``g(σ) = b + w·σ + Σ_{j<k ∈ C} q_jk σ_j σ_k`` of masks that remove, with pairs of the s components C alone.

    By ridge regression on the m components and on products, of masks less their mean μ: singles and products
    hardly overlap then. Products are either those of all pairs of C; or, where there are few masks for so many,
    the products of the r directions B ``[m, r]``, each with each and with itself, which makes ``q = B A B'``.
    Singles and products have a ridge each; validation chooses both, for each row of responses. The equations are
    shared by all rows. Multiplied out, and as ``σ_j² = −σ_j`` where a mask removes or keeps, products change ``w``
    too, which then is what a component is worth while nothing else is removed.

    Attributes:
        screened: C, their indices, ``[s]``; all of them where there are directions.
        directions: B; ``None``: pairs of C themselves.
        ridges: of products, to choose from.
        single_ridges: of components.
        weights: ``w`` ``[E, m]`` (fp64).
        pairs: ``q`` ``[E, s, s]`` (fp64), symmetric, 0 on the diagonal.
        constant: ``b`` ``[E]``.
        chosen: the ridge of products of each row, ``[E]``.
    """

    screened: Tensor
    directions: Tensor | None = None
    ridges: Sequence[float] = PAIR_RIDGES
    single_ridges: Sequence[float] = SINGLE_RIDGES
    weights: Tensor = field(init=False)
    pairs: Tensor = field(init=False)
    constant: Tensor = field(init=False)
    chosen: Tensor = field(init=False)

    def fit(self, data: Split, validation: Split) -> "Pairs":
        """Set ``weights``, ``pairs``, ``constant`` and ``chosen``.

        Raises:
            BadInputError: memory does not hold the normal equations; the masks do not remove and keep; fewer than
                two different components are screened; or there are directions and not all are.
        """
        n, m = data.masks.shape
        self._check(data.masks)
        basis = torch.eye(m).double()[:, self.screened] if self.directions is None else self.directions.double()
        first, second = torch.triu_indices(basis.shape[1], basis.shape[1], int(self.directions is None))
        p = m + len(first)
        room_for(8 * (3 * p * p + 2 * n * p), f"normal equations of {p} terms", "screen fewer components")
        mean = data.masks.double().mean(0)

        def terms(masks: Tensor) -> Tensor:
            x = masks.double() - mean
            along = x @ basis
            return torch.cat([x, along[:, first] * along[:, second]], 1)

        x, unseen = terms(data.masks), terms(validation.masks)
        centre, y_mean = x.mean(0), data.responses.double().mean(1)
        x, unseen = x - centre, unseen - centre
        gram, target = x.T @ x, x.T @ (data.responses.double() - y_mean[:, None]).T
        truth = (validation.responses.double() - y_mean[:, None]).T
        size = gram.diagonal().clone()
        size[:m] = size[:m].mean()
        if self.directions is None:
            size[m:] = size[m:].mean()
        ridges = list(product(self.single_ridges, self.ridges))
        shifts = (torch.where(torch.arange(p) < m, single, ridge) * size for single, ridge in ridges)
        found, choice = by_validation(gram, target, shifts, unseen, truth)
        self.chosen = gram.new_tensor([ridge for _, ridge in ridges])[choice]
        # From products about the mean to products of σ itself.
        products = found.T.new_zeros(len(y_mean), basis.shape[1], basis.shape[1])
        products[:, first, second] += found.T[:, m:]
        q = basis @ (products + products.mT) @ basis.T
        single_of_pairs = q.diagonal(dim1=1, dim2=2)
        self.weights = found.T[:, :m] - q @ mean - single_of_pairs / 2
        at_mean = (q @ mean) @ mean / 2
        self.constant = y_mean - found.T @ centre - found.T[:, :m] @ mean + at_mean
        q = q - torch.diag_embed(single_of_pairs)
        self.pairs = q[:, self.screened][:, :, self.screened]
        return self

    def _check(self, masks: Tensor) -> None:
        m, s = masks.shape[1], len(self.screened)
        if not ((masks == 0) | (masks == -1)).all():
            raise BadInputError(
                "masks of pairs scale components, expected some that remove (-1) and keep (0); draw others."
            )
        inside = s > 1 and 0 <= int(self.screened.amin()) <= int(self.screened.amax()) < m
        if not inside or len(self.screened.unique()) < s:
            raise BadInputError(
                f"{s} components of {m} were screened for pairs, expected two or more that differ, from 0 to "
                f"{m - 1}; screen others."
            )
        if self.directions is not None and (s < m or len(self.directions) != m):
            raise BadInputError(
                f"{s} of {m} components and directions of {len(self.directions)} were given, expected all with "
                "directions of as many; choose among them afterwards, by among."
            )

    def among(self, screened: Tensor) -> "Pairs":
        """The same for choices among these alone, ``[s]``, which are among its own."""
        place = {j: i for i, j in enumerate(self.screened.tolist())}
        at = torch.tensor([place[j] for j in screened.tolist()])
        less = Pairs(screened, self.directions, self.ridges, self.single_ridges)
        less.weights, less.constant, less.chosen = self.weights, self.constant, self.chosen
        less.pairs = self.pairs[:, at][:, :, at]
        return less

    def predict(self, masks: Tensor) -> Tensor:
        """``g`` of masks ``[N, m]``, ``[E, N]`` (fp64)."""
        of = masks.double()[:, self.screened]
        pairs = torch.stack([((of @ q) * of).sum(1) / 2 for q in self.pairs])
        return self.constant[:, None] + self.weights @ masks.double().T + pairs
