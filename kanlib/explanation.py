"""What :func:`kanlib.explaining.explain` found: coefficients, a formula, and a KAN that answers to any masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from kanlib import metrics
from kanlib.attribution.certainty import significance
from kanlib.errors import BadInputError, shown, unknown
from kanlib.kan.kan import KAN
from kanlib.masks import Split, Subset, removals
from kanlib.networks.patterns import plain
from kanlib.networks.probe import Probe
from kanlib.symbolic.notation import html, latex_one_sum
from kanlib.symbolic.one_sum import OneSum
from kanlib.symbolic.symbolic_kan import Batch, SymbolicKAN

_AVERAGED = "averaged over the masks"
_SHOWN = 12  # coefficients in a chart or a notebook, the largest
_PLACES = {1: ["component"], 2: ["first", "second"], 3: ["first", "second", "third"]}
_TITLES = metrics.TITLES | {"formula": "formula"}


@dataclass(frozen=True, repr=False)
class Explanation:
    """E examples of a network, how their output answers to masks, and what was read off that.

    Tables have a row for each component or set of components, and with several examples an index ``example``, from
    1 on. ``found[0]`` is the explanation of the first example alone.

    Attributes:
        probe: the network and what was asked of it; ``probe.adapted`` says what had to be adapted.
        fit: masks ``[N, m]`` and responses ``[E, N]`` that the surrogates were fitted to.
        validation: those that chose.
        test: those that score.
        clean: outputs ``f(z, 0)``, ``[E]``.
        linear: COAR's weights ``[E, m]`` (fp64).
        kan: E of them.
        symbolic: the same with a closed form in place of every edge.
        formulas: one function of one sum, an example each.
        index: the subsets S.
        at_rest: their coefficients ``L_S``, of the closed forms at σ = 0, ``[E, n_S]`` (fp64).
        averaged: the same over the masks, ``E[∂_S f]``, ``[E, n_S]`` (fp64).
        samples: both of KANs fitted anew, ``[n, E, n_S']``, of the first subsets; ``None``: there are none.
    """

    probe: Probe
    fit: Split
    validation: Split
    test: Split
    clean: Tensor
    linear: Tensor
    kan: KAN
    symbolic: Sequence[SymbolicKAN]
    formulas: Sequence[OneSum]
    index: Sequence[Subset]
    at_rest: Tensor
    averaged: Tensor
    samples: tuple[Tensor, Tensor] | None

    def __len__(self) -> int:
        """How many examples."""
        return len(self.clean)

    def __getitem__(self, example: int) -> "Explanation":
        """The explanation of one example, counted from 0."""
        e = range(len(self))[example]
        at = slice(e, e + 1)
        samples = self.samples and (self.samples[0][:, at], self.samples[1][:, at])
        return Explanation(
            self.probe.of(at),
            self.fit.of(at),
            self.validation.of(at),
            self.test.of(at),
            self.clean[at],
            self.linear[at],
            self.kan.select(torch.tensor([e])),
            self.symbolic[at],
            self.formulas[at],
            self.index,
            self.at_rest[at],
            self.averaged[at],
            samples,
        )

    def __repr__(self) -> str:
        n = sum(len(split.masks) for split in (self.fit, self.validation, self.test))
        return f"<Explanation: examples {len(self)}, components {len(self.components)}, masks {n}>"

    @property
    def components(self) -> list[str]:
        """Names of the m components, in the order of the masks' columns."""
        return list(self.probe.components)

    @property
    def effects(self) -> pd.DataFrame:
        """Coefficients of single components, see :meth:`coefficients`."""
        return self.coefficients(1)

    @property
    def pairs(self) -> pd.DataFrame:
        """Coefficients of pairs, see :meth:`coefficients`."""
        return self.coefficients(2)

    @property
    def triples(self) -> pd.DataFrame:
        """Coefficients of triples, see :meth:`coefficients`."""
        return self.coefficients(3)

    def coefficients(self, order: int) -> pd.DataFrame:
        """Coefficients of all sets of so many components, in units of the output function.

        Columns: ``at_rest``, the derivative at σ = 0; ``averaged``, its average over the masks; and where KANs
        were fitted anew, ``at_rest_error`` and ``averaged_error``, standard errors, and ``p``, of the average's
        being 0, see :func:`kanlib.attribution.certainty.significance`.

        Args:
            order: size of the sets.

        Raises:
            BadInputError: there are none of that order.
        """
        chosen = [i for i, subset in enumerate(self.index) if len(subset) == order]
        if not chosen:
            raise BadInputError(
                f"there are no coefficients of order {shown(order)}, expected 1 to {len(self.index[-1])}; set "
                "max_order."
            )
        columns = {"at_rest": self.at_rest, "averaged": self.averaged}
        if (known := self._known()) and chosen[-1] < known[0][0].shape[1]:
            (of_rest, _), (of_average, p) = known
            columns |= {"at_rest_error": of_rest, "averaged_error": of_average, "p": p}
        names = [[self.components[j] for j in self.index[i]] for i in chosen]
        rows = [(e + 1, *of_set) for e in range(len(self)) for of_set in names]
        places = _PLACES.get(order, [str(k + 1) for k in range(order)])
        return self._table(
            {name: column[:, chosen].flatten() for name, column in columns.items()},
            pd.MultiIndex.from_tuples(rows, names=["example", *places]),
        )

    @property
    def formula(self) -> OneSum:
        """What is taken in at a glance: ``formula.expression`` is sympy's; ``quality`` says how good it is.

        Raises:
            BadInputError: there are several examples.
        """
        self._check_one("formula")
        return self.formulas[0]

    @property
    def latex(self) -> str:
        """The formula as LaTeX, for display only.

        Raises:
            BadInputError: there are several examples.
        """
        self._check_one("latex")
        return latex_one_sum(self.formulas[0])

    @property
    def quality(self) -> pd.DataFrame:
        """How well the linear model, the KAN, its closed form and the formula predict the responses to test masks.

        Columns: those of :func:`kanlib.metrics.scores`, and ``r2``, which is 1 less the normalised MSE.
        """
        scores = metrics.scores(self._predicted(self.test.masks), self.test.responses)
        scores = scores.replace({"surrogate": _TITLES}).sort_values("example", kind="stable")
        scores["r2"] = 1 - scores["normalised_mse"]
        names = ["example", "surrogate"]
        values = scores.drop(columns=names)
        return self._table(dict(values.items()), pd.MultiIndex.from_frame(scores[names]))

    def predict(self, sigma: Any) -> Tensor:
        """What the KAN says of masks: responses ``[N]``, to one mask ``[]``; of E examples ``[E, N]`` and ``[E]``.

        Args:
            sigma: ``[N, m]`` or ``[m]``, a tensor, an array or lists of numbers.

        Raises:
            BadInputError: they are none, or of other components.
        """
        try:
            masks = torch.as_tensor(sigma).to(self.kan.bias)
        except (TypeError, ValueError, RuntimeError):
            masks = torch.empty(())
        m = len(self.components)
        if masks.ndim not in (1, 2) or masks.shape[-1] != m:
            raise BadInputError(
                f"sigma is {shown(sigma)}, expected numbers [N, {m}] or [{m}]; give one for each component."
            )
        said = self.kan(masks.reshape(-1, m))
        said = said[:, 0] if masks.ndim == 1 else said
        return said[0] if len(self) == 1 else said

    def what_if(self, removed: Sequence[str | int] | str | int) -> pd.DataFrame:
        """Responses to the removal of some components at once (σ = −1): of the network, and what surrogates say.

        Columns: ``at rest``, the clean output; the response of the ``network``, which is asked; and those of
        linear model, KAN, closed form and formula. A row for each example.

        Args:
            removed: names, or numbers from 0 on.

        Raises:
            BadInputError: one is no component.
        """
        some = [removed] if isinstance(removed, str | int) else removed
        masks = removals(len(self.components), [tuple({self._place(one) for one in some})])
        true, _ = self.probe.responses(masks, None)
        said = {_TITLES[name]: values[:, 0] for name, values in self._predicted(masks).items()}
        rows = pd.RangeIndex(1, len(self) + 1, name="example")
        return pd.DataFrame({"at rest": self.clean, "network": true[:, 0]} | said, index=rows)

    def plot(self) -> Any:
        """The largest averaged coefficients of all orders as an Altair chart, with two standard errors to a side.

        Raises:
            BadInputError: there are several examples, or altair is not installed.
        """
        self._check_one("plot")
        averaged = self.averaged[0]
        try:
            from kanlib.coefficient_charts import bars
        except ImportError as error:
            raise BadInputError(
                f"{error.name} is not installed, which plot needs; run pip install 'kanlib[book]'."
            ) from error
        largest = averaged.abs().argsort(descending=True)[:_SHOWN].tolist()
        known = self._known()
        errors = {_AVERAGED: dict(zip(self.index, known[1][0][0].tolist(), strict=False))} if known else None
        return bars(
            {_AVERAGED: {self.index[i]: float(averaged[i]) for i in largest}},
            self.components,
            title="L",
            errors=errors,
            describe="The largest averaged coefficients of components and sets of components.",
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: quality and effects, and of one example the largest pairs and the formula."""
        tables = [self.quality, self.effects]
        if len(self) == 1 and len(self.index[-1]) > 1:
            tables.append(self.pairs.sort_values("averaged", key=abs, ascending=False)[:_SHOWN])
        parts = [f"<p>{escape(sentence)}</p>" for sentence in self.probe.adapted]
        parts += [table.to_html(float_format="{:.3g}".format) for table in tables]
        return "".join([*parts, html(self.latex)] if len(self) == 1 else parts)

    def _known(self) -> list[tuple[Tensor, Tensor]]:
        """Standard errors and p ``[E, n_S']`` of the first subsets, at rest and averaged; none without samples."""
        kinds = zip((self.at_rest, self.averaged), self.samples or (), strict=False)
        return [significance(values[:, : drawn.shape[2]], drawn) for values, drawn in kinds]

    def _predicted(self, masks: Tensor) -> dict[str, Tensor]:
        """Responses ``[E, N]`` (fp64) to masks ``[N, m]``, by surrogate."""
        return {
            "linear": self.linear @ masks.double().T,
            "kan": self.kan(masks).double(),
            "symbolic": Batch(self.symbolic)(masks),
            "formula": torch.stack([formula(masks) for formula in self.formulas]),
        }

    def _place(self, name: str | int) -> int:
        """The number of a component."""
        m = len(self.components)
        if isinstance(name, str) and name not in self.components:
            raise unknown("component", plain(name), self.components, "this explanation")
        if not isinstance(name, str) and name not in range(m):
            raise BadInputError(
                f"component {shown(name)} does not exist, expected a name or a number from 0 to {m - 1}; "
                "see components."
            )
        return self.components.index(name) if isinstance(name, str) else int(name)

    def _check_one(self, what: str) -> None:
        if len(self) > 1:
            raise BadInputError(
                f"{what} is of one example, and here are {len(self)}; take one of them, such as found[0].{what}."
            )

    def _table(self, columns: dict[str, Any], index: pd.MultiIndex) -> pd.DataFrame:
        """Rows of examples, the first level of the index, which a single one does without."""
        table = pd.DataFrame({name: list(map(float, values)) for name, values in columns.items()}, index=index)
        return table.droplevel("example") if len(self) == 1 else table
