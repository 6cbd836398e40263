"""Gaussian processes, which interpolate between masks; the closer two masks, the more alike their responses."""

import warnings
from dataclasses import dataclass, field

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from torch import Tensor
from tqdm import tqdm

from kanlib.errors import cause
from kanlib.masks import Split
from kanlib.setups import Surrogate as Knobs

_MASKS_FOR_LENGTHS = 500  # that the length scales are chosen on


@dataclass
class GaussianProcess:
    """A Gaussian process of Matérn-5/2 kernel with a length scale for each component, and noise.

    The marginal likelihood of the first 500 fit masks chooses length scales, amplitude and noise; the posterior
    mean is that of all fit masks. The origin is an observation without noise: ``g(0) = 0``. Nothing is left for
    validation masks to choose.

    Source: Rasmussen and Williams (2006), chapters 2 and 5.
    """

    knobs: Knobs
    models: list[GaussianProcessRegressor | None] = field(init=False)
    failed: dict[int, str] = field(init=False)
    level: Tensor = field(init=False)
    spread: Tensor = field(init=False)

    def fit(self, data: Split, validation: Split) -> "GaussianProcess":
        """Set ``models``, an example each, of standardised responses."""
        y = data.responses.double()
        self.level, self.spread = y.mean(1, keepdim=True), y.std(1, keepdim=True)
        x, targets = data.masks.double().numpy(), ((y - self.level) / self.spread).numpy()
        self.models, self.failed = [], {}
        for e, target in enumerate(tqdm(targets, type(self).__name__, unit="example", mininterval=1), start=1):
            try:
                self.models.append(self._posterior(x, target, -float(self.level[e - 1] / self.spread[e - 1])))
            except (np.linalg.LinAlgError, ValueError) as error:
                self.models.append(None)
                self.failed[e] = cause(error)
        return self

    def _posterior(self, x: np.ndarray, y: np.ndarray, at_rest: float) -> GaussianProcessRegressor:
        reach = float(np.sqrt(np.square(x).mean()))
        lengths = Matern(np.full(x.shape[1], 3 * reach), (0.1 * reach, 1e3 * reach), nu=2.5)
        prior = ConstantKernel(1.0, (1e-2, 1e4)) * lengths + WhiteKernel(0.1, (1e-6, 10.0))
        with warnings.catch_warnings():
            # At its bounds a length scale says that a component does not matter.
            warnings.simplefilter("ignore", ConvergenceWarning)
            kernel = GaussianProcessRegressor(prior).fit(x[:_MASKS_FOR_LENGTHS], y[:_MASKS_FOR_LENGTHS]).kernel_
        noise = np.full(len(x) + 1, kernel.k2.noise_level)
        noise[0] = 1e-10
        known = np.concatenate([np.zeros((1, x.shape[1])), x]), np.concatenate([[at_rest], y])
        return GaussianProcessRegressor(kernel.k1, alpha=noise, optimizer=None).fit(*known)

    def predict(self, masks: Tensor) -> Tensor:
        """The posterior mean, ``[E, N]`` (fp64)."""
        # The first row is the origin: what rounding leaves there is taken off.
        x = np.concatenate([np.zeros((1, masks.shape[1])), masks.double().numpy()])
        nothing = np.full(len(x), np.nan)
        found = torch.from_numpy(np.stack([nothing if m is None else m.predict(x) for m in self.models]))
        return (found[:, 1:] - found[:, :1]) * self.spread
