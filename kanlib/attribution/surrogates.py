"""Surrogates behind one face: ``fit`` on one split and choose on another, then ``predict``.

To add one, write a class like :class:`Linear`, or like :class:`Trees` one that fits example by example, and put
it in :data:`SURROGATES` under a name that ``kanlib.setups.Surrogate`` lists among its peers: 02_surrogate
fits, scores and draws it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from joblib import Parallel, delayed, parallel_config
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from torch import Tensor
from torch.nn.functional import silu
from tqdm import tqdm

from kanlib import machine
from kanlib.attribution.gaussian_process import GaussianProcess
from kanlib.kan import fitting, pykan
from kanlib.kan.descent import Observed, Schedule, best_of
from kanlib.kan.kan import KAN
from kanlib.kan.trees import tree_map
from kanlib.machine import generator
from kanlib.masks import Split
from kanlib.setups import Surrogate as Knobs

RIDGES = np.logspace(-2, 4, 13)


class Surrogate(Protocol):
    """A component model ``g`` of each of E examples, with ``g(0) = 0``: nothing is scaled there."""

    def fit(self, data: Split, validation: Split) -> "Surrogate":
        """Fit every example's model on ``data``; whatever must be chosen is chosen on ``validation``."""

    def predict(self, masks: Tensor) -> Tensor:
        """``g(σ)`` ``[E, N]`` at masks ``[N, m]``."""


@dataclass
class ThroughRest(ABC):
    """Models that see the response at rest among the others and are asked for differences to it.

    So all are told as much of the one point that is known for sure, see :meth:`kanlib.masks.Split.with_rest`, and
    what they leave of it is taken off.
    """

    knobs: Knobs

    def fit(self, data: Split, validation: Split):
        """Fit to ``data`` and the response at rest; choose on ``validation``."""
        self.learn(data.with_rest(), validation)
        return self

    def predict(self, masks: Tensor) -> Tensor:
        """``g(σ)`` less what the model says of σ = 0, ``[E, N]`` (fp64)."""
        values = self.values(torch.cat([masks, masks.new_zeros(1, masks.shape[1])])).double()
        return values[:, :-1] - values[:, -1:]

    @abstractmethod
    def learn(self, data: Split, validation: Split) -> None:
        """Fit every example's model on ``data``, choose on ``validation``."""

    @abstractmethod
    def values(self, masks: Tensor) -> Tensor:
        """What the models say of masks ``[N, m]``, ``[E, N]``."""


@dataclass
class Linear:
    """COAR: ``g(σ) = w·σ`` by least squares, one ``w`` an example; nothing to choose.

    Source: Shah, Ilyas and Madry (2024), section 3; their constant is 0 here, because the response at rest is.
    """

    knobs: Knobs
    model: LinearRegression = field(init=False)

    def fit(self, data: Split, validation: Split) -> "Linear":
        """Set ``model``, of all examples at once."""
        model = LinearRegression(fit_intercept=False)
        self.model = model.fit(data.masks.double().numpy(), data.responses.double().T.numpy())
        return self

    def predict(self, masks: Tensor) -> Tensor:
        """``w·σ``, ``[E, N]`` (fp64)."""
        return torch.from_numpy(self.model.predict(masks.double().numpy()).T)


