import sys

import numpy as np
import pytest
import torch

from kanlib import metrics
from kanlib.attribution import SURROGATES
from kanlib.attribution.baselines import BASELINES, KernelShapIQ, PairSums, ProxySpex, SetFunction, Spex
from kanlib.errors import BadInputError
from kanlib.masks import Split, every_removal, gaussian, subsets
from kanlib.setups import Evaluation, Surrogate

KNOBS = Surrogate()
# SPEX asks for more than all sets of six components, and ProxySPEX's trees want more masks than there are.
ORDER_2 = {"pair_sums": 1e-12, "fourier": 1e-5, "kernelshapiq": 1e-8}


def set_function(m, order, n_terms=None, seed=0):
    """Two examples with random terms on sets of at most ``order`` components, ``n_terms`` of them."""
    source = torch.Generator().manual_seed(seed)
    index = subsets(m, order)
    terms = torch.randn(2, len(index), generator=source, dtype=torch.float64)
    if n_terms:
        terms[:, torch.randperm(len(index), generator=source)[n_terms:]] = 0

    def value(masks):
        return terms @ torch.stack([(-masks[:, list(s)].double()).prod(1) for s in index])

    return value


def splits(m, order, sizes, n_terms=None):
    """All removals, and fit and validation masks among them that are not the empty one."""
    value = set_function(m, order, n_terms)
    every = every_removal(m)
    table = Split(every, value(every))
    return table, *table.drawn(torch.arange(1, len(every))).apart(sizes, 0)


def test_a_setup_may_ask_for_every_method_and_no_other():
    schema = Evaluation.model_json_schema()["properties"]["methods"]["items"]["enum"]
    assert schema == [*SURROGATES, *BASELINES]
    assert set(schema) <= metrics.TITLES.keys()


@pytest.mark.parametrize("name", ORDER_2)
def test_a_function_of_order_two_is_predicted_on_all_its_subsets(name, same_global_rng):
    table, fit, validation = splits(6, 2, [50, 13])
    found = BASELINES[name](KNOBS).fit(fit, validation)
    assert found.failed == {}
    torch.testing.assert_close(found.predict(table.masks), table.responses, rtol=0, atol=ORDER_2[name])


@pytest.mark.parametrize("name", ["fourier", "kernelshapiq"])
def test_it_is_from_some_of_the_subsets_too(name):
    table, fit, validation = splits(6, 2, [36, 13])
    found = BASELINES[name](KNOBS).fit(fit, validation)
    torch.testing.assert_close(found.predict(table.masks), table.responses, rtol=0, atol=1e-5)


def test_proxyspex_finds_a_sparse_function():
    table, fit, validation = splits(8, 2, [160, 40], n_terms=12)
    found = ProxySpex(KNOBS).fit(fit, validation)
    assert found.failed == {}
    assert (metrics.pearson(found.predict(table.masks), table.responses) > 0.95).all()


@pytest.mark.slow
def test_spex_finds_a_sparse_function_by_what_it_asks():
    """Its codes are compiled first, which takes longer than all else here."""
    table, threads = splits(8, 2, [1], n_terms=12)[0].of(slice(1)), torch.get_num_threads()
    found = Spex(KNOBS, budget=264).fit(table, table.part(0))
    assert found.failed == {}
    assert torch.get_num_threads() == threads
    assert metrics.pearson(found.predict(table.masks), table.responses) > 0.95
    assert len(found.asked) <= 256
    assert found.asked.unique().tolist() == [-1, 0]


def test_leave_one_out_is_exact_where_effects_add_up():
    table, fit, validation = splits(5, 1, [20, 11])
    found = BASELINES["leave_one_out"](KNOBS).fit(fit, validation)
    torch.testing.assert_close(found.predict(table.masks), table.responses, rtol=0, atol=1e-12)
    # At halves too: it is linear.
    torch.testing.assert_close(found.predict(table.masks / 2), table.responses / 2, rtol=0, atol=1e-12)


