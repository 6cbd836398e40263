import pytest
import torch
import torch.nn.functional as F

from benchmarks.language_rows import same_in_transformers
from kanlib.errors import BadInputError
from kanlib.networks import llama
from kanlib.networks.components import find, gated
from kanlib.networks.llama import RMSNorm, Shape, turned
from kanlib.networks.probe import Probe
from tests.language import BEGUN, PUBLISHED, small_llama, tokens_like, written_llama

HEADS, NETWORKS, ROWS = "layers.*.attention[*]", "layers.*.feed_forward", "layers.*.*.*.weight[*]"


def test_a_norm_has_a_mean_square_of_one_but_for_its_weights():
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    norm = RMSNorm(8).double()
    norm.weight.data = torch.arange(1.0, 9.0, dtype=torch.float64)
    expected = norm.weight * x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(norm(x), expected)


def test_products_of_turned_vectors_depend_on_their_distance_alone():
    turns = small_llama().turns.double()
    q, k = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    n = turns.shape[1]
    products = turned(q.expand(n, 4), turns) @ turned(k.expand(n, 4), turns).T
    for distance in range(n - 1):
        along = products.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), rtol=0, atol=1e-5)
    torch.testing.assert_close(turned(q.expand(n, 4), turns).norm(dim=-1), q.norm().expand(n), rtol=0, atol=1e-6)


def by_hand(model, tokens):
    """The logits of one text ``[T]``, every head and position apart."""
    shape = model.shape
    x, h = model.tok_embeddings(tokens), shape.dim // shape.n_heads
    for layer in model.layers:
        attention, normed = layer.attention, layer.attention_norm(x)
        heads = torch.zeros_like(x)
        for head in range(shape.n_heads):
            group = head // (shape.n_heads // shape.n_kv_heads)
            own, shared = slice(head * h, head * h + h), slice(group * h, group * h + h)
            q = turned(normed @ attention.wq.weight[own].T, model.turns[:, : len(x)])
            k = turned(normed @ attention.wk.weight[shared].T, model.turns[:, : len(x)])
            v = normed @ attention.wv.weight[shared].T
            for t in range(len(x)):
                weights = (q[t] @ k[: t + 1].T / h**0.5).softmax(-1)
                heads[t, own] = weights @ v[: t + 1]
        x = x + heads @ attention.wo.weight.T
        normed, net = layer.ffn_norm(x), layer.feed_forward
        x = x + (F.silu(normed @ net.w1.weight.T) * (normed @ net.w3.weight.T)) @ net.w2.weight.T
    return model.norm(x) @ model.output.weight.T


def test_logits_are_those_of_the_formulas():
    model = small_llama().double()
    tokens = tokens_like(model, 1, 9)
    torch.testing.assert_close(model(tokens)[0], by_hand(model, tokens[0]), rtol=0, atol=1e-10)


def test_what_stands_after_a_position_changes_nothing_there():
    model, tokens = small_llama(), tokens_like(small_llama(), 2, 9)
    other = torch.cat([tokens[:, :6], tokens[:, 6:] + 1], 1)
    torch.testing.assert_close(model(tokens)[:, :6], model(other)[:, :6], rtol=0, atol=1e-6)


def test_kept_keys_give_the_logits_of_the_whole_text():
    model, tokens = small_llama().double(), tokens_like(small_llama(), 3, 9)
    before = [[] for _ in model.layers]
    pieces = [model(part, before) for part in (tokens[:, :4], *tokens[:, 4:].split(1, 1))]
    torch.testing.assert_close(torch.cat(pieces, 1), model(tokens), rtol=0, atol=1e-10)


def test_texts_may_have_any_axes_before():
    model, tokens = small_llama().double(), tokens_like(small_llama(), 6, 9)
    torch.testing.assert_close(model(tokens.view(2, 3, 9)).view(6, 9, -1), model(tokens), rtol=0, atol=1e-10)


def test_components_are_heads_feed_forward_networks_and_rows():
    model = small_llama()
    assert find(model, [HEADS]) == [f"layers.{i}.attention[{h}]" for i in range(2) for h in range(4)]
    assert find(model, [NETWORKS]) == [f"layers.{i}.feed_forward" for i in range(2)]
    shape = model.shape
    a_layer = 2 * shape.dim + 2 * shape.dim // 2 + 2 * shape.hidden_dim + shape.dim
    assert len(find(model, [ROWS])) == 2 * a_layer


def gate_check(model, tokens):
    """σ = 0 is the identity to the bit; σ = −1 of a head is its columns of the projection set to 0."""
    components = find(model, [HEADS, NETWORKS])
    with torch.inference_mode(), gated(model, components) as gates:
        n = len(components)
        assert torch.equal(gates(tokens[:1], torch.zeros(n, n)), model(tokens[:1].expand(n, -1)))
        found = gates(tokens[:1], -torch.eye(n))
    error = 0.0
    for j, name in enumerate(components):
        place, _, number = name.rstrip("]").partition("[")
        module = model.get_submodule(place)
        weight = (module.wo if number else module.w2).weight
        kept = weight.data.clone()
        h = model.shape.dim // model.shape.n_heads
        weight.data[:, slice(int(number) * h, int(number) * h + h) if number else slice(None)] = 0
        error = max(error, float((model(tokens[:1])[0] - found[j]).abs().max()))
        weight.data = kept
    return error


