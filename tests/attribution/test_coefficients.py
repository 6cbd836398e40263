import numpy as np
import pytest
import sympy
import torch
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import PolynomialFeatures

from kanlib.attribution.coefficients import (
    derivative_errors,
    of_expression,
    of_kan,
    of_polynomial,
    of_symbolic,
    pair_matrix,
    similarity_order,
)
from kanlib.errors import BadInputError
from kanlib.kan import fit
from kanlib.masks import Split, gaussian, subsets
from kanlib.networks import Probe
from kanlib.setups import Symbolic
from kanlib.symbolic import replace_edges
from kanlib.symbolic.closed_forms import X
from kanlib.symbolic.shortening import candidates
from tests.helpers import knobs, symbolic_kan

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


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_coefficients_are_sympys_mixed_partials(name):
    expression = EXPRESSIONS[name]
    index, values = of_expression(expression, S, 4)
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
    index, values = of_expression(expression, S[:4], 4)
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
        index, values = of_expression(EXPRESSIONS["all at once"], S, k)
        whole = of_expression(EXPRESSIONS["all at once"], S, 4)[1]
        torch.testing.assert_close(values, whole[: len(index)], rtol=1e-12, atol=0)


def test_an_additive_function_has_no_interactions():
    additive = sympy.exp(A) + sympy.tanh(B + 0.3) - sympy.log(2 + C) + 3 * D**2 + sympy.sin(E)
    index, values = of_expression(additive, S, 4)
    assert all(value == 0 for subset, value in zip(index, values.tolist(), strict=True) if len(subset) > 1)
    np.testing.assert_allclose(values[:5], [1, 1 - np.tanh(0.3) ** 2, -0.5, 0, 1], rtol=1e-12)


@pytest.mark.parametrize("planted", [(0, 3), (1, 2, 4), (0, 1, 2, 3)])
@pytest.mark.parametrize("strength", [2.5, -0.1])
def test_a_planted_product_is_found_with_order_and_sign(planted, strength):
    expression = strength * sympy.prod([S[j] for j in planted]) + sympy.exp(A) - D**3
    index, values = of_expression(expression, S, 4)
    found = {s: v for s, v in zip(index, values.tolist(), strict=True) if v != 0 and len(s) > 1}
    assert found == pytest.approx({planted: strength})


def test_a_constant_has_no_derivatives():
    index, values = of_expression(sympy.Float(3), S[:3], 3)
    assert torch.equal(values, torch.zeros(len(index), dtype=torch.float64))


def test_a_closed_form_of_a_kan_is_differentiated(fitted):
    form = replace_edges(fitted.kan, fitted.fit.masks, Symbolic(max_degree=4))[0]
    index, values = of_expression(form.expression, form.symbols, 3)
    # Central differences over all sign patterns of a subset.
    step = 1e-2
    for subset, value in zip(index, values.tolist(), strict=True):
        signs = torch.cartesian_prod(*[torch.tensor([1.0, -1.0], dtype=torch.float64)] * len(subset))
        signs = signs.view(-1, len(subset))
        masks = torch.zeros(len(signs), 3, dtype=torch.float64)
        masks[:, list(subset)] = step * signs
        difference = (signs.prod(1) * form(masks)).sum() / (2 * step) ** len(subset)
        assert value == pytest.approx(difference.item(), rel=1e-2, abs=1e-2)


def test_layers_are_differentiated_as_the_expression_they_make():
    f = sympy.Float
    edges = [
        [[sympy.exp(f(0.3) * X), X**2, sympy.tanh(X + f(0.4))], [sympy.sin(X), f(0.7), X], [X**3 + X, X, f(0)]],
        [[1 / (3 + (f(0.5) * X) ** 2)], [sympy.log(1 + sympy.exp(X))], [X**2]],
    ]
    symbolic = symbolic_kan(edges, 0.25)
    index, values = of_symbolic(symbolic, 3)
    expected_index, expected = of_expression(symbolic.expression, symbolic.symbols, 3)
    assert index == expected_index
    torch.testing.assert_close(values, expected)
    assert expected.abs().min() > 0


def test_a_polynomials_coefficients_are_the_weights_of_its_products():
    terms = PolynomialFeatures(3).fit(np.zeros((1, 3)))
    weights = torch.randn(2, terms.n_output_features_, generator=torch.Generator().manual_seed(0)).double()
    index = subsets(3, 3)
    found = of_polynomial(terms, weights, index)
    for row, of_terms in zip(found, weights.tolist(), strict=True):
        monomials = [sympy.prod(s ** int(p) for s, p in zip(S, power, strict=False)) for power in terms.powers_]
        whole = sum(w * monomial for w, monomial in zip(of_terms, monomials, strict=True))
        torch.testing.assert_close(row, of_expression(whole, S[:3], 3)[1])
    assert torch.equal(of_polynomial(terms, weights, [()])[:, 0], weights[:, 0])


