"""Three techniques, rows of a table for any game: perturbation, gradients, and functions fitted to the answers.

A row is called the same for features, data and components; features know its single values as occlusion, LIME and
integrated gradients, data as retraining, datamodels and influence, components as ablation, COAR and conductance of
gates. Source of the comparison: Zhang et al. (2025).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kanlib import metrics
from kanlib.attribution import inputs
from kanlib.attribution.coar import Coar
from kanlib.attribution.coefficients import of_kan, pair_matrix
from kanlib.attribution.games import Game, Index, leave_one_out, worth
from kanlib.attribution.surrogates import Kan, Linear
from kanlib.errors import BadInputError
from kanlib.machine import generator
from kanlib.masks import Split, random_removals
from kanlib.setups import Surrogate, Views

#: Row → which of the three techniques it is of. Rows of pairs say so.
ROWS = {
    "leave one out": "perturbation",
    "Shapley": "perturbation",
    "Banzhaf": "perturbation",
    "Shapley–Taylor, pairs": "perturbation",
    "gradient": "gradients",
    "integrated gradients": "gradients",
    "path-sampled IG": "gradients",
    "mixed partials, pairs": "gradients",
    "Integrated Hessians, pairs": "gradients",
    "TracIn": "gradients",
    "linear, on sets": "fitted functions",
    "linear, on weights": "fitted functions",
    "KAN": "fitted functions",
    "KAN, pairs": "fitted functions",
}


@dataclass(frozen=True)
class Cell:
    """One method on one view.

    Attributes:
        values: ``[m]``, or ``[m, m]`` of pairs; ``None`` where there is nothing to compute.
        note: how it was computed, or the reason why it was not.
        score: of a fitted function, Pearson's r with answers to masks that it was not fitted to.
    """

    values: Tensor | None
    note: str
    score: float = float("nan")


def by_perturbation(game: Game, p: Views, table: Tensor | None = None) -> dict[str, Cell]:
    """Players are taken away: leave one out, Shapley and Banzhaf values, Shapley–Taylor interactions.

    Args:
        game: see :class:`kanlib.attribution.games.Game`.
        p: the knobs.
        table: values of all sets, where they are at hand.
    """
    if table is None and game.countable:
        table = game.table()
    singles: dict[str, Index] = {"Shapley": "shapley", "Banzhaf": "banzhaf"}
    rows = {"leave one out": Cell(leave_one_out(game), "exact")}
    for row, index in singles.items():
        found = worth(game, index, budget=p.budget, seed=p.seed, table=table)
        rows[row] = Cell(found.singles, found.method)
    pairs = worth(game, "shapley_taylor", budget=p.pair_budget, seed=p.seed, table=table)
    return rows | {"Shapley–Taylor, pairs": Cell(pairs.pairs, pairs.method)}


def by_gradients(game: Game, p: Views, smooth: Game | None = None) -> dict[str, Cell]:
    """Weights change a little: gradients where all are there and on the way there, and second derivatives.

    Args:
        game: see :class:`kanlib.attribution.games.Game`.
        p: the knobs.
        smooth: one that can be differentiated twice, where ``game`` is made of straight pieces; integrated second
            derivatives are of it, and so are those at rest where the game's own are 0.
    """
    path, twice = inputs.along(game, p.path_steps), smooth or game
    at_rest, note = inputs.second(game), "exact"
    if smooth is not None and not bool(at_rest.any()):
        at_rest, note = inputs.second(smooth), "softplus for ReLU"
    off = ~torch.eye(game.m, dtype=torch.bool)
    bent = inputs.integrated_hessians(twice, p.hessian_steps)
    left = "softplus for ReLU" if smooth is not None else f"{p.hessian_steps:,} steps"
    return {
        "gradient": Cell(inputs.gradient(game), "exact"),
        "integrated gradients": Cell(path.integrated, f"{p.path_steps:,} steps"),
        "path-sampled IG": Cell(path.sampled, f"{p.path_steps:,} steps"),
        "mixed partials, pairs": Cell(at_rest * off, note),
        "Integrated Hessians, pairs": Cell(bent * off, left),
    }


def by_fits(game: Game, p: Views) -> dict[str, Cell]:
    """A function is fitted to answers: a linear one to removals, a KAN to weights from 0 to 2.

    The linear one is what LIME, datamodels and COAR fit, here without their weights of masks; of the KAN the rows
    are its derivatives where all are there; a linear function on the same weights stands beside it.
    """
    removed, scaled = splits(game, p, scaled=False), splits(game, p, scaled=True)
    linear = Coar().fit(removed[0], removed[1])
    knobs = Surrogate(hidden=p.hidden, grid=p.grid, steps=p.steps, restarts=1, seed=p.seed, threads=p.threads)
    kan, peer = Kan(knobs).fit(scaled[0], scaled[1]), Linear(knobs).fit(scaled[0], scaled[1])
    index, values = of_kan(kan.kan, min(2, game.m))
    score, of_peer = (
        float(metrics.pearson(one.predict(scaled[2].masks), scaled[2].responses)[0]) for one in (kan, peer)
    )
    first = Cell(values[0, : game.m], f"r = {score:.3f}", score)
    of_linear = float(metrics.pearson(linear.predict(removed[2].masks), removed[2].responses)[0])
    return {
        "linear, on sets": Cell(linear.weights[0], f"r = {of_linear:.3f}", of_linear),
        "linear, on weights": Cell(torch.from_numpy(peer.model.coef_[0]), f"r = {of_peer:.3f}", of_peer),
        "KAN": first,
        "KAN, pairs": replace(first, values=pair_matrix(index, values[0], game.m)),
    }


def splits(game: Game, p: Views, *, scaled: bool) -> list[Split]:
    """Masks and answers to fit, to choose and to score by: removals of half of the players, or scaled ones.

    Scaled masks are σ uniform from −1 to 1, so that weights go from 0 to 2.
    """
    rest, found = game(torch.ones(1, game.m)), []
    for name, n in (("fit", p.n_fit), ("validation", p.n_validation), ("test", p.n_test)):
        drawn = 2 * torch.rand(n, game.m, generator=generator(p.seed, "masks", "views", name)) - 1
        masks = drawn if scaled else random_removals(n, game.m, 0.5, p.seed, f"views {name}")
        answers = (game(1 + masks) - rest)[None].float()
        if float(answers.std()) == 0:
            raise BadInputError(
                f"the value of the game of {game.m} players does not move with them, expected one that does; "
                "choose another image or other components."
            )
        found.append(Split(masks, answers, 3**-0.5))
    return found


def agreement(cells: Mapping[str, Cell], *, pairs: bool = False) -> tuple[list[str], Tensor]:
    """Rows of a view and Spearman's rank correlation of each two, ``[k, k]``, of players or of pairs."""
    rows = [row for row, cell in cells.items() if cell.values is not None and (cell.values.ndim == 2) == pairs]
    first = cells[rows[0]].values if rows else None
    m = 0 if first is None else len(first)
    upper = tuple(torch.triu_indices(m, m, 1))
    known = [values for row in rows if (values := cells[row].values) is not None]
    stacked, k = torch.stack([values[upper] if pairs else values for values in known]), len(rows)
    found = metrics.spearman(stacked.repeat_interleave(k, 0), stacked.repeat(k, 1))
    return rows, found.view(k, k)
