"""Gates at the site ``branch`` against blocks whose forward pass has the gate written into it."""

import operator
import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import max_pool2d
from torchvision.ops import StochasticDepth

from kanlib.errors import BadInputError
from kanlib.masks import gaussian
from kanlib.networks.architectures import classifier
from kanlib.networks.components import find, gated
from kanlib.networks.probe import Probe

C = 4  # channels


def branch(c=C, out=C, stride=1):
    layers = [nn.Conv2d(c, C, 3, stride, 1), nn.BatchNorm2d(C), nn.Tanh()]
    return nn.Sequential(*layers, nn.Conv2d(C, out, 3, 1, 1), nn.BatchNorm2d(out))


class Block(nn.Module):
    """A component: ``forward(x)`` as it is, ``scaled(x, s)`` with ``s`` for ``1 + σ`` written into it."""

    out = C

    def forward(self, x):
        raise NotImplementedError

    def scaled(self, x, s):
        raise NotImplementedError


def not_rebound(x, y):
    y.add_(x)
    return y


def into_a_part(x, y):
    part = torch.cat([y, y], 1)[:, :C]
    part += x
    return part


ADDITIONS = {
    "+": operator.add,
    "the other way round": lambda x, y: y + x,
    "+=": operator.iadd,
    "add": torch.add,
    "add by name": lambda x, y: torch.add(input=x, other=y),
    "add_": not_rebound,
    "+= into a part": into_a_part,
    "sum": lambda x, y: sum([x, y]),
    "quantised": lambda x, y: torch.ao.nn.quantized.FloatFunctional().add(x, y),
}


class Residual(Block):
    def __init__(self, addition="+", project=False):
        super().__init__()
        self.addition, self.f = addition, branch()
        self.skip = nn.Sequential(nn.Conv2d(C, C, 1), nn.BatchNorm2d(C)) if project else nn.Sequential()

    def forward(self, x):
        return torch.relu(ADDITIONS[self.addition](self.skip(x), self.f(x)))

    def scaled(self, x, s):
        return torch.relu(self.skip(x) + s * self.f(x))


class Wider(Block):
    out = 6

    def __init__(self):
        super().__init__()
        self.f, self.skip = branch(out=6, stride=2), nn.Conv2d(C, 6, 1, 2)

    def forward(self, x):
        return self.skip(x) + self.f(x)

    def scaled(self, x, s):
        return self.skip(x) + s * self.f(x)


class Deep(Block):
    """Stochastic depth and a layer scale between branch and addition, the addition doubled."""

    def __init__(self):
        super().__init__()
        self.f, self.drop = branch(), StochasticDepth(0.5, "row")
        self.gamma = nn.Parameter(torch.rand(C, 1, 1))

    def forward(self, x):
        return torch.add(x, self.drop(self.gamma * self.f(x)), alpha=2)

    def scaled(self, x, s):
        return x + 2 * s * self.gamma * self.f(x)


class PreActivation(Block):
    def __init__(self):
        super().__init__()
        self.act, self.skip, self.f = nn.ReLU(inplace=True), nn.Conv2d(C, C, 1), branch()

    def forward(self, x):
        x = self.act(x)
        return self.skip(x) + self.f(x)

    def scaled(self, x, s):
        return self.skip(x.relu()) + s * self.f(x.relu())


class Excited(Block):
    """Squeeze and excitation after the addition."""

    def __init__(self):
        super().__init__()
        self.f, self.excite = branch(), nn.Conv2d(C, C, 1)

    def weighted(self, y):
        return y * self.excite(y.mean((2, 3), keepdim=True)).sigmoid()

    def forward(self, x):
        return self.weighted(x + self.f(x))

    def scaled(self, x, s):
        return self.weighted(x + s * self.f(x))


