"""Games: a value of players who take part with a weight, and what each of them and each pair is worth to it.

A *game* is a function v of weights ``w`` ``[m]``: 1 leaves a player as it is, 0 takes it away, and what lies
between is there in part. On sets of players (weights of 0 and 1) it has the values of cooperative game theory;
between, it has derivatives, see :mod:`kanlib.attribution.inputs`. What the players are, patches, groups of
training images or components, and whether there is a network, is not known here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from kanlib.errors import BadInputError, cause
from kanlib.memory import room_for

Index = Literal["shapley", "banzhaf", "shapley_taylor"]
#: Of each index, what shapiq calls it, the orders that it has, and what estimates it where players are too many.
_SHAPIQ: dict[Index, tuple[str, int, str]] = {
    "shapley": ("SV", 1, "KernelSHAP"),
    "banzhaf": ("BV", 1, "SVARM"),
    "shapley_taylor": ("STII", 2, "PermutationSamplingSTII"),
}


@dataclass(frozen=True)
class Game:
    """A value ``v(w)`` of m players.

    Attributes:
        value: weights ``[N, m]`` → ``[N]``; each row answers for itself, and gradients flow through the weights.
        players: their names.
        batch_size: rows that are asked about at a time.
        dtype: of the weights that ``value`` is given.
        most: up to so many players every set is asked about.
        second: weights ``[N, m]`` → second derivatives ``[N, m, m]``, where they have a closed form.
    """

    value: Callable[[Tensor], Tensor]
    players: Sequence[str]
    batch_size: int = 128
    dtype: torch.dtype = torch.float32
    most: int = 16
    second: Callable[[Tensor], Tensor] | None = None

    @property
    def m(self) -> int:
        """How many players there are."""
        return len(self.players)

    @property
    def countable(self) -> bool:
        """Whether all ``2^m`` sets of players can be asked about: there are ``most`` players at most."""
        return self.m <= self.most

    @torch.no_grad()
    def __call__(self, weights: Tensor) -> Tensor:
        """``v(w)`` of weights ``[N, m]``, ``[N]`` (fp64, on the CPU).

        Raises:
            BadInputError: the weights are not of m players, or a value is not finite.
        """
        if weights.ndim != 2 or weights.shape[1] != self.m:
            raise BadInputError(
                f"weights of shape {list(weights.shape)} were given to a game of {self.m} players, expected "
                f"[N, {self.m}]; give each player one."
            )
        parts = weights.to(self.dtype).split(self.batch_size)
        found = torch.cat([self.value(part).double().cpu() for part in parts])
        if not found.isfinite().all():
            row = int((~found.isfinite()).nonzero()[0])
            raise BadInputError(
                f"the value of row {row + 1} is {float(found[row])}, expected a finite number; mend the game."
            )
        return found

    def whole(self) -> float:
        """``v(1) − v(0)``: what all players together are worth."""
        both = self(torch.stack([torch.ones(self.m), torch.zeros(self.m)]))
        return float(both[0] - both[1])

    def gradients(self, weights: Tensor) -> Tensor:
        """``∂v/∂w`` at weights ``[N, m]``, ``[N, m]`` (fp64)."""
        return torch.cat([self._slopes(part)[1].double().cpu() for part in self._parts(weights)])

    def hessians(self, weights: Tensor) -> Tensor:
        """``∂²v/∂w∂w'`` at weights ``[N, m]``, ``[N, m, m]`` (fp64), by one more backward pass a player."""
        rows = []
        for part in self._parts(weights):
            if self.second is not None:
                rows.append(self.second(part).double().cpu())
                continue
            at, slope = self._slopes(part, again=True)
            second = []
            for column in slope.unbind(1):
                # What is linear in its weights has no graph left to go back through.
                (one,) = (
                    torch.autograd.grad(column.sum(), at, retain_graph=True, allow_unused=True)
                    if column.requires_grad
                    else (None,)
                )
                second.append(torch.zeros_like(at) if one is None else one)
            rows.append(torch.stack(second, 1).detach().double().cpu())
        return torch.cat(rows)

    def table(self) -> Tensor:
        """The value of every set of players, ``[2^m]``: bit j of the place says whether player j is in it.

        Raises:
            BadInputError: there are more than ``most`` players.
        """
        if not self.countable:
            raise BadInputError(
                f"all sets of {self.m} players are 2^{self.m}, expected at most {self.most} players; estimate "
                "with a budget of values instead."
            )
        return self(every_set(self.m))

    def _parts(self, weights: Tensor) -> tuple[Tensor, ...]:
        room_for(8 * weights.numel() * self.m, f"derivatives at {len(weights)} weights", "take fewer")
        return weights.to(self.dtype).split(self.batch_size)

    def _slopes(self, weights: Tensor, *, again: bool = False) -> tuple[Tensor, Tensor]:
        at = weights.detach().clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(self.value(at).sum(), at, create_graph=again)
        return at, slope if again else slope.detach()


