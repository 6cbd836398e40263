from itertools import combinations
from math import comb

import numpy as np
import pytest
import torch
from scipy import stats

from kanlib.errors import BadInputError
from kanlib.masks import (
    Split,
    ablations,
    every_removal,
    gaussian,
    one_at_a_time,
    pair_grid,
    random_removals,
    removals,
    subsets,
)
from kanlib.store import Artifact


@pytest.mark.parametrize("m", [1, 4, 6])
def test_subsets_come_by_size_then_in_lexicographic_order(m):
    for k in range(1, min(m, 4) + 1):
        found = subsets(m, k)
        assert found == sorted(found, key=lambda s: (len(s), s))
        assert len(set(found)) == len(found) == sum(comb(m, r) for r in range(1, k + 1))
        assert set(found) == {s for r in range(1, k + 1) for s in combinations(range(m), r)}


def test_masks_are_gaussian_with_the_asked_scale(same_global_rng):
    sigma = gaussian(4000, 3, 0.5, 0, "fit")
    assert (sigma.shape, sigma.dtype) == ((4000, 3), torch.float32)
    assert stats.kstest(sigma.flatten().numpy() / 0.5, "norm").pvalue > 0.01
    assert np.abs(np.corrcoef(sigma.T.numpy()) - np.eye(3)).max() < 0.05


def test_the_scale_only_scales():
    torch.testing.assert_close(gaussian(9, 3, 2.5, 0, "fit"), 2.5 * gaussian(9, 3, 1.0, 0, "fit"))


def test_each_split_and_seed_has_masks_of_its_own():
    streams = [
        gaussian(20, 4, 1.0, seed, split)
        for seed in (0, 1)
        for split in ("fit", "validation", "test", "reference")
    ]
    rows = {tuple(row) for stream in streams for row in stream.tolist()}
    assert len(rows) == 8 * 20


def test_masks_are_drawn_again_alike():
    assert torch.equal(gaussian(20, 4, 1.0, 0, "fit"), gaussian(20, 4, 1.0, 0, "fit"))


@pytest.mark.parametrize(("n", "more", "m"), [(16, 32, 8), (10, 11, 3), (1, 2, 5), (500, 501, 9), (3, 1000, 7)])
def test_growing_a_split_appends_to_it(n, more, m):
    assert torch.equal(gaussian(more, m, 1.0, 0, "fit")[:n], gaussian(n, m, 1.0, 0, "fit"))


def test_one_component_is_scaled_at_a_time():
    sweep = one_at_a_time(3, reach=2.0, points=5)
    assert sweep.shape == (15, 3)
    assert (sweep != 0).sum(1).max() == 1
    assert sweep[:5, 0].tolist() == [-2, -1, 0, 1, 2]


def test_a_grid_scales_two_components_and_no_others():
    sigma = pair_grid(["a", "b", "c"], ["c", "a"], reach=1.0, points=3)
    assert sigma.tolist() == [[b, 0, a] for a in (-1, 0, 1) for b in (-1, 0, 1)]
    # Removal and rest are points of it, to the bit.
    steps = pair_grid(["a", "b"], ["a", "b"])[:, 0].unique()
    assert {-1.0, 0.0} < set(steps.tolist())


@pytest.mark.parametrize("pair", [["a"], ["a", "a"], ["a", "d"], ["a", "b", "c"], []])
def test_a_grid_is_over_two_of_the_components(pair):
    with pytest.raises(BadInputError, match=r"grid is .*, expected the names of two of the 3 components"):
        pair_grid(["a", "b", "c"], pair)


def test_removals_switch_off_what_they_name():
    assert removals(3, [(0,), (0, 2), ()]).tolist() == [[-1, 0, 0], [-1, 0, -1], [0, 0, 0]]


def test_ablations_begin_with_each_component_and_each_pair_and_go_on_at_random():
    masks = ablations(60, 4, 0)
    assert torch.equal(masks[:10], removals(4, subsets(4, 2)))
    assert masks.unique().tolist() == [-1, 0]
    assert ablations(5, 1, 0).shape == (5, 1)
    # Shares are uniform: sets of every size occur.
    assert set((-masks[10:]).sum(1).int().tolist()) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("m", [1, 3, 12])
def test_every_removal_is_there_once_and_that_of_nothing_first(m):
    masks = every_removal(m)
    assert masks.shape == (2**m, m)
    assert len(masks.unique(dim=0)) == 2**m
    assert masks.unique().tolist() == [-1, 0]
    assert not masks[0].any()


def test_more_than_twelve_components_have_too_many_sets():
    with pytest.raises(BadInputError, match=r"all sets of 13 components are 8,192, expected at most 12"):
        every_removal(13)


def test_random_removals_remove_each_component_as_often_as_asked(same_global_rng):
    masks = random_removals(4000, 3, 0.2, 0, "share")
    assert masks.unique().tolist() == [-1, 0]
    assert (masks.mean(0) + 0.2).abs().max() < 0.03
    assert torch.equal(masks, random_removals(4000, 3, 0.2, 0, "share"))
    assert not torch.equal(masks, random_removals(4000, 3, 0.2, 1, "share"))


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_a_share_is_between_none_and_all(share):
    with pytest.raises(BadInputError, match=r"share is .*, expected more than 0 and less than 1; set share"):
        random_removals(5, 3, share, 0, "share")


