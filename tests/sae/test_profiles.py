import json

import pytest
import torch

from kanlib.networks.streams import Stream
from kanlib.sae import logit_weights, moments, profiles, rule_scores
from kanlib.sae.profiles import correlations
from tests.language import small_llama

TEXTS, LENGTH, VOCABULARY = 40, 30, 12


@pytest.fixture(scope="module")
def stream():
    tokens = torch.randint(VOCABULARY, (TEXTS * LENGTH,), generator=torch.Generator().manual_seed(0))
    return Stream(torch.zeros(len(tokens), 1), tokens, torch.arange(TEXTS).repeat_interleave(LENGTH))


def test_logit_weights_are_what_a_direction_adds_to_logits():
    network = small_llama()
    torch.nn.init.uniform_(network.norm.weight, 0.5, 2, generator=torch.Generator().manual_seed(0))
    directions = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(
        logit_weights(directions, network), network.output(directions * network.norm.weight), atol=1e-5
    )


def test_moments_of_a_normal_distribution_and_of_one_with_a_tail():
    normal = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    found = moments(torch.stack([3 * normal + 1, normal.exp()]))
    assert [float(part[0]) for part in (found.mean, found.deviation)] == pytest.approx([1, 3], abs=0.03)
    assert float(found.skewness[0]) == pytest.approx(0, abs=0.03)
    assert float(found.kurtosis[0]) == pytest.approx(3, abs=0.05)
    assert float(found.skewness[1]) > 3


def test_correlations_are_pearsons():
    v = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    v[:, 3] = 1
    found = correlations(v[:, :2], v)
    assert torch.allclose(found[:, :3], torch.corrcoef(v[:, :3].T)[:2], atol=1e-5)
    assert found[:, 3].tolist() == [0, 0]


def test_rules_know_features_of_a_token_and_of_two_and_none_of_chance(stream):
    tokens, before = stream.tokens, stream.tokens.roll(1)
    start = torch.arange(len(tokens)) % LENGTH == 0
    of_one = (tokens == 3).float()
    of_two = ((tokens == 3) & (before == 5) & ~start).float()
    chance = torch.rand(len(tokens), generator=torch.Generator().manual_seed(1))
    one, two, none, never = rule_scores(torch.stack([of_one, of_two, chance, 0 * chance], 1), stream).tolist()
    assert one > 0.95
    assert two > 0.8
    assert abs(none) < 0.15
    assert never == 0


def test_a_card_says_what_a_feature_does(stream):
    z = torch.rand(len(stream), 6, generator=torch.Generator().manual_seed(2)) * 0.1
    z[:, 4] = 0
    z[[35, 36, 70], 4] = torch.tensor([1.0, 2.0, 3.0])
    weights = torch.randn(6, VOCABULARY, generator=torch.Generator().manual_seed(3))
    pieces = [f"<{i}>" for i in range(VOCABULARY)]
    (card,) = profiles(z, stream, weights, pieces, [4], neurons=z[:, 3:5] * 2)
    assert card["feature"] == 4
    assert card["density"] == pytest.approx(3 / len(stream), rel=1e-2)
    assert card["largest"] == 3
    # Of a text once, its largest; and what lies in another text is left out.
    assert [context[3] for context in card["contexts"]] == [3, 2]
    said = [f"<{token}>" for token in stream.tokens[60:75].tolist()]
    assert card["contexts"][0][:3] == ["".join(said[:10]), said[10], "".join(said[11:])]
    assert card["raises"][0][0] == pieces[int(weights[4].argmax())]
    assert card["lowers"][0][0] == pieces[int(weights[4].argmin())]
    assert card["neurons"][0] == [1, 1.0]
    assert 4 not in [other for other, _ in card["features"]]
    assert sum(card["histogram"]) == 3
    json.dumps(card, allow_nan=False)