def every_set(m: int) -> Tensor:
    """Weights ``[2^m, m]`` of 0 and 1: row i has the players whose bits are set in i."""
    return (torch.arange(2**m)[:, None] >> torch.arange(m) & 1).float()


@dataclass(frozen=True)
class Worth:
    """What players and pairs are worth, by one index.

    Attributes:
        singles: ``[m]`` (fp64).
        pairs: ``[m, m]``, symmetric and 0 on its diagonal; ``None`` for an index of single players.
        method: how it was found: ``exact``, or the estimator's name and how many values it was given.
    """

    singles: Tensor
    pairs: Tensor | None
    method: str


def worth(game: Game, index: Index, *, budget: int = 2000, seed: int = 0, table: Tensor | None = None) -> Worth:
    """Shapley values, Banzhaf values or Shapley–Taylor interactions of order 2, by shapiq.

    Up to ``game.most`` players from the values of all sets; with more by an estimator, which ``method`` names:
    KernelSHAP, SVARM and permutation sampling.

    Args:
        game: whose players they are of.
        index: see :func:`by_definition`.
        budget: values that an estimator may ask for.
        seed: of its draws.
        table: of :meth:`Game.table`, where it is at hand.

    Raises:
        BadInputError: shapiq is not there, or the budget is too low for its estimator.
    """
    shapiq, (name, order, estimator), m = _shapiq(), _SHAPIQ[index], game.m
    if game.countable:
        known = (game.table() if table is None else table).numpy()
        place = 2 ** np.arange(m)
        # Less what nobody is worth, as by definition the empty set is worth 0 to its authors.
        exact = shapiq.ExactComputer(n_players=m, game=lambda sets: known[np.atleast_2d(sets) @ place] - known[0])
        return Worth(*_read(exact(name, order=order), m, order), "exact")
    # A permutation of all players asks about the four sets of each pair.
    least = 4 * comb(m, 2) + 2 * m + 4 if order == 2 else 4 * m
    if budget < least:
        raise BadInputError(
            f"a budget of {budget} values was given for {m} players, expected {least} at least; raise the budget."
        )
    start = float(game(torch.zeros(1, m))[0])

    def answers(sets: np.ndarray) -> np.ndarray:
        return game(torch.from_numpy(np.atleast_2d(np.asarray(sets, dtype=np.float32)))).numpy() - start

    kind = getattr(shapiq, estimator)
    options: dict[str, Any] = {"n": m, "random_state": seed}
    options |= {"max_order": 2} if order == 2 else {"index": "BV"} if index == "banzhaf" else {}
    found = kind(**options).approximate(budget, answers)
    return Worth(*_read(found, m, order), f"{estimator}, {budget:,} values")