@dataclass
class Polynomial:
    """Ridge regression on all monomials up to a degree but the constant, each of variance 1.

    Validation chooses each example's ridge.
    """

    knobs: Knobs
    degree: ClassVar[int]
    models: list[Any] = field(init=False)
    chosen: Tensor = field(init=False)

    def fit(self, data: Split, validation: Split) -> "Polynomial":
        """Set ``models``, one a ridge for all examples, and ``chosen`` ``[E]``, which an example takes."""
        x, y = data.masks.double().numpy(), data.responses.double().T.numpy()
        scaled = StandardScaler(with_mean=False)
        monomials = make_pipeline(PolynomialFeatures(self.degree, include_bias=False), scaled).fit(x)
        ridges = [Ridge(ridge, fit_intercept=False).fit(monomials.transform(x), y) for ridge in RIDGES]
        self.models = [make_pipeline(monomials, ridge) for ridge in ridges]
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
class EachExample(ThroughRest):
    """Models that predict as scikit-learn's do, an example each.

    Such models, trees among them, need not be continuous: at σ = 0, which they see as others do, they answer 0.
    """

    models: list[Any] = field(init=False)

    def learn(self, data: Split, validation: Split) -> None:
        """Set ``models``, an example each, of all candidates the best on ``validation``."""
        x, unseen = data.masks.numpy(), validation.masks.numpy()
        pairs = zip(data.responses.double().numpy(), validation.responses.double().numpy(), strict=True)
        # An example a process: one fit is too small to share, and in threads scikit-learn's wait for each other.
        with parallel_config("loky", n_jobs=torch.get_num_threads(), inner_max_num_threads=1):
            found = Parallel(return_as="generator")(delayed(self.best)(x, y, unseen, truth) for y, truth in pairs)
            label = f"{type(self).__name__} fits"
            self.models = list(tqdm(found, label, len(data.responses), unit="example", mininterval=1))

    @abstractmethod
    def best(self, x: np.ndarray, y: np.ndarray, unseen: np.ndarray, truth: np.ndarray) -> Any:
        """The model of one example, fitted to ``x`` ``[N, m]`` and ``y`` ``[N]``, chosen on the other two."""

    def predict(self, masks: Tensor) -> Tensor:
        """``[E, N]`` (fp64)."""
        return self.values(masks).double().masked_fill((masks == 0).all(1), 0.0)

    def values(self, masks: Tensor) -> Tensor:
        """``[E, N]``."""
        return torch.stack([torch.from_numpy(model.predict(masks.numpy())) for model in self.models])


class Trees(EachExample):
    """Gradient-boosted regression trees, which start from no seed; validation chooses their size and number."""

    def best(self, x: np.ndarray, y: np.ndarray, unseen: np.ndarray, truth: np.ndarray) -> Any:
        """The best size, grown to the best number."""
        candidates = []
        for leaves in (6, 12, 24):
            shape = {"learning_rate": 0.1, "max_leaf_nodes": leaves}
            grown = HistGradientBoostingRegressor(max_iter=500, early_stopping=False, **shape).fit(x, y)
            errors = [np.square(values - truth).mean() for values in grown.staged_predict(unseen)]
            candidates.append((min(errors), int(np.argmin(errors)), grown))
        _, last, grown = min(candidates, key=lambda c: c[0])
        return UpTo(grown, last)


@dataclass(frozen=True)
class UpTo:
    """Boosted trees up to the one at that place: what so many would have been without the others."""

    grown: HistGradientBoostingRegressor
    last: int

    def predict(self, x: np.ndarray) -> np.ndarray:
        """``[N]`` at ``x`` ``[N, m]``."""
        return next(islice(self.grown.staged_predict(x), self.last, None))