class Nested(Block):
    """Additions and a concatenation within the branch."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.f = branch(), branch(), branch(2 * C)

    def inside(self, x):
        y = self.a(x)
        y = y + self.b(y)
        return self.f(torch.cat([y, y + x], 1))

    def forward(self, x):
        return x + self.inside(x)

    def scaled(self, x, s):
        return x + s * self.inside(x)


class Parallel(Block):
    def __init__(self, out=C):
        super().__init__()
        self.out, self.a, self.b = out, branch(out=out), branch(out=out)
        self.skip = nn.Conv2d(C, out, 1) if out != C else nn.Sequential()

    def forward(self, x):
        return self.skip(x) + self.a(x) + self.b(x)

    def scaled(self, x, s):
        return self.skip(x) + s * (self.a(x) + self.b(x))


class Row(Block):
    """Blocks in a row; where the shape changes, every branch is scaled, else what the row adds to its input."""

    def __init__(self, *blocks):
        super().__init__()
        self.blocks, self.out = nn.ModuleList(blocks), blocks[-1].out

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x

    def scaled(self, x, s):
        if self.out == C:
            return x + s * (self(x) - x)
        for block in self.blocks:
            x = block.scaled(x, s)
        return x


class Dense(Block):
    out = 2 * C

    def __init__(self):
        super().__init__()
        self.norm, self.f = nn.BatchNorm2d(C), branch()

    def forward(self, x):
        x = self.norm(x).relu()
        return torch.cat([x, self.f(x)], 1)

    def scaled(self, x, s):
        x = self.norm(x).relu()
        return torch.cat([x, s * self.f(x)], 1)


class Inception(Block):
    """Branches side by side; what is only pooled is no branch."""

    def __init__(self, pool=False):
        super().__init__()
        self.a, self.b, self.pool, self.out = branch(), nn.Conv2d(C, C, 1), pool, 3 * C if pool else 2 * C

    def parts(self, x):
        return [self.a(x), self.b(x)], [max_pool2d(x, 3, 1, 1)] * self.pool

    def forward(self, x):
        new, pooled = self.parts(x)
        return torch.cat(tensors=[*new, *pooled], dim=1)

    def scaled(self, x, s):
        new, pooled = self.parts(x)
        return torch.cat([*(s * part for part in new), *pooled], 1)


class Shuffle(Block):
    def __init__(self):
        super().__init__()
        self.f = branch(C // 2, C // 2)

    def forward(self, x, s=1.0):
        kept, given = x.chunk(2, 1)
        y = torch.cat([kept, s * self.f(given)] if torch.is_tensor(s) else [kept, self.f(given)], 1)
        return y.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)

    def scaled(self, x, s):
        return self(x, s)


class Partial(Block):
    """Some channels of the branch are added, the others laid beside."""

    out = C + 3

    def __init__(self):
        super().__init__()
        self.f = branch(out=C + 3)

    def forward(self, x):
        y = self.f(x)
        return torch.cat([x + y[:, :C], y[:, C:]], 1)

    def scaled(self, x, s):
        y = s * self.f(x)
        return torch.cat([x + y[:, :C], y[:, C:]], 1)


class Reversible(Block):
    def __init__(self):
        super().__init__()
        self.f, self.g = branch(C // 2, C // 2), branch(C // 2, C // 2)

    def forward(self, x):
        one, other = x.chunk(2, 1)
        one = one + self.f(other)
        return torch.cat([one, other + self.g(one)], 1)

    def scaled(self, x, s):
        return x + s * (self(x) - x)


class Nothing(Block):
    """Adds nothing: what it makes of its input is scaled beyond it."""

    def __init__(self):
        super().__init__()
        self.f = branch()

    def forward(self, x):
        return self.f(x)

    def scaled(self, x, s):
        return x + s * (self.f(x) - x)


class Scripted(Residual):
    def __init__(self):
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.f = torch.jit.script(self.f)


class Encoder(Block):
    """An encoder layer of torch, whose fused path must not make a difference."""

    def __init__(self, norm_first):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(C, 2, 8, batch_first=True, norm_first=norm_first)

    def forward(self, x):
        return self.layer(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])

    def scaled(self, x, s):
        return x + s * (self(x) - x)


class Attention(Block):
    """Attention of torch, whose fused path must not make a difference, in a block of one join."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(C, 2, batch_first=True)

    def branch(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        found, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return found.transpose(1, 2).unflatten(2, x.shape[2:])

    def forward(self, x):
        return x + self.branch(x)

    def scaled(self, x, s):
        return x + s * self.branch(x)


BLOCKS = {
    **{name: partial(Residual, name) for name in ADDITIONS},
    **{f"{name}, projected": partial(Residual, name, project=True) for name in ADDITIONS},
    "wider": Wider,
    "deep": Deep,
    "pre-activation": PreActivation,
    "excited": Excited,
    "nested": Nested,
    "parallel": Parallel,
    "parallel, wider": partial(Parallel, 6),
    "dense": Dense,
    "inception": Inception,
    "inception, pooled": partial(Inception, pool=True),
    "shuffle": Shuffle,
    "partial": Partial,
    "reversible": Reversible,
    "nothing": Nothing,
    "scripted": Scripted,
    "encoder, norm first": partial(Encoder, True),
    "encoder, norm last": partial(Encoder, False),
    "attention": Attention,
    "row": lambda: Row(Residual(), Residual(), Shuffle()),
    "row, wider": lambda: Row(Residual(), PreActivation(), Wider()),
}


def in_place(h, block):
    h += block(h)
    return h


def beside_zeros(h, block):
    out = torch.zeros(len(h), C, 8, 8, dtype=h.dtype)
    out[:, 1:] = block(h)[:, 1:]
    return out


@torch.no_grad()
def without_gradients(h, block):
    return block(h)


#: What networks do around a block, and in most of them the number of examples before it matters after it.
AROUND = {
    "plain": lambda h, block: block(h),
    "view": lambda h, block: block(h).view(len(h), C, 8, -1),
    "class token": lambda h, block: torch.cat(
        [torch.ones(1, C, 1, 8).to(h).expand(len(h), -1, -1, -1), block(h)], 2
    ),
    "stack": lambda h, block: torch.stack([h, block(h)]).sum(0),
    "in place": in_place,
    "earlier": lambda h, block: torch.cat([block(h), h], 3),
    "beside zeros": beside_zeros,
    "without gradients": without_gradients,
    "in a tuple": lambda h, block: block(h)[0],
}


class Network(nn.Module):
    """Images ``[B, 3, 8, 8]``, or whole numbers ``[B, 8, 8]``, to logits ``[B, 5]``."""

    def __init__(self, block, around="plain", numbers=True):
        super().__init__()
        self.stem = nn.Conv2d(3, C, 3, 1, 1) if numbers else nn.Embedding(7, C)
        self.block, self.around, self.head = block, around, nn.Linear(block.out, 5)

    def with_block(self, x, block):
        h = self.stem(x)
        h = h if x.is_floating_point() else h.permute(0, 3, 1, 2)
        return self.head(AROUND[self.around](h.tanh(), block).tanh().mean((2, 3)))

    def forward(self, x):
        return self.with_block(x, self.block)

    def by_hand(self, x, sigma):
        s = 1 + sigma[:, :, None, None]
        return self.with_block(x.expand(len(s), *x.shape[1:]), lambda h: self.block.scaled(h, s))


def network(block, *args, dtype=torch.float64, **options):
    """Evaluation mode, with batch norms that are not the identity."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Network(block(), *args, **options)
        for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
            for value in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
                value.uniform_(0.5, 1.5)
    return model.eval().to(dtype).requires_grad_(False)


SIGMA = torch.tensor([[-1.0], [0.7], [0.0]], dtype=torch.float64)


@pytest.fixture
def images():
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def check(model, x, names=("block",), shares=True):
    """One example for all masks and one for each give what is written by hand, and σ = 0 no other bit."""
    with torch.inference_mode(), gated(model, names) as gates:
        assert not torch.allclose(model.by_hand(x, SIGMA)[:2], model(x)[:2], rtol=0.01)
        assert torch.equal(gates(x, 0 * SIGMA), model(x))
        torch.testing.assert_close(gates(x, SIGMA), model.by_hand(x, SIGMA))
        torch.testing.assert_close(gates(x[:1], SIGMA), model.by_hand(x[:1], SIGMA))
        assert gates.shares == shares


@pytest.mark.parametrize("name", BLOCKS)
def test_the_branch_is_scaled_where_it_is_joined(name, images):
    check(network(BLOCKS[name]), images, shares=not name.startswith("add_"))


@pytest.mark.parametrize("around", [name for name in AROUND if name != "in a tuple"])
@pytest.mark.parametrize("block", [Residual, BLOCKS["row"]])
def test_an_example_is_shared_only_where_the_network_answers_alike(block, around, images):
    check(network(block, around), images, shares=around in ("plain", "without gradients"))


@pytest.mark.parametrize(("block", "part"), [(Residual, "f"), (Deep, "f"), (Dense, "f"), (Attention, "attention")])
@pytest.mark.parametrize(("around", "numbers"), [("plain", True), ("plain", False), ("without gradients", True)])
def test_what_is_only_joined_is_a_branch(block, part, around, numbers, images):
    x = images if numbers else torch.arange(3 * 64).view(3, 8, 8) % 7
    check(network(block, around, numbers=numbers), x, [f"block.{part}"], shares=block is not Dense)


class Embeddings(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Embedding(7, 2), nn.Embedding(7, 2)

    def forward(self, x):
        return torch.cat([self.a(x), self.b(x)], -1)


@pytest.mark.parametrize("stem", [nn.Embedding(7, C), Embeddings()])
def test_what_whole_numbers_become_has_no_branch(stem):
    model = network(Residual, numbers=False)
    model.stem = stem.double()
    with gated(model, ["stem"]) as gates, pytest.raises(BadInputError, match="stem has no branch"):
        gates(torch.ones(3, 8, 8, dtype=torch.long), SIGMA)


class InATuple(Residual):
    def forward(self, x):
        return super().forward(x), "and more"

    def scaled(self, x, s):
        return super().scaled(x, s), "and more"


class BothInATuple(Nothing):
    def forward(self, x):
        return (super().forward(x),)

    def scaled(self, x, s):
        return (super().scaled(x, s),)


@pytest.mark.parametrize("block", [InATuple, BothInATuple])
def test_a_component_may_put_out_its_tensor_in_a_tuple(block, images):
    check(network(block, "in a tuple"), images)


@pytest.mark.parametrize(
    "name", ["+", "add_", "+= into a part", "partial", "inception", "encoder, norm first", "row"]
)
def test_gradients_are_those_of_finite_differences(name, images):
    with gated(network(BLOCKS[name]), ["block"]) as gates:
        for x in (images, images[:1]):
            assert torch.autograd.gradcheck(lambda s, x=x: gates(x, s), SIGMA.clone().requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["+=", "nothing", "dense", "attention"])
def test_a_zero_mask_changes_no_bit_in_any_precision(name, dtype, images):
    model, x = network(BLOCKS[name], dtype=dtype), images.to(dtype)
    with torch.no_grad(), gated(model, ["block"]) as gates:
        assert torch.equal(gates(x, 0 * SIGMA), model(x))
        found = gates(x, SIGMA)
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), model.double().by_hand(images, SIGMA), rtol=0.05, atol=0.02)


def test_the_same_residual_network_of_two_libraries_answers_alike():
    one, other = (classifier(f"{library}/resnet18", 10)[0] for library in ("torchvision", "timm"))
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    other.load_state_dict(one.state_dict())
    names = find(one, ["layer*.*"])
    sigma = gaussian(20, len(names), 1.0, 0, "two libraries")
    for site in ("branch", "output"):
        answers = [
            Probe(model.eval(), names, x, torch.tensor([0, 1]), site).responses(sigma)[0] for model in (one, other)
        ]
        assert answers[0].std() > 0.01
        torch.testing.assert_close(*answers, rtol=0, atol=1e-5)
