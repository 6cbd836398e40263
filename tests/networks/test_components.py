import copy

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from kanlib.errors import BadInputError
from kanlib.networks.components import find, gated

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


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (["layer*.*"], BLOCKS),
        (["layer1.0"], ["layer1.0"]),
        (["layer*"], ["layer1", "layer2", "layer3", "layer4"]),
        (["layer2.0.conv*", "fc", "layer1.*"], ["layer1.0", "layer1.1", "layer2.0.conv1", "layer2.0.conv2", "fc"]),
        (["*.*.downsample"], ["layer2.0.downsample", "layer3.0.downsample", "layer4.0.downsample"]),
        (["layer1.0", "layer1.*"], ["layer1.0", "layer1.1"]),
    ],
)
def test_a_star_stands_for_one_level(resnet, patterns, found):
    assert find(resnet, patterns) == found


def test_a_dot_in_a_pattern_is_a_dot(resnet):
    with pytest.raises(BadInputError, match=r"pattern layer\.\.0 matches no module"):
        find(resnet, ["layer..0"])


def test_a_pattern_without_matches_lists_its_level(resnet):
    with pytest.raises(BadInputError, match=r"pattern blocks\.\* matches no module; .*layer1\.0") as caught:
        find(resnet, ["layer*.*", "blocks.*"])
    assert "layer1.0.conv1" not in str(caught.value)


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
        assert hooks(resnet) == 8
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
        pytest.raises(BadInputError, match=r"component 0 changes the shape .*gate_site to output"),
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


@pytest.mark.parametrize("name", ["relu", "maxpool"])
def test_a_branch_needs_an_input_that_is_still_there(resnet, images, name):
    resnet.maxpool = nn.Identity()
    with gated(resnet, [name], "branch") as gates, pytest.raises(BadInputError, match="hands its input on"):
        gates(images[:1], torch.zeros(1, 1))


def test_parts_of_modules_are_found_in_order(resnet):
    found = find(resnet, ["layer1.0.conv2[*]", "layer1.0.conv1[7]", "layer1.0"])
    assert found == ["layer1.0", "layer1.0.conv1[7]", *[f"layer1.0.conv2[{i}]" for i in range(64)]]


def test_a_module_without_parts_is_refused(resnet):
    with pytest.raises(BadInputError, match=r"layer1\.0 is a BasicBlock, which has neither filters nor heads"):
        find(resnet, ["layer1.*[*]"])


@pytest.mark.parametrize("name", ["layer1.0.conv2[64]", "layer1.0.conv2[99]"])
def test_a_part_beyond_the_last_is_refused(resnet, name):
    with pytest.raises(BadInputError, match=r"does not exist, expected 0 to 63"), gated(resnet, [name]):
        pass


def test_a_component_listed_twice_is_refused(resnet):
    with pytest.raises(BadInputError, match=r"layer1\.0 is listed twice"), gated(resnet, ["layer1.0", "layer1.0"]):
        pass


@both_sites
def test_a_filter_is_a_channel_of_what_its_convolution_puts_out(resnet, images, site):
    names = ["layer2.0.conv1[5]", "layer2.0.conv1[0]", "layer3.1"]
    sigma = masks(3, 3)
    scaled = copy.deepcopy(resnet)
    for i, row in enumerate(sigma):
        scaled.load_state_dict(resnet.state_dict())
        # The filter has no bias, so that scaling its weights scales its channel.
        scaled.layer2[0].conv1.weight.data[5] *= 1 + row[0]
        scaled.layer2[0].conv1.weight.data[0] *= 1 + row[1]
        with gated(resnet, names, site) as gates, gated(scaled, ["layer3.1"], site) as rest:
            torch.testing.assert_close(gates(images[i : i + 1], row[None]), rest(images[i : i + 1], row[None, 2:]))


def test_all_filters_are_gated_at_once(resnet, images):
    names = find(resnet, ["layer4.*.conv2[*]"])
    sigma = masks(2, len(names))
    with gated(resnet, names) as gates:
        assert hooks(resnet) == 2
        assert torch.equal(gates(images[:2], 0 * sigma), resnet(images[:2]))
        shared = gates(images[:1], sigma)
        torch.testing.assert_close(shared, gates(images[:1].expand(2, -1, -1, -1), sigma))
    assert len(names) == 1024


@pytest.fixture
def torch_attention():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Self(nn.MultiheadAttention(12, 3, batch_first=True)).eval()


class Self(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


@pytest.fixture
def timm_attention():
    from timm.layers import Attention

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(Attention(12, num_heads=3, qkv_bias=True)).eval()


@pytest.mark.parametrize(("model", "name"), [("torch_attention", "attention"), ("timm_attention", "0")])
def test_a_head_is_its_slice_of_what_the_projection_is_given(request, model, name):
    model = request.getfixturevalue(model)
    attention = model.get_submodule(name)
    projection = getattr(attention, "proj", None) or attention.out_proj
    x = torch.randn(1, 5, 12, generator=torch.Generator().manual_seed(1))
    names = find(model, [f"{name}[*]"])
    assert names == [f"{name}[{h}]" for h in range(3)]
    sigma = masks(4, 3)
    with gated(model, names) as gates:
        assert torch.equal(gates(x, 0 * sigma)[:1], model(x))
        found = gates(x, sigma)
    for row, values in zip(sigma, found, strict=True):
        scaled = copy.deepcopy(model)
        inside = scaled.get_submodule(name)
        weight = (getattr(inside, "proj", None) or inside.out_proj).weight
        weight.data *= (1 + row).repeat_interleave(4)
        torch.testing.assert_close(values, scaled(x)[0])
    assert projection.weight.shape == (12, 12)


def test_a_masked_attention_of_torch_is_refused():
    class Masked(Self):
        def forward(self, x):
            return self.attention(x, x, x, attn_mask=torch.zeros(5, 5), need_weights=False)[0]

    model = Masked(nn.MultiheadAttention(12, 3, batch_first=True)).eval()
    refused = pytest.raises(BadInputError, match="heads of this attention cannot be gated")
    with refused, gated(model, ["attention[0]"]) as gates:
        gates(torch.zeros(1, 5, 12), torch.zeros(2, 1))


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
