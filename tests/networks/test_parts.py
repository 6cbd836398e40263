import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kanlib.errors import BadInputError
from kanlib.networks.components import find, gated
from kanlib.networks.parts import n_heads
from kanlib.networks.probe import Probe

both_sites = pytest.mark.parametrize("site", ["branch", "output"])


def masks(n, m, dtype=torch.float32):
    return torch.randn(n, m, generator=torch.Generator().manual_seed(2), dtype=dtype)


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def made(build):
    """A module in evaluation mode, whose weights are always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval()


def hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@both_sites
def test_a_filter_is_a_channel_of_what_its_convolution_puts_out(resnet, site):
    names, images = ["layer2.0.conv1[5]", "layer2.0.conv1[0]", "layer3.1"], drawn(3, 3, 16, 16)
    sigma = masks(3, 3)
    scaled = copy.deepcopy(resnet)
    for i, row in enumerate(sigma):
        scaled.load_state_dict(resnet.state_dict())
        # The filter has no bias, so that scaling its weights scales its channel.
        scaled.layer2[0].conv1.weight.data[5] *= 1 + row[0]
        scaled.layer2[0].conv1.weight.data[0] *= 1 + row[1]
        with gated(resnet, names, site) as gates, gated(scaled, ["layer3.1"], site) as rest:
            torch.testing.assert_close(gates(images[i : i + 1], row[None]), rest(images[i : i + 1], row[None, 2:]))


def test_all_filters_are_gated_at_once(resnet):
    names, images = find(resnet, ["layer4.*.conv2[*]"]), drawn(2, 3, 16, 16)
    sigma = masks(2, len(names))
    with gated(resnet, names) as gates:
        assert hooks(resnet) == 2
        assert torch.equal(gates(images, 0 * sigma), resnet(images))
        shared = gates(images[:1], sigma)
        torch.testing.assert_close(shared, gates(images[:1].expand(2, -1, -1, -1), sigma))
    assert len(names) == 1024


class Conv1D(nn.Module):
    """The linear layer of GPT-2, whose weights are ``[in, out]``."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf = nf
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.randn(nf))

    def forward(self, x):
        return x @ self.weight + self.bias


LAYERS = {
    "linear": (lambda: nn.Linear(3, 4), (3,)),
    "tokens": (lambda: nn.Linear(3, 4), (2, 3)),
    "no bias": (lambda: nn.Linear(3, 4, bias=False), (3,)),
    "convolution": (lambda: nn.Conv2d(3, 4, 3), (3, 5, 5)),
    "grouped": (lambda: nn.Conv1d(4, 4, 3, groups=2), (4, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 2), (3, 5, 5)),
    "Conv1D": (lambda: Conv1D(4, 3), (2, 3)),
}
WITH_ROWS = ["linear", "tokens", "no bias", "convolution", "grouped"]


@both_sites
@pytest.mark.parametrize("layer", LAYERS)
def test_a_feature_is_scaled_with_its_bias(layer, site):
    build, shape = LAYERS[layer]
    model, x, sigma = made(lambda: nn.Sequential(build())), drawn(3, *shape), masks(3, 4)
    assert find(model, ["0[*]"]) == [f"0[{j}]" for j in range(4)]
    axis = -1 if layer in ("linear", "tokens", "no bias", "Conv1D") else 1
    with gated(model, find(model, ["0[*]"]), site) as gates:
        assert torch.equal(gates(x, 0 * sigma), model(x))
        assert not gates(x, 0 * sigma - 1).any()
        found = gates(x, sigma).movedim(axis, 1).reshape(3, 4, -1)
    expected = model(x).movedim(axis, 1).reshape(3, 4, -1) * (1 + sigma[..., None])
    torch.testing.assert_close(found, expected)


