import pytest
import torch
from torch import nn

from benchmarks.language_rows import same_in_transformers
from kanlib.errors import BadInputError
from kanlib.masks import gaussian, subsets
from kanlib.networks.components import find, gated
from kanlib.networks.language import difference, log_prob, mean_over_tokens, next_token, token_logits
from kanlib.networks.probe import Probe
from kanlib.networks.texts import Texts, of_tokens
from tests.language import small_llama, tokens_like

COMPONENTS = ["layers.*.attention[*]", "layers.*.feed_forward"]


@pytest.fixture
def model():
    return small_llama().double()


@pytest.fixture
def texts(model):
    rows = tokens_like(model, 3, 9).tolist()
    return of_tokens([rows[0], rows[1][:6], rows[2][:8]], [3, 4, 7], model)


def pairs(model):
    """Two prompts with two continuations each."""
    rows = tokens_like(model, 4, 9).tolist()
    rows[1][:4], rows[3][:6] = rows[0][:4], rows[2][:6]
    flat = of_tokens([rows[0], rows[1][:6], rows[2], rows[3][:7]], [4, 4, 6, 6], model)
    return Texts(flat.tokens.view(2, 2, -1), flat.starts.view(2, 2), flat.lengths.view(2, 2))


def one_by_one(model, texts, i):
    """Logits and tokens at each predicted place of a text, from the text alone."""
    tokens = texts.tokens[i, : texts.lengths[i]]
    return [(model(tokens[None, :t])[0, -1], int(tokens[t])) for t in range(int(texts.starts[i]), len(tokens))]


def margin(logits, token):
    others = torch.cat([logits[:token], logits[token + 1 :]])
    return logits[token] - others.max()


def test_each_function_is_what_it_says(model, texts):
    output, places = model(texts.tokens), [one_by_one(model, texts, i) for i in range(3)]
    expected = {
        next_token: [margin(*some[0]) for some in places],
        mean_over_tokens: [sum(margin(*one) for one in some) / len(some) for some in places],
        log_prob: [sum(z.log_softmax(-1)[t] for z, t in some) for some in places],
    }
    for function, values in expected.items():
        torch.testing.assert_close(function(texts)(output, texts.rows), torch.stack(values), rtol=0, atol=1e-10)
    loss = mean_over_tokens(texts, "loss")(output, texts.rows)
    torch.testing.assert_close(loss, -log_prob(texts)(output, texts.rows) / texts.predicted.sum(-1))
    prob = next_token(texts, "prob")(output, texts.rows)
    torch.testing.assert_close(prob, torch.stack([some[0][0].softmax(-1)[some[0][1]] for some in places]))


def test_labels_are_the_numbers_of_texts(model, texts):
    output = model(texts.tokens[[2, 2, 0]])
    found = log_prob(texts)(output, torch.tensor([2, 2, 0]))
    torch.testing.assert_close(found, log_prob(texts)(model(texts.tokens), texts.rows)[[2, 2, 0]])


def test_a_difference_is_that_of_two_continuations_of_one_prompt(model):
    both = pairs(model)
    found = difference(both)(model(both.tokens), both.rows)
    alone = [Texts(both.tokens[:, k], both.starts[:, k], both.lengths[:, k]) for k in (0, 1)]
    first, second = (log_prob(one)(model(one.tokens), one.rows) for one in alone)
    torch.testing.assert_close(found, first - second)


def test_responses_of_a_difference_are_differences_of_responses(model):
    both, names = pairs(model), find(model, COMPONENTS)
    masks = gaussian(20, len(names), 1.0, 0, "test").double()
    probe = Probe(model, names, both.tokens, both.rows, output_function=difference(both), batch_size=8)
    assert probe.check() == ()
    found, _ = probe.responses(masks, None)
    parts = []
    for k in (0, 1):
        one = Texts(both.tokens[:, k], both.starts[:, k], both.lengths[:, k])
        parts.append(
            Probe(model, names, one.tokens, one.rows, output_function=log_prob(one)).responses(masks, None)[0]
        )
    torch.testing.assert_close(found, parts[0] - parts[1], rtol=0, atol=1e-5)


def test_padding_changes_no_response(model, texts):
    names = find(model, COMPONENTS)
    masks = gaussian(10, len(names), 1.0, 0, "test").double()
    whole, _ = Probe(model, names, texts.tokens, texts.rows, output_function=log_prob(texts)).responses(
        masks, None
    )
    short = texts.of(torch.tensor([1]))
    alone, _ = Probe(model, names, short.tokens, short.rows, output_function=log_prob(short)).responses(
        masks, None
    )
    torch.testing.assert_close(whole[1:2], alone, rtol=0, atol=1e-6)


