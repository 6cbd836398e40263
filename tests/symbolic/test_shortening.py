from dataclasses import replace

import pytest
import torch

from kanlib.kan.kan import KAN
from kanlib.metrics import pearson
from kanlib.symbolic import edges, shortening
from kanlib.symbolic.closed_forms import X
from kanlib.symbolic.edges import OVERHANG
from kanlib.symbolic.shortening import (
    Priced,
    candidates,
    front,
    front_table,
    knee,
    replace_edges,
    shorten,
)
from tests.helpers import symbolic_kan, symbolic_knobs


@pytest.fixture(scope="module")
def found(fitted):
    return candidates(fitted.kan, fitted.fit.masks, symbolic_knobs(max_degree=5))


def errors_of(symbolic, split):
    return torch.stack(
        [(f(split.masks) - y).square().mean() for f, y in zip(symbolic, split.responses, strict=True)]
    )


def test_the_faithful_ones_are_of_the_shortest_forms_that_suffice(found, fitted):
    for r2 in (0.9, 0.9999):
        for one, symbolic in zip(
            found, replace_edges(fitted.kan, fitted.fit.masks, symbolic_knobs(max_degree=5, r2=r2)), strict=True
        ):
            assert symbolic.expression == one.faithful(r2).through_rest().expression
            assert abs(float(symbolic(torch.zeros(1, 3))[0])) <= 1e-9
            for fronts, forms in zip(one.fronts, symbolic.forms, strict=True):
                for of_node, row in zip(fronts, forms, strict=True):
                    for edge, form in zip(of_node, row, strict=True):
                        enough = [f.length for f in edge if f.misfit <= 1 - r2]
                        assert form.length == min(enough, default=form.length)


def test_a_higher_price_buys_shorter_networks(found):
    for of_example in found:
        lengths = [of_example.priced(price, 12).length for price in (0.0, 1e-4, 1e-2, 1.0, 1e6)]
        assert lengths == sorted(lengths, reverse=True)
        assert lengths[0] > lengths[2] > lengths[4] == 1


@pytest.mark.parametrize("max_length", [1, 3, 8, 12])
def test_no_edge_exceeds_the_cap(found, max_length):
    for of_example in found:
        for layer in of_example.priced(0.0, max_length).forms:
            assert all(form.length <= max_length for row in layer for form in row)


def test_nothing_leads_into_a_node_that_leads_nowhere(found):
    cheap = replace(found[0], effects=[found[0].effects[0], [[0.0] for _ in found[0].effects[1]]])
    symbolic = cheap.priced(1e-6)
    assert all(form.template == 0 for layer in symbolic.forms for row in layer for form in row)


def test_effects_are_the_variance_that_an_edge_brings_into_the_output(found, fitted):
    """For edges into the last node, over masks and, by their small share, evenly over the tails."""
    inside = fitted.kan.activations(fitted.fit.masks)
    low, high = inside[1].amin(2, keepdim=True), inside[1].amax(2, keepdim=True)
    low, high = low - OVERHANG * (high - low), high + OVERHANG * (high - low)
    even = low + (high - low) * torch.linspace(0, 1, 500)
    shares = {1 - edges._EVEN_WEIGHT: inside[1], edges._EVEN_WEIGHT: even}
    moments = [
        sum(share * fitted.kan.edge_values(1, x)[:, :, 0].double().pow(r).mean(2) for share, x in shares.items())
        for r in (1, 2)
    ]
    brought = (moments[1] - moments[0].square()) / inside[2].double().var(2)
    measured = torch.tensor([[row[0] for row in of_example.effects[1]] for of_example in found])
    torch.testing.assert_close(measured, brought.float(), rtol=0.05, atol=0.005)


def test_the_front_is_scored_on_validation_masks(found, fitted):
    fronts = front(found, fitted.fit, fitted.test, max_length=12, prices=(1e-4, 1e-1))
    assert [[point.price for point in of_example] for of_example in fronts] == [[1e-4, 1e-1]] * 2
    for of_example, true in zip(fronts, fitted.test.responses, strict=True):
        for point in of_example:
            scored = pearson(point.symbolic(fitted.test.masks)[None], true[None]).item()
            assert point.pearson == pytest.approx(scored)
            # The refit may turn a sign, and sympy counts a minus.
            assert all(f.length <= 13 for layer in point.symbolic.forms for row in layer for f in row)
        assert of_example[0].pearson > 0.99
        assert of_example[0].symbolic.length > of_example[1].symbolic.length


