import pytest
import torch
import torch.nn.functional as F

from kanlib.errors import BadInputError
from kanlib.networks import streams
from kanlib.networks.texts import of_tokens
from tests.language import small_llama

MODEL = small_llama()
TEXTS = of_tokens([[1, 5, 7, 9], [1, 4, 8, 3, 2, 11], [1, 6]], None, MODEL)


def test_a_stream_holds_what_the_layer_puts_out_at_every_token_but_the_first():
    stream = streams.read(MODEL, TEXTS, "layers.0", batch_size=2)
    assert stream.tokens.tolist() == [5, 7, 9, 4, 8, 3, 2, 11, 6]
    assert stream.texts.tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 2]
    turns, x = MODEL.turns, MODEL.tok_embeddings(TEXTS.tokens)
    layer = MODEL.layers[0](x, turns[:, : x.shape[1]])
    assert torch.allclose(stream.vectors[:3], layer[0, 1:4], atol=1e-6)
    assert torch.allclose(stream.vectors[3:8], layer[1, 1:6], atol=1e-6)


def test_a_stream_of_a_feed_forward_network_is_what_it_adds():
    inner = streams.read(MODEL, TEXTS, "layers.1.feed_forward")
    assert inner.vectors.shape == (9, 16)


def test_losses_are_those_of_the_predicted_tokens():
    tokens = TEXTS.tokens[1:2]
    expected = F.cross_entropy(MODEL(tokens)[0, :-1], tokens[0, 1:], reduction="sum")
    assert streams.losses(MODEL, TEXTS)[1].item() == pytest.approx(expected.item(), rel=1e-5)


def test_what_is_put_in_place_of_the_stream_reaches_the_loss_and_leaves_the_first_token_alone():
    clean, seen = streams.losses(MODEL, TEXTS), []

    def same(x):
        seen.append(x.shape)
        return x.clone()

    with streams.replaced(MODEL, "layers.0", same):
        assert torch.equal(streams.losses(MODEL, TEXTS), clean)
    assert seen == [(3, 5, 16)]
    with streams.replaced(MODEL, "layers.0", torch.zeros_like):
        without = streams.losses(MODEL, TEXTS)
        # Of a text whose first token predicts the only other one, nothing was replaced before it.
        assert without[2].item() == pytest.approx(clean[2].item(), rel=1e-6)
    assert not torch.allclose(without[:2], clean[:2])
    assert torch.equal(streams.losses(MODEL, TEXTS), clean)
    assert streams.recovered(clean, clean, without)[0] == 1
    assert streams.recovered(without, clean, without)[0] == 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("layers.7", "module layers.7 is unknown to the network; did you mean layers.1?"),
        ("", "module without a name is unknown to the network"),
        ("layers", r"module layers puts out NoneType, expected a vector at each token"),
        ("norm.weight", "module norm.weight is unknown"),
    ],
)
def test_a_module_that_has_no_stream_is_refused(name, said):
    with pytest.raises(BadInputError, match=said):
        streams.read(MODEL, TEXTS, name)
