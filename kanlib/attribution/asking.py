"""Which masks to ask about next: those that tell most about the coefficients of a Bayesian surrogate.

The surrogate is ``g = Σ_S β_S χ_S`` over sets S of up to two players, ``χ_S = ∏_{j∈S} (2 w_j − 1)``, its
coefficients ``β ~ N(0, I)`` beforehand, answers with noise of variance ``ρ``. What is known of β then depends on
which masks were asked, not on the answers, so that masks can be chosen before the network is asked at all.
"""

import torch
from torch import Tensor

from kanlib.attribution.games import every_set
from kanlib.errors import BadInputError
from kanlib.masks import subsets

_NOISE = 0.1  # ρ


def terms(weights: Tensor) -> Tensor:
    """``χ_S`` of weights ``[N, m]``, the constant, singles and pairs: ``[N, 1 + m + m (m − 1) / 2]`` (fp64)."""
    signs, m = 2 * weights.double() - 1, weights.shape[1]
    first, other = torch.triu_indices(m, m, 1)
    return torch.cat([torch.ones(len(signs), 1, dtype=torch.float64), signs, signs[:, first] * signs[:, other]], 1)


def informative(pool: Tensor, n: int, noise: float = _NOISE) -> Tensor:
    """Places in ``pool`` of n weights ``[P, m]`` that are asked one after the other, ``[n]``.

    Each is the one with the largest information about β, ``½ log(1 + x' Σ x / ρ)``, given those before it, Σ
    being the covariance of β that they leave. None is asked twice.

    Args:
        pool: to choose from.
        n: how many.
        noise: ρ.

    Raises:
        BadInputError: the pool has fewer.

    Source: MacKay (1992), equation 8, whose most informative point this is.
    """
    if not 0 < n <= len(pool):
        raise BadInputError(f"{n} masks were to be chosen from {len(pool)}, expected 1 to {len(pool)}; change n.")
    x = terms(pool)
    covariance, spread = torch.eye(x.shape[1], dtype=x.dtype), x.square().sum(1)
    chosen: list[int] = []
    for _ in range(n):
        spread[chosen] = -torch.inf
        chosen.append(int(spread.argmax()))
        along = covariance @ x[chosen[-1]]
        along = along / (noise + x[chosen[-1]] @ along).sqrt()
        covariance = covariance - along[:, None] * along
        spread = spread - (x @ along).square()
    return torch.tensor(chosen)


def expected(weights: Tensor, values: Tensor, noise: float = _NOISE) -> Tensor:
    """The mean of β after answers ``[N]`` to weights ``[N, m]``: ridge regression in units of their spread.

    Args:
        weights: that were asked.
        values: the answers.
        noise: ρ.
    """
    x = terms(weights)
    # The constant is no coefficient of anybody: what is left of it after the mean is as small as the others.
    centre, scale = values.double().mean(), values.double().std().clamp_min(1e-12)
    y = (values.double() - centre) / scale
    found = torch.linalg.solve(x.T @ x + noise * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y) * scale
    found[0] += centre
    return found


def true_coefficients(table: Tensor) -> Tensor:
    """β of the values of all sets ``[2^m]``: ``mean(v χ_S)``, as the χ are orthogonal over them."""
    return terms(every_set(len(table).bit_length() - 1)).T @ table / len(table)


def coefficient_error(found: Tensor, true: Tensor) -> float:
    """Squared error of the coefficients of players and pairs, over their squared size."""
    return float((found[1:] - true[1:]).square().sum() / true[1:].square().sum())


def trial(table: Tensor, n: int, pool: Tensor) -> tuple[float, float]:
    """Errors of the coefficients by the n most informative of the sets in ``pool``, and by its first n.

    Args:
        table: values of all sets ``[2^m]``, by which the truth is known.
        n: sets whose values are asked for.
        pool: places of sets in the table, in a random order.
    """
    sets, true = every_set(len(table).bit_length() - 1), true_coefficients(table)
    chosen = pool[informative(sets[pool], n)]
    one, other = (coefficient_error(expected(sets[places], table[places]), true) for places in (chosen, pool[:n]))
    return one, other


def n_coefficients(m: int) -> int:
    """How many there are for m players, the constant not counted."""
    return len(subsets(m, min(2, m)))
