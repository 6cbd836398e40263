from itertools import combinations
from math import comb

import numpy as np
import pytest
import sympy
import torch
from sklearn.linear_model import LinearRegression

from kanlib import fitting, interactions, perturbation, references
from kanlib.closed_forms import X
from kanlib.errors import BadInputError
from kanlib.interactions import (
    alike,
    coefficients,
    fidelity,
    of_network,
    pair_matrix,
    reference,
    smoothed,
    subsets,
)
from kanlib.shortening import symbolic_kans
from tests.test_symbolic import network

S = sympy.symbols("sigma_1:6", real=True)
A, B, C, D, E = S
EXPRESSIONS = {
    "all at once": sympy.exp(0.3 * A - B * C) * sympy.sin(D + 0.7) + sympy.log(2 + E * A) * sympy.tanh(B + 0.2),
    "composed": sympy.tanh(sympy.exp(0.5 * A + B) - sympy.log(1 + sympy.exp(C - D * E))),
    "powers": (1.5 + A * B) ** 3 * (2 + C) ** -2 + (A + B + C + D + 3) ** 0.5 - (E + 2) ** sympy.Rational(-1, 3),
    "powers at zero": (A + B) ** 2 * (C + D) ** 2 + (A + B + C + D) ** 4.0 + (A + E) ** 3 * C,
    "quotient": sympy.sin(A * B) / (1 + (0.4 * C - D) ** 2) - D / (2 - E),
    "cosine": sympy.cos(A + 2 * B) * sympy.sqrt(4 + C * D) - sympy.exp(-((E + A) ** 2)),
    "constants": sympy.exp(2) * A * B - sympy.pi * C + sympy.exp(3) / (2 + D) - sympy.exp(sympy.Rational(1, 2)),
    "polynomial": sympy.prod(S[:4]) * 7 - 3 * A * B * E + 0.5 * C**2 * D - E + 11,
}


@pytest.mark.parametrize("m", [1, 4, 6])
def test_subsets_come_by_size_then_in_lexicographic_order(m):
    for k in range(1, min(m, 4) + 1):
        found = subsets(m, k)
        assert found == sorted(found, key=lambda s: (len(s), s))
        assert len(set(found)) == len(found) == sum(comb(m, r) for r in range(1, k + 1))
        assert set(found) == {s for r in range(1, k + 1) for s in combinations(range(m), r)}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_coefficients_are_sympys_mixed_partials(name):
    expression = EXPRESSIONS[name]
    index, values = coefficients(expression, S, 4)
    assert index == subsets(5, 4)
    assert values.dtype == torch.float64
    zero = dict.fromkeys(S, 0)
    partial = {(): expression}
    for subset in index:
        partial[subset] = sympy.diff(partial[subset[:-1]], S[subset[-1]])
    expected = [float(sympy.N(partial[subset].subs(zero))) for subset in index]
    np.testing.assert_allclose(values, expected, rtol=1e-8, atol=1e-11)


def random_expression(seed, depth=4):
    rng = np.random.default_rng(seed)

    def grow(depth):
        if depth == 0:
            return sum((sympy.Float(c) * s for c, s in zip(rng.normal(size=4), S, strict=False)), sympy.Float(0.3))
        kind = rng.choice(["exp", "log", "sin", "tanh", "pow", "mul", "add"])
        inner = grow(depth - 1)
        if kind in {"exp", "sin", "tanh"}:
            return getattr(sympy, kind)(inner / 2)
        if kind == "log":
            return sympy.log(inner**2 + 1)
        if kind == "pow":
            return inner ** int(rng.integers(2, 4))
        return inner * grow(1) if kind == "mul" else inner + grow(1)

    return grow(depth)


