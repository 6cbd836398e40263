import copy
import threading
from dataclasses import replace

import pytest
import torch
from torch import nn

from kanlib.errors import BadInputError
from kanlib.masks import subsets
from kanlib.networks.components import find, gated
from kanlib.networks.models import classifier
from kanlib.networks.outputs import OUTPUT_FUNCTIONS
from kanlib.networks.probe import Probe

BLOCKS = ["layer1.0", "layer1.1", "layer2.0", "layer3.1", "layer4.0"]
LABELS = torch.tensor([3, 7])
LAYERS = ["0", "2", "3"]
both_sites = pytest.mark.parametrize("site", ["branch", "output"])


@pytest.fixture
def images():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def sigma():
    return torch.randn(7, 5, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def probe(resnet, images):
    return Probe(resnet, BLOCKS, images, LABELS, batch_size=4)


@pytest.fixture
def smooth():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)).eval()


@both_sites
def test_responses_are_the_centred_output_mask_by_mask(resnet, images, probe, sigma, site):
    y, clean = replace(probe, site=site, batch_size=3).responses(sigma)
    assert y.shape == (2, 7)
    for e in range(2):
        plain = resnet(images[e : e + 1])[0]
        label = LABELS[e]
        others = torch.cat([plain[:label], plain[label + 1 :]])
        torch.testing.assert_close(clean[e], plain[label] - others.max())
        for i, mask in enumerate(sigma):
            with gated(resnet, BLOCKS, site) as gates:
                logits = gates(images[e : e + 1], mask[None])[0]
            margin = logits[label] - torch.cat([logits[:label], logits[label + 1 :]]).max()
            torch.testing.assert_close(y[e, i], margin - clean[e], atol=1e-4, rtol=1e-4)


def test_the_asked_output_function_is_read(resnet, images, probe, sigma):
    y, clean = replace(probe, output_function="log_prob").responses(sigma)
    loss, clean_loss = replace(probe, output_function="loss").responses(sigma)
    assert torch.equal(y, -loss)
    torch.testing.assert_close(clean, resnet(images).log_softmax(1)[[0, 1], LABELS])
    assert torch.equal(clean, -clean_loss)


@both_sites
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_the_response_to_no_perturbation_is_exactly_zero(probe, sigma, site, batch_size):
    mixed = torch.cat([sigma[:2], torch.zeros(3, 5), sigma[2:]])
    y, _ = replace(probe, site=site, batch_size=batch_size).responses(mixed)
    assert torch.equal(y[:, 2:5], torch.zeros(2, 3))
    assert (y[:, :2] != 0).all()


@both_sites
@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_a_response_does_not_depend_on_the_other_masks(probe, sigma, site, batch_size):
    def recorded(masks):
        return replace(probe, site=site, batch_size=batch_size).responses(masks)[0]

    whole = recorded(sigma)
    assert torch.equal(recorded(sigma), whole)
    assert torch.equal(recorded(sigma[3:]), whole[:, 3:])
    assert torch.equal(recorded(sigma.flip(0)).flip(1), whole)
    assert torch.equal(recorded(torch.cat([sigma[:1] * 9, sigma]))[:, 1:], whole)


def test_a_response_does_not_depend_on_the_other_examples(probe, sigma):
    whole, clean = probe.responses(sigma)
    alone, own = probe.of(slice(1, None)).responses(sigma)
    assert torch.equal(alone[0], whole[1])
    assert torch.equal(own[0], clean[1])


def test_the_batch_size_changes_rounding_only(probe, sigma):
    one, _ = replace(probe, batch_size=1).responses(sigma)
    for batch_size in (3, 7, 20):
        many, _ = replace(probe, batch_size=batch_size).responses(sigma)
        torch.testing.assert_close(many, one, atol=1e-4, rtol=1e-4)


def test_no_masks_give_no_responses(probe, sigma):
    y, clean = probe.responses(sigma[:0])
    assert (y.shape, clean.shape) == ((2, 0), (2,))


def test_responses_leave_the_model_without_gates(resnet, probe, sigma):
    replace(probe, batch_size=7).responses(sigma)
    assert not any(module._forward_hooks for module in resnet.modules())


