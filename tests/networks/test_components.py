import contextlib
import copy
import gc
import warnings
import weakref

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from kanlib.errors import BadInputError
from kanlib.networks.components import gated
from kanlib.networks.probe import Probe

BLOCKS = [f"layer{i}.{j}" for i in range(1, 5) for j in range(2)]
both_sites = pytest.mark.parametrize("site", ["branch", "output"])


class Scaled(nn.Module):
    """``factor`` times what ``module`` puts out: the reference for a gate."""

    def __init__(self, module, factor):
        super().__init__()
        self.module, self.factor = module, factor

    def forward(self, *args):
        return self.factor * self.module(*args)


@pytest.fixture
def images():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def encoder():
    """Two encoder layers and a head: tokens ``[B, 4, 8]`` to logits ``[B, 4, 5]``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True) for _ in range(2)]
        return nn.Sequential(*layers, nn.Linear(8, 5)).eval()


@pytest.fixture
def tokens():
    return torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(1))


def hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def masks(n, m, dtype=torch.float32):
    return torch.randn(n, m, generator=torch.Generator().manual_seed(2), dtype=dtype)


@both_sites
def test_a_zero_mask_changes_no_bit_of_a_residual_network(resnet, images, site):
    clean = resnet(images)
    with gated(resnet, BLOCKS, site) as gates:
        assert torch.equal(gates(images, torch.zeros(3, 8)), clean)


@both_sites
def test_a_zero_mask_changes_no_bit_of_an_encoder(encoder, tokens, site):
    clean = encoder(tokens)
    with gated(encoder, ["0", "1"], site) as gates:
        assert torch.equal(gates(tokens, torch.zeros(3, 2)), clean)


@both_sites
def test_a_gated_model_called_as_ever_is_not_gated(resnet, images, site):
    clean = resnet(images)
    with gated(resnet, BLOCKS, site) as gates:
        gates(images, torch.ones(3, 8))
        assert torch.equal(resnet(images), clean)


def test_minus_one_removes_the_branch_of_a_basic_block(resnet, images):
    reference = copy.deepcopy(resnet)
    for name in ("layer1.1", "layer2.0"):
        norm = reference.get_submodule(name).bn2
        norm.weight.zero_()
        norm.bias.zero_()
    with gated(resnet, ["layer1.1", "layer2.0"]) as gates:
        torch.testing.assert_close(gates(images, -torch.ones(3, 2)), reference(images))


@pytest.mark.parametrize("block", [BasicBlock(8, 8), Bottleneck(8, 2)], ids=["basic", "bottleneck"])
@pytest.mark.parametrize("sigma", [-1.0, 0.7])
def test_the_branch_of_a_block_is_scaled_before_the_addition(block, sigma):
    x = torch.randn(2, 8, 5, 5, generator=torch.Generator().manual_seed(0))
    network = nn.Sequential(block).eval()
    for norm in (module for module in block.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.constant_(norm.running_mean, 0.3)
    b = block
    inside = b.bn1(b.conv1(x)).relu()
    inside = b.bn2(b.conv2(inside))
    if isinstance(b, Bottleneck):
        inside = b.bn3(b.conv3(inside.relu()))
    with gated(network, ["0"]) as gates:
        torch.testing.assert_close(gates(x, torch.full((2, 1), sigma)), (x + (1 + sigma) * inside).relu())


def test_minus_one_removes_an_encoder_layer(encoder, tokens):
    with gated(encoder, ["0", "1"]) as gates:
        torch.testing.assert_close(gates(tokens, torch.tensor([[-1.0, 0.0]] * 3)), encoder[2](encoder[1](tokens)))
        torch.testing.assert_close(gates(tokens, -torch.ones(3, 2)), encoder[2](tokens))


def test_the_output_site_scales_what_each_component_puts_out(resnet, images):
    sigma = masks(1, 8)
    reference = copy.deepcopy(resnet)
    for name, s in zip(BLOCKS, sigma[0], strict=True):
        parent, _, child = name.rpartition(".")
        reference.get_submodule(parent)[int(child)] = Scaled(resnet.get_submodule(name), 1 + s)
    with gated(resnet, BLOCKS, "output") as gates:
        torch.testing.assert_close(gates(images, sigma.expand(3, 8)), reference(images))


@both_sites
def test_one_example_under_many_masks_is_one_example_a_mask(resnet, images, site):
    sigma, x = masks(5, 8), images[:1]
    with gated(resnet, BLOCKS, site) as gates:
        shared = gates(x, sigma)
        torch.testing.assert_close(shared, gates(x.expand(5, -1, -1, -1), sigma))
        torch.testing.assert_close(shared, torch.cat([gates(x, s[None]) for s in sigma]))


def test_one_example_is_shared_by_masks_of_a_shortcut(resnet, images):
    sigma, x = masks(4, 1), images[:1]
    with gated(resnet, ["layer2.0.downsample"], "output") as gates:
        each = torch.cat([gates(x, s[None]) for s in sigma])
        torch.testing.assert_close(gates(x, sigma), each)


def test_each_example_answers_to_its_own_mask(encoder, tokens):
    sigma = masks(3, 2)
    with gated(encoder, ["0", "1"], "output") as gates:
        whole = gates(tokens, sigma)
        for x, s, logits in zip(tokens, sigma, whole, strict=True):
            torch.testing.assert_close(gates(x[None], s[None])[0], logits)


def test_column_j_of_the_masks_is_component_j(encoder, tokens):
    sigma = masks(3, 2)
    with gated(encoder, ["0", "1"]) as gates:
        forward = gates(tokens, sigma)
    with gated(encoder, ["1", "0"]) as gates:
        assert torch.equal(gates(tokens, sigma.flip(1)), forward)


@both_sites
def test_gates_are_gone_on_exit(resnet, images, site):
    clean = resnet(images)
    with gated(resnet, BLOCKS, site):
        assert hooks(resnet) > 0
    assert hooks(resnet) == 0
    assert torch.equal(resnet(images), clean)


def test_gates_are_gone_after_an_exception(resnet, images):
    with pytest.raises(BadInputError, match="works on 3 rows for 2 masks"), gated(resnet, BLOCKS) as gates:
        gates(images, torch.zeros(2, 8))
    assert hooks(resnet) == 0


def test_a_pass_that_fails_leaves_no_mask_behind(encoder, tokens):
    clean = encoder(tokens)
    with gated(encoder, ["0"]) as gates:
        with pytest.raises(BadInputError, match="works on 3 rows"):
            gates(tokens, torch.ones(2, 1))
        assert torch.equal(encoder(tokens), clean)


def test_an_unknown_component_is_refused_and_leaves_no_gate(resnet):
    with (
        pytest.raises(BadInputError, match=r"component layer9\.0 is not a module"),
        gated(resnet, ["fc", "layer9.0"]),
    ):
        pass
    assert hooks(resnet) == 0


@pytest.mark.parametrize(("site", "sentence"), [("output", "puts out a tuple"), ("branch", "no branch to gate")])
def test_a_component_that_puts_out_a_tuple_is_refused(site, sentence):
    network = nn.Sequential(nn.LSTM(3, 3))
    with pytest.raises(BadInputError, match=f"component 0 .*{sentence}"), gated(network, ["0"], site) as gates:
        gates(torch.ones(1, 2, 3), torch.ones(1, 1))


def test_a_component_that_changes_shape_has_no_branch():
    network = nn.Sequential(nn.Linear(4, 3))
    with (
        pytest.raises(BadInputError, match=r"component 0 has no branch .*gate_site to output"),
        gated(network, ["0"]) as gates,
    ):
        gates(torch.ones(1, 4), torch.ones(1, 1))


@both_sites
def test_gradients_with_respect_to_masks_match_finite_differences(encoder, tokens, site):
    network, x = copy.deepcopy(encoder).double(), tokens.double()
    sigma = masks(3, 2, torch.float64).requires_grad_()
    with gated(network, ["0", "1"], site) as gates:
        assert torch.autograd.gradcheck(lambda s: gates(x, s), sigma)


def test_a_component_that_never_runs_is_refused():
    model = nn.Module()
    model.used, model.idle = nn.Linear(3, 3), nn.Linear(3, 3)
    model.forward = lambda x: model.used(x)
    with (
        gated(model, ["used", "idle"], "output") as gates,
        pytest.raises(BadInputError, match="idle does not run"),
    ):
        gates(torch.zeros(1, 3), torch.zeros(1, 2))


def test_a_component_that_runs_twice_is_refused(resnet, images):
    with (
        gated(resnet, ["layer1.0.relu"], "output") as gates,
        pytest.raises(BadInputError, match=r"layer1\.0\.relu runs more than once"),
    ):
        gates(images[:1], torch.zeros(1, 1))


def test_what_hands_its_input_on_has_no_branch(resnet, images):
    # In a residual network of small images the max-pool is an identity.
    with (
        gated(resnet, ["maxpool"], "branch") as gates,
        pytest.raises(BadInputError, match="maxpool has no branch"),
    ):
        gates(images[:1], torch.zeros(1, 1))


class Shift(nn.Module):
    """Works on its input by functions, in place or not, before its weights."""

    def __init__(self, inplace):
        super().__init__()
        self.inplace, self.inner = inplace, nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return self.inner(x.mul_(0.5).tanh_() if self.inplace else x.mul(0.5).tanh())


def pre_activation(inplace):
    return nn.Sequential(nn.GELU(), nn.ReLU(inplace), nn.Conv2d(4, 4, 3, padding=1))


def first(inplace):
    return nn.Sequential(nn.ReLU(inplace), nn.Conv2d(4, 4, 3, padding=1))


def alone(inplace):
    return nn.ELU(inplace=inplace)


@pytest.fixture
def in_place(request):
    """The same network twice, in which three components in a row work in place or not."""
    found = []
    for inplace in (True, False):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            inner = [request.param(inplace) for _ in range(3)]
            # Smooth in its masks, so that it can be differentiated; its last component is not linear.
            end = [nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
            found.append(nn.Sequential(nn.Conv2d(3, 4, 3), *inner, *end).eval())
    return found


@pytest.mark.parametrize("in_place", [first, pre_activation, Shift, alone], indirect=True)
def test_a_branch_is_what_a_component_adds_to_its_input_as_it_was(in_place, images):
    names, sigma, labels = ["1", "2", "3"], masks(5, 3), torch.tensor([0, 2, 1])
    ours, plain = (Probe(model, names, images, labels, batch_size=5) for model in in_place)
    assert torch.equal(ours.responses(sigma)[0], plain.responses(sigma)[0])
    assert (ours.responses(sigma)[0] != 0).any()
    torch.testing.assert_close(ours.gradients(sigma), plain.gradients(sigma))
    torch.testing.assert_close(ours.local_derivatives(), plain.local_derivatives())
    assert ours.gate_error() == 0


@pytest.mark.parametrize("in_place", [Shift], indirect=True)
def test_a_gated_component_that_works_in_place_is_given_its_input_itself(in_place, images):
    seen = []
    for model in in_place:
        with torch.no_grad(), gated(model, ["2"]) as gates:
            gates(images, torch.zeros(3, 1))
            keep = model[1].register_forward_hook(lambda _, args, y: seen.append(y))
            gates(images, torch.zeros(3, 1))
            keep.remove()
    assert not torch.equal(*seen)


@pytest.mark.parametrize("fails", [False, True])
def test_no_copy_of_an_input_is_kept_beyond_its_call(images, monkeypatch, fails):
    copies = []

    class Seen(nn.Module):
        def forward(self, x):
            if fails:
                raise ArithmeticError
            return 2 * x

    clone = Tensor.clone

    def cloned(*args, **kwargs):
        copies.append(weakref.ref(found := clone(*args, **kwargs)))
        return found

    monkeypatch.setattr(Tensor, "clone", cloned)
    model = nn.Sequential(Seen(), nn.Flatten())
    with torch.no_grad(), gated(model, ["0"]) as gates:
        with contextlib.suppress(BadInputError):
            gates(images, torch.zeros(3, 1))
        gc.collect()
        assert copies
        assert all(copy() is None for copy in copies)


def test_a_component_may_be_given_its_input_by_name(images):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Block()

        def forward(self, x):
            return self.inner(scale=2, x=x).flatten(1)

    class Block(nn.Module):
        def forward(self, scale, x):
            return scale * x

    with gated(Named(), ["inner"]) as gates:
        torch.testing.assert_close(gates(images, torch.full((3, 1), 0.5)), 2.5 * images.flatten(1))


def test_a_component_that_is_given_no_tensor_has_no_branch(images):
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Three()

        def forward(self, x):
            return x.flatten(1) * self.inner(3)

    class Three(nn.Module):
        def forward(self, k):
            return torch.full((1, 1), float(k))

    with gated(Constant(), ["inner"]) as gates, pytest.raises(BadInputError, match="inner has no branch"):
        gates(images, torch.zeros(3, 1))


def test_a_forward_pass_that_fails_is_said_with_the_shape_of_its_images(resnet):
    sentence = r"fails on images of shape \[2, 4, 16, 16\] \(RuntimeError: .*set image_size"
    with gated(resnet, BLOCKS) as gates, pytest.raises(BadInputError, match=sentence):
        gates(torch.zeros(1, 4, 16, 16), torch.zeros(1, 8))


def test_an_example_that_its_network_works_on_in_place_stays_as_it_is():
    class Greedy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x):
            return self.inner(x.mul_(2))

    x = torch.ones(1, 3)
    with torch.no_grad(), gated(Greedy(), ["inner"]) as gates:
        assert torch.equal(gates(x, torch.zeros(2, 1)), gates(x, torch.zeros(2, 1)))
    assert torch.equal(x, torch.ones(1, 3))


def test_components_that_do_not_reach_the_logits_are_refused(images):
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = nn.Conv2d(3, 3, 1), nn.Linear(768, 2)

        def forward(self, x):
            self.inner(x)
            return self.head(x.flatten(1))

    with gated(Idle(), ["inner"]) as gates, pytest.raises(BadInputError, match=r"does not reach the logits"):
        gates(images[:1], torch.zeros(2, 1))


def test_what_a_compiled_or_traced_network_hides_does_not_run(images):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.jit.trace(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Flatten()).eval(), images)
    with gated(model, ["0"], "output") as gates, pytest.raises(BadInputError, match="traced or compiled"):
        gates(images, torch.zeros(3, 1))


def test_no_component_is_refused(resnet):
    with pytest.raises(BadInputError, match="no component to gate"), gated(resnet, []):
        pass


def test_a_component_listed_twice_is_refused(resnet):
    with pytest.raises(BadInputError, match=r"layer1\.0 is listed twice"), gated(resnet, ["layer1.0", "layer1.0"]):
        pass


def test_a_component_whose_rows_are_not_the_batch_is_refused():
    class Windows(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x):
            return self.inner(x.reshape(-1, 4)).reshape(x.shape)

    refused = pytest.raises(BadInputError, match="works on 6 rows for 2 masks")
    with refused, gated(Windows(), ["inner"], "output") as gates:
        gates(torch.zeros(2, 3, 4), torch.zeros(2, 1))
