"""Surrogates behind one face: ``fit`` on one split and choose on another, then ``predict``.

To add one, write a class like :class:`Linear`, or like :class:`Trees` one that fits example by example, and put
it in :data:`SURROGATES` under a name that ``kanlib.setups.Surrogate`` lists among its peers: 02_surrogate fits,
scores and draws it.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from joblib import Parallel, delayed, parallel_config
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from torch import Tensor
from tqdm import tqdm

from kanlib import machine
from kanlib.kan import fitting, pykan
from kanlib.kan.kan import KAN
from kanlib.kan.trees import tree_map
from kanlib.masks import Split
from kanlib.setups import Surrogate as Knobs


class Surrogate(Protocol):
    """A component model ``g`` of each of E examples."""

    def fit(self, data: Split, validation: Split) -> "Surrogate":
        """Fit every example's model on ``data``; whatever must be chosen is chosen on ``validation``."""

    def predict(self, masks: Tensor) -> Tensor:
        """``g(σ)`` ``[E, N]`` at masks ``[N, m]``."""


@dataclass
class Linear:
    """COAR: ``g(σ) = w·σ + b`` by least squares, one ``w`` an example; nothing to choose.

    Source: Shah, Ilyas and Madry (2024), section 3.
    """

    knobs: Knobs
    model: LinearRegression = field(init=False)

    def fit(self, data: Split, validation: Split) -> "Linear":
        """Set ``model``, of all examples at once."""
        self.model = LinearRegression().fit(data.masks.double().numpy(), data.responses.double().T.numpy())
        return self

    def predict(self, masks: Tensor) -> Tensor:
        """``w·σ + b``, ``[E, N]`` (fp64)."""
        return torch.from_numpy(self.model.predict(masks.double().numpy()).T)


@dataclass
class Polynomial:
    """Ridge regression on all monomials up to a degree, standardised; validation chooses each example's ridge."""

    knobs: Knobs
    degree: ClassVar[int]
    models: list[Any] = field(init=False)
    chosen: Tensor = field(init=False)

    def fit(self, data: Split, validation: Split) -> "Polynomial":
        """Set ``models``, one a ridge for all examples, and ``chosen`` ``[E]``, which an example takes."""
        x, y = data.masks.double().numpy(), data.responses.double().T.numpy()
        monomials = PolynomialFeatures(self.degree, include_bias=False)
        ridges = np.logspace(-2, 4, 13)
        self.models = [make_pipeline(monomials, StandardScaler(), Ridge(ridge)).fit(x, y) for ridge in ridges]
        errors = (self._predicted(validation.masks) - validation.responses).square().mean(2)
        self.chosen = errors.argmin(0)
        return self

    def predict(self, masks: Tensor) -> Tensor:
        """``[E, N]`` (fp64)."""
        return self._predicted(masks)[self.chosen, torch.arange(len(self.chosen))]

    def _predicted(self, masks: Tensor) -> Tensor:
        x = masks.double().numpy()
        return torch.stack([torch.from_numpy(model.predict(x).reshape(len(x), -1).T) for model in self.models])


class Quadratic(Polynomial):
    """All squares and products of two."""

    degree = 2


class Cubic(Polynomial):
    """All monomials of up to three factors."""

    degree = 3


@dataclass
class EachExample(ABC):
    """Models that predict as scikit-learn's do, an example each; responses are standardised before."""

    knobs: Knobs
    models: list[Any] = field(init=False)
    level: Tensor = field(init=False)
    scale: Tensor = field(init=False)

    def fit(self, data: Split, validation: Split):
        """Set ``models``, an example each, of all candidates the best on ``validation``."""
        y = data.responses.double()
        self.level, self.scale = y.mean(1, keepdim=True), y.std(1, keepdim=True)
        targets, truths = (((s.responses.double() - self.level) / self.scale).numpy() for s in (data, validation))
        x, unseen = data.masks.numpy(), validation.masks.numpy()
        # An example a process: one fit is too small to share, and in threads scikit-learn's wait for each other.
        with parallel_config("loky", n_jobs=torch.get_num_threads(), inner_max_num_threads=1):
            found = Parallel(return_as="generator")(
                delayed(self.best)(x, target, unseen, truth) for target, truth in zip(targets, truths, strict=True)
            )
            bar = tqdm(found, f"{type(self).__name__} fits", len(y), unit="example", mininterval=1)
            self.models = list(bar)
        return self

    @abstractmethod
    def best(self, x: np.ndarray, y: np.ndarray, unseen: np.ndarray, truth: np.ndarray) -> Any:
        """The model of one example, fitted to ``x`` ``[N, m]`` and ``y`` ``[N]``, chosen on the other two."""

    def predict(self, masks: Tensor) -> Tensor:
        """``[E, N]`` (fp64)."""
        values = torch.stack([torch.from_numpy(model.predict(masks.numpy())).double() for model in self.models])
        return values * self.scale + self.level


