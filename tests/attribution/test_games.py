from itertools import permutations

import pytest
import torch

from kanlib.attribution.games import (
    Game,
    by_definition,
    deletion,
    every_set,
    leave_one_out,
    pointwise,
    worth,
)
from kanlib.errors import BadInputError
from kanlib.metrics import pearson
from tests.helpers import randn

INDICES = ("shapley", "banzhaf", "shapley_taylor")


def game(table):
    """The multilinear game through the values of all sets."""
    m = len(table).bit_length() - 1
    sets = every_set(m).double()

    def value(w):
        shares = (w[:, None] * sets + (1 - w[:, None]) * (1 - sets)).prod(2)
        return shares @ table

    return Game(value, [f"p{j}" for j in range(m)], 7, torch.float64)


def by_orders(table):
    """Shapley values and Shapley–Taylor interactions as means over all orders in which players come."""
    m = len(table).bit_length() - 1
    singles, pairs = torch.zeros(m, dtype=torch.float64), torch.zeros(m, m, dtype=torch.float64)
    orders = list(permutations(range(m)))
    for order in orders:
        come = 0
        for j in order:
            singles[j] += table[come + 2**j] - table[come]
            come += 2**j
        for i in range(m):
            for j in range(i):
                before = sum(2**k for k in order[: min(order.index(i), order.index(j))])
                gain = table[before + 2**i + 2**j] - table[before + 2**i] - table[before + 2**j] + table[before]
                pairs[i, j] += gain
                pairs[j, i] += gain
    return singles / len(orders), pairs / len(orders)


@pytest.mark.parametrize("m", [2, 3, 5])
def test_definitions_are_means_over_all_orders(m):
    table = randn(2**m, seed=m)
    singles, pairs = by_orders(table)
    torch.testing.assert_close(by_definition(table, "shapley").singles, singles)
    torch.testing.assert_close(by_definition(table, "shapley_taylor").pairs, pairs)
    torch.testing.assert_close(
        by_definition(table, "shapley_taylor").singles, table[2 ** torch.arange(m)] - table[0]
    )
    torch.testing.assert_close(by_definition(table, "banzhaf").singles, pointwise(table).mean(0))
    assert float(singles.sum()) == pytest.approx(float(table[-1] - table[0]))


@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("m", [2, 6])
def test_shapiq_agrees_with_the_definitions(index, m):
    pytest.importorskip("shapiq", reason="needs the extra peers")
    played = game(randn(2**m, seed=m))
    found, true = worth(played, index), by_definition(played.table(), index)
    assert found.method == "exact"
    torch.testing.assert_close(found.singles, true.singles)
    if true.pairs is not None:
        torch.testing.assert_close(found.pairs, true.pairs)


def additive(m):
    weights = torch.linspace(-1, 1, m, dtype=torch.float64)
    return Game(lambda w: w @ weights, [str(j) for j in range(m)], dtype=torch.float64), weights


@pytest.mark.parametrize("index", ["shapley", "banzhaf"])
def test_too_many_players_are_estimated_and_the_estimator_named(index):
    pytest.importorskip("shapiq", reason="needs the extra peers")
    played, weights = additive(17)
    found = worth(played, index, budget=600, seed=1)
    assert float(pearson(found.singles[None], weights[None])) > (1 - 1e-9 if index == "shapley" else 0.9)
    assert found.method == {"shapley": "KernelSHAP", "banzhaf": "SVARM"}[index] + ", 600 values"
    with pytest.raises(BadInputError, match="expected at most 16 players; estimate"):
        played.table()


def test_pairs_of_many_players_are_estimated_from_enough_values_or_not_at_all():
    pytest.importorskip("shapiq", reason="needs the extra peers")
    played, _ = additive(17)
    squared = Game(lambda w: played.value(w) + w[:, 0] * w[:, 1], played.players, dtype=torch.float64)
    found = worth(squared, "shapley_taylor", budget=2000)
    assert found.method == "PermutationSamplingSTII, 2,000 values"
    true = torch.zeros(17, 17, dtype=torch.float64)
    true[0, 1] = true[1, 0] = 1
    torch.testing.assert_close(found.pairs, true, atol=1e-9, rtol=0)
    with pytest.raises(BadInputError, match="a budget of 100 values was given for 17 players, expected 582"):
        worth(squared, "shapley_taylor", budget=100)


def test_derivatives_are_those_of_the_function():
    played, w = game(randn(16, seed=3)), torch.rand(9, 4, dtype=torch.float64)
    at = w.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(played.value(at).sum(), at)
    torch.testing.assert_close(played.gradients(w), slope)
    for row, found in zip(w, played.hessians(w), strict=True):
        true = torch.autograd.functional.hessian(lambda v: played.value(v[None])[0], row)
        torch.testing.assert_close(found, true)


def test_what_is_linear_has_no_second_derivative():
    played, _ = additive(5)
    assert not played.hessians(torch.rand(3, 5)).any()


def test_leave_one_out_is_the_last_of_the_effects_at_all_sets():
    table = randn(32)
    torch.testing.assert_close(leave_one_out(game(table)), pointwise(table)[-1])
    torch.testing.assert_close(pointwise(table)[0], table[2 ** torch.arange(5)] - table[0])


def test_deletion_takes_the_highest_first():
    played, weights = additive(3)
    curves = deletion(played, torch.stack([weights, -weights]))
    torch.testing.assert_close(curves[0], torch.tensor([0.0, -1, -1, 0], dtype=torch.float64))
    torch.testing.assert_close(curves[1], torch.tensor([0.0, 1, 1, 0], dtype=torch.float64))


def test_weights_of_other_players_and_values_that_are_no_numbers_are_refused():
    played, _ = additive(3)
    with pytest.raises(BadInputError, match=r"weights of shape \[2, 4\] were given to a game of 3 players"):
        played(torch.ones(2, 4))
    broken = Game(lambda w: torch.log(w[:, 0] - 1), ["a"])
    with pytest.raises(BadInputError, match="the value of row 2 is"):
        broken(torch.tensor([[3.0], [0.5]]))