def test_weights_that_are_not_finite_are_refused(resnet, probe, sigma):
    broken = copy.deepcopy(resnet)
    broken.fc.weight[3, 0] = torch.nan
    with pytest.raises(BadInputError, match=r"response of example 1 to mask 1 is nan"):
        replace(probe, model=broken).responses(sigma)


def test_a_response_that_is_not_finite_is_refused_by_example_and_mask(probe, sigma):
    sigma[4, 2] = torch.inf
    with pytest.raises(BadInputError, match=r"response of example 1 to mask 5 is nan.* scale"):
        probe.responses(sigma)


def test_tf32_is_for_cuda_only(probe, sigma):
    with pytest.raises(BadInputError, match=r"precision tf32 is CUDA's, but the device is cpu"):
        replace(probe, precision="tf32").responses(sigma)


def test_switches_of_precision_are_as_before_afterwards(probe, sigma):
    before = torch.backends.cudnn.allow_tf32
    replace(probe, precision="bf16").responses(sigma)
    assert torch.backends.cudnn.allow_tf32 == before
    assert not torch.is_autocast_enabled("cpu")


def test_many_output_functions_are_read_at_once(probe, sigma):
    out, clean = probe.outputs(sigma, ["logit", "margin"])
    assert (out.shape, clean.shape) == ((2, 2, 7), (2, 2))
    y, own = probe.responses(sigma)
    assert torch.equal(out[1] - clean[1][:, None], y)
    assert torch.equal(clean[1], own)


@both_sites
def test_gates_at_rest_change_no_logit(probe, site):
    assert replace(probe, site=site).gate_error() == 0


def test_a_copy_in_float64_leaves_the_model_as_it_is(resnet, probe, sigma):
    double = probe.double()
    assert next(resnet.parameters()).dtype == torch.float32
    assert next(double.model.parameters()).dtype == double.x.dtype == torch.float64
    torch.testing.assert_close(double.responses(sigma)[0], probe.responses(sigma)[0], atol=1e-3, rtol=1e-3)


@both_sites
@pytest.mark.parametrize("output_function", ["margin", "log_prob"])
def test_local_derivatives_are_finite_differences_of_the_network(smooth, site, output_function):
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 2])
    found = Probe(smooth, LAYERS, x, labels, site, output_function).local_derivatives()
    index, step = subsets(3, 2), 1e-3
    assert (found.shape, found.dtype) == ((2, len(index)), torch.float64)
    assert next(smooth.parameters()).dtype == torch.float32
    read = OUTPUT_FUNCTIONS[output_function]
    with torch.no_grad(), gated(smooth.double(), LAYERS, site) as gates:
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
    asked = Probe(Polynomial().eval(), ["a", "b", "c"], torch.ones(2, 1), torch.tensor([0, 0]), site="output")
    found = asked.local_derivatives(3)
    torch.testing.assert_close(found, torch.tensor([[30.0, 28, 24, 28, 24, 24, 24]] * 2, dtype=torch.float64))


def test_lower_orders_are_the_head_of_higher_ones(smooth):
    x, labels = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 2, 1])
    low, high = (Probe(smooth, LAYERS, x, labels).local_derivatives(k) for k in (2, 3))
    assert torch.equal(high[:, : low.shape[1]], low)


def test_third_derivatives_are_finite_differences_of_the_network(smooth):
    x, labels, step = torch.randn(1, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0]), 1e-2
    found = Probe(smooth, LAYERS, x, labels).local_derivatives(3)[0, -1]
    signs = torch.cartesian_prod(*[torch.tensor([1.0, -1.0], dtype=torch.float64)] * 3)
    with torch.no_grad(), gated(smooth.double(), LAYERS) as gates:
        values = OUTPUT_FUNCTIONS["margin"](gates(x.double(), step * signs), labels.expand(8))
    smooth.float()
    expected = (signs.prod(1) * values).sum() / (2 * step) ** 3
    assert abs(expected) > 1e-2
    assert found.item() == pytest.approx(expected.item(), rel=1e-2)