def by_definition(table: Tensor, index: Index) -> Worth:
    """The same from the values of all sets ``[2^m]`` as the definitions have it, to hold others against.

    With ``Δ_i v(T) = v(T ∪ i) − v(T)`` and ``Δ_ij v(T) = Δ_i v(T ∪ j) − Δ_i v(T)``:

    - Shapley: ``Σ_T Δ_i v(T) / (m C(m − 1, |T|))``;
    - Banzhaf: ``Σ_T Δ_i v(T) / 2^(m − 1)``;
    - Shapley–Taylor of order 2: ``Δ_i v(∅)`` of one, and of a pair ``(2 / m) Σ_T Δ_ij v(T) / C(m − 1, |T|)``.

    Source: Shapley (1953); Banzhaf (1965); Sundararajan, Dhamdhere and Agarwal (2020), equation 2.
    """
    m = len(table).bit_length() - 1
    sizes = every_set(m).sum(1).long()
    chances = torch.tensor([1 / comb(m - 1, t) if t < m else 0.0 for t in range(m + 1)], dtype=torch.float64)
    places = torch.arange(2**m)
    without = [places[places >> i & 1 == 0] for i in range(m)]
    if index == "shapley_taylor":
        singles = table[2 ** torch.arange(m)] - table[0]
        pairs = torch.zeros(m, m, dtype=torch.float64)
        for i in range(m):
            for j in range(i):
                low = without[i][(without[i] >> j & 1) == 0]
                second = table[low + 2**i + 2**j] - table[low + 2**i] - table[low + 2**j] + table[low]
                pairs[i, j] = pairs[j, i] = 2 / m * (chances[sizes[low]] * second).sum()
        return Worth(singles, pairs, "by definition")
    share = chances / m if index == "shapley" else torch.full_like(chances, 2.0 ** -(m - 1))
    singles = torch.stack([(share[sizes[t]] * (table[t + 2**i] - table[t])).sum() for i, t in enumerate(without)])
    return Worth(singles, None, "by definition")


def leave_one_out(game: Game) -> Tensor:
    """``v(1) − v(1 − e_j)``, what the value loses without player j, ``[m]``."""
    found = game(torch.cat([torch.ones(1, game.m), 1 - torch.eye(game.m)]))
    return found[0] - found[1:]


def pointwise(table: Tensor) -> Tensor:
    """``v(T ∪ j) − v(T ∖ j)`` of every set T, from the values of all sets ``[2^m]``: ``[2^m, m]``.

    Leave one out is its last row; others say what a player is worth where some of the others are gone.
    """
    m = len(table).bit_length() - 1
    places, bits = torch.arange(2**m)[:, None], 2 ** torch.arange(m)
    return table[places | bits] - table[places & ~bits]


def deletion(game: Game, scores: Tensor) -> Tensor:
    """Values while players are taken away, those of the highest scores first, ``[K, m + 1]``.

    The lower the mean of a curve, the better its scores ``[K, m]`` know what matters.
    """
    rank = scores.argsort(1, descending=True).argsort(1)
    weights = (rank[:, None] >= torch.arange(game.m + 1)[:, None]).float()
    return game(weights.flatten(0, 1)).view(len(scores), game.m + 1)


def _read(found: Any, m: int, order: int) -> tuple[Tensor, Tensor | None]:
    singles, pairs = torch.zeros(m, dtype=torch.float64), torch.zeros(m, m, dtype=torch.float64)
    for s, value in found.dict_values.items():
        if len(s) == 1:
            singles[s[0]] = float(value)
        elif len(s) == 2:
            pairs[s[0], s[1]] = pairs[s[1], s[0]] = float(value)
    return singles, pairs if order == 2 else None


def _shapiq() -> Any:
    try:
        import shapiq
    except ImportError as error:
        raise BadInputError(
            f"values of games come from shapiq, which cannot be imported ({cause(error)}); "
            "pip install -e '.[peers]'."
        ) from error
    return shapiq
