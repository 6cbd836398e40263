import pytest
import torch
from torch import nn

from kanlib.components import gated
from kanlib.errors import BadInputError
from kanlib.perturbation import OUTPUT_FUNCTIONS
from kanlib.references import gradients, local_derivatives, smoothed, smoothed_from_values, subsets


@pytest.fixture
def smooth():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)).eval()


@pytest.mark.parametrize("site", ["branch", "output"])
@pytest.mark.parametrize("output_function", ["margin", "log_prob"])
def test_local_derivatives_are_finite_differences_of_the_network(smooth, site, output_function):
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))
    labels, components = torch.tensor([0, 2]), ["0", "2", "3"]
    found = local_derivatives(smooth, components, x, labels, site=site, output_function=output_function)
    index, step = subsets(3, 2), 1e-3
    assert (found.shape, found.dtype) == ((2, len(index)), torch.float64)
    assert next(smooth.parameters()).dtype == torch.float32
    read = OUTPUT_FUNCTIONS[output_function]
    with torch.no_grad(), gated(smooth.double(), components, site) as gates:
        for e in range(2):

            def f(*moves, e=e):
                sigma = torch.zeros(1, 3, dtype=torch.float64)
                for j, move in moves:
                    sigma[0, j] += move
                return read(gates(x[e : e + 1].double(), sigma), labels[e : e + 1]).item()

            for subset, value in zip(index, found[e].tolist(), strict=True):
                if len(subset) == 1:
                    expected = (f((subset[0], step)) - f((subset[0], -step))) / (2 * step)
                else:
                    i, j = subset
                    expected = sum(p * q * f((i, p * step), (j, q * step)) for p in (1, -1) for q in (1, -1))
                    expected /= 4 * step**2
                assert value == pytest.approx(expected, abs=1e-5)


