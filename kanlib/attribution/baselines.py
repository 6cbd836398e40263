"""Models of removals alone: what else a reader would have taken on masks that remove components.

A model of removals is a set function, ``g(σ) = Σ_S a_S ∏_{j∈S} (−σ_j)`` over sets S that are not empty: at a mask
of zeros and minus ones it adds up the terms of all sets that were removed whole, and at σ = 0 it is 0. The methods
differ in which sets have a term, and in how it is found. They have ``fit`` and ``predict`` like the surrogates of
:data:`kanlib.attribution.SURROGATES`; those that choose nothing on validation masks are fitted on them as well. An
example that a method fails on is predicted as nan, and ``failed`` says why.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from math import comb
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from torch import Tensor
from tqdm import tqdm

from kanlib.attribution.surrogates import Surrogate
from kanlib.errors import BadInputError, cause
from kanlib.machine import threads_kept
from kanlib.masks import Split, Subset, removals, subsets
from kanlib.setups import Surrogate as Knobs

#: Terms ``a_S`` of a set function, by their sets.
Terms = Mapping[Subset, float]


def _products(signs: np.ndarray, index: list[Subset]) -> np.ndarray:
    """``∏_{j∈S} signs_j`` ``[N, n_S]``."""
    return np.stack([signs[:, list(s)].prod(1) for s in index], 1)


def _terms(weights: Mapping[Subset, float]) -> Terms:
    """The terms of ``Σ_S w_S (χ_S − 1)`` with ``χ_S = ∏_{j∈S} (1 + 2 σ_j)``, which is 0 at σ = 0."""
    terms: dict[Subset, float] = {}
    for s, weight in weights.items():
        for r in range(1, len(s) + 1):
            for part in combinations(s, r):
                terms[part] = terms.get(part, 0.0) + (-2.0) ** r * weight
    return terms


@dataclass
class SetFunction(ABC):
    """A model of removals; see the module.

    Attributes:
        knobs: of the setup's surrogates; the seed is taken from them.
        terms: of each example.
        failed: example, counted from 1 → why the method has no model of it.
    """

    knobs: Knobs
    terms: list[Terms] = field(init=False)
    failed: dict[int, str] = field(init=False)

    def fit(self, data: Split, validation: Split):
        """Set ``terms`` and ``failed``.

        Raises:
            BadInputError: masks do something else than remove, or too few of them are there.
        """
        for split in (data, validation):
            if bool(((split.masks != 0) & (split.masks != -1)).any()):
                raise BadInputError(
                    f"{type(self).__name__} models removals, but some masks scale by something else than 0 and 1; "
                    "give it masks of 0 and -1."
                )
        self.terms, self.failed = [], {}
        for e in tqdm(range(len(data.responses)), type(self).__name__, unit="example", mininterval=1):
            one = slice(e, e + 1)
            try:
                self.terms.append(self.found(data.of(one), validation.of(one)))
            except BadInputError:
                raise
            # What a stranger's library raises on too few masks, or on odd ones, is its own.
            except Exception as error:
                self.terms.append({(): np.nan})
                self.failed[e + 1] = cause(error)
        return self

    @abstractmethod
    def found(self, data: Split, validation: Split) -> Terms:
        """The terms of the one example that the splits are of."""

    def predict(self, masks: Tensor) -> Tensor:
        """``g(σ)`` ``[E, N]`` (fp64), between removals the multilinear function through them."""
        removed = -masks.double()
        out = removed.new_zeros(len(self.terms), len(masks))
        for row, terms in zip(out, self.terms, strict=True):
            for s, value in terms.items():
                row += value * removed[:, list(s)].prod(1)
        return out


@dataclass
class LeaveOneOut(SetFunction):
    """Effects of single removals, added up: ``g(σ) = Σ_j (−σ_j) Δf(−e_j)``; exact where nothing interacts."""

    order: ClassVar[int] = 1

    def found(self, data: Split, validation: Split) -> Terms:
        """``a_S = Σ_{T⊆S} (−1)^{|S|−|T|} Δf(−1_T)``."""
        m = data.masks.shape[1]
        index = subsets(m, min(self.order, m))
        try:
            asked = data.joined(validation).at(removals(m, index))
        except BadInputError as error:
            raise BadInputError(
                f"{type(self).__name__} needs the removal of every set of up to {self.order} components, and not "
                f"all {len(index)} are among the masks; add them."
            ) from error
        effect = dict(zip(index, asked.responses[0].double().tolist(), strict=True))
        return {
            s: sum((-1) ** (len(s) - r) * effect[t] for r in range(1, len(s) + 1) for t in combinations(s, r))
            for s in index
        }


class PairSums(LeaveOneOut):
    """Effects of single removals and what pairs do beyond them, exact up to interactions of two."""

    order = 2


class Fourier2(SetFunction):
    """The quadratic Boolean–Fourier model: ``g(σ) = Σ_S w_S (χ_S − 1)`` with ``χ_S = ∏_{j∈S} (1 + 2 σ_j)``.

    S are single components and pairs. By ridge regression; validation chooses the ridge.

    Source: Karchmer (2024), without what makes it submodular.
    """

    def found(self, data: Split, validation: Split) -> Terms:
        """Ridge regression in ±1 coding, constrained to ``g(0) = 0``."""
        m = data.masks.shape[1]
        index = subsets(m, min(2, m))
        x, unseen = (_products(1 + 2 * s.masks.double().numpy(), index) - 1 for s in (data, validation))
        y, truth = (s.responses[0].double().numpy() for s in (data, validation))
        values, vectors = np.linalg.eigh(x.T @ x)
        turned = vectors.T @ (x.T @ y)
        weights = [vectors @ (turned / (values.clip(0) + ridge)) for ridge in np.logspace(-6, 4, 21)]
        best = min(weights, key=lambda w: np.square(unseen @ w - truth).mean())
        return _terms(dict(zip(index, best.tolist(), strict=True)))


def _shapiq() -> Any:
    try:
        import shapiq
    except ImportError as error:
        raise BadInputError(
            f"SPEX, ProxySPEX and KernelSHAP-IQ come from shapiq, which cannot be imported ({cause(error)}); "
            "pip install -e '.[peers]', or leave them out of methods."
        ) from error
    return shapiq


def _through_rest(found: Terms, removed: np.ndarray, y: np.ndarray) -> Terms:
    """The same Fourier terms by the ridge regression that ends ProxySPEX, constrained to ``g(0) = 0``."""
    spectrum: dict[Subset, float] = {}
    for s, value in found.items():
        for r in range(1, len(s) + 1):
            for part in combinations(s, r):
                spectrum[part] = spectrum.get(part, 0.0) + (-1) ** r * value / 2 ** len(s)
    size = max(map(abs, spectrum.values()))
    index = [s for s, value in spectrum.items() if abs(value) > 1e-9 * size]
    ridge = RidgeCV(np.logspace(-6, 6, 100), fit_intercept=False).fit(_products(1.0 - 2 * removed, index) - 1, y)
    return _terms(dict(zip(index, ridge.coef_.tolist(), strict=True)))


class _Given(SimpleNamespace):
    """Coalitions that were drawn before, in the place of shapiq's sampler: the intact network, then the masks.

    A coalition is a set of removed components. Sizes that were drawn more rarely than they are weigh more.
    """

    def __init__(self, removed: np.ndarray):
        n = removed.shape[1]
        every = np.concatenate([np.zeros((1, n), bool), removed])
        sizes = every.sum(1)
        weights = np.array([comb(n, int(size)) / (sizes == size).sum() for size in sizes])
        super().__init__(
            coalitions_matrix=every,
            coalitions_size=sizes,
            sampling_adjustment_weights=weights,
            log_sampling_adjustment_weights=np.log(weights),
            empty_coalition_index=0,
            sample=lambda budget: None,
        )


def _approximated(approximator: Any, removed: np.ndarray, y: np.ndarray) -> Terms:
    """What one of shapiq's approximators makes of these removals ``[N, m]`` and the responses ``[N]``."""
    given = _Given(removed)
    approximator._sampler = approximator._uniform_sampler = given
    with warnings.catch_warnings():
        # Trees without a split, which it divides by; what comes of it is not a number, and seen to be none.
        warnings.simplefilter("ignore", RuntimeWarning)
        values = approximator.approximate(len(given.coalitions_matrix), lambda _: np.concatenate([[0.0], y]))
    return {tuple(int(j) for j in s): float(value) for s, value in values.dict_values.items() if s}


