import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kanlib import machine, setups, shards
from kanlib.errors import BadInputError

few = st.integers(1, 60)


@given(few, few, few)
def test_shards_are_whole_blocks_that_follow_each_other(n, block, asked):
    names = shards.plan(n, block, asked)
    assert len(names) <= asked
    assert all(re.fullmatch(shards.NAME, name) for name in names)
    rows = [shards.rows(name, n, block) for name in names]
    assert [i for part in rows for i in range(part.start, part.stop)] == list(range(n))
    assert len({part.stop - part.start for part in rows[:-1]}) <= 1


@given(few, few, few, few)
def test_shards_stay_what_they_are_where_examples_and_shards_grow_together(n_each, block, asked, more):
    size = n_each * block
    small, large = (shards.plan(size * k, block, k) for k in (asked, asked + more))
    assert large[: len(small)] == small


@pytest.mark.parametrize(
    ("shard", "said"),
    [
        ("5-9", "shard is 5-9, expected first-last of 8 examples"),
        ("5-3", "shard is 5-3, expected first-last of 8 examples"),
        ("2-8", "shard 2-8 splits a block of 4 examples"),
        ("1-3", "shard 1-3 splits a block of 4 examples"),
    ],
)
def test_a_shard_that_is_none_is_refused(shard, said):
    with pytest.raises(BadInputError, match=said):
        shards.rows(shard, 8, 4)


def test_no_shards_are_refused():
    with pytest.raises(BadInputError, match="shards is 0, expected 1 or more"):
        shards.plan(8, 4, 0)


def test_blocks_are_put_together():
    seen = []

    def doubled(at):
        seen.append(at.tolist())
        return 2 * at, at[:, None]

    doubles, column = machine.in_blocks(doubled, 5, 2)
    assert seen == [[0, 1], [2, 3], [4]]
    assert doubles.tolist() == [0, 2, 4, 6, 8]
    assert column.shape == (5, 1)
    assert torch.equal(machine.in_blocks(lambda at: at, 5, 2), torch.arange(5))


def test_a_shard_has_a_folder_of_its_own_for_what_is_of_its_examples():
    stage = setups.Surrogate.from_setup("digits_resnet18", {"shard": "17-32"})
    assert stage.folder == "digits_resnet18/shards/17-32"
    assert stage.recorded().keys() == setups.Surrogate.model_fields.keys() - {"run", "shard"}
    assert {"responses", "surrogates", "scores", "curve", "symbolic", "interactions"} == setups.sharded_kinds()


def test_examples_of_a_shard_are_counted_from_one():
    p = setups.Perturbation.from_setup("digits_resnet18", {"shard": "5-8", "n_examples": 8, "block": 4})
    assert p.rows == slice(4, 8)
    named = {"shard": "5-8", "examples": list(range(6)), "block": 4}
    with pytest.raises(BadInputError, match="first-last of 6 examples"):
        _ = setups.Perturbation.from_setup("digits_resnet18", named).rows