def of_masks(masks):
    """A split whose responses number the masks."""
    return Split(masks, torch.arange(len(masks)).expand(2, -1).float())


def test_distinct_masks_stand_where_they_first_stood():
    split = of_masks(removals(3, [(1,), (0,), (1,), (0, 2), (0,)]))
    once = split.distinct()
    assert once.responses[0].tolist() == [0, 1, 3]
    assert torch.equal(once.masks, split.masks[[0, 1, 3]])
    assert len(of_masks(torch.zeros(0, 3)).distinct().masks) == 0


def test_no_mask_is_in_two_parts():
    split = of_masks(torch.cat([every_removal(5), every_removal(5)]))
    parts = split.apart([20, 4, 8], 0)
    assert [len(part.masks) for part in parts] == [20, 4, 8]
    rows = [tuple(row) for part in parts for row in part.masks.tolist()]
    assert len(set(rows)) == 32
    again, other = (split.apart([20, 4, 8], seed)[0].masks for seed in (0, 1))
    assert torch.equal(parts[0].masks, again)
    assert not torch.equal(parts[0].masks, other)
    with pytest.raises(BadInputError, match=r"parts of 30, 3 masks were asked for, and 32 are distinct"):
        split.apart([30, 3], 0)


def test_a_split_is_asked_for_masks_that_it_holds():
    split = of_masks(every_removal(3))
    masks = removals(3, [(2,), (), (2,), (0, 1)])
    found = split.at(masks)
    assert torch.equal(found.masks, masks)
    assert found.responses[0].tolist() == [4, 0, 4, 3]
    with pytest.raises(BadInputError, match=r"2 of 3 masks are not among the 8 whose responses are known"):
        split.at(torch.tensor([[-0.5, 0, 0], [0, 0, 0], [1, 0, 0]]))


def test_splits_are_joined_in_order(split):
    both = split.part(2).joined(split.drawn(torch.tensor([5])))
    assert torch.equal(both.masks, split.masks[[0, 1, 5]])
    assert torch.equal(both.responses, split.responses[:, [0, 1, 5]])
    assert both.scale == 0.5


@pytest.fixture
def split():
    return Split(torch.arange(12.0).view(6, 2), torch.arange(18.0).view(3, 6), 0.5)


@pytest.fixture
def recorded(split):
    """What 01_perturbation wrote of two components and three examples."""
    content = {"masks.fit": split.masks, "responses.fit": split.responses}
    record = {"parameters": {"scale": 0.5}, "names": ["a", "b"], "label_names": ["x", "y", "x"]}
    return Artifact(content, record, "")


def test_a_split_is_read_from_what_was_recorded(split, recorded):
    read = Split.read(recorded, "fit")
    assert torch.equal(read.masks, split.masks)
    assert torch.equal(read.responses, split.responses)
    assert read.scale == 0.5


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c, r: c.pop("masks.fit"), r"masks\.fit is missing, expected \(any, 2\)"),
        (lambda c, r: c.update({"masks.fit": torch.ones(6, 3)}), r"masks\.fit is \(6, 3\) .*expected \(any, 2\)"),
        (
            lambda c, r: c.update({"masks.fit": c["masks.fit"].double()}),
            r"masks\.fit is .*float64, expected .*float32",
        ),
        (
            lambda c, r: c.update({"responses.fit": torch.ones(3, 5)}),
            r"responses\.fit is \(3, 5\) .*expected \(3, 6\)",
        ),
        (lambda c, r: r.update(label_names=["x"]), r"responses\.fit is \(3, 6\) .*expected \(1, 6\)"),
        (lambda c, r: r.update(names=[1, 2]), "names components or examples by something else than text"),
        (lambda c, r: r.pop("names"), "says NoneType of names, expected list"),
        (lambda c, r: r.update(parameters={"scale": "wide"}), "scale is 'wide'"),
        (
            lambda c, r: c["responses.fit"][1].fill_(2),
            "responses of example 2 to the fit masks are all 2, expected",
        ),
    ],
)
def test_a_split_that_does_not_fit_together_is_refused(recorded, change, sentence):
    change(recorded.content, recorded.record)
    with pytest.raises(BadInputError, match=sentence):
        Split.read(recorded, "fit")


def test_masks_beyond_memory_are_refused_before_they_are_drawn():
    with pytest.raises(
        BadInputError, match=r"masks of 1000000 components take .*, and the memory .*; lower n_fit"
    ):
        gaussian(10**9, 10**6, 1.0, 0, "fit")


def test_masks_and_responses_of_a_split_stay_together(split):
    drawn = split.drawn(torch.tensor([4, 1, 1]))
    assert drawn.masks.tolist() == [[8, 9], [2, 3], [2, 3]]
    assert drawn.responses[0].tolist() == [4, 1, 1]
    assert torch.equal(split.part(2).masks, split.drawn(torch.tensor([0, 1])).masks)
    assert split.of(slice(1, 2)).responses.shape == (1, 6)
    double = split.to(torch.float64)
    assert double.masks.dtype == double.responses.dtype == torch.float64
    assert {s.scale for s in (drawn, split.part(2), split.of(slice(1)), double)} == {0.5}