def _removed(split: Split) -> tuple[np.ndarray, np.ndarray]:
    return split.masks.numpy() < 0, split.responses[0].double().numpy()


class ProxySpex(SetFunction):
    """ProxySPEX: boosted trees, chosen by cross-validation, their Fourier terms, and a ridge regression on those.

    As in shapiq, but on the masks that it is given, and its last step passes through ``g(0) = 0``. Source: Butler
    et al. (2025).
    """

    def found(self, data: Split, validation: Split) -> Terms:
        """On both splits: it validates within what it is given."""
        removed, y = _removed(data.joined(validation))
        m = removed.shape[1]
        approximator = _shapiq().ProxySPEX(n=m, index="FBII", max_order=m, random_state=self.knobs.seed)
        # Later releases let the trees print a line for each of themselves, and take all threads.
        if hasattr(approximator, "proxy_model"):
            approximator.proxy_model.estimator.set_params(verbose=-1, n_jobs=1)
        return _through_rest(_approximated(approximator, removed, y), removed, y)


class KernelShapIQ(SetFunction):
    """KernelSHAP-IQ: Shapley interactions of order 2 by weighted regression, which add up to predictions.

    ``g`` adds up the k-SII of all singles and pairs that were removed. Validation chooses between the consistent
    estimator and the one that is not, which needs fewer masks; it is then fitted on both splits. Source:
    Fumagalli et al. (2024).
    """

    def found(self, data: Split, validation: Split) -> Terms:
        """The better of the two estimators."""
        shapiq, m, unseen = _shapiq(), data.masks.shape[1], -validation.masks.double().numpy()
        kinds = [shapiq.KernelSHAPIQ, shapiq.InconsistentKernelSHAPIQ]

        def fitted(kind: Any, split: Split) -> Terms:
            approximator = kind(n=m, max_order=min(2, m), index="k-SII", random_state=self.knobs.seed)
            return _approximated(approximator, *_removed(split))

        def error(kind: Any) -> float:
            terms = fitted(kind, data)
            predicted = _products(unseen, list(terms)) @ np.array(list(terms.values()))
            return float(np.square(predicted - validation.responses[0].numpy()).mean())

        return fitted(min(kinds, key=error), data.joined(validation))


