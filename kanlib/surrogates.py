"""Surrogates behind one face: ``fit`` on one split and choose on another, then ``predict``.

To add one, write a class like :class:`Linear` and put it in :data:`SURROGATES`: 02_surrogate fits, scores, draws
and stores whatever is there.
"""

from dataclasses import dataclass, field
from typing import Protocol

import torch
from sklearn.linear_model import LinearRegression
from torch import Tensor

from kanlib import kan
from kanlib.setups import Surrogate as Settings


@dataclass(frozen=True)
class Split:
    """Masks ``[N, m]`` shared by all examples and their responses ``[E, N]``."""

    masks: Tensor
    responses: Tensor


class Surrogate(Protocol):
    """A component model ``g`` of each of E examples."""

    def fit(self, fit: Split, validation: Split) -> "Surrogate":
        """Fit every example's model on ``fit``; whatever must be chosen is chosen on ``validation``."""

    def predict(self, masks: Tensor) -> Tensor:
        """``g(σ)`` ``[E, N]`` at masks ``[N, m]``."""

    def to_tensors(self) -> dict[str, Tensor]:
        """What was fitted, as arrays for the artifact."""


@dataclass
class Linear:
    """COAR: ``g(σ) = w·σ + b`` by least squares, one ``w`` an example; nothing to choose.

    Source: Shah, Ilyas and Madry (2024), section 3.
    """

    settings: Settings
    weights: Tensor = field(init=False)
    bias: Tensor = field(init=False)

    def fit(self, fit: Split, validation: Split) -> "Linear":
        """Set ``weights`` ``[E, m]`` and ``bias`` ``[E]``."""
        model = LinearRegression().fit(fit.masks.double().numpy(), fit.responses.double().T.numpy())
        self.weights, self.bias = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
        return self

    def predict(self, masks: Tensor) -> Tensor:
        """``w·σ + b``, ``[E, N]`` (fp64)."""
        return self.weights @ masks.double().T + self.bias[:, None]

    def to_tensors(self) -> dict[str, Tensor]:
        """``weights`` and ``bias``."""
        return {"weights": self.weights, "bias": self.bias}


@dataclass
class Kan:
    """A Kolmogorov–Arnold network an example, see :func:`kanlib.kan.fit`."""

    settings: Settings
    chosen: kan.Fit = field(init=False)

    def fit(self, fit: Split, validation: Split) -> "Kan":
        """Set ``chosen``: the KANs, with the ridge, restart and step that validation picked."""
        self.chosen = kan.fit(
            fit.masks,
            fit.responses,
            validation.masks,
            validation.responses,
            hidden=self.settings.hidden,
            grid=self.settings.grid,
            order=self.settings.spline_order,
            ridges=self.settings.ridges,
            restarts=self.settings.restarts,
            iterations=self.settings.iterations,
            seed=self.settings.seed,
        )
        return self

    def predict(self, masks: Tensor) -> Tensor:
        """``g(σ)``, ``[E, N]``."""
        return self.chosen.kan(masks)

    def to_tensors(self) -> dict[str, Tensor]:
        """The KANs, as :meth:`kanlib.kan.KAN.to_tensors` gives them."""
        return self.chosen.kan.to_tensors()


#: Name → class, called with the ``surrogate`` section of a setup.
SURROGATES: dict[str, type[Surrogate]] = {"linear": Linear, "kan": Kan}