def _error(values: np.ndarray, truth: np.ndarray) -> float:
    return float(np.square(values - truth).mean())


class Trees(EachExample):
    """Gradient-boosted regression trees; validation chooses their size and number."""

    def best(self, x: np.ndarray, y: np.ndarray, unseen: np.ndarray, truth: np.ndarray) -> Any:
        """The best size, grown to the best number."""
        candidates = []
        for leaves in (6, 12, 24):
            shape = {"learning_rate": 0.1, "max_leaf_nodes": leaves, "random_state": self.knobs.seed}
            grown = HistGradientBoostingRegressor(max_iter=500, early_stopping=False, **shape).fit(x, y)
            errors = [_error(values, truth) for values in grown.staged_predict(unseen)]
            candidates.append((min(errors), int(np.argmin(errors)) + 1, shape))
        _, number, shape = min(candidates, key=lambda c: c[0])
        return HistGradientBoostingRegressor(max_iter=number, early_stopping=False, **shape).fit(x, y)


class MLP(EachExample):
    """Two hidden layers of 256 rectified linear units (Adam); validation chooses weight decay and epoch."""

    def best(self, x: np.ndarray, y: np.ndarray, unseen: np.ndarray, truth: np.ndarray) -> Any:
        """The best decay at its best epoch."""
        candidates = []
        for decay in (0.01, 0.1, 1.0):
            shape = {"hidden_layer_sizes": (256, 256), "learning_rate_init": 3e-3}
            model = MLPRegressor(**shape, alpha=decay, random_state=self.knobs.seed)
            lowest, best, patience = np.inf, model, 10
            while patience:
                model.partial_fit(x, y)
                error = _error(model.predict(unseen), truth)
                patience -= 1
                if error < lowest:
                    lowest, best, patience = error, copy.deepcopy(model), 10
            candidates.append((lowest, best))
        return min(candidates, key=lambda c: c[0])[1]


@dataclass
class Kan:
    """A Kolmogorov–Arnold network an example, see :func:`kanlib.kan.fitting.fit`."""

    knobs: Knobs
    chosen: fitting.Fit = field(init=False)

    def fit(self, data: Split, validation: Split) -> "Kan":
        """Set ``chosen``: the KANs, with what validation picked."""
        device = machine.device(self.knobs.device)
        found = fitting.fit(data.to(device), validation.to(device), self.knobs)
        self.chosen = tree_map(Tensor.cpu, found)
        return self

    @property
    def kan(self) -> KAN:
        """The KANs."""
        return self.chosen.kan

    def predict(self, masks: Tensor) -> Tensor:
        """``g(σ)``, ``[E, N]``."""
        return self.kan(masks)


@dataclass
class Pykan:
    """The same KAN fitted by pykan's own LBFGS, see :func:`kanlib.kan.pykan.fit`; slow."""

    knobs: Knobs
    kan: KAN = field(init=False)

    def fit(self, data: Split, validation: Split) -> "Pykan":
        """Set ``kan``; nothing is chosen, so ``validation`` is not looked at."""
        self.kan = pykan.fit(data, self.knobs)
        return self

    def predict(self, masks: Tensor) -> Tensor:
        """``g(σ)``, ``[E, N]``."""
        return self.kan(masks)


#: Name → class, called with the ``surrogate`` section of a setup.
SURROGATES: dict[str, Callable[[Knobs], Surrogate]] = {
    "linear": Linear,
    "quadratic": Quadratic,
    "cubic": Cubic,
    "trees": Trees,
    "mlp": MLP,
    "kan": Kan,
    "pykan": Pykan,
}