def test_gates_are_exact_and_remove_heads_and_networks():
    model = small_llama()
    assert gate_check(model, tokens_like(model, 1, 9)) < 1e-5


@pytest.mark.parametrize("components", [[HEADS, NETWORKS], [ROWS], ["layers.*"], ["layers.*.attention"]])
def test_a_probe_finds_nothing_wrong(components):
    model, tokens = small_llama(), tokens_like(small_llama(), 2, 9)

    def last(output, labels):
        return output[:, -1].gather(-1, labels[:, None])[:, 0]

    probe = Probe(model, find(model, components), tokens, tokens[:, 0], output_function=last, batch_size=4)
    assert probe.gate_error() == 0
    assert probe.check() == ()


@pytest.mark.parametrize(
    ("tokens", "sentence"),
    [
        ((1, 0), r"a text has 0 tokens, expected 1 to 12, the context of the model; take a shorter text"),
        ((1, 13), r"a text has 13 tokens, expected 1 to 12"),
    ],
)
def test_texts_that_are_empty_or_too_long_are_refused(tokens, sentence):
    with pytest.raises(BadInputError, match=sentence):
        small_llama()(torch.ones(tokens, dtype=torch.long))


def test_several_tokens_after_kept_ones_are_refused():
    model, before = small_llama(), [[], []]
    model(tokens_like(model, 1, 3), before)
    with pytest.raises(BadInputError, match="2 tokens come after 3 whose keys were kept, expected one; give them"):
        model(tokens_like(model, 1, 2), before)


@pytest.mark.parametrize("own_output", [True, False])
def test_a_checkpoint_is_read_as_it_was_written(tmp_path, own_output):
    model = small_llama()
    if not own_output:
        model.output.weight = model.tok_embeddings.weight
    extra = [model.output.weight] if own_output else []
    found = llama.read(written_llama(tmp_path / "small.bin", model, extra=extra))
    assert found.shape == model.shape
    tokens = tokens_like(model, 2, 9)
    assert torch.equal(found(tokens), model(tokens))
    assert not any(weight.requires_grad for weight in found.parameters())


def cut(file):
    file.write_bytes(file.read_bytes()[:-4])


@pytest.mark.parametrize(
    ("spoilt", "sentence"),
    [
        (
            lambda file: file.unlink(),
            r"cannot be read \(FileNotFoundError.*expected one of llama2",
        ),
        (lambda file: file.write_bytes(b"1234567"), "is no checkpoint of a Llama .*: it has 7 bytes; take it"),
        (cut, "it has 4,063 weights, not the 4,064 of its header"),
        (
            lambda file: written_llama(file, small_llama(), [16, 20, 2, 3, 2, 30, 12]),
            "its header says 16, 20, 2, 3",
        ),
        (lambda file: written_llama(file, small_llama(), [16, 20, 0, 4, 2, 30, 12]), "its header says 16, 20, 0"),
        (lambda file: written_llama(file, small_llama(), [2 * 10**8, 1, 10**9, 4, 2, 30, 12]), "weights, not the"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, spoilt, sentence):
    file = written_llama(tmp_path / "small.bin", small_llama())
    spoilt(file)
    with pytest.raises(BadInputError, match=sentence):
        llama.read(file)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    model = small_llama()
    model.norm.weight.data[0] = torch.nan
    with pytest.raises(BadInputError, match="its weights are not all finite"):
        llama.read(written_llama(tmp_path / "small.bin", model))


def test_sizes_that_no_llama_has_are_refused():
    with pytest.raises(BadInputError, match="a Llama of sizes 16, 20, 2, 4, 3, 30, 12 cannot be, expected each"):
        Shape(16, 20, 2, 4, 3, 30, 12)


def test_the_published_greedy_story_comes_token_for_token(stories260k):
    model, tokeniser = stories260k
    expected, before = tokeniser.encode(PUBLISHED), [[] for _ in model.layers]
    found = [BEGUN]
    with torch.inference_mode():
        while len(found) < len(expected):
            found.append(int(model(torch.tensor([found[-1:]]), before)[0, -1].argmax()))
        whole = model(torch.tensor([expected]))[0].argmax(-1)
    assert tokeniser.decode(found) == PUBLISHED
    assert found == expected == [BEGUN, *whole[:-1].tolist()]


def test_heads_of_the_trained_network_are_removed_by_their_gates(stories260k):
    model, tokeniser = stories260k
    assert gate_check(model, torch.tensor([tokeniser.encode(PUBLISHED)])) < 1e-5
    assert len(find(model, [HEADS, NETWORKS])) == 45
    assert len(find(model, [ROWS])) == 3000


def test_logits_equal_those_of_transformers(stories260k):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model, _ = stories260k
    other = same_in_transformers(transformers, model)
    tokens = tokens_like(model, 4, model.shape.context)
    with torch.inference_mode():
        error = float((model(tokens) - other(tokens).logits).abs().max())
    print(f"largest difference of a logit from transformers': {error:.2g}")
    assert error < 1e-4
