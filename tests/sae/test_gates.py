import pytest
import torch

from kanlib.errors import BadInputError
from kanlib.networks import streams
from kanlib.networks.texts import of_tokens
from kanlib.sae import Autoencoder, Run, gates
from tests.language import small_llama

NETWORK = small_llama()
ROW = [1, 4, 8, 3, 2, 11]
FOLLOWING = 6


@pytest.fixture(scope="module")
def model():
    stream = streams.read(NETWORK, of_tokens([ROW], None, NETWORK), "layers.0")
    return Autoencoder("topk", [Run(3, 0)], stream.vectors, 16).eval()


def stream():
    kept = []
    handle = NETWORK.layers[0].register_forward_hook(lambda _m, _x, out: kept.append(out[0]))
    logits = NETWORK(torch.tensor([ROW]))[0, -1]
    handle.remove()
    return kept[0], logits


def test_gates_at_rest_leave_the_network_as_it_is(model):
    vectors, logits = stream()
    gate = gates(model, NETWORK, 0, vectors, FOLLOWING)
    found = float(gate.log_probs(torch.zeros(1, 3)))
    assert found == pytest.approx(float(logits.log_softmax(0)[FOLLOWING]), abs=1e-5)


def test_a_gate_of_minus_one_takes_the_feature_away(model):
    vectors, _ = stream()
    gate = gates(model, NETWORK, 0, vectors, FOLLOWING)
    z = model.encode(vectors[-1:])
    without = z.clone()
    without[0, 0, gate.features[1]] = 0
    step = (model.decode(z) - model.decode(without))[0, 0]
    assert torch.allclose(gate.steps[1], step, atol=1e-5)
    changed = torch.cat([vectors[:-1], (vectors[-1] - step)[None]])
    other = gates(model, NETWORK, 0, vectors, FOLLOWING)
    mask = torch.tensor([[0.0, -1.0, 0.0]])
    moved = type(other)(NETWORK, 0, changed, other.features, other.steps, FOLLOWING)
    assert torch.allclose(gate.log_probs(mask), moved.log_probs(0 * mask), atol=1e-5)


def test_derivatives_are_those_of_finite_differences(model):
    vectors, _ = stream()
    gate = gates(model, NETWORK, 0, vectors, FOLLOWING)
    gradient, curvature = gate.derivatives()
    h = 1e-3
    exact = type(gate)(NETWORK.double(), 0, vectors.double(), gate.features, gate.steps.double(), FOLLOWING)
    eye = h * torch.eye(3, dtype=torch.float64)
    by_steps = (exact.log_probs(eye) - exact.log_probs(-eye)) / (2 * h)
    pairs = torch.stack(
        [
            torch.stack([exact.log_probs((a + b)[None])[0] - exact.log_probs((a - b)[None])[0] for b in eye])
            - torch.stack([exact.log_probs((b - a)[None])[0] - exact.log_probs((-a - b)[None])[0] for b in eye])
            for a in eye
        ]
    ) / (4 * h * h)
    NETWORK.float()
    assert torch.allclose(gradient, by_steps, atol=1e-5)
    assert torch.allclose(curvature, pairs, atol=1e-3)


@pytest.mark.parametrize(
    ("layer", "k", "said"),
    [
        (2, None, "layer 2 was asked for, expected 0 to 1"),
        (0, 9, "9 active features were asked for, expected 1 to"),
    ],
)
def test_what_is_not_there_is_refused(model, layer, k, said):
    with pytest.raises(BadInputError, match=said):
        gates(model, NETWORK, layer, stream()[0], FOLLOWING, k)
