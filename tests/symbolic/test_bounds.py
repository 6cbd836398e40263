"""Bounds of surrogates over boxes, against masks in them, another library's intervals, and integer programs."""

from dataclasses import replace
from itertools import pairwise, product

import mpmath
import numpy as np
import pytest
import sympy
import torch
from scipy.optimize import LinearConstraint, linprog, milp
from scipy.sparse import lil_array

from kanlib.errors import BadInputError
from kanlib.symbolic import relaxation, tabulated
from kanlib.symbolic.bounds import bounds
from kanlib.symbolic.closed_forms import X
from kanlib.symbolic.relaxation import Part, Tables
from kanlib.symbolic.symbolic_kan import Batch
from tests.helpers import SHAPES, randn, some_kan, symbolic_kan


def inside(low, high, n=4000, seed=0):
    """Masks in a box: corners, and any."""
    share = torch.rand(n, low.shape[-1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    share[: n // 2] = share[: n // 2].round()
    return low + (high - low) * share


def climbed(function, low, high, sign, steps=60):
    """The best of masks that climb as far up, or down, as the box lets them."""
    at = inside(low, high, 200).requires_grad_()
    for _ in range(steps):
        (slope,) = torch.autograd.grad(function(at).sum(), at)
        with torch.no_grad():
            at += sign * 0.05 * (high - low) * slope.sign()
            at.clamp_(low, high)
    return function(at).detach()


def hand_made_two():
    f = sympy.Float
    layers = [
        [[sympy.exp(f(0.3) * X), X**2], [sympy.tanh(X) + f(0.1) * X, f(0.7)], [sympy.sin(3 * X), X]],
        [[1 / (1 + (f(0.5) * X) ** 2)], [sympy.log(1 + sympy.exp(X))]],
    ]
    other = [
        [[sympy.sin(X), X], [X, f(0.5) * X], [X**3, sympy.exp(X)]],
        [[f(0.4) * X**3 - X], [sympy.tanh(2 * X)]],
    ]
    return [symbolic_kan(layers, 0.25), symbolic_kan(other, -1.0)]


SURROGATES = {
    "forms": hand_made_two(),
    **{str(s): some_kan(s) for s in SHAPES},
    "quintic": some_kan((3, 2, 1), order=5),
}


def answers(surrogate, masks):
    return (Batch(surrogate) if isinstance(surrogate, list) else surrogate)(masks)


@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("half", [0.05, 0.4, 1.5])
def test_no_mask_leaves_the_bounds_and_they_are_as_near_as_asked_for(name, half):
    surrogate = SURROGATES[name]
    low, high = torch.full((2, 3), -half).double(), torch.full((2, 3), half).double()
    low[1, 0] = high[1, 0] = -1.0
    high[1, 1] = low[1, 1]
    found = bounds(surrogate, low, high, gap=0.02, progress=False)
    assert (found.gap <= 0.02).all()
    for r in range(2):
        values = answers(surrogate, inside(low[r], high[r]))
        assert (values >= found.low[:, r, None]).all()
        assert (values <= found.high[:, r, None]).all()
    for at, value in ((found.at_lowest, found.lowest), (found.at_highest, found.highest)):
        assert ((at >= low) & (at <= high)).all()
        there = torch.stack([answers(surrogate, masks)[e] for e, masks in enumerate(at)])
        torch.testing.assert_close(there, value)


@pytest.mark.parametrize("name", ["forms", "(3, 2, 2, 1)"])
def test_masks_that_climb_stay_within(name):
    surrogate = SURROGATES[name]
    low, high = torch.tensor([-0.6, -0.5, -1.0]).double(), torch.tensor([0.6, 0.7, 0.0]).double()
    found = bounds(surrogate, low, high, gap=0.02, progress=False)
    for e in range(2):
        for sign, bound in ((1, found.high), (-1, found.low)):
            best = climbed(lambda at, e=e: answers(surrogate, at)[e], low, high, sign)
            assert (sign * best <= sign * bound[e, 0]).all()
            assert (sign * best).max() >= sign * bound[e, 0] - 0.1


@pytest.mark.parametrize("name", ["forms", "(3, 2, 2, 1)"])
def test_a_bound_that_forgets_how_far_tables_are_off_is_caught(name, monkeypatch):
    """Of single masks, by tables of few cells: with their slack every bound holds, without it some do not."""
    monkeypatch.setattr(tabulated, "_CELLS", 8)
    surrogate, low, high = SURROGATES[name], torch.full((2, 3), -0.9).double(), torch.full((2, 3), 0.9).double()
    masks, row = inside(low[0], high[0], 300), torch.arange(2).repeat_interleave(300)

    def above():
        tables = Tables.of(surrogate, torch.arange(2), low, high)
        at = masks.repeat(2, 1)
        top = tables.highest(row, Part(at, at), torch.ones(600).double(), torch.full((600,), 3))
        return top.bound - answers(surrogate, masks).flatten()

    assert (above() >= 0).all()
    of = tabulated.Table.of.__func__

    def careless(cls, *arguments):
        table = of(cls, *arguments)
        return replace(table, slack=0 * table.slack)

    monkeypatch.setattr(tabulated.Table, "of", classmethod(careless))
    assert (above() < 0).any()


def test_another_librarys_intervals_agree():
    """mpmath.iv, on a thousand parts of the box: what it proves lies around what is proved here."""
    one = hand_made_two()[0]
    low, high = (-0.5, 0.1, -0.3), (0.4, 0.6, 0.5)
    found = bounds(
        [one],
        torch.tensor(low, dtype=torch.float64),
        torch.tensor(high, dtype=torch.float64),
        gap=1e-3,
        progress=False,
    )
    with mpmath.workdps(20):
        iv = mpmath.iv
        sides = [np.linspace(a, b, 11) for a, b in zip(low, high, strict=True)]

        def value(x1, x2, x3):
            e = iv.exp(2 * x2)
            tanh = 1 - 2 / (e + 1)
            h1 = iv.exp(iv.mpf(0.3) * x1) + tanh + iv.mpf(0.1) * x2 + iv.sin(3 * x3)
            h2 = x1**2 + iv.mpf(0.7) + x3
            return 1 / (1 + (iv.mpf(0.5) * h1) ** 2) + iv.log(1 + iv.exp(h2)) + iv.mpf(0.25)

        cells = product(*(list(pairwise(side)) for side in sides))
        parts = [value(*(iv.mpf(list(ends)) for ends in cell)) for cell in cells]
    lowest, highest = (np.array([float(getattr(part, end)) for part in parts]) for end in ("a", "b"))
    # What was found lies within what the other proves, and in no part does it prove what is ruled out here.
    assert lowest.min() <= float(found.lowest) <= float(found.highest) <= highest.max()
    assert float(found.low) <= highest.min()
    assert lowest.max() <= float(found.high)
    assert highest.max() - lowest.min() < 1.3 * float(found.high - found.low)


def integer_program(tables, e):
    """The highest value of tables taken for piecewise linear: shares of neighbouring points add up to 1."""
    columns, rows, integral = 0, [], []
    cost = {}
    shares = []
    for table in tables:
        _, _, n_in, k = table.curves.value.shape
        of_layer = []
        for _ in range(n_in):
            share, cell = np.arange(columns, columns + k), np.arange(columns + k, columns + 2 * k - 1)
            columns += 2 * k - 1
            integral += [0] * k + [1] * (k - 1)
            rows += [(dict.fromkeys(share, 1), 1, 1), (dict.fromkeys(cell, 1), 1, 1)]
            for p, c in enumerate(share):
                beside = {cell[q]: -1 for q in (p - 1, p) if 0 <= q < k - 1}
                rows.append(({c: 1, **beside}, -np.inf, 0))
            of_layer.append(share)
        if shares:
            before = tables[len(shares) - 1]
            for i, share in enumerate(of_layer):
                x = np.linspace(float(table.low[e, i]), float(table.high[e, i]), k)
                row = {c: -v for c, v in zip(share, x, strict=True)}
                for j, earlier in enumerate(shares[-1]):
                    row |= dict(zip(earlier, before.curves.value[e, i, j].tolist(), strict=True))
                rows.append((row, 0, 0))
        shares.append(of_layer)
    for i, share in enumerate(shares[-1]):
        cost |= dict(zip(share, tables[-1].curves.value[e, 0, i].tolist(), strict=True))
    matrix = lil_array((len(rows), columns))
    for r, (row, _, _) in enumerate(rows):
        for c, v in row.items():
            matrix[r, c] = v
    limits = LinearConstraint(matrix.tocsr(), [r[1] for r in rows], [r[2] for r in rows])
    objective = np.zeros(columns)
    objective[list(cost)] = -np.array(list(cost.values()))
    found = milp(objective, constraints=limits, integrality=np.array(integral), bounds=(0, 1))
    assert found.success
    return -found.fun


@pytest.mark.parametrize("name", ["forms", "(3, 2, 1)"])
def test_an_integer_program_agrees(name, monkeypatch):
    """HiGHS finds the same maximum of edges of a few straight pieces, up to how far these are off."""
    monkeypatch.setattr(tabulated, "_CELLS", 16)
    surrogate = SURROGATES[name]
    low, high = torch.full((2, 3), -0.4).double(), torch.full((2, 3), 0.4).double()
    tables = Tables.of(surrogate, torch.arange(2), low, high)
    found = bounds(surrogate, low[0], high[0], gap=1e-3, progress=False)
    steep = [table.curves.slope.size.amax(-1) for table in tables.layers]
    for e in range(2):
        best = integer_program(tables.layers, e)
        # What a table is off in the first layer, the last one makes larger by its slope.
        first, last = (table.slack.amax(-1)[e] for table in tables.layers)
        off = float((first.sum(-1) * steep[1][e, 0]).sum() + last.sum())
        assert found.highest[e] - off <= best <= found.high[e] + off
        assert off < 0.1


def linear_program(samples, sign):
    """The lowest bound that lines give: all of their slopes, and the highest of each node, at once."""
    sizes = [edges.x.shape[1] for edges in samples]
    n_slopes = sum(sizes[1:])
    place = dict(zip(range(1, len(sizes)), np.cumsum([0, *sizes[1:]])[:-1].tolist(), strict=True))
    rows, most, top = [], [], n_slopes
    for layer, edges in enumerate(samples):
        for i, x in enumerate(edges.x[0].tolist()):
            for p, at in enumerate(x):
                row, given = np.zeros(n_slopes + sum(sizes)), edges.values[0, :, i, p].numpy()
                row[top] = -1
                if layer:
                    row[place[layer] + i] = -at
                if layer + 1 < len(samples):
                    row[place[layer + 1] : place[layer + 1] + sizes[layer + 1]] += given
                rows.append(row)
                most.append(-sign * given[0] if layer + 1 == len(samples) else 0.0)
            top += 1
    cost = np.concatenate([np.zeros(n_slopes), np.ones(sum(sizes))])
    return linprog(cost, np.array(rows), np.array(most), bounds=(None, None)).fun


@pytest.mark.parametrize("name", ["(3, 2, 1)", "(3, 2, 2, 1)", "forms"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_lines_are_about_the_best_that_a_linear_program_finds(name, sign):
    surrogate, end = SURROGATES[name], torch.full((2, 3), 0.5).double()
    tables = Tables.of(surrogate, torch.arange(2), -end, end)
    row, moved = torch.arange(2), torch.full((2,), 3)
    signs = torch.full((2,), sign, dtype=torch.float64)
    samples = tables.sampled(row, Part(-end, end), moved)
    bare = [replace(edges, slack=0 * edges.slack) for edges in samples]
    found = relaxation._lowered(bare, signs, moved).bound[:, 0]
    chords = relaxation._through(bare, signs[:, None, None], moved).bound[:, 0]
    for e in range(2):
        best = linear_program(
            [replace(edges, x=edges.x[e : e + 1], values=edges.values[e : e + 1]) for edges in bare], sign
        )
        assert best - 1e-7 <= found[e] <= best + 0.05 * (chords[e] - best) + 0.01


@pytest.mark.parametrize("name", ["(3, 2, 1)", "(3, 2, 2, 1)", "forms"])
def test_what_a_part_leaves_out_is_not_asked_about(name):
    surrogate, end = SURROGATES[name], torch.full((2, 3), 0.5).double()
    masks = inside(-end[0], end[0], 20_000)
    values = answers(surrogate, masks)
    enough = values.quantile(0.9, dim=1)
    tables = Tables.of(surrogate, torch.arange(2), -end, end)
    top = tables.highest(torch.arange(2), Part(-end, end), torch.ones(2).double(), torch.full((2,), 3), enough)
    left = [((masks >= top.part.low[e]) & (masks <= top.part.high[e])).all(1) for e in range(2)]
    assert any(not inside_.all() for inside_ in left)
    for e in range(2):
        assert (values[e][~left[e]] <= enough[e] + 1e-9).all()
    if name == "forms":
        for e, one in enumerate(surrogate):
            inner = torch.cat(one.activations(masks)[1:-1]).T
            out = ((inner < top.part.nodes[0][e]) | (inner > top.part.nodes[1][e])).any(1)
            assert out.any()
            assert (values[e][out] <= enough[e] + 1e-9).all()


def test_whole_gates_are_kept_or_removed():
    surrogate = SURROGATES["(3, 3, 1)"]
    masks = torch.tensor(list(product((0.0, -1.0), repeat=3)), dtype=torch.float64)
    low, high = torch.full((2, 3), -1.0).double(), torch.zeros(2, 3).double()
    values = answers(surrogate, masks)
    for most in range(4):
        tables = Tables.of(surrogate, torch.arange(2), low, high, moved=most, whole=True)
        top = tables.highest(torch.arange(2), Part(low, high), torch.ones(2).double(), torch.full((2,), most))
        allowed = values[:, (masks != 0).sum(1) <= most]
        assert (allowed.amax(1) <= top.bound).all()
    none = tables.highest(torch.arange(2), Part(low, low), torch.ones(2).double(), torch.full((2,), 2))
    assert (none.bound == -torch.inf).all()


def test_a_budget_ends_the_search_with_what_is_proved():
    surrogate = SURROGATES["(3, 2, 2, 1)"]
    ends = torch.full((3,), -1.5).double(), torch.full((3,), 1.5).double()
    rough, fine = (bounds(surrogate, *ends, gap=1e-3, budget=b, progress=False) for b in (1, 5000))
    assert (rough.gap > fine.gap).any()
    assert (rough.high >= fine.highest).all()
    assert (rough.n_boxes == 2).all()


def test_bad_boxes_are_one_sentence():
    one = hand_made_two()[:1]
    zeros = torch.zeros(3)
    with pytest.raises(BadInputError, match="box 1 is empty or endless: component 2 goes from 1 to 0"):
        bounds(one, torch.tensor([0.0, 1.0, 0.0]), zeros, gap=0.1)
    with pytest.raises(BadInputError, match="component 1 goes from -inf to 0"):
        bounds(one, torch.tensor([-torch.inf, 0.0, 0.0]), zeros, gap=0.1)
    with pytest.raises(BadInputError, match=r"ends of \(1, 2\) and \(1, 2\), expected \(R, 3\)"):
        bounds(one, torch.zeros(2), torch.zeros(2), gap=0.1)
    pole = [symbolic_kan([[[1 / (X - sympy.Float(0.3))]]], 0.0)]
    with pytest.raises(BadInputError, match="has a pole, or no bound, at σ_1"):
        bounds(pole, torch.tensor([-1.0]), torch.tensor([1.0]), gap=0.1)


def test_a_box_of_one_mask_is_its_answer():
    surrogate = SURROGATES["forms"]
    mask = 0.5 * randn(3)
    found = bounds(surrogate, mask, mask, gap=1e-9, progress=False)
    torch.testing.assert_close(found.low, answers(surrogate, mask[None]), atol=1e-8, rtol=0)
    torch.testing.assert_close(found.high, answers(surrogate, mask[None]), atol=1e-8, rtol=0)
