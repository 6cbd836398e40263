"""Regimes: which masks methods are fitted to and which they are tested on, and how they do.

Masks that remove, or halve, are told apart by the set of components that they change: few sets are possible, so a
set that tests must stand in no other split.
"""

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
from torch import Tensor, arange

from kanlib import metrics
from kanlib.attribution.baselines import BASELINES, Spex
from kanlib.attribution.surrogates import SURROGATES, Surrogate
from kanlib.errors import BadInputError
from kanlib.masks import Split
from kanlib.setups import Surrogate as Knobs


def of_size(split: Split, low: int, high: int | None = None) -> Split:
    """Its masks that change at least ``low`` components, and at most ``high``."""
    size = (split.masks != 0).sum(1)
    return split.drawn((low <= size) & (size <= (split.masks.shape[1] if high is None else high)))


def in_order(split: Split, first: int, seed: int) -> Split:
    """Its masks that change up to ``first`` components, then the distinct others at random."""
    others = of_size(split, first + 1)
    return of_size(split, 1, first).joined(others.apart([len(others.distinct().masks)], seed, "removal")[0])


def held_out(split: Split, n_test: int, seed: int) -> tuple[Split, Split]:
    """What may be fitted, single components first, and what tests: a third at most, no single component."""
    others = of_size(split, 2).distinct()
    n_test = min(n_test, len(split.masks) // 3, len(others.masks))
    tests, rest = others.apart([n_test, len(others.masks) - n_test], seed, "removal")
    return of_size(split, 1, 1).joined(rest), tests


def budgeted(split: Split, n: int) -> tuple[Split, Split]:
    """Its first ``n`` masks, or all that there are: the last fifth validates, the others are fitted."""
    n = min(n, len(split.masks))
    n_fit = n - n // 5
    return split.part(n_fit), split.drawn(arange(n_fit, n))


@dataclass
class Trials:
    """Methods at work on one regime after the other.

    Attributes:
        knobs: of the surrogates.
        every: the responses to all sets of components, of which SPEX chooses.
        seconds: ``(trained, budget, method)`` → what its fit took.
        failed: rows of method, regime, what happened and why: no row is left out of a mean in silence.
    """

    knobs: Knobs
    every: Split
    seconds: dict[tuple[str, int, str], float] = field(default_factory=dict)
    failed: list[tuple[str, str, str, str]] = field(default_factory=list)

    def scores(
        self, methods: Sequence[str], trained: str, fit: Split, validation: Split, tests: Mapping[str, Split]
    ) -> pd.DataFrame:
        """All scores of methods that are fitted once: a row for each test, method and example.

        Columns: ``method``, ``example``, those of :data:`kanlib.metrics.METRICS`, ``trained``, ``tested`` and
        ``budget``, the fit and validation masks. A method that cannot be asked has no rows.

        Args:
            methods: names of surrogates and baselines.
            trained: what the fit masks are called.
            fit: fit masks and responses.
            validation: others.
            tests: further ones, by name.
        """
        budget = len(fit.masks) + len(validation.masks)
        models = {name: self._fitted(name, trained, fit, validation) for name in methods}
        return pd.concat(
            [
                metrics.scores(_predicted(models, split.masks), split.responses)
                .rename(columns={"surrogate": "method"})
                .assign(trained=trained, tested=tested, budget=budget)
                for tested, split in tests.items()
            ]
            or [pd.DataFrame()],
            ignore_index=True,
        )

    def _fitted(self, name: str, trained: str, fit: Split, validation: Split) -> Surrogate | None:
        budget, started = len(fit.masks) + len(validation.masks), time.perf_counter()
        where = f"{trained}, {budget} masks"
        try:
            with warnings.catch_warnings():
                # With few masks there are fewer of them than parameters; that is the point.
                warnings.filterwarnings("ignore", message="a KAN of")
                if name == "spex":
                    model: Surrogate = Spex(self.knobs, budget).fit(self.every, self.every.part(0))
                else:
                    model = (SURROGATES | BASELINES)[name](self.knobs).fit(fit, validation)
        except BadInputError as error:
            self.failed.append((name, where, "cannot be asked", str(error)))
            return None
        self.seconds[trained, budget, name] = time.perf_counter() - started
        for example, why in getattr(model, "failed", {}).items():
            self.failed.append((name, where, f"failed on example {example}", why))
        return model


def _predicted(models: Mapping[str, Surrogate | None], masks: Tensor) -> dict[str, Tensor]:
    return {name: model.predict(masks) for name, model in models.items() if model is not None}
