"""The graph that autograd makes of a forward pass, and what joins in it: skips with branches, old with new."""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import zip_longest

from torch import nn
from torch.autograd.graph import Node

#: What autograd calls additions; the second is one into a part of a tensor.
_ADD = ("Add", "CopySlices")
#: Operations of autograd's graph that make nothing new of what they are given: joins, and what moves or pools.
_NO_STEP = re.compile(
    r"Add|Alias|AsStrided|Cat|Clone|CopySlices|Expand|Index|Narrow|Permute|Repeat|Roll|Select|Slice|T|ToCopy|"
    r"Transpose|Unbind|\w*(Pad|Pool|Split|[Ss]queeze|View|Reshape)\w*"
)
_SCALE = re.compile("Mul|Div")


class Graph:
    """What leads to some nodes of autograd's graph from the nodes that ``is_start`` says on.

    Attributes:
        operands: of each node those that a start leads to: their positions among all, and their nodes. Nodes are
            in an order in which each comes after its operands.
    """

    def __init__(self, ends: Sequence[Node], is_start: Callable[[Node], bool]):
        self.operands: dict[Node, list[tuple[int, Node]]] = {}
        seen: set[Node] = set()
        stack = [(end, False) for end in ends]
        while stack:
            node, entered = stack.pop()
            before = [] if is_start(node) else [one for one, _ in node.next_functions]
            if entered:
                found = [(i, one) for i, one in enumerate(before) if one in self.operands]
                if found or is_start(node):
                    self.operands[node] = found
            elif node not in seen:
                seen.add(node)
                stack += [(node, True), *((one, False) for one in before if one is not None)]
        self._steps = self._count_steps()

    def joins(self, end: Node) -> dict[Node, list[int]]:
        """The joins that lead to a node, the last one first and on along what they keep: what is new in each."""
        found: dict[Node, list[int]] = {}
        left = [end]
        while left:
            if (last := self._last_join(left.pop())) is not None:
                join, found[join] = last
                left += [one for i, one in self.operands[join] if i not in found[join]]
        return found

    def hands_on(self, end: Node) -> bool:
        """Whether no step leads from where the graph starts to ``end``."""
        return not self.operands.get(self._source(end))

    def laid_side_by_side(self, end: Node) -> bool:
        """Whether ``end`` is a concatenation of what steps lead to."""
        source = self._source(end)
        return _kind(source) == "Cat" and self._steps.get(source, (0, 0))[0] > 0

    def only_joined(self, node: Node) -> bool:
        """Whether all that becomes of a node is that it is added to something else, or laid beside it."""
        after: dict[Node, list[Node]] = defaultdict(list)
        for one, before in self.operands.items():
            for _, operand in before:
                after[operand].append(one)
        left = [node]
        while left:
            here = left.pop()
            for one in after[here]:
                if len(self.operands[one]) == 1 and (_no_step(one) or _SCALE.fullmatch(_kind(one))):
                    left.append(one)
                elif _kind(one) not in (*_ADD, "Cat"):
                    return False
            if not after[here]:
                return False
        return True

    def _count_steps(self) -> dict[Node, tuple[int, int]]:
        """The fewest and the most steps that lead to each node."""
        steps: dict[Node, tuple[int, int]] = {}
        for node, before in self.operands.items():
            counts = [steps[one] for _, one in before] or [(0, 0)]
            own = 0 if not before or _no_step(node) else 1
            steps[node] = min(low for low, _ in counts) + own, max(high for _, high in counts) + own
        return steps

    def _last_join(self, end: Node) -> tuple[Node, list[int]] | None:
        """The last join that all paths to ``end`` go through, and the positions of what is new in it.

        Of an addition that is the operand with more steps, of a concatenation each that a step leads to from
        where its operands part, whichever way.
        """
        passed = self._passed(end)
        for node, before in zip_longest(passed, passed[1:]):
            steps = {i: self._steps[one] for i, one in self.operands[node]}
            if len(steps) < 2:
                continue
            fewest, most = (0, 0) if before is None else self._steps[before]
            new = [i for i, (low, _) in steps.items() if low > fewest]
            if _kind(node) in _ADD and len(set(steps.values())) > 1:
                return node, [max(steps, key=steps.__getitem__)]
            if _kind(node) == "Cat" and len(new) < len(steps) and any(high > most for _, high in steps.values()):
                return node, new
        return None

    def _source(self, end: Node) -> Node:
        """The node whose value ``end`` is, but for being moved."""
        while _no_step(end) and len(self.operands.get(end, ())) == 1:
            ((_, end),) = self.operands[end]
        return end

    def _passed(self, end: Node) -> list[Node]:
        """The nodes that all paths to ``end`` go through, the last one first."""
        order = list(self.operands)
        paths: dict[Node, int] = {}
        for node in order:
            paths[node] = sum(paths[one] for _, one in self.operands[node]) or 1
        left = defaultdict(int, {end: 1})
        for node in reversed(order):
            for _, one in self.operands[node]:
                left[one] += left[node]
        return [node for node in reversed(order) if paths[node] * left[node] == paths[end]]


def is_example(node: Node) -> bool:
    """Whether it is where a tensor comes in that is no weight."""
    leaf = getattr(node, "variable", None)
    return leaf is not None and not isinstance(leaf, nn.Parameter)


def is_embedding(node: Node) -> bool:
    """Whether it is where whole numbers, which have no gradient, become what has."""
    return _kind(node).startswith("Embedding")


def _kind(node: Node) -> str:
    """The operation that a node stands for, as autograd calls it."""
    return node.name().rpartition("::")[2].partition("Backward")[0]


def _no_step(node: Node) -> bool:
    return _NO_STEP.fullmatch(_kind(node)) is not None
