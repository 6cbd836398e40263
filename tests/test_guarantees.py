"""What benchmarks.guarantees counts: masks beyond bounds."""

from dataclasses import replace

import sympy
import torch

from benchmarks.guarantees import outside, some_boxes
from kanlib.symbolic import Batch, bounds
from kanlib.symbolic.closed_forms import X
from tests.helpers import symbolic_kan

FORM = symbolic_kan([[[sympy.sin(2 * X), X], [X, X**2]], [[X**2], [sympy.tanh(X)]]], 0.1)


def test_masks_beyond_bounds_are_counted():
    end = torch.full((1, 2), 0.5).double()
    found = bounds([FORM], -end, end, gap=0.01, progress=False)
    left, tried = outside(Batch([FORM]), found, -end, end, 2000, 10)
    assert left.tolist() == [0]
    assert tried == 2000 + 2 * 40 * 10
    for narrower in (replace(found, high=found.highest - 0.02), replace(found, low=found.lowest + 0.02)):
        assert outside(Batch([FORM]), narrower, -end, end, 2000, 10)[0] > 0


def test_boxes_have_gates_that_are_free_fixed_and_removed():
    low, high = some_boxes(40)
    assert (low <= high).all()
    for some in (low < high, (low == high) & (low > -1), (low == -1) & (high == -1)):
        assert some.any()