def test_sums_of_pairs_are_what_inclusion_and_exclusion_gives():
    table, fit, validation = splits(4, 3, [10, 5])
    found = PairSums(KNOBS).fit(fit, validation)
    effect = {tuple((-row).nonzero().flatten().tolist()): y for row, y in zip(*_rows(table), strict=True)}
    for s in subsets(4, 2):
        expected = effect[s] - (sum(effect[j,] for j in s) if len(s) == 2 else 0)
        assert found.terms[0][s] == pytest.approx(expected, abs=1e-12)


def _rows(table):
    return table.masks, table.responses[0].tolist()


@pytest.mark.parametrize("name", sorted(BASELINES.keys() - {"spex", "proxyspex"}))
def test_every_method_says_zero_at_rest(name):
    table, fit, validation = splits(5, 3, [24, 7])
    shifted = [Split(s.masks, s.responses + 5) for s in (fit, validation)]
    found = BASELINES[name](KNOBS).fit(*shifted)
    assert (found.predict(table.masks[:1]) == 0).all()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("leave_one_out", r"LeaveOneOut needs the removal of every set of up to 1 components, .*; add them\."),
        ("pair_sums", r"PairSums needs the removal of every set of up to 2 components, .*; add them\."),
        ("spex", r"SPEX chooses its masks itself and needs the responses to all 32 removals .* 8 are there;"),
    ],
)
def test_fewer_masks_than_a_method_needs_are_refused(name, sentence):
    _, fit, validation = splits(5, 2, [5, 3])
    with pytest.raises(BadInputError, match=sentence):
        BASELINES[name](KNOBS).fit(fit, validation)


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_a_model_of_removals_refuses_other_masks(name):
    masks = gaussian(20, 3, 1.0, 0, "fit")
    split = Split(masks, masks.T[:2])
    with pytest.raises(
        BadInputError, match=r"models removals, but some masks scale by something else than 0 and 1"
    ):
        BASELINES[name](KNOBS).fit(split, split)


def test_a_method_that_fails_on_an_example_says_nan_there_and_why():
    class Half(SetFunction):
        def found(self, data, validation):
            if data.responses.mean() > 0:
                raise ValueError("too good")
            return {(0,): 1.0}

    masks = every_removal(2)
    split = Split(masks, torch.stack([masks[:, 0], -masks[:, 0]]))
    found = Half(KNOBS).fit(split, split)
    assert found.failed == {2: "ValueError: too good"}
    predicted = found.predict(masks)
    assert predicted[0].tolist() == [0, 1, 0, 1]
    assert predicted[1].isnan().all()
    table = metrics.scores({"half": predicted}, split.responses).rename(columns={"surrogate": "method"})
    assert metrics.means(table, "mse", rows=["method"], columns="example").iloc[0, 1] == "failed on 1 of 1"


@pytest.mark.slow
def test_spex_reports_too_small_a_budget_as_failed():
    table, *_ = splits(6, 2, [1])
    found = Spex(KNOBS, budget=64).fit(table, table.part(0))
    assert set(found.failed) == {1, 2}
    assert "Insufficient budget" in found.failed[1]
    assert found.predict(table.masks).isnan().all()


def test_without_shapiq_one_sentence_says_how_to_have_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "shapiq", None)
    _, fit, validation = splits(4, 2, [10, 5])
    with pytest.raises(BadInputError, match=r"come from shapiq, which cannot be imported .*'\.\[peers\]'"):
        KernelShapIQ(KNOBS).fit(fit, validation)


def test_kernelshapiq_is_shapiqs_own_on_all_subsets():
    """With all subsets, and so nothing to sample, it is what the package says by itself."""
    shapiq = pytest.importorskip("shapiq")
    table, fit, validation = splits(5, 3, [24, 7])
    found = KernelShapIQ(KNOBS).fit(fit, validation)
    place = {tuple((-row).bool().tolist()): float(y) for row, y in zip(*_rows(table), strict=True)}

    def game(coalitions):
        return np.array([place[tuple(row)] for row in coalitions.tolist()])

    own = [
        kind(5, 2, "k-SII", random_state=0).approximate(32, game).dict_values
        for kind in (shapiq.KernelSHAPIQ, shapiq.InconsistentKernelSHAPIQ)
    ]
    assert any(
        all(found.terms[0][s] == pytest.approx(value, abs=1e-3) for s, value in values.items() if s)
        for values in own
    )
