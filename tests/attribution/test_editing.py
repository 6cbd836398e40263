from itertools import combinations
from math import sqrt

import pytest
import torch

from kanlib.attribution.coar import Coar
from kanlib.attribution.editing import edit, edit_by_pairs, misclassified, of_class, scores, screen
from kanlib.attribution.pairs import Pairs
from kanlib.errors import BadInputError
from kanlib.masks import Split, random_removals
from tests.helpers import randn


@pytest.mark.parametrize("targets", [[4], [0, 5, 2]])
def test_scores_are_those_of_a_loop(targets):
    w, references = randn(9, 6), [1, 3, 8, 7]
    expected = []
    for j in range(6):
        t, r = ([float(w[e, j]) for e in rows] for rows in (targets, references))
        mean_t, mean_r = sum(t) / len(t), sum(r) / len(r)
        var_t = sum((v - mean_t) ** 2 for v in t) / len(t)
        var_r = sum((v - mean_r) ** 2 for v in r) / len(r)
        expected.append((mean_t - mean_r) / sqrt(var_t / len(t) + var_r / len(r)))
    torch.testing.assert_close(scores(w, targets, references), torch.tensor(expected, dtype=torch.float64))


def test_a_component_that_does_nothing_has_the_score_0():
    w = randn(5, 3)
    w[:, 1] = 0
    assert scores(w, [0], [1, 2, 3])[1] == 0


def test_the_lowest_scores_raise_an_output_and_the_highest_lower_it():
    w, t, r = randn(9, 6), [0, 1], [2, 3, 4]
    order = scores(w, t, r).argsort().tolist()
    up, down = edit(w, t, r, 2), edit(w, t, r, 2, "lower")
    assert up.removed == tuple(order[:2])
    assert down.removed == tuple(order[::-1][:2])
    assert up.targets == pytest.approx(-float(w[t][:, order[:2]].sum(1).mean()))
    assert up.references == pytest.approx(-float(w[r][:, order[:2]].sum(1).mean()))
    assert up.mask(6).tolist() == [[-1.0 if j in order[:2] else 0.0 for j in range(6)]]
    assert screen(scores(w, t, r), 3, "lower").tolist() == order[::-1][:3]


def model(s, m=None, seed=0, scale=1.0):
    """A model of pairs that is given, not fitted; the screened are the last s of m."""
    m = m or s
    found = Pairs(torch.arange(m - s, m))
    q = scale * randn(2, s, s, seed=seed + 1)
    found.weights, found.pairs = randn(2, m, seed=seed), (q + q.mT) * (1 - torch.eye(s))
    found.constant = torch.zeros(2).double()
    return found


def worth(found, removed, sign, trade_off):
    """By the model's own predictions."""
    mask = torch.zeros(1, found.weights.shape[1])
    mask[0, list(removed)] = -1
    target, reference = (found.predict(mask) - found.predict(torch.zeros_like(mask)))[:, 0].tolist()
    return sign * target - trade_off * abs(reference), target, reference


@pytest.mark.parametrize("objective", ["raise", "lower"])
@pytest.mark.parametrize("k", [1, 2, 4, 9])
@pytest.mark.parametrize("seed", [0, 10])
def test_integer_programming_finds_the_best_of_all_sets(objective, k, seed):
    found, sign = model(9, m=11, seed=seed), 1 if objective == "raise" else -1
    best = max(worth(found, [2 + j for j in c], sign, 0.7)[0] for c in combinations(range(9), k))
    exact, greedy = (edit_by_pairs(found, k, objective, trade_off=0.7, exact=e) for e in (True, False))
    value, target, reference = worth(found, exact.removed, sign, 0.7)
    assert len(set(exact.removed)) == k
    assert value == pytest.approx(best, abs=1e-6)
    assert (exact.targets, exact.references) == pytest.approx((target, reference))
    assert worth(found, greedy.removed, sign, 0.7)[0] <= best + 1e-9
    assert greedy.gap is None
    assert exact.gap == pytest.approx(0, abs=1e-5)


