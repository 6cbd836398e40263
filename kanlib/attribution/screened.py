"""Beyond linear with many components: a surrogate over a few directions of gate space, and COAR for the rest."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from kanlib.attribution.coar import Coar, spanned
from kanlib.attribution.surrogates import Surrogate
from kanlib.errors import BadInputError
from kanlib.masks import Split


@dataclass
class Screened:
    """``g(σ) = w·σ + h(σ V)``: COAR's attributions and what a surrogate h finds over the directions V ``[m, r]``.

    No surrogate but a linear one can be fitted to thousands of components. The directions are those that COAR's
    attributions ``w`` of all examples span, the first r right singular vectors of ``W`` ``[E, m]``, scaled so that
    the masks have variance 1 along each. They are shared, so that h is fitted to all examples at once; it is
    told what COAR leaves, ``Δf − w·σ``, and nothing of single components.

    Attributes:
        coar: already fitted, on the same masks.
        made: what makes h, see :data:`kanlib.attribution.SURROGATES`.
        n_directions: r.
        directions: V ``[m, r]`` (fp32).
        beyond: h.
    """

    coar: Coar
    made: Callable[[], Surrogate]
    n_directions: int
    directions: Tensor = field(init=False)
    beyond: Surrogate = field(init=False)

    def fit(self, data: Split, validation: Split) -> "Screened":
        """Set ``directions`` and ``beyond``.

        Raises:
            BadInputError: there are fewer examples or components than directions.
        """
        weights = self.coar.weights
        if self.n_directions > min(weights.shape):
            raise BadInputError(
                f"directions is {self.n_directions}, expected at most {min(weights.shape)} for "
                f"{len(weights)} examples of {weights.shape[1]} components; lower directions."
            )
        basis = spanned(weights, self.n_directions)
        along = data.masks.double() @ basis
        self.directions = (basis / along.std(0)).float()
        self.beyond = self.made().fit(self._rest(data), self._rest(validation))
        return self

    def predict(self, masks: Tensor) -> Tensor:
        """``w·σ + h(σ V)`` ``[E, N]`` (fp64)."""
        return self._linear(masks) + self.beyond.predict(masks @ self.directions).double()

    def _linear(self, masks: Tensor) -> Tensor:
        return self.coar.weights @ masks.double().T

    def _rest(self, split: Split) -> Split:
        rest = split.responses.double() - self._linear(split.masks)
        return Split(split.masks @ self.directions, rest.float(), 1.0)