def test_a_network_linear_in_its_masks_has_no_interactions():
    model = nn.Sequential(nn.Linear(2, 3)).eval()
    found = Probe(model, ["0"], torch.ones(1, 2), torch.tensor([1]), site="output").local_derivatives(1)
    assert found.shape == (1, 1)
    sides = Probe(Sum().eval(), ["a", "b"], torch.ones(1, 2), torch.tensor([1]), site="output")
    additive = sides.local_derivatives()
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
        Probe(model, ["a", "b"], x, torch.tensor([0]), site="output").local_derivatives()


def test_gradients_at_masks_are_finite_differences(smooth):
    source = torch.Generator().manual_seed(4)
    x, labels, sigma = (
        torch.randn(2, 4, generator=source),
        torch.tensor([0, 2]),
        torch.randn(7, 3, generator=source),
    )
    model = smooth.double()
    found = Probe(model, LAYERS, x.double(), labels, batch_size=3).gradients(sigma.double())
    assert (found.shape, found.dtype) == ((2, 7, 3), torch.float64)
    step = 1e-4
    with torch.no_grad(), gated(model, LAYERS) as gates:
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


def test_examples_may_come_in_parts(smooth):
    x, labels = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 2, 1])
    asked = Probe(smooth, LAYERS, x, labels)
    torch.testing.assert_close(asked.local_derivatives(examples_at_once=1), asked.local_derivatives())


class Left(nn.Module):
    """A part of a network that evaluation mode does not reach."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def train(self, mode=True):
        return self

    def forward(self, x):
        return self.layers(x)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def counted():
    """A function that says something else each time, without a random number."""
    calls = []
    return lambda x: x + len(calls.append(None) or calls)


def with_layer(layer, n_classes=3):
    """Asks of two convolutions with a layer of that kind between them, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        convolutions = [nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)]
        end = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, n_classes)]
        model = nn.Sequential(convolutions[0], layer, convolutions[1], *end).eval()
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return Probe(model, ["0", "2"], x, torch.tensor([0, 0]), site="output", batch_size=5)


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        (Left(nn.Dropout(0.5)), r"asked the same twice \(random: 1\.layers\.0\); switch off"),
        (Left(nn.Sequential(nn.Identity(), nn.FeatureAlphaDropout(0.5))), r"random: 1\.layers\.0\.1\)"),
        (Function(lambda x: nn.functional.dropout(x, 0.5, training=True)), "asked the same twice; switch off"),
        (Function(counted()), "asked the same twice; switch off"),
        (Left(nn.BatchNorm2d(4)), r"other masks of its batch \(statistics of the batch: 1\.layers\.0\)"),
        (nn.BatchNorm2d(4, track_running_stats=False), r"\(statistics of the batch: 1\)"),
        (Function(lambda x: x - x.mean(0)), "other masks of its batch; let the network treat each image alone"),
        (Function(lambda x: x + x[:1]), "other masks of its batch; "),
        (Function(lambda x: x + x[-1:]), "other masks of its batch; "),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_network_whose_answers_are_not_its_own_is_refused_by_the_cause(layer, sentence, batch_size):
    with pytest.raises(BadInputError, match=sentence):
        replace(with_layer(layer), batch_size=batch_size).check()


def test_gates_that_change_what_they_should_not_are_refused():
    # What is infinite inside is no number under a gate, though the logits of the network are finite.
    layer = nn.Sequential(Function(lambda x: x.abs() / 0), Function(lambda x: x.clamp(0, 1)))
    probe = replace(with_layer(layer), components=["1.0"], site="branch")
    with pytest.raises(BadInputError, match=r"gates at σ = 0 change a logit by inf, expected 0"):
        probe.check()


@both_sites
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_sound_network_is_accepted_and_left_as_it_is(resnet, probe, site, precision):
    before = {name: value.clone() for name, value in resnet.state_dict().items()}
    replace(probe, site=site, precision=precision).check()
    assert all(torch.equal(value, before[name]) for name, value in resnet.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in resnet.modules())