@both_sites
@pytest.mark.parametrize("layer", WITH_ROWS)
def test_a_row_of_weights_is_scaled_without_its_bias(layer, site):
    build, shape = LAYERS[layer]
    model, x, sigma = made(lambda: nn.Sequential(build())), drawn(3, *shape), masks(3, 3)
    names = ["0.weight[2]", "0.weight[0]", "0.weight[3]"]
    with gated(model, names, site) as gates:
        assert torch.equal(gates(x, 0 * sigma), model(x))
        found, gone = gates(x, sigma), gates(x, 0 * sigma - 1)
    for image, row, one, none in zip(x, sigma, found, gone, strict=True):
        scaled = copy.deepcopy(model)
        scaled[0].weight.data[[2, 0, 3]] *= (1 + row).view(-1, *[1] * (scaled[0].weight.ndim - 1))
        torch.testing.assert_close(one, scaled(image[None])[0])
        scaled[0].weight.data[[2, 0, 3]] = 0
        torch.testing.assert_close(none, scaled(image[None])[0])


def test_without_its_row_a_feature_is_its_bias_to_the_bit():
    model = made(lambda: nn.Sequential(nn.Linear(64, 32)))
    with torch.no_grad(), gated(model, find(model, ["0.weight[*]"])) as gates:
        # Beside outputs so large, y − (y − b) is not b.
        found = gates(1e4 * drawn(1, 64), -torch.ones(3, 32))
    assert torch.equal(found, model[0].bias.expand(3, 32))


def test_features_and_rows_of_one_layer_have_derivatives():
    model = made(lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))).double()
    names = ["0[0]", "0.weight[1]", "0.weight[3]", "2.weight[0]"]
    with gated(model, names) as gates:
        x, sigma = drawn(3, 3).double(), masks(3, 4, torch.float64).requires_grad_()
        assert torch.autograd.gradcheck(lambda s: gates(x, s), sigma)
        assert torch.autograd.gradgradcheck(lambda s: gates(x, s), sigma)


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (nn.ReLU(), r"0 is a ReLU, which has no rows of weights"),
        (nn.ConvTranspose2d(3, 4, 2), r"0 is a ConvTranspose2d, which has no rows of weights"),
        (Conv1D(4, 3), r"0 is a Conv1D, which has no rows of weights"),
    ],
)
def test_rows_that_give_no_features_are_refused(module, sentence):
    with pytest.raises(BadInputError, match=sentence):
        find(nn.Sequential(module), ["0.weight[*]"])


@pytest.mark.parametrize("name", ["layer1.0.conv2[64]", "layer1.0.conv2[99]", "layer1.0.conv2.weight[64]"])
def test_a_part_beyond_the_last_is_refused(resnet, name):
    with pytest.raises(BadInputError, match=r"does not exist, expected 0 to 63"), gated(resnet, [name]):
        pass


