"""COAR-EDIT: which components to remove so that an output rises or falls on some examples and stays on others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array
from torch import Tensor

from kanlib.attribution.pairs import Pairs
from kanlib.errors import BadInputError
from kanlib.machine import generator
from kanlib.masks import Subset, removals

Objective = Literal["raise", "lower"]


@dataclass(frozen=True)
class Edit:
    """Components to remove, and what the attributions that chose them say of it; what it does, a network says.

    Attributes:
        removed: their indices, in the order of the choice.
        targets: predicted change of the mean output of the target examples.
        references: the same of the reference examples.
        gap: how far the choice may be from the best one by what was maximised, as a share of the latter; ``None``:
            it is not known.
    """

    removed: Subset
    targets: float
    references: float
    gap: float | None = None

    def mask(self, m: int) -> Tensor:
        """The mask ``[1, m]`` that removes them, for a network to be asked."""
        return removals(m, [self.removed])


def scores(weights: Tensor, targets: Sequence[int], references: Sequence[int]) -> Tensor:
    """``τ_j = (mean_T w_j − mean_R w_j) / sqrt(var_T w_j / |T| + var_R w_j / |R|)``, ``[m]`` (fp64).

    Variances are those of a population; so of a single target only the references' counts. A component of the same
    attribution for all examples has the score 0.

    Args:
        weights: attributions ``w`` ``[E, m]``: what an output loses where a component is removed.
        targets: T, rows of ``weights``.
        references: R, others.

    Raises:
        BadInputError: T or R is empty, both have an example, or one is no row of ``weights``.

    Source: Shah, Ilyas and Madry (2024), section 5 and their code.
    """
    _check_examples(len(weights), targets, references)
    of, rest = (weights[list(rows)].double() for rows in (targets, references))
    difference = of.mean(0) - rest.mean(0)
    spread = (of.var(0, correction=0) / len(of) + rest.var(0, correction=0) / len(rest)).sqrt()
    return torch.where(difference == 0, 0.0, difference / spread)


def edit(
    weights: Tensor,
    targets: Sequence[int],
    references: Sequence[int],
    k: int,
    objective: Objective = "raise",
) -> Edit:
    """COAR-EDIT: the k components of the lowest :func:`scores` raise the output, the k of the highest lower it.

    Args:
        weights: attributions ``w`` ``[E, m]`` by any method, see :func:`kanlib.attribution.coar.of_singles`.
        targets: rows of the examples whose output is to move.
        references: rows of those whose output is not.
        k: components to remove.
        objective: where to.

    Returns:
        The edit; a removal of the set S is predicted to change an output by ``−Σ_{j∈S} w_j``.

    Raises:
        BadInputError: as :func:`scores`; or k is not between 1 and m.
    """
    found = scores(weights, targets, references)
    _check_size(k, len(found), "components")
    removed = found.argsort(descending=objective == "lower", stable=True)[:k].tolist()
    change = -weights[:, removed].double().sum(1)
    of_targets, of_references = (float(change[list(rows)].mean()) for rows in (targets, references))
    return Edit(tuple(removed), of_targets, of_references)


def screen(found: Tensor, n: int, objective: Objective = "raise") -> Tensor:
    """The ``n`` components ``[n]`` of the best :func:`scores` ``found`` ``[m]``, for pairs to be fitted to.

    Raises:
        BadInputError: n is not between 1 and m.
    """
    _check_size(n, len(found), "components")
    return found.argsort(descending=objective == "lower", stable=True)[:n]


def edit_by_pairs(
    model: Pairs,
    k: int,
    objective: Objective = "raise",
    *,
    trade_off: float = 1.0,
    exact: bool = True,
    seconds: float = 20.0,
) -> Edit:
    """The k screened components S that by singles and pairs move the targets most and the references least.

    To raise the output, S maximises ``Δ_T(S) − λ |Δ_R(S)|`` with ``Δ(S) = −Σ_{j∈S} w_j + Σ_{j<k∈S} q_jk``; to
    lower it, ``−Δ_T(S) − λ |Δ_R(S)|``.

    Args:
        model: fitted to two rows of responses, the mean over the targets and that over the references.
        k: components to remove.
        objective: where to.
        trade_off: λ.
        exact: by integer programming, each product ``x_j x_k`` being a variable of its own; else one component
            after the other, each the best beside those that were chosen before.
        seconds: that integer programming may take; then the best set that it has found is taken, or the greedy one
            where that is better, and ``gap`` says how much better another might be.

    Raises:
        BadInputError: the model has not two rows, or k is not between 1 and the number of screened components.
    """
    if len(model.weights) != 2:
        raise BadInputError(
            f"the model of pairs has {len(model.weights)} rows, expected two, the mean response of the "
            "targets and that of the references; fit it to these."
        )
    _check_size(k, len(model.screened), "screened components")
    change = _Change(-model.weights[:, model.screened], model.pairs, 1 if objective == "raise" else -1, trade_off)
    chosen, gap = _greedy(change, k), None
    if exact:
        better, gap = _exact(change, k, seconds)
        if better and change.worth(better) > change.worth(chosen):
            chosen = better
    of_targets, of_references = change.of(chosen).tolist()
    return Edit(tuple(model.screened[chosen].tolist()), of_targets, of_references, gap)


def misclassified(margins: Tensor, n: int, seed: int = 0) -> Tensor:
    """``n`` positions of examples whose margin ``[E]`` is below 0, drawn by ``seed``.

    Raises:
        BadInputError: there are fewer.
    """
    return _drawn(
        (margins < 0).nonzero().flatten(), n, seed, "misclassified images", "other images or a smaller n"
    )


def of_class(labels: Tensor, label: int, n: int, seed: int = 0) -> Tensor:
    """``n`` positions of examples of that class among ``labels`` ``[E]``, drawn by ``seed``.

    Raises:
        BadInputError: there are fewer.
    """
    found = (labels == label).nonzero().flatten()
    return _drawn(found, n, seed, f"images of class {label}", "another class, other images or a smaller n")


def _drawn(found: Tensor, n: int, seed: int, what: str, remedy: str) -> Tensor:
    if not 1 <= n <= len(found):
        raise BadInputError(
            f"{n} {what} were asked for, expected 1 to {len(found)}, as many as there are; take {remedy}."
        )
    return found[torch.randperm(len(found), generator=generator(seed, "editing"))[:n]]


def _check_examples(n: int, targets: Sequence[int], references: Sequence[int]) -> None:
    for name, rows in (("target", targets), ("reference", references)):
        if not len(rows):
            raise BadInputError(f"the {name} set is empty, expected an example at least; name some.")
        if not 0 <= min(rows) <= max(rows) < n:
            beyond = max(rows) if min(rows) >= 0 else min(rows)
            raise BadInputError(
                f"the {name} set names example {beyond}, expected 0 to {n - 1}, as there are attributions of {n}; "
                "name others."
            )
    if both := set(targets) & set(references):
        same = "the reference set itself" if set(targets) == set(references) else "also in the reference set"
        raise BadInputError(
            f"{len(both)} of {len(set(targets))} target examples are {same}, expected none; take other references."
        )


def _check_size(k: int, m: int, what: str) -> None:
    if not 1 <= k <= m:
        raise BadInputError(f"{k} of {m} {what} were asked for, expected 1 to {m}; set another number.")


@dataclass(frozen=True)
class _Change:
    """What a set of s components does to the means of targets and references, and what that is worth."""

    single: Tensor  # [2, s]
    pair: Tensor  # [2, s, s]
    sign: int
    trade_off: float

    def of(self, chosen: list[int]) -> Tensor:
        return self.single[:, chosen].sum(1) + self.pair[:, chosen][:, :, chosen].sum((1, 2)) / 2

    def valued(self, change: Tensor) -> Tensor:
        """Of changes ``[2, ...]``."""
        return self.sign * change[0] - self.trade_off * change[1].abs()

    def worth(self, chosen: list[int]) -> float:
        return float(self.valued(self.of(chosen)))


def _greedy(change: _Change, k: int) -> list[int]:
    chosen: list[int] = []
    for _ in range(k):
        more = change.single + change.pair[:, chosen].sum(1)
        value = change.valued(change.of(chosen)[:, None] + more)
        value[chosen] = -torch.inf
        chosen.append(int(value.argmax()))
    return chosen


def _exact(change: _Change, k: int, seconds: float) -> tuple[list[int], float | None]:
    """By HiGHS; empty where it has found no set in time.

    ``y_jl = x_j x_l`` by ``y ≤ x_j``, ``y ≤ x_l`` and ``Σ_l y_jl = (k − 1) x_j``, which holds for sets of k alone
    and bounds far better than ``y ≥ x_j + x_l − 1`` does (Adams and Sherali's linearisation). ``u ≥ |Δ_R|`` is the
    last variable.
    """
    s = change.single.shape[1]
    first, second = np.triu_indices(s, 1)
    n, p, each = len(first), np.arange(len(first)), np.arange(s)
    terms = np.concatenate([change.single.numpy(), change.pair.numpy()[:, first, second]], 1)
    ones, width = np.ones(n), s + n + 1

    def matrix(rows: list, columns: list, values: list) -> coo_array:
        where = np.concatenate(rows), np.concatenate(columns)
        return coo_array((np.concatenate(values), where), shape=(int(where[0].max()) + 1, width)).tocsr()

    below = matrix([p, p, n + p, n + p], [s + p, first, s + p, second], [ones, -ones, ones, -ones])
    sums = matrix([first, second, each], [s + p, s + p, each], [ones, ones, np.full(s, 1.0 - k)])
    size = matrix([np.zeros(s, int)], [each], [np.ones(s)])
    both = np.append(terms[1], -1.0), np.append(-terms[1], -1.0)
    found = milp(
        np.concatenate([-change.sign * terms[0], [change.trade_off]]),
        constraints=[
            LinearConstraint(size, k, k),
            LinearConstraint(sums, 0, 0),
            LinearConstraint(below, -np.inf, 0),
            LinearConstraint(np.stack(both), -np.inf, 0),
        ],
        integrality=np.concatenate([np.ones(s), np.zeros(n + 1)]),
        bounds=Bounds(0, np.concatenate([np.ones(s + n), [np.inf]])),
        options={"time_limit": seconds, "mip_rel_gap": 1e-6},
    )
    if found.x is None:
        return [], None
    chosen = np.flatnonzero(found.x[:s] > 0.5)
    order = np.argsort(-change.sign * change.single[0].numpy()[chosen], kind="stable")
    return chosen[order].tolist(), float(found.mip_gap)