def test_without_time_the_greedy_set_stands():
    found = model(30, scale=3.0)
    hurried, greedy = edit_by_pairs(found, 10, seconds=1e-3), edit_by_pairs(found, 10, exact=False)
    assert worth(found, hurried.removed, 1, 1.0)[0] >= worth(found, greedy.removed, 1, 1.0)[0]


def synthetic(n, split):
    """Two components that only together raise the target, and one that does so a little alone."""
    masks = random_removals(n, 20, 0.2, 0, split)
    removed = -masks.double()
    target = 3 * removed[:, 4] * removed[:, 11] - removed[:, 4] - removed[:, 11] + 0.3 * removed[:, 7]
    reference = 0.1 * removed @ randn(20, seed=5)
    return Split(masks, torch.stack([target, reference]) + 0.1 * randn(2, n, seed=n))


@pytest.mark.parametrize("exact", [True, False])
def test_a_pair_that_only_works_together_is_found_by_second_order_alone(exact):
    fit, validation = synthetic(1500, "fit"), synthetic(400, "validation")
    coar = Coar().fit(fit, validation)
    assert not {4, 11} & set(edit(coar.weights, [0], [1], 2).removed)
    found = Pairs(torch.arange(20)).fit(fit, validation)
    chosen = edit_by_pairs(found, 2, trade_off=0.0, exact=exact)
    if exact:
        assert set(chosen.removed) == {4, 11}
        assert chosen.targets == pytest.approx(1, abs=0.3)
    else:
        # One after the other, the first of the two never pays.
        assert 7 in chosen.removed


W = torch.ones(4, 3).double()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: edit(W, [0], [1], 4), "4 of 3 components were asked for, expected 1 to 3; set another number"),
        (lambda: edit(W, [0], [1], 0), "0 of 3 components were asked for, expected 1 to 3"),
        (lambda: screen(W[0], 4), "4 of 3 components were asked for"),
        (lambda: edit(W, [], [1], 1), "the target set is empty, expected an example at least"),
        (lambda: edit(W, [1], [], 1), "the reference set is empty, expected an example at least"),
        (lambda: edit(W, [0, 1], [1, 0], 1), "2 of 2 target examples are the reference set itself, expected none"),
        (
            lambda: edit(W, [0, 1], [1, 2], 1),
            "1 of 2 target examples are also in the reference set, expected none",
        ),
        (lambda: edit(W, [4], [1], 1), "the target set names example 4, expected 0 to 3"),
        (lambda: edit(W, [0], [-1], 1), "the reference set names example -1, expected 0 to 3"),
        (lambda: edit_by_pairs(model(4), 5), "5 of 4 screened components were asked for, expected 1 to 4"),
        (lambda: misclassified(torch.ones(5), 1), "1 misclassified images were asked for, expected 1 to 0"),
        (lambda: of_class(torch.zeros(5), 2, 1), "1 images of class 2 were asked for, expected 1 to 0"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, sentence):
    with pytest.raises(BadInputError) as error:
        call()
    assert sentence in str(error.value)
    assert str(error.value).count(". ") == 0


def test_a_model_of_other_rows_is_refused():
    found = model(4)
    found.weights = found.weights[:1]
    with pytest.raises(BadInputError, match="the model of pairs has 1 rows, expected two"):
        edit_by_pairs(found, 2)


def test_examples_are_drawn_by_the_seed():
    margins = randn(100)
    some = misclassified(margins, 10, seed=1)
    assert (margins[some] < 0).all()
    assert len(some.unique()) == 10
    assert torch.equal(some, misclassified(margins, 10, seed=1))
    assert not torch.equal(some, misclassified(margins, 10, seed=2))
    labels = torch.arange(100) % 10
    assert (labels[of_class(labels, 3, 10)] == 3).all()