@dataclass
class MLP(ThroughRest):
    """Three hidden layers of 128 SiLU units, trained as the KANs are: the same starts, decays, steps and members.

    Shape, activation and rate were chosen on development examples, as the KAN's were.
    """

    found: tuple[tuple[Tensor, ...], Tensor] = field(init=False)
    level: Tensor = field(init=False)
    scale: Tensor = field(init=False)
    widths: ClassVar[tuple[int, ...]] = (128, 128, 128)
    rate: ClassVar[float] = 0.01

    def learn(self, data: Split, validation: Split) -> None:
        """Set ``found``, the ``members`` best networks of every example."""
        knobs, y = self.knobs, data.responses
        self.level, self.scale = y.mean(1, keepdim=True), y.std(1, keepdim=True)
        observed, unseen = (
            Observed(s.masks.T.contiguous(), (s.responses - self.level) / self.scale) for s in (data, validation)
        )
        schedule = Schedule(knobs.steps, knobs.minibatch, self.rate)
        starts = [self._start(data.masks, restart) for restart in range(knobs.restarts)]
        trained = best_of(
            multilayer, starts, observed, unseen, knobs.decays, knobs.members, schedule, knobs.seed, "MLP fits"
        )[0]
        self.found = trained.parameters, trained.bias

    def values(self, masks: Tensor) -> Tensor:
        """The mean of the members, ``[E, N]``."""
        return self.of_members(masks).mean(1)

    def of_members(self, masks: Tensor) -> Tensor:
        """What each member says, the best first, ``[E, members, N]``."""
        parameters, bias = self.found
        values = (multilayer(parameters, masks.T) + bias).unflatten(0, (len(self.level), -1))
        return values * self.scale[:, None] + self.level[:, None]

    def _start(self, masks: Tensor, restart: int) -> list[Tensor]:
        source, layers = generator(self.knobs.seed, "mlp", restart), []
        for n_in, n_out in pairwise((masks.shape[1], *self.widths, 1)):
            layers.append(torch.randn(n_out, n_in, generator=source) * (2 / n_in) ** 0.5)
            layers.append((2 * torch.rand(n_out, 1, generator=source) - 1) / n_in**0.5)
        return [layer.to(masks) for layer in layers]


def multilayer(parameters: Sequence[Tensor], inputs: Tensor) -> Tensor:
    """Outputs ``[C, N]`` of C networks of layers ``[C, out, in]`` and biases ``[C, out, 1]`` in turn."""
    h = inputs
    for layer, (weight, bias) in enumerate(zip(parameters[::2], parameters[1::2], strict=True)):
        h = torch.baddbmm(bias, weight, (silu(h) if layer else h).expand(len(weight), -1, -1))
    return h[:, 0]


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
        self.kan = pykan.fit(data.with_rest(), self.knobs).through_rest()
        return self

    def predict(self, masks: Tensor) -> Tensor:
        """``g(σ)``, ``[E, N]``."""
        return self.kan(masks)


@dataclass
class Joined:
    """Surrogates of one kind, of a block of examples each, as one of them all."""

    parts: list[Any]

    def predict(self, masks: Tensor) -> Tensor:
        """``g(σ)``, ``[E, N]``."""
        return torch.cat([part.predict(masks) for part in self.parts])

    @property
    def kan(self) -> KAN:
        """The KANs, where these are KANs."""
        return tree_map(lambda *parts: torch.cat(parts), *(part.kan for part in self.parts))

    @property
    def chosen(self) -> fitting.Fit | Tensor:
        """What validation picked, where it did."""
        return tree_map(lambda *parts: torch.cat(parts), *(part.chosen for part in self.parts))


def fitted(name: str, knobs: Knobs, data: Split, validation: Split) -> Joined:
    """The surrogate of that name, fitted to the blocks of examples one after the other.

    So the bits of a fit do not depend on how many other blocks there are; see :mod:`kanlib.shards`.

    Args:
        name: a key of :data:`SURROGATES`.
        knobs: what it is fitted with, and how many examples are a block.
        data: masks and responses of E examples.
        validation: others.
    """
    blocks = torch.arange(len(data.responses)).split(knobs.block)
    return Joined([SURROGATES[name](knobs).fit(data.of(at), validation.of(at)) for at in blocks])


#: Name → class, called with the ``surrogate`` section of a setup.
SURROGATES: dict[str, Callable[[Knobs], Surrogate]] = {
    "linear": Linear,
    "quadratic": Quadratic,
    "cubic": Cubic,
    "trees": Trees,
    "mlp": MLP,
    "gaussian_process": GaussianProcess,
    "kan": Kan,
    "pykan": Pykan,
}