class Polynomial(nn.Module):
    """Logits ``(a + ab + 3abc, 0)`` of what three linear components put out."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(1, 1) for _ in range(3))
        for module in (self.a, self.b, self.c):
            nn.init.constant_(module.weight, 2.0)
            nn.init.zeros_(module.bias)

    def forward(self, x):
        a, b, c = self.a(x), self.b(x), self.c(x)
        value = a + a * b + 3 * a * b * c
        return torch.cat([value, torch.zeros_like(value)], 1)


def test_local_derivatives_of_a_polynomial_are_its_own_to_order_three():
    # Each component puts out 2(1 + σ): f = 2A + 4AB + 24ABC with A = 1 + σ_1, …
    found = local_derivatives(
        Polynomial().eval(), ["a", "b", "c"], torch.ones(2, 1), torch.tensor([0, 0]), max_order=3, site="output"
    )
    torch.testing.assert_close(found, torch.tensor([[30.0, 28, 24, 28, 24, 24, 24]] * 2, dtype=torch.float64))


def test_lower_orders_are_the_head_of_higher_ones(smooth):
    x, labels = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 2, 1])
    low, high = (local_derivatives(smooth, ["0", "2", "3"], x, labels, max_order=k) for k in (2, 3))
    assert torch.equal(high[:, : low.shape[1]], low)


def test_third_derivatives_are_finite_differences_of_the_network(smooth):
    x, labels, step = torch.randn(1, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0]), 1e-2
    found = local_derivatives(smooth, ["0", "2", "3"], x, labels, max_order=3)[0, -1]
    signs = torch.cartesian_prod(*[torch.tensor([1.0, -1.0], dtype=torch.float64)] * 3)
    with torch.no_grad(), gated(smooth.double(), ["0", "2", "3"]) as gates:
        values = OUTPUT_FUNCTIONS["margin"](gates(x.double(), step * signs), labels.expand(8))
    smooth.float()
    expected = (signs.prod(1) * values).sum() / (2 * step) ** 3
    assert abs(expected) > 1e-2
    assert found.item() == pytest.approx(expected.item(), rel=1e-2)


def test_a_network_linear_in_its_masks_has_no_interactions():
    model = nn.Sequential(nn.Linear(2, 3)).eval()
    found = local_derivatives(model, ["0"], torch.ones(1, 2), torch.tensor([1]), max_order=1, site="output")
    assert found.shape == (1, 1)
    additive = local_derivatives(Sum().eval(), ["a", "b"], torch.ones(1, 2), torch.tensor([1]), site="output")
    assert additive[0, 2] == 0
    assert (additive[0, :2] != 0).all()


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.a(x) + self.b(x)


class TwoLayers(nn.Module):
    def __init__(self, between):
        super().__init__()
        self.a, self.b, self.between = nn.Linear(2, 2), nn.Linear(2, 2), between

    def forward(self, x):
        return self.b(self.between(self.a(x))).square()


def test_a_network_that_works_in_place_is_refused():
    model, x = TwoLayers(lambda y: (s := y.sigmoid()) + s.mul_(2)).eval(), torch.ones(1, 2)
    with pytest.raises(BadInputError, match=r"cannot be differentiated in its masks to order 1 .*lower max_order"):
        local_derivatives(model, ["a", "b"], x, torch.tensor([0]), site="output")


def test_gradients_at_masks_are_finite_differences(smooth):
    source = torch.Generator().manual_seed(4)
    x, labels, sigma = (
        torch.randn(2, 4, generator=source),
        torch.tensor([0, 2]),
        torch.randn(7, 3, generator=source),
    )
    model = smooth.double()
    found = gradients(model, ["0", "2", "3"], x.double(), labels, sigma.double(), batch_size=3)
    assert (found.shape, found.dtype) == ((2, 7, 3), torch.float64)
    step = 1e-4
    with torch.no_grad(), gated(model, ["0", "2", "3"]) as gates:
        for e in range(2):
            for j in range(3):
                move = torch.zeros(3, dtype=torch.float64)
                move[j] = step
                up, down = (
                    OUTPUT_FUNCTIONS["margin"](gates(x[e : e + 1].double(), s), labels[e].expand(7))
                    for s in (sigma + move, sigma - move)
                )
                torch.testing.assert_close(found[e, :, j], (up - down) / (2 * step), atol=1e-7, rtol=1e-7)
    smooth.float()


def test_smoothed_derivatives_of_a_polynomial_are_those_of_its_average():
    """f = aσ₀σ₁σ₂ + bσ₀² + cσ₁ has E[∂₀₁₂ f] = a, E[∂₁ f] = c and nothing else: σ₀ has mean 0."""
    scale, a, b, c = 0.7, 2.0, -1.5, 0.5
    masks = scale * torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, y, z = masks.T
    gradient = torch.stack([a * y * z + 2 * b * x, a * x * z + c, a * x * y], 1)[None]
    values, errors = smoothed(gradient, masks, scale, 3)
    true = torch.zeros(7, dtype=torch.float64)
    true[subsets(3, 3).index((1,))], true[subsets(3, 3).index((0, 1, 2))] = c, a
    assert ((values[0] - true).abs() < 4 * errors[0]).all()
    assert errors.max() < 0.05


def test_values_alone_give_the_same_derivatives_as_gradients():
    scale = 0.7
    masks = scale * torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, y, z = masks.T
    gradient = torch.stack([y * z, x * z + 0.5 * y.cos(), x * y], 1)[None]
    values = (x * y * z + 0.5 * y.sin() + 7)[None]
    one, error = smoothed(gradient, masks, scale, 3)
    other, wider = smoothed_from_values(values, masks, scale, 3)
    assert ((one - other).abs() < 4 * (error.square() + wider.square()).sqrt()).all()
    assert wider.max() < 0.05


def test_smoothed_derivatives_see_what_a_kink_adds():
    """f = |σ₀ + σ₁ − ½|: its second derivative is 0 wherever it exists, and twice a density on average."""
    masks = torch.randn(100_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slope = (masks.sum(1) - 0.5).sign()
    values, errors = smoothed(torch.stack([slope, slope], 1)[None], masks, 1.0, 2)
    true = 2 * torch.distributions.Normal(0.0, 2**0.5).log_prob(torch.tensor(0.5)).exp()
    assert abs(values[0, 2] - true) < 4 * errors[0, 2] < 0.05


@pytest.mark.parametrize("of", ["gradients", "values"])
def test_standard_errors_are_those_of_repeated_estimates(of):
    source, estimates, errors = torch.Generator().manual_seed(0), [], []
    for _ in range(200):
        masks = torch.randn(100, 3, generator=source, dtype=torch.float64)
        gradient = torch.stack([masks[:, 1] * masks[:, 2], masks[:, 0].exp(), masks[:, 0].sin()], 1)[None]
        values = (masks[:, 0].sin() + masks[:, 1] * masks[:, 2])[None]
        estimate = {"gradients": (smoothed, gradient), "values": (smoothed_from_values, values)}[of]
        value, error = estimate[0](estimate[1], masks, 1.0, 3)
        estimates.append(value[0])
        errors.append(error[0])
    torch.testing.assert_close(torch.stack(errors).mean(0), torch.stack(estimates).std(0), rtol=0.25, atol=0)