class Attention(nn.Module):
    """Three heads of four numbers on tokens of six: what all of these put side by side, and project."""

    def attend(self, q, k, v):
        q, k, v = (part.unflatten(-1, (-1, 4)).transpose(1, 2) for part in (q, k, v))
        k, v = (part.repeat_interleave(3 // part.shape[1], 1) for part in (k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def forward(self, x):
        return self.project(self.side_by_side(x))


class Llama(Attention):
    """Keys and values are shared by all heads; their number stands in the configuration only."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(num_attention_heads=3, num_key_value_heads=1)
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(6, 12), nn.Linear(6, 4), nn.Linear(6, 4)
        self.o_proj = nn.Linear(12, 6, bias=False)

    def side_by_side(self, x):
        return self.attend(self.q_proj(x), self.k_proj(x), self.v_proj(x))

    def project(self, heads):
        return self.o_proj(heads)


class GPT2(Attention):
    def __init__(self):
        super().__init__()
        self.num_heads, self.c_attn, self.c_proj = 3, Conv1D(36, 6), Conv1D(6, 12)

    def side_by_side(self, x):
        return self.attend(*self.c_attn(x).chunk(3, -1))

    def project(self, heads):
        return self.c_proj(heads)


class BERT(Attention):
    """The heads are in one child, their projection is in the other."""

    def __init__(self):
        super().__init__()
        self.self, self.output = nn.Module(), nn.Module()
        self.self.num_attention_heads = 3
        self.self.query, self.self.key, self.self.value = (nn.Linear(6, 12) for _ in range(3))
        self.output.dense = nn.Linear(12, 6)

    def side_by_side(self, x):
        return self.attend(self.self.query(x), self.self.key(x), self.self.value(x))

    def project(self, heads):
        return self.output.dense(heads)


class InSequence(Attention):
    """The projection is the first of a sequence."""

    def __init__(self):
        super().__init__()
        self.heads, self.to_qkv = 3, nn.Linear(6, 36)
        self.to_out = nn.Sequential(nn.Linear(12, 6), nn.Dropout())

    def side_by_side(self, x):
        return self.attend(*self.to_qkv(x).chunk(3, -1))

    def project(self, heads):
        return self.to_out(heads)


@both_sites
@pytest.mark.parametrize("kind", [Llama, GPT2, BERT, InSequence])
def test_a_head_is_its_slice_whatever_the_attention_calls_its_layers(kind, site):
    model, x, sigma = made(lambda: nn.Sequential(kind())), drawn(4, 5, 6), masks(4, 3)
    names = find(model, ["0[*]"])
    assert names == ["0[0]", "0[1]", "0[2]"]
    inside = model[0].side_by_side(x)
    with gated(model, names, site) as gates:
        assert torch.equal(gates(x, 0 * sigma), model(x))
        nothing = model[0].project(torch.zeros_like(inside))
        assert torch.equal(gates(x, 0 * sigma - 1), nothing)
        scaled = inside * (1 + sigma).repeat_interleave(4, 1)[:, None]
        torch.testing.assert_close(gates(x, sigma), model[0].project(scaled))
        torch.testing.assert_close(gates(x[:1], sigma)[1:2], gates(x[:1], sigma[1:2]))
    with gated(model, ["0[1]"], site) as gates:
        without = inside.clone()
        without[..., 4:8] = 0
        torch.testing.assert_close(gates(x, -torch.ones(4, 1)), model[0].project(without))


def test_what_is_no_attention_has_no_heads():
    mlp = nn.Module()
    mlp.config, mlp.c_proj = SimpleNamespace(num_attention_heads=3), nn.Linear(12, 6)
    layer = nn.Module()
    layer.attention, layer.intermediate, layer.output = BERT(), nn.Linear(6, 12), nn.Module()
    layer.output.dense = nn.Linear(12, 6)
    two = GPT2()
    two.out_proj = nn.Linear(12, 6)
    assert [n_heads(module) for module in (mlp, layer, two, nn.Linear(6, 12))] == [None] * 4
    assert [n_heads(module) for module in (layer.attention, GPT2())] == [3, 3]


@pytest.fixture
def torch_attention():
    return made(lambda: Self(nn.MultiheadAttention(12, 3, batch_first=True)))


class Self(nn.Module):
    def __init__(self, attention, **more):
        super().__init__()
        self.attention, self.more = attention, more

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False, **self.more)[0]


@pytest.fixture
def timm_attention():
    from timm.layers import Attention

    return made(lambda: nn.Sequential(Attention(12, num_heads=3, qkv_bias=True)))


@pytest.mark.parametrize(("model", "name"), [("torch_attention", "attention"), ("timm_attention", "0")])
def test_a_head_is_its_slice_of_what_the_projection_is_given(request, model, name):
    model = request.getfixturevalue(model)
    x = drawn(1, 5, 12)
    names = find(model, [f"{name}[*]"])
    assert names == [f"{name}[{h}]" for h in range(3)]
    sigma = masks(4, 3)
    with gated(model, names) as gates:
        assert torch.equal(gates(x, 0 * sigma)[:1], model(x))
        found = gates(x, sigma)
        assert torch.equal(model(x), gates(x, 0 * sigma)[:1])
    for row, values in zip(sigma, found, strict=True):
        scaled = copy.deepcopy(model)
        inside = scaled.get_submodule(name)
        weight = (getattr(inside, "proj", None) or inside.out_proj).weight
        weight.data *= (1 + row).repeat_interleave(4)
        torch.testing.assert_close(values, scaled(x)[0])


@pytest.mark.parametrize(
    ("options", "given"),
    [
        ({}, {"attn_mask": torch.zeros(5, 5)}),
        ({"add_bias_kv": True}, {}),
        ({"add_zero_attn": True}, {}),
    ],
)
def test_an_attention_of_torch_that_has_more_than_its_tokens_is_refused(options, given):
    model = made(lambda: Self(nn.MultiheadAttention(12, 3, batch_first=True, **options), **given))
    x, refused = (
        torch.zeros(1, 5, 12),
        pytest.raises(BadInputError, match="heads of this attention cannot be gated"),
    )
    with gated(model, ["attention[0]"]) as gates:
        # Asked as ever, it answers as ever.
        assert model(x).shape == (1, 5, 12)
        with refused:
            gates(x, torch.zeros(2, 1))


class Layer(nn.Module):
    """An encoder layer without normalisations."""

    def __init__(self):
        super().__init__()
        self.attn = GPT2()
        self.mlp = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6))

    def forward(self, x):
        x = x + self.attn(x)
        return x + self.mlp(x)


def test_mlps_of_a_transformer_are_components():
    model, x, sigma = made(lambda: nn.Sequential(Layer(), Layer())), drawn(4, 5, 6), masks(4, 2)
    names = find(model, ["*.mlp"])
    assert names == ["0.mlp", "1.mlp"]
    expected = x
    for layer, column in zip(model, sigma.T, strict=True):
        expected = expected + layer.attn(expected)
        expected = expected + (1 + column).view(-1, 1, 1) * layer.mlp(expected)
    with gated(model, names, "output") as gates:
        torch.testing.assert_close(gates(x, sigma), expected)


class Experts(nn.Module):
    """Two experts, each of which is given all tokens or, of all of the batch, those that are sent to it."""

    def __init__(self, dense):
        super().__init__()
        self.dense, self.router = dense, nn.Linear(6, 2)
        self.experts = nn.ModuleList([nn.Linear(6, 6) for _ in range(2)])

    def forward(self, x):
        weights = self.router(x).softmax(-1)
        if self.dense:
            return sum(weights[..., e : e + 1] * expert(x) for e, expert in enumerate(self.experts))
        tokens, out = x.flatten(0, 1), torch.zeros_like(x.flatten(0, 1))
        for e, expert in enumerate(self.experts):
            sent = (weights.flatten(0, 1).argmax(-1) == e).nonzero()[:, 0]
            out = out.index_add(0, sent, expert(tokens[sent]))
        return out.view_as(x)


def test_experts_are_components_where_they_see_the_batch():
    model, x, sigma = made(lambda: nn.Sequential(Experts(True))), drawn(4, 5, 6), masks(4, 2)
    names = find(model, ["0.experts.*"])
    assert names == ["0.experts.0", "0.experts.1"]
    weights = model[0].router(x).softmax(-1) * (1 + sigma)[:, None]
    expected = sum(weights[..., e : e + 1] * expert(x) for e, expert in enumerate(model[0].experts))
    with gated(model, names, "output") as gates:
        torch.testing.assert_close(gates(x, sigma), expected)


def test_experts_that_see_some_tokens_are_refused():
    model, x = made(lambda: nn.Sequential(Experts(False))), drawn(4, 5, 6)
    refused = pytest.raises(BadInputError, match=r"0\.experts\.0 works on \d+ rows for \d masks")
    with gated(model, ["0.experts.0", "0.experts.1"], "output") as gates, refused:
        gates(x, torch.zeros(4, 2))


@both_sites
def test_a_group_scales_its_members_by_one_column(resnet, site):
    names = find(resnet, ["group:layer1.0.conv*[*] layer3.1 !layer1.0.conv2[3]", "layer2.1"])
    members = [*find(resnet, ["layer1.0.conv*[*]", "!layer1.0.conv2[3]"]), "layer3.1", "layer2.1"]
    images, sigma = drawn(3, 3, 16, 16), masks(3, 2)
    each = torch.cat([sigma[:, :1].expand(3, len(members) - 1), sigma[:, 1:]], 1)
    with gated(resnet, members, site) as gates:
        expected, clean = gates(images, each), resnet(images)
    with gated(resnet, names, site) as gates:
        assert torch.equal(gates(images, sigma), expected)
        assert torch.equal(gates(images, list(sigma.T)), expected)
        assert torch.equal(gates(images, 0 * sigma), clean)
        torch.testing.assert_close(gates(images[:1], sigma)[:1], expected[:1])


def test_a_probe_asks_a_group_as_one_component(resnet):
    names, images = find(resnet, ["group:layer4.1.conv2[*]", "layer2.1"]), drawn(2, 3, 16, 16)
    assert names == ["layer2.1", "group:layer4.1.conv2[*]"]
    probe = Probe(resnet, names, images, torch.tensor([0, 2]), batch_size=4)
    probe.check()
    scaled, sigma = copy.deepcopy(resnet), torch.tensor([[0.0, -0.6], [0.0, 0.8]])
    responses, clean = probe.responses(sigma, progress=None)
    for row, found in zip(sigma, (responses + clean[:, None]).T, strict=True):
        scaled.layer4[1].conv2.weight.data = (1 + row[1]) * resnet.layer4[1].conv2.weight
        expected = Probe(scaled, ["layer2.1"], images, torch.tensor([0, 2]), batch_size=4)
        torch.testing.assert_close(found, expected.responses(torch.zeros(1, 1), progress=None)[1])
    assert probe.local_derivatives(1, progress=None).shape == (2, 2)


def test_a_member_that_does_not_run_is_named():
    model = nn.Module()
    model.used, model.idle = nn.Linear(3, 3), nn.Linear(3, 3)
    model.forward = lambda x: model.used(x)
    refused = pytest.raises(BadInputError, match="component idle does not run")
    with gated(model, ["group:*"], "output") as gates, refused:
        gates(torch.zeros(1, 3), torch.zeros(1, 1))


@pytest.mark.parametrize(
    ("components", "pair"),
    [
        (["layer1", "layer1.0"], r"layer1\.0 and layer1|layer1 and layer1\.0"),
        (["layer1.0.conv2[3]", "layer1"], r"layer1 and layer1\.0\.conv2\[3\]"),
        (["layer1.0.conv2[3]", "layer1.0.conv2"], r"layer1\.0\.conv2 and layer1\.0\.conv2\[3\]"),
        (["fc[1]", "fc.weight[1]"], r"fc\[1\] and fc\.weight\[1\]"),
        (["group:layer1.*", "layer1.1.conv1"], r"layer1\.1 \(of group:layer1\.\*\) and layer1\.1\.conv1"),
        (["group:fc[*]", "fc[7]"], r"fc\[7\] \(of group:fc\[\*\]\) and fc\[7\]"),
        (["group:layer1.*", "group:layer1.0 fc"], r"layer1\.0 \(of .*\) and layer1\.0 \(of group:layer1\.0 fc\)"),
        (["group:layer1 layer1.0"], r"layer1 \(of .*\) and layer1\.0 \(of .*\)"),
    ],
)
def test_components_that_overlap_are_refused(resnet, components, pair):
    with pytest.raises(BadInputError, match=f"overlap.*: ({pair}); leave") as caught, gated(resnet, components):
        pass
    assert hooks(resnet) == 0
    assert "\n" not in str(caught.value)


def test_a_head_overlaps_with_the_layers_of_its_attention():
    model = made(lambda: nn.Sequential(GPT2()))
    with (
        pytest.raises(BadInputError, match=r"overlap.*0\[1\] and 0\.c_attn\[0\]"),
        gated(model, ["0[1]", "0.c_attn[0]"]),
    ):
        pass


def test_neighbours_do_not_overlap(resnet):
    names = ["layer1.0", "layer1.1", "layer2.0.conv1", "layer2.0.conv2[1]", "layer2.0.conv2[2]", "fc[1]"]
    with gated(resnet, [*names, "fc.weight[2]"], "output") as gates:
        gates(drawn(1, 3, 16, 16), torch.zeros(2, 7))


@pytest.mark.parametrize("name", ["layer1.0.conv2[*]", "fc.weight[*]"])
def test_a_pattern_is_no_component(resnet, name):
    with pytest.raises(BadInputError, match="is a pattern, expected a name"), gated(resnet, [name]):
        pass