@pytest.mark.parametrize("seed", range(6))
def test_coefficients_of_random_expressions_are_autograds(seed):
    expression = random_expression(seed)
    index, values = coefficients(expression, S[:4], 4)
    functions = {name: getattr(torch, name) for name in ("exp", "log", "sin", "tanh", "sqrt")}
    compiled = sympy.lambdify(S[:4], expression, modules=functions)
    zeros = [torch.zeros((), dtype=torch.float64, requires_grad=True) for _ in range(4)]
    partial = {(): compiled(*zeros)}
    for subset in index:
        before = partial[subset[:-1]]
        if before.requires_grad:
            (value,) = torch.autograd.grad(
                before, zeros[subset[-1]], create_graph=True, allow_unused=True, materialize_grads=True
            )
        else:
            value = torch.zeros_like(before)
        partial[subset] = value
    expected = torch.stack([partial[subset].detach() for subset in index])
    torch.testing.assert_close(values, expected, rtol=1e-8, atol=1e-10)


def test_lower_orders_are_the_head_of_higher_ones():
    for k in (1, 2, 3):
        index, values = coefficients(EXPRESSIONS["all at once"], S, k)
        whole = coefficients(EXPRESSIONS["all at once"], S, 4)[1]
        torch.testing.assert_close(values, whole[: len(index)], rtol=1e-12, atol=0)


def test_an_additive_function_has_no_interactions():
    additive = sympy.exp(A) + sympy.tanh(B + 0.3) - sympy.log(2 + C) + 3 * D**2 + sympy.sin(E)
    index, values = coefficients(additive, S, 4)
    assert all(value == 0 for subset, value in zip(index, values.tolist(), strict=True) if len(subset) > 1)
    np.testing.assert_allclose(values[:5], [1, 1 - np.tanh(0.3) ** 2, -0.5, 0, 1], rtol=1e-12)


@pytest.mark.parametrize("planted", [(0, 3), (1, 2, 4), (0, 1, 2, 3)])
@pytest.mark.parametrize("strength", [2.5, -0.1])
def test_a_planted_product_is_found_with_order_and_sign(planted, strength):
    expression = strength * sympy.prod([S[j] for j in planted]) + sympy.exp(A) - D**3
    index, values = coefficients(expression, S, 4)
    found = {s: v for s, v in zip(index, values.tolist(), strict=True) if v != 0 and len(s) > 1}
    assert found == pytest.approx({planted: strength})


def test_a_constant_has_no_derivatives():
    index, values = coefficients(sympy.Float(3), S[:3], 3)
    assert torch.equal(values, torch.zeros(len(index), dtype=torch.float64))


def test_a_closed_form_of_a_kan_is_differentiated(fitted):
    form = symbolic_kans(fitted.kan, fitted.fit, max_degree=4)[0]
    index, values = coefficients(form.expression, form.symbols, 3)
    # Central differences over all sign patterns of a subset.
    step = 1e-2
    for subset, value in zip(index, values.tolist(), strict=True):
        signs = torch.cartesian_prod(*[torch.tensor([1.0, -1.0], dtype=torch.float64)] * len(subset))
        signs = signs.view(-1, len(subset))
        masks = torch.zeros(len(signs), 3, dtype=torch.float64)
        masks[:, list(subset)] = step * signs
        difference = (signs.prod(1) * form(masks)).sum() / (2 * step) ** len(subset)
        assert value == pytest.approx(difference.item(), rel=1e-2, abs=1e-2)


@pytest.mark.parametrize("products", [0, 1])
def test_layers_are_differentiated_as_the_expression_they_make(products):
    f = sympy.Float
    edges = [
        [[sympy.exp(f(0.3) * X), X**2, sympy.tanh(X + f(0.4))], [sympy.sin(X), f(0.7), X], [X**3 + X, X, f(0)]],
        [[1 / (3 + (f(0.5) * X) ** 2)], [sympy.log(1 + sympy.exp(X))], [X**2]][: 3 - products],
    ]
    form = network(edges, [products, 0], 0.25)
    index, values = of_network(form, 3)
    expected_index, expected = coefficients(form.expression, form.symbols, 3)
    assert index == expected_index
    torch.testing.assert_close(values, expected)
    assert expected.abs().min() > 0