@dataclass
class Spex(SetFunction):
    """SPEX: a sparse Fourier transform by error-correcting codes, which says itself what it has to ask.

    It therefore needs the responses to all ``2^m`` removals, of which it asks ``budget``, some of them repeatedly;
    ``asked`` are those. Source: Kang et al. (2025).
    """

    budget: int = 0
    asked: Tensor = field(init=False)

    def found(self, data: Split, validation: Split) -> Terms:
        """A transform of what it asks, and a ridge regression on the terms found."""
        every = data.joined(validation)
        m = every.masks.shape[1]
        if len(every.distinct().masks) < 2**m - 1:
            raise BadInputError(
                f"SPEX chooses its masks itself and needs the responses to all {2**m} removals of {m} components, "
                f"but {len(every.masks)} are there; leave it out of methods, or ask a network itself."
            )
        rest = Split(torch.zeros(1, m), torch.zeros(1, 1))
        table, asked = every.joined(rest), []

        def answer(coalitions: np.ndarray) -> np.ndarray:
            asked.append(0 - torch.from_numpy(np.asarray(coalitions, dtype=np.float32)))
            return table.at(asked[-1]).responses[0].double().numpy()

        # What it loads and calls sets the threads of the whole process.
        with threads_kept():
            spex = _shapiq().SPEX(n=m, index="FBII", max_order=m, random_state=self.knobs.seed)
            values = spex.approximate(self.budget or 2**m, answer).dict_values
        self.asked = torch.cat(asked).unique(dim=0)
        known = table.at(self.asked)
        return _through_rest({s: float(value) for s, value in values.items() if s}, *_removed(known))


#: Name → class, called with the ``surrogate`` section of a setup.
BASELINES: dict[str, Callable[[Knobs], Surrogate]] = {
    "leave_one_out": LeaveOneOut,
    "pair_sums": PairSums,
    "fourier": Fourier2,
    "proxyspex": ProxySpex,
    "kernelshapiq": KernelShapIQ,
    "spex": Spex,
}