def test_texts_have_gradients_and_exact_derivatives_in_the_masks():
    model = small_llama()
    texts = of_tokens(tokens_like(model, 2, 6).tolist(), [5, 5], model)
    names = find(model, ["layers.*.attention", "layers.*.feed_forward"])
    probe = Probe(model, names, texts.tokens, texts.rows, output_function=log_prob(texts))
    gradients = probe.gradients(torch.zeros(1, 4), None)
    assert gradients.dtype == torch.float32
    exact = probe.local_derivatives(2, progress=None)
    assert exact.dtype == torch.float64
    torch.testing.assert_close(gradients[:, 0].double(), exact[:, :4], rtol=1e-3, atol=1e-6)
    double, step = probe.double(), 1e-3
    assert double.x.dtype == torch.int64
    index = subsets(4, 2)
    with torch.no_grad():
        for number in (4, 6, 9):
            a, b = index[number]
            corners = torch.zeros(4, 4, dtype=torch.float64)
            for row, (up, right) in enumerate([(1, 1), (1, -1), (-1, 1), (-1, -1)]):
                corners[row, a], corners[row, b] = up * step, right * step
            # In float64 all the way: what a probe keeps is fp32, of which a second difference leaves nothing.
            with gated(double.model, names) as gates:
                out = [log_prob(texts)(gates(double.x[e : e + 1], corners), torch.full((4,), e)) for e in (0, 1)]
            second = torch.stack([(o[0] - o[1] - o[2] + o[3]) / (4 * step**2) for o in out])
            torch.testing.assert_close(second, exact[:, number], rtol=1e-3, atol=1e-5)


class NoHead(nn.Module):
    """Puts out vectors of four numbers, by a name of their own or none."""

    def __init__(self, named):
        super().__init__()
        self.named, self.vectors = named, nn.Embedding(30, 4)

    def forward(self, x):
        return {"last_hidden_state": self.vectors(x)} if self.named else self.vectors(x)


class Classifier(NoHead):
    def forward(self, x):
        return self.vectors(x).mean(-2)


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (NoHead(True), r"puts out dict for tokens \[3, 9\], expected logits .* take a model with a language head"),
        (
            NoHead(False),
            r"holds token \d+, and the network puts out 4 numbers .* take a model with a language head",
        ),
        (Classifier(False), r"the network puts out \[3, 4\] of torch.float32 for tokens \[3, 9\]"),
    ],
)
def test_a_model_without_a_language_head_is_refused(texts, network, sentence):
    with pytest.raises(BadInputError, match=sentence):
        next_token(texts)(network(texts.tokens), texts.rows)


def test_functions_refuse_texts_of_another_number_of_continuations(model, texts):
    with pytest.raises(BadInputError, match="difference is asked of texts with 1 continuation each, expected two"):
        difference(texts)
    for function in (next_token, mean_over_tokens, log_prob):
        with pytest.raises(BadInputError, match="is asked of texts with 2 continuations each, expected one; give"):
            function(pairs(model))


@pytest.mark.parametrize("kind", [tuple, lambda found: {"logits": found[0]}, lambda found: found[0]])
def test_logits_are_found_in_what_a_network_puts_out(model, texts, kind):
    output = model(texts.tokens)
    assert token_logits(kind([output, "cache"]), texts.tokens) is output


def gpt2(transformers):
    config = transformers.GPT2Config(
        vocab_size=30,
        n_positions=12,
        n_embd=16,
        n_layer=2,
        n_head=4,
        use_cache=False,
        bos_token_id=1,
        eos_token_id=2,
    )
    return transformers.GPT2LMHeadModel(config), ["transformer.h.*.attn[*]", "transformer.h.*.mlp"]


def llama(transformers):
    return same_in_transformers(transformers, small_llama()), ["model.layers.*.self_attn[*]", "model.layers.*.mlp"]


@pytest.mark.parametrize("made", [gpt2, llama])
def test_models_of_transformers_are_asked_like_any_other(made):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, patterns = made(transformers)
    model = model.eval().requires_grad_(False)
    texts = of_tokens(tokens_like(small_llama(), 2, 9).tolist(), [4, 6], model)
    names = find(model, patterns)
    assert len(names) == 10
    probe = Probe(model, names, texts.tokens, texts.rows, output_function=mean_over_tokens(texts), batch_size=5)
    assert probe.check() == ()
    assert probe.gate_error() == 0
    masks = gaussian(12, 10, 1.0, 0, "test")
    responses, clean = probe.responses(masks, None)
    assert (responses.std(1) > 0).all()
    torch.testing.assert_close(clean, mean_over_tokens(texts)(model(texts.tokens), texts.rows))
    if made is llama:
        own = Probe(small_llama(), find(small_llama(), COMPONENTS), texts.tokens, texts.rows)
        like = Probe(own.model, own.components, texts.tokens, texts.rows, output_function=mean_over_tokens(texts))
        torch.testing.assert_close(responses, like.responses(masks, None)[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(BadInputError, match="text 1 has 13 tokens, expected at most 12"):
        of_tokens([[1] * 13], model=model)
    with pytest.raises(BadInputError, match="text 1 holds token 30, which is outside the vocabulary"):
        of_tokens([[1, 30]], model=model)
    with pytest.raises(BadInputError, match=r"BaseModelOutput.* take a model with a language head"):
        next_token(texts)(model.base_model(texts.tokens), texts.rows)
