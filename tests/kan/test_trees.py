from dataclasses import dataclass

import torch

from kanlib.kan.trees import tree_map, tree_where


@dataclass(frozen=True)
class Tree:
    one: torch.Tensor
    more: tuple[torch.Tensor, ...]
    name: str = "oak"


def tree(value):
    return Tree(torch.full((2,), value), (torch.full((2, 3), value), torch.full((2,), -value)))


def test_corresponding_tensors_are_mapped_and_the_rest_stays():
    total = tree_map(torch.add, tree(1.0), tree(2.0))
    assert total.one.tolist() == [3, 3]
    assert total.more[0].shape == (2, 3)
    assert [v.unique().item() for v in total.more] == [3, -3]
    assert total.name == "oak"
    assert tree_map(torch.neg, (torch.ones(1), ())) == (-torch.ones(1), ())


def test_each_of_a_batch_comes_from_one_tree_or_the_other():
    both = tree_where(torch.tensor([True, False]), tree(1.0), tree(2.0))
    assert both.one.tolist() == [1, 2]
    assert both.more[0].tolist() == [[1, 1, 1], [2, 2, 2]]
    yes = tree(1.0)
    assert tree_where(torch.tensor([True, True]), yes, tree(2.0)) is yes