@pytest.mark.parametrize("k", [0, -1, 4])
def test_an_order_beyond_the_components_is_refused(k):
    with pytest.raises(BadInputError, match=rf"max_order is {k}, expected 1 to 3"):
        coefficients(A * B * C, S[:3], k)


def test_an_order_beyond_four_is_refused():
    with pytest.raises(BadInputError, match="max_order is 5"):
        coefficients(sympy.exp(sum(S)), S, 5)


@pytest.mark.parametrize("expression", [sympy.log(A), sympy.sqrt(B) + A, 1 / C, (A * B) ** 0.5, A**1.5 * 1 / B])
def test_a_function_without_derivatives_at_zero_is_refused(expression):
    with pytest.raises(BadInputError, match="is not finite at 0"):
        coefficients(expression, S[:3], 2)


def test_the_pair_matrix_is_symmetric_and_holds_each_pair():
    index, values = coefficients(A * B * 2 - C * A + sympy.exp(B * C * D) + 5 * D, S[:4], 3)
    expected = torch.zeros(4, 4, dtype=torch.float64)
    expected[0, 1] = expected[1, 0] = 2
    expected[0, 2] = expected[2, 0] = -1
    torch.testing.assert_close(pair_matrix(index, values, 4), expected)


def test_alike_examples_become_neighbours():
    a, b = torch.randn(2, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    profiles = torch.stack([a, b, 2 * a + 0.1 * b, b - 0.1 * a, 3 * a])
    order, similarity = alike(profiles)
    assert sorted(order) == [0, 1, 2, 3, 4]
    torch.testing.assert_close(similarity, torch.corrcoef(profiles[order]))
    assert (similarity[:3, :3] > 0.9).all() or (similarity[2:, 2:] > 0.9).all()
    assert alike(profiles[:1])[0] == [0]


def test_smoothed_coefficients_are_averages_of_local_ones():
    """g = (σ₁ + σ₂)² + σ₂³: E[∂₁₂ g] = 2, E[∂₂ g] = 3s², E[∂₁ g] = 0."""
    square, cube = X**2, X**3
    form = network([[[X, 0 * X], [X, cube]], [[square], [X]]], [0, 0], 0.0)
    values, errors = smoothed([form, form], 0.5, 2, n_masks=40_000)
    true = torch.tensor([0.0, 3 * 0.5**2, 2.0], dtype=torch.float64)
    assert values.shape == errors.shape == (2, 3)
    assert ((values - true).abs() < 4 * errors).all()
    assert torch.equal(values[0], values[1])
    again, _ = smoothed([form], 0.5, 2, n_masks=40_000, seed=1)
    assert not torch.equal(again[0], values[0])


def test_a_reference_is_right_whatever_steadies_it_and_the_surer_the_closer_that_is():
    """The network is g + 0.1 sin(σ₁ + σ₂); E cos(σ₁ + σ₂) = exp(−s²)."""
    square = X**2
    form = network([[[X], [X]], [[square]]], [0, 0], 0.0)
    other = network([[[X], [2 * X]], [[-square]]], [0, 0], 1.0)
    masks = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    total = masks.sum(1)
    slope = 2 * total + 0.1 * total.cos()
    gradient = torch.stack([slope, slope], 1)[None]
    true = torch.tensor([0.1 * np.exp(-1), 0.1 * np.exp(-1), 2.0], dtype=torch.float64)
    errors = {}
    for name, steady in (("close", form), ("far", other)):
        level, _ = smoothed([steady], 1.0, 2, n_masks=200_000)
        found, errors[name], _ = reference([steady], level, gradient, masks, 1.0, 2)
        assert ((found - true).abs() < 5 * errors[name] + 0.03).all()
    assert (errors["close"] * 20 < errors["far"]).all()


def test_reliability_is_that_of_signal_in_noise():
    """Slopes that are constant are found the same by both halves; slopes of noise, differently."""
    source = torch.Generator().manual_seed(0)
    masks = torch.randn(2000, 8, generator=source, dtype=torch.float64)
    flat = network([[[0 * X]] * 8], [0], 0.0)
    zero = torch.zeros(1, 36, dtype=torch.float64)
    sure = torch.arange(8.0, dtype=torch.float64).expand(1, 2000, 8)
    assert reference([flat], zero, sure, masks, 1.0, 2)[2][0, 0] == pytest.approx(1)
    noise = torch.randn(30, 2000, 8, generator=source, dtype=torch.float64)
    found = reference([flat] * 30, zero.expand(30, -1), noise, masks, 1.0, 2)[2]
    assert found.nanmedian(0).values.abs().max() < 0.6


def test_fidelity_is_one_for_the_reference_itself_and_sees_signs_and_places():
    index = subsets(6, 2)
    true = torch.linspace(-2, 3, len(index), dtype=torch.float64)[None].repeat(2, 1)
    found = torch.stack([5 * true[0], -true[1]])
    table = fidelity(found, true, index).set_index(["example", "order"])
    assert table.loc[1].to_numpy() == pytest.approx(1)
    assert table.loc[2, ["pearson", "spearman", "signs"]].to_numpy() == pytest.approx(np.array([[-1, -1, 0]] * 2))
    shifted = torch.roll(true, 3, 1)
    assert fidelity(shifted, true, index)["overlap"].min() < 1


def test_fidelity_stops_where_the_reference_does():
    index = subsets(4, 3)
    table = fidelity(torch.ones(1, len(index)), torch.arange(4.0)[None], index)
    assert table["order"].tolist() == [1]


def test_what_was_planted_is_significant_and_what_was_not_is_not():
    source = torch.Generator().manual_seed(0)
    x, v = torch.randn(600, 4, generator=source), torch.randn(200, 4, generator=source)

    def true(s):
        return torch.stack([2 * s[:, 0] + 3 * s[:, 1] * s[:, 2], s[:, 3] - 2 * s[:, 0] * s[:, 3]])

    noise = [0.1 * torch.randn(2, len(s), generator=source) for s in (x, v)]
    fit = x, true(x) + noise[0], v, true(v) + noise[1]
    options = {"hidden": [4], "grid": 3, "restarts": 1, "finalists": 1, "iterations": 30}
    index, values = interactions.of_kan(fitting.fit(*fit, **options).kan, 2)
    before = torch.get_rng_state()
    samples, over_masks = interactions.resampled(*fit, 1.0, 2, n=12, **options)
    assert torch.equal(before, torch.get_rng_state())
    _, doubt = interactions.significance(values, samples)
    for e, planted in enumerate([{(0,): 2, (1, 2): 3}, {(3,): 1, (0, 3): -2}]):
        for i, subset in enumerate(index):
            if subset in planted:
                assert doubt[e, i] < 0.05
                assert values[e, i].item() == pytest.approx(planted[subset], rel=0.2)
        others = [i for i, subset in enumerate(index) if subset not in planted]
        assert (doubt[e, others] < 0.05).double().mean() <= 0.25
    table = interactions.certainty(values, samples, index)
    assert table.index.tolist() == [1, 2]
    assert table["coefficients"].tolist() == [8, 12]
    assert table.loc[2, "significant"] == (doubt[:, 4:] <= 0.05).double().mean().item()
    again = interactions.resampled(*fit, 1.0, 2, n=2, **options)
    assert torch.equal(again[0], samples[:2])
    assert torch.equal(again[1], over_masks[:2])
    # Products of two have the same derivatives everywhere.
    average = over_masks.mean(0)
    assert average[0, index.index((1, 2))].item() == pytest.approx(3, rel=0.1)
    assert average[1, index.index((0, 3))].item() == pytest.approx(-2, rel=0.1)


def test_residuals_correct_what_a_surrogate_misses():
    """f = 2σ₀ + 3σ₀σ₁ + σ₁³, of which g knows σ₀ alone: the rest of E[∂_S f] is in the residuals."""
    scale = 0.8
    masks = scale * torch.randn(50_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, y = masks.T
    level = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    residual = (2 * x + 3 * x * y + y**3 - x)[None]
    found = interactions.corrected(level, residual, masks, scale, 2)
    true = torch.tensor([[2.0, 3 * scale**2, 3.0]], dtype=torch.float64)
    _, error = references.smoothed_from_values(residual, masks, scale, 2)
    assert ((found - true).abs() < 4 * error).all()
    assert error.max() < 0.06


def test_derivatives_of_kans_over_masks_are_what_autograd_averages(fitted):
    index, found = interactions.of_kan(fitted.kan, 3, fitted.test)
    kan, masks = fitted.kan, fitted.test.double()

    def derivative(e, subset):
        at = masks.clone().requires_grad_()
        values = kan(at.to(kan.bias))[e]
        for j in subset:
            values = torch.autograd.grad(values.sum(), at, create_graph=True)[0][:, j]
        return values.mean().item()

    for e in range(len(found)):
        for i, subset in enumerate(index[:6]):
            assert found[e, i].item() == pytest.approx(derivative(e, subset), rel=1e-3, abs=1e-3), subset


def test_a_coefficient_that_never_moves_is_sure_and_one_that_is_always_zero_is_not():
    values = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    error, doubt = interactions.significance(values, values.expand(5, 1, 2))
    assert error.tolist() == [[0, 0]]
    assert doubt[0, 0] == 0
    assert doubt[0, 1] == 1


class Branches(torch.nn.Module):
    """Three branches side by side, and what becomes of them."""

    def __init__(self, combine):
        super().__init__()
        self.a, self.b, self.c = (torch.nn.Linear(2, 2, bias=False) for _ in range(3))
        for branch, weights in zip((self.a, self.b, self.c), ((1.0, -0.5), (0.8, 0.3), (-0.7, 0.4)), strict=True):
            branch.weight.data = torch.diag(torch.tensor(weights))
        self.combine = combine

    def forward(self, x):
        return self.combine(self.a(x), self.b(x), self.c(x))


REDUCTIONS = {
    "linear": (lambda a, b, c: a + b + c, {(0,), (1,), (2,)}),
    "additive": (lambda a, b, c: a.tanh() + b.square() + c, {(0,), (1,), (2,)}),
    "product": (lambda a, b, c: c - 2 * a * b, {(0,), (1,), (2,), (0, 1)}),
    "triple": (lambda a, b, c: 3 * a * b * c, set(subsets(3, 3))),
}


@pytest.mark.parametrize("kind", REDUCTIONS)
def test_a_network_that_is_known_has_the_interactions_that_it_must_have(kind):
    """Gates, responses, KAN and derivatives together: what adds up has no interactions, what multiplies has."""
    combine, present = REDUCTIONS[kind]
    model, x, label = Branches(combine).eval(), torch.tensor([[1.0, 1.5]]), torch.tensor([0])
    asked = {"site": "output", "output_function": "margin"}
    data = []
    for split, n in (("fit", 800), ("validation", 200)):
        masks = perturbation.masks(n, 3, 1.0, 0, split)
        y, _ = perturbation.responses(model, ["a", "b", "c"], x, label, masks, **asked)
        data += [masks.double(), y.double()]
    exact = references.local_derivatives(model, ["a", "b", "c"], x, label, max_order=3, **asked)[0]
    kan = fitting.fit(*data, hidden=[6], order=5, penalties=[1e-7], finalists=3, iterations=60).kan
    index, (found,) = interactions.of_kan(kan, 3)
    scale = exact.abs().max()
    assert {s for s, value in zip(index, exact, strict=True) if value.abs() > 1e-4 * scale} == present
    torch.testing.assert_close(found / scale, exact.double() / scale, rtol=0, atol=0.03)
    if kind == "linear":
        coar = LinearRegression().fit(data[0].numpy(), data[1][0].numpy()).coef_
        np.testing.assert_allclose(found[:3], coar, atol=0.03 * scale.item())