class Beside(nn.Module):
    """Lays what its layer makes beside what it was given, which has one row while an image is shared."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return torch.cat([x, self.layer(x)], 1)


def test_it_is_said_where_each_mask_is_given_an_image_of_its_own(images):
    end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)]
    probe = Probe(nn.Sequential(Beside(), *end).eval(), ["0.layer"], images, 0 * LABELS[: len(images)], "output")
    (said,) = probe.check()
    assert said.startswith("Each mask is given an image of its own")


@both_sites
def test_a_mask_answers_to_the_bit_whatever_its_batch(resnet, probe, monkeypatch, site):
    monkeypatch.setattr("kanlib.networks.probe.tolerance", lambda logits: 0.0)
    replace(probe, site=site).check()
    model = classifier("timm/deit_tiny_patch16_224", 10)[0].eval()
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    Probe(model, find(model, ["blocks.*"]), image, LABELS[:1], site, batch_size=2).check()


def test_checking_leaves_the_global_rng(probe, same_global_rng):
    probe.check()


def with_end(end, **changes):
    """Asks of that network, of whose logits ``end`` makes what is put out."""
    probe = with_layer(nn.Identity(), **changes)
    return replace(probe, model=nn.Sequential(*probe.model, Function(end)))


def told(probe, sigma):
    """All that a network is asked."""
    return (*probe.responses(sigma), probe.gradients(sigma), probe.local_derivatives())


@pytest.mark.parametrize(
    ("end", "place"),
    [
        (lambda y: (None, y), "tuple that the network puts out, [1]"),
        (
            lambda y: {"hidden": y @ torch.ones(3, 9).to(y), "logits": y},
            "dict that the network puts out, ['logits']",
        ),
    ],
)
def test_logits_in_a_tuple_or_a_dict_are_answered_for_as_if_they_were_bare(sigma, end, place):
    bare, held, sigma = with_layer(nn.Identity()), with_end(end), sigma[:, :2]
    for of_bare, of_held in zip(told(bare, sigma), told(held, sigma), strict=True):
        assert torch.equal(of_bare, of_held)
    assert bare.check() == ()
    assert held.check() == (f"Of the {place} is taken for the logits, 3 an image.",)


@pytest.mark.parametrize("name", list(OUTPUT_FUNCTIONS))
def test_one_logit_answers_as_the_second_of_two(sigma, name):
    one = replace(with_layer(nn.Identity(), n_classes=1), output_function=name, labels=torch.tensor([1, 1]))
    both = Function(lambda y: torch.cat([torch.zeros_like(y), y], 1))
    two = replace(one, model=nn.Sequential(*one.model, both))
    for of_one, of_two in zip(told(one, sigma[:, :2]), told(two, sigma[:, :2]), strict=True):
        assert torch.equal(of_one, of_two)
    assert one.check() == (
        "The network gives one logit z an image, which is read as the logits 0 and z of two classes.",
    )


def test_a_dense_output_answers_through_a_function_of_the_users_own(sigma):
    sigma, margin = sigma[:, :2], with_layer(nn.Identity())

    def mean_margin(output, labels):
        assert labels.shape == (len(output["map"]),)
        return OUTPUT_FUNCTIONS["margin"](output["map"].mean((2, 3)), labels)

    dense = with_end(lambda y: {"map": y[:, :, None, None].expand(-1, -1, 2, 2)})
    own = replace(dense, output_function=mean_margin)
    for of_own, of_margin in zip(told(own, sigma), told(margin, sigma), strict=True):
        torch.testing.assert_close(of_own, of_margin)
    assert own.check() == ()
    assert own.gate_error() == 0
    with pytest.raises(BadInputError, match="puts out dict for 5 images"):
        dense.check()


def test_an_output_function_that_no_component_reaches_is_refused(sigma):
    probe = with_end(lambda y: {"logits": y, "seen": y.new_ones(1)})
    asked = replace(probe, output_function=lambda output, labels: output["seen"])
    with pytest.raises(BadInputError, match=r"gives \[1\] .* for 5 images, .*these do not reach what it reads"):
        asked.check()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_network_of_half_precision_is_computed_in_fp32(sigma, dtype):
    made = with_layer(nn.Identity())
    half, x = copy.deepcopy(made.model).to(dtype), made.x.to(dtype)
    probe = replace(made, model=half, x=x)
    exact = replace(made, model=copy.deepcopy(half).float(), x=x.float())
    for found, true in zip(
        told(probe.of(slice(1)), sigma[:, :2]), told(exact.of(slice(1)), sigma[:, :2]), strict=True
    ):
        assert torch.equal(found, true)
    assert {value.dtype for value in half.parameters()} == {dtype}
    assert probe.of(slice(1)).check() == (f"The network came in {dtype} and is computed in torch.float32.",)


@both_sites
def test_a_network_made_in_inference_mode_answers_as_any_other(resnet, images, probe, sigma, site):
    with torch.inference_mode():
        apart = copy.deepcopy(resnet)
    assert apart.fc.weight.is_inference()
    asked = replace(probe, model=apart, site=site)
    assert torch.equal(asked.responses(sigma)[0], replace(probe, site=site).responses(sigma)[0])
    assert not asked.adapted
    asked.check()


def test_a_network_of_half_precision_that_cannot_be_copied_is_refused():
    probe = with_layer(nn.Identity())
    probe.model.lock = threading.Lock()
    with pytest.raises(
        BadInputError, match=r"cannot be copied to torch\.float32, in which it is computed \(TypeError"
    ):
        replace(probe, model=probe.model.half())


def test_labels_beyond_the_logits_are_refused(sigma):
    probe = replace(with_layer(nn.Identity()), labels=torch.tensor([0, 3]))
    with pytest.raises(BadInputError, match="has label 3, but the network has logits for 0 to 2"):
        probe.responses(sigma[:, :2])


@pytest.mark.parametrize(
    ("end", "what"),
    [
        (lambda y: (y[:, :, None], y.argmax(1)), "tuple"),
        (lambda y: {"logits": y[:, None], "hidden": y}, "dict"),
        (lambda y: y[:, :, None, None], r"\[5, 3, 1, 1\]"),
        (lambda y: y[:2], r"\[2, 3\]"),
        (lambda y: y.argmax(1), r"\[5\] of torch\.int64"),
    ],
)
def test_a_network_that_gives_no_logits_is_refused(sigma, end, what):
    probe = with_end(end)
    for ask in (probe.check, probe.gate_error, lambda: probe.responses(sigma[:, :2])):
        with pytest.raises(BadInputError, match=f"puts out {what}.* let the factory return"):
            ask()


@pytest.mark.parametrize("ask", ["gradients", "local_derivatives"])
def test_a_network_that_cuts_its_gradient_has_no_derivatives(sigma, ask):
    probe = with_end(torch.Tensor.detach)
    with pytest.raises(BadInputError, match=r"cuts the gradient between its components and its logits"):
        probe.gradients(sigma[:, :2]) if ask == "gradients" else probe.local_derivatives()


def test_gradients_of_a_network_that_works_in_place_are_refused():
    model, x = TwoLayers(lambda y: (s := y.sigmoid()) + s.mul_(2)).eval(), torch.ones(1, 2)
    probe = Probe(model, ["a", "b"], x, torch.tensor([0]), site="output")
    with pytest.raises(BadInputError, match=r"differentiated in its masks to order 1 .*set n_reference to 0"):
        probe.gradients(torch.zeros(2, 2))


def test_a_network_that_cannot_be_copied_has_no_exact_derivatives():
    probe = with_layer(nn.Identity())
    probe.model.lock = threading.Lock()
    with pytest.raises(BadInputError, match=r"cannot be copied to float64, .* \(TypeError: cannot pickle"):
        probe.local_derivatives()


@pytest.mark.parametrize("ask", ["responses", "gradients", "local_derivatives", "check"])
def test_what_memory_cannot_hold_is_refused_before_it_is_computed(probe, sigma, monkeypatch, ask):
    monkeypatch.setattr("kanlib.memory.memory", lambda: 100)
    monkeypatch.setattr(probe.model, "forward", None)
    given = () if ask in ("local_derivatives", "check") else (sigma,)
    with pytest.raises(BadInputError, match=r"examples, 5 components\) take .* lower the number of masks"):
        getattr(probe, ask)(*given)


def test_derivatives_over_thousands_of_parts_are_refused_before_they_are_listed():
    model = nn.Sequential(nn.Linear(2, 4096), nn.Linear(4096, 2)).eval()
    probe = Probe(model, find(model, ["0[*]"]), torch.ones(1, 2), torch.tensor([0]))
    with pytest.raises(BadInputError, match=r"derivatives up to order 4 .*and the memory here is"):
        probe.local_derivatives(4)