@pytest.fixture
def lengths():
    """Three symbolic KANs, the longest first."""
    return [symbolic_kan([[[e]]], 0.0) for e in (X**2 + 3 * X, X**2, X)]


def test_the_knee_is_the_shortest_within_the_budget(lengths):
    points = [Priced(0.0, one, score) for one, score in zip(lengths, (0.97, 0.966, 0.9), strict=True)]
    assert knee(points, 0.97, 0.005) is points[1]
    assert knee(points, 0.97, 0.1) is points[2]
    assert knee(points, 0.99, 0.005) is points[0]


def test_what_is_chosen_is_the_knee_refitted_to_the_end(fitted):
    asked = symbolic_knobs(max_degree=5)
    short, fronts = shorten(fitted.kan, fitted.fit, fitted.test, asked)
    assert [[point.price for point in of_example] for of_example in fronts] == [list(shortening.PRICES)] * 2
    targets = pearson(fitted.kan(fitted.test.masks), fitted.test.responses).tolist()
    knees = [knee(f, target, asked.budget).symbolic for f, target in zip(fronts, targets, strict=True)]
    assert (errors_of(short, fitted.test) <= errors_of(knees, fitted.test)).all()
    for one, before in zip(short, knees, strict=True):
        # Constants move, templates stay.
        assert [f.template for layer in one.forms for row in layer for f in row] == [
            f.template for layer in before.forms for row in layer for f in row
        ]


def test_a_larger_budget_buys_shorter_networks(fitted):
    dear, cheap = (
        shorten(fitted.kan, fitted.fit, fitted.test, symbolic_knobs(max_degree=5, budget=budget))[0]
        for budget in (0.0, 2.0)
    )
    for one, other in zip(dear, cheap, strict=True):
        assert one.length > other.length


def test_fronts_are_rows_of_a_table(found, fitted):
    fronts = front(found, fitted.fit, fitted.test, max_length=12, prices=(1e-4, 1e-1))
    table = front_table(fronts)
    assert list(table) == ["example", "price", "length", "validation Pearson"]
    assert table["example"].tolist() == [1, 1, 2, 2]
    every = [point for of_example in fronts for point in of_example]
    assert table["length"].tolist() == [point.symbolic.length for point in every]
    assert table["validation Pearson"].tolist() == [point.pearson for point in every]


def test_a_kan_of_a_bias_alone_is_nothing_beside_rest(fitted):
    kan = fitted.kan
    zero = KAN(kan.grids, tuple(torch.zeros_like(c) for c in kan.coefs), torch.tensor([0.0, 3.5]), kan.order)
    masks = fitted.test.masks
    for symbolic in replace_edges(zero, fitted.fit.masks, symbolic_knobs()):
        assert symbolic.expression == 0
        assert torch.equal(symbolic(masks), torch.zeros(len(masks)).double())
    constant = candidates(zero, fitted.fit.masks, symbolic_knobs())
    fronts = front(constant, fitted.fit, fitted.test, max_length=12, prices=(1e-3,))
    assert not any(point.symbolic.expression.free_symbols for (point,) in fronts)


def test_examples_may_come_in_parts(fitted):
    def replaced(block):
        return replace_edges(fitted.kan, fitted.fit.masks, symbolic_knobs(max_degree=3, block=block))

    for one, other in zip(replaced(1), replaced(2), strict=True):
        torch.testing.assert_close(one(fitted.test.masks), other(fitted.test.masks), rtol=1e-3, atol=1e-3)


def test_a_block_of_examples_does_not_depend_on_the_others(fitted):
    knobs, data, validation = symbolic_knobs(max_degree=3, refit_steps=3, block=1), fitted.fit, fitted.test
    short, fronts = shorten(fitted.kan, data, validation, knobs)
    faithful = replace_edges(fitted.kan, data.masks, knobs)
    for e in (0, 1):
        at = slice(e, e + 1)
        alone = shorten(fitted.kan.select(at), data.of(at), validation.of(at), knobs)
        assert alone[0][0].to_json() == short[e].to_json()
        assert (
            front_table(alone[1]).drop(columns="example").equals(front_table(fronts[at]).drop(columns="example"))
        )
        (one,) = replace_edges(fitted.kan.select(at), data.masks, knobs)
        assert one.to_json() == faithful[e].to_json()
