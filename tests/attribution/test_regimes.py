import pytest
import torch

from kanlib.attribution.regimes import Trials, budgeted, held_out, in_order, of_size
from kanlib.masks import Split, every_removal
from kanlib.setups import Surrogate

KNOBS = Surrogate(hidden=[2], grid=3, decays=[0.1], restarts=1, steps=20)


def removals(m=4):
    """Every set of components but none, the response being how many are removed."""
    masks = every_removal(m)[1:]
    return Split(masks, -masks.sum(1)[None])


def sets(split):
    return [tuple(row) for row in split.masks.tolist()]


def sizes(split):
    return (split.masks != 0).sum(1).tolist()


def test_sizes_are_how_many_components_a_mask_changes():
    assert sorted(sizes(of_size(removals(), 2, 3))) == [2] * 6 + [3] * 4
    assert sizes(of_size(removals(), 4)) == [4]


def test_small_sets_come_first_and_each_once():
    whole = removals()
    ordered = in_order(whole, 2, seed=0)
    assert sorted(sets(ordered)) == sorted(sets(whole))
    assert sizes(ordered)[:10] == [1, 1, 2, 1, 2, 2, 1, 2, 2, 2]
    assert sorted(sizes(ordered)[10:]) == [3, 3, 3, 3, 4]


@pytest.mark.parametrize(("n_test", "tested"), [(2, 2), (100, 5)])
def test_no_set_is_both_fitted_and_tested_and_single_components_are_fitted(n_test, tested):
    fitted, tests = held_out(removals(), n_test, seed=0)
    assert len(tests.masks) == tested
    assert not set(sets(fitted)) & set(sets(tests))
    assert len(sets(fitted)) + tested == 15
    assert sizes(fitted)[:4] == [1] * 4
    assert 1 not in sizes(tests)


@pytest.mark.parametrize(("n", "fitted", "validation"), [(10, 8, 2), (100, 12, 3)])
def test_the_last_fifth_of_a_budget_validates(n, fitted, validation):
    first, last = budgeted(removals(), n)
    assert (len(first.masks), len(last.masks)) == (fitted, validation)
    assert sets(first) + sets(last) == sets(removals())[: fitted + validation]


def test_trials_score_every_method_on_every_test_and_keep_what_failed():
    whole = removals()
    fit, validation = budgeted(whole, 15)
    trials = Trials(KNOBS, whole)
    methods = ["linear", "leave_one_out", "pair_sums"]
    table = trials.scores(
        methods, "few", of_size(fit, 1, 1), validation, {"all": whole, "large": of_size(whole, 3)}
    )
    assert table.groupby(["method", "tested"]).size().to_dict() == {
        (name, tested): 1 for name in ("linear", "leave_one_out") for tested in ("all", "large")
    }
    assert set(table["budget"]) == {4 + 3}
    assert set(table["trained"]) == {"few"}
    # Responses add up, so that both are exact.
    assert (table["normalised_mse"] < 1e-12).all()
    assert set(trials.seconds) == {("few", 7, "linear"), ("few", 7, "leave_one_out")}
    ((name, where, what, why),) = trials.failed
    assert (name, where, what) == ("pair_sums", "few, 7 masks", "cannot be asked")
    assert why.startswith("PairSums needs")


def test_a_method_that_fails_on_an_example_keeps_its_row(monkeypatch):
    whole = removals()
    monkeypatch.setattr(
        "kanlib.attribution.baselines.Fourier2.found", lambda *_: (_ for _ in ()).throw(ValueError("no"))
    )
    trials = Trials(KNOBS, whole)
    table = trials.scores(["fourier"], "all", *budgeted(whole, 15), {"all": whole})
    assert table["pearson"].isna().tolist() == [True]
    assert trials.failed == [("fourier", "all, 15 masks", "failed on example 1", "ValueError: no")]


def test_few_masks_for_a_kan_are_no_warning_here(recwarn):
    whole = removals()
    Trials(KNOBS, whole).scores(["kan"], "all", *budgeted(whole, 15), {"all": whole})
    assert not [w for w in recwarn if "a KAN of" in str(w.message)]
    assert torch.equal(whole.masks, removals().masks)