def test_derivatives_at_zero_are_the_kans(fitted):
    masks = fitted.fit.masks
    errors = derivative_errors(replace_edges(fitted.kan, masks, Symbolic()), fitted.kan)
    assert errors.keys() == {1, 2, 3}
    assert errors[1] < 0.02
    assert errors[2] < 0.05
    assert errors[3] < 0.1
    loose = [one.faithful(0.9) for one in candidates(fitted.kan, masks, Symbolic(), rest=0)]
    assert derivative_errors(loose, fitted.kan)[2] > errors[2]


@pytest.mark.parametrize("k", [0, -1, 4])
def test_an_order_beyond_the_components_is_refused(k):
    with pytest.raises(BadInputError, match=rf"max_order is {k}, expected 1 to 3"):
        of_expression(A * B * C, S[:3], k)


def test_an_order_beyond_four_is_refused():
    with pytest.raises(BadInputError, match="max_order is 5"):
        of_expression(sympy.exp(sum(S)), S, 5)


@pytest.mark.parametrize("other", [sympy.Symbol("y"), sympy.Symbol("sigma_1", real=True), sympy.Symbol("h_1")])
def test_symbols_that_are_no_components_are_refused(other):
    mine = sympy.Symbol("mine")
    with pytest.raises(BadInputError, match=r"a closed form holds \{\w+\}, expected \[mine\] alone"):
        of_expression(mine + 3 * other, [mine], 1)


@pytest.mark.parametrize("expression", [sympy.log(A), sympy.sqrt(B) + A, 1 / C, (A * B) ** 0.5, A**1.5 * 1 / B])
def test_a_function_without_derivatives_at_zero_is_refused(expression):
    with pytest.raises(BadInputError, match=r"is not finite at 0|is \S+ at 0, expected a finite number"):
        of_expression(expression, S[:3], 2)


def test_the_pair_matrix_is_symmetric_and_holds_each_pair():
    index, values = of_expression(A * B * 2 - C * A + sympy.exp(B * C * D) + 5 * D, S[:4], 3)
    expected = torch.zeros(4, 4, dtype=torch.float64)
    expected[0, 1] = expected[1, 0] = 2
    expected[0, 2] = expected[2, 0] = -1
    torch.testing.assert_close(pair_matrix(index, values, 4), expected)


def test_alike_examples_become_neighbours():
    a, b = torch.randn(2, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    profiles = torch.stack([a, b, 2 * a + 0.1 * b, b - 0.1 * a, 3 * a])
    order, similarity = similarity_order(profiles)
    assert sorted(order) == [0, 1, 2, 3, 4]
    torch.testing.assert_close(similarity, torch.corrcoef(profiles[order]))
    assert (similarity[:3, :3] > 0.9).all() or (similarity[2:, 2:] > 0.9).all()
    assert similarity_order(profiles[:1])[0] == [0]
    order, similarity = similarity_order(profiles[:, :1])
    assert order == list(range(len(profiles)))
    assert similarity.isnan().all()


def test_derivatives_of_kans_over_masks_are_what_autograd_averages(fitted):
    index, found = of_kan(fitted.kan, 3, fitted.test.masks)
    kan, masks = fitted.kan, fitted.test.masks.double()

    def derivative(e, subset):
        at = masks.clone().requires_grad_()
        values = kan(at.to(kan.bias))[e]
        for j in subset:
            values = torch.autograd.grad(values.sum(), at, create_graph=True)[0][:, j]
        return values.mean().item()

    for e in range(len(found)):
        for i, subset in enumerate(index[:6]):
            assert found[e, i].item() == pytest.approx(derivative(e, subset), rel=1e-3, abs=1e-3), subset


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
    probe = Probe(model, ["a", "b", "c"], x, label, site="output", output_function="margin")
    data, validation = (
        Split(masks, probe.responses(masks)[0]).to(torch.float64)
        for masks in (gaussian(n, 3, 1.0, 0, split) for split, n in (("fit", 800), ("validation", 200)))
    )
    exact = probe.local_derivatives(3)[0]
    settings = knobs(hidden=[6], spline_order=5, penalties=[1e-7], finalists=3, iterations=60)
    index, (found,) = of_kan(fit(data, validation, settings).kan, 3)
    scale = exact.abs().max()
    assert {s for s, value in zip(index, exact, strict=True) if value.abs() > 1e-4 * scale} == present
    torch.testing.assert_close(found / scale, exact.double() / scale, rtol=0, atol=0.03)
    if kind == "linear":
        coar = LinearRegression().fit(data.masks.numpy(), data.responses[0].numpy()).coef_
        np.testing.assert_allclose(found[:3], coar, atol=0.03 * scale.item())
