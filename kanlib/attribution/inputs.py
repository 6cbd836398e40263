"""What the inputs of a smooth function are worth to it, by its derivatives: at a point, along a path, in pairs.

A function ``v(w)`` of weights ``w`` ``[m]`` goes from ``w = 0``, where nobody is there, to ``w = 1``. All of these
have one integral along the straight way ``w = s 1``; it is summed over the midpoints of equal steps of t with
``s = t²``, which come close where v bends near 0. A function is a :class:`kanlib.attribution.games.Game`, whatever
its players are.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kanlib.attribution.games import Game
from kanlib.errors import BadInputError


@dataclass(frozen=True)
class Path:
    """What integrals along the straight way from 0 to 1 come to.

    Attributes:
        integrated: integrated gradients ``IG_j = ∫₀¹ ∂_j v(s 1) ds`` ``[m]``, which add up to ``v(1) − v(0)``.
        sampled: path-sampled integrated gradients ``∫₀¹ s ∂_j v(s 1) ds`` ``[m]``: the mean of IG from baselines
            ``α 1``, α uniform, which does not add up to it.
        left: ``Σ_j IG_j − (v(1) − v(0))``, what the sum of steps leaves of completeness.
    """

    integrated: Tensor
    sampled: Tensor
    left: float


def along(game: Game, steps: int = 300) -> Path:
    """Integrated and path-sampled integrated gradients of every player.

    Args:
        game: whose value is differentiated.
        steps: of the sum.

    Raises:
        BadInputError: there is no step.

    Source: Sundararajan, Taly and Yan (2017), equation 1; path-sampled: arXiv:2604.14338 (2026), whose mean over
    baselines is the integral with the weight ``P(α ≤ s) = s``.
    """
    place, share = _steps(steps)
    slopes = game.gradients(place[:, None].expand(-1, game.m))
    integrated = share @ slopes
    return Path(integrated, (share * place) @ slopes, float(integrated.sum()) - game.whole())


def gradient(game: Game) -> Tensor:
    """``∂_j v(1)``, ``[m]``: what the value loses a share of player j at a time, at first."""
    return game.gradients(torch.ones(1, game.m))[0]


def second(game: Game) -> Tensor:
    """``∂_i ∂_j v(1)``, ``[m, m]``: the mixed partials where all players are there."""
    return game.hessians(torch.ones(1, game.m))[0]


def integrated_hessians(game: Game, steps: int = 300) -> Tensor:
    """Integrated Hessians ``Γ`` ``[m, m]``: integrated gradients of integrated gradients.

    With u the product of two uniform places, whose density is ``−ln u``::

        Γ_ij = ∫₀¹ u (−ln u) ∂_i ∂_j v(u 1) du + [i = j] ∫₀¹ (−ln u) ∂_i v(u 1) du

    A row adds up to that player's integrated gradient, and all of them to ``v(1) − v(0)``.

    Source: Janizek, Sturmfels and Lee (2021), equations 5 and 6, whose double integral this is.
    """
    place, share = _steps(steps)
    at = place[:, None].expand(-1, game.m)
    density = -share * place.log()
    both = torch.einsum("s,sij->ij", density * place, game.hessians(at))
    return both + (density @ game.gradients(at)).diag()


def _steps(steps: int) -> tuple[Tensor, Tensor]:
    """Places s in [0, 1] and what each has of the whole way, ``[steps]`` each."""
    if steps < 1:
        raise BadInputError(f"a path of {steps} steps was asked for, expected 1 at least; set path_steps.")
    t = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
    return t.square(), 2 * t / steps
