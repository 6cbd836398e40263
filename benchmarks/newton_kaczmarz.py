"""KANs trained by the Newton–Kaczmarz method, one mask at a time, for all examples at once.

Edges are piecewise linear on even grids. After every mask the parameters move towards the hyperplane on which the
linearised model meets its response, by a share that falls from 0.5 to 0.01. Written anew, with numpy, as the
authors' own code is not a Python package.
Source: Poluektov and Polar (2023), *Construction of the Kolmogorov-Arnold representation using the Newton-Kaczmarz
method*; Polar and Poluektov (2025), arXiv 2512.18921. Nodes, grids, passes and relaxation were chosen on four
development examples of the digits.
"""

import numpy as np
import torch
from torch import Tensor

from kanlib.masks import Split

HIDDEN = 17  # 2m + 1 of eight components
INNER, OUTER = 6, 12  # points of the grids
REACH, SPAN = 3.0, 2.0  # of the grids, either side of 0; beyond them functions are constant
PASSES = 20
RELAXATION = 0.5, 0.01


class NewtonKaczmarz:
    """E KANs of one hidden layer; :meth:`fit` and :meth:`predict` as those of surrogates."""

    def __init__(self, seed: int = 0):
        self._source = np.random.default_rng(seed)

    def fit(self, data: Split) -> "NewtonKaczmarz":
        """All masks, in a new order each pass; responses are standardised."""
        y = data.responses.double()
        self._mean, self._std = y.mean(1, keepdim=True), y.std(1, keepdim=True)
        targets = ((y - self._mean) / self._std).numpy()
        (n_examples, n), m = targets.shape, data.masks.shape[1]
        lines = self._source.normal(0, m**-0.5, (n_examples, HIDDEN, m, 1))
        self._inner = lines * np.linspace(-1, 1, INNER)
        self._outer = self._source.normal(0, 0.5 * HIDDEN**-0.5, (n_examples, HIDDEN, 1)) * np.linspace(
            -SPAN, SPAN, OUTER
        )
        places, shares = _on_grid(data.masks.double().numpy(), REACH, INNER)
        first, last = RELAXATION
        relaxation = iter(first * (last / first) ** np.linspace(0, 1, PASSES * n))
        for _ in range(PASSES):
            for i in self._source.permutation(n):
                self._step(places[i], shares[i], targets[:, i], next(relaxation))
        return self

    def predict(self, masks: Tensor) -> Tensor:
        """``[E, N]`` (fp64)."""
        places, shares = _on_grid(masks.double().numpy(), REACH, INNER)
        values = [self._forward(p, t)[0] for p, t in zip(places, shares, strict=True)]
        return torch.from_numpy(np.stack(values, 1)) * self._std + self._mean

    def _forward(self, places: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, ...]:
        """Outputs ``[E]``, hidden places and shares and the slopes there, ``[E, hidden]`` each."""
        i = np.arange(len(places))
        h = (self._inner[:, :, i, places] * (1 - shares) + self._inner[:, :, i, places + 1] * shares).sum(2)
        at, share = _on_grid(h, SPAN, OUTER)
        e, j = np.ogrid[: len(h), : h.shape[1]]
        low, high = self._outer[e, j, at], self._outer[e, j, at + 1]
        slopes = (high - low) * (OUTER - 1) / (2 * SPAN)
        return (low * (1 - share) + high * share).sum(1), at, share, slopes

    def _step(self, places: np.ndarray, shares: np.ndarray, targets: np.ndarray, relaxation: float) -> None:
        values, at, share, slopes = self._forward(places, shares)
        of_inner = ((1 - shares) ** 2 + shares**2).sum()
        squared = ((1 - share) ** 2 + share**2 + slopes**2 * of_inner).sum(1)
        move = (relaxation * (targets - values) / squared)[:, None]
        e, j = np.ogrid[: len(at), : at.shape[1]]
        self._outer[e, j, at] += move * (1 - share)
        self._outer[e, j, at + 1] += move * share
        i, inner = np.arange(len(places)), (move * slopes)[:, :, None]
        self._inner[:, :, i, places] += inner * (1 - shares)
        self._inner[:, :, i, places + 1] += inner * shares


def _on_grid(x: np.ndarray, reach: float, points: int) -> tuple[np.ndarray, np.ndarray]:
    """The interval that each x lies in, and where in it, 0 to 1."""
    z = (np.clip(x, -reach, reach) + reach) / (2 * reach) * (points - 1)
    at = np.minimum(z.astype(int), points - 2)
    return at, z - at
