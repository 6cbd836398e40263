import pytest
import torch

from kanlib.errors import BadInputError
from kanlib.sae import ARMS, Autoencoder, Run, measured, train, training
from kanlib.sae.training import losses
from kanlib.setups import SparseAutoencoder

RUNS = [Run(2, 0), Run(4, 1)]
SHORT = SparseAutoencoder(features=32, steps=60, minibatch=256, rate=0.01)


@pytest.mark.parametrize("arm", ["topk", "batchtopk", "k1"])
def test_known_features_are_found(known, arm):
    directions, x = known
    knobs = SparseAutoencoder(features=32, steps=800, minibatch=512, rate=0.01)
    model = train(arm, x, [Run(2, 0), Run(2, 1)], knobs)
    best = (directions @ model.rows[0].T).amax(1)
    assert (best > 0.95).float().mean() > 0.8
    assert measured(model, x[:2000]).explained.min() > 0.9


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm != "dense"])
def test_every_arm_trains_and_has_the_l0_that_was_asked_for(known, arm):
    _, x = known
    before = measured(Autoencoder(arm, RUNS, x, 32).eval(), x)
    found = measured(train(arm, x, RUNS, SHORT), x)
    assert found.l0.tolist() == pytest.approx([2, 4], rel=0.05)
    assert found.explained.min() > 0.2
    assert before.explained.shape == (2,)


def test_k1_with_splines_at_rest_is_topk(known):
    _, x = known
    topk, k1 = (Autoencoder(arm, RUNS, x, 32) for arm in ("topk", "k1"))
    assert torch.allclose(topk(x[:50]), k1(x[:50]), atol=1e-6)
    standardised = topk.standardised(x[:256])
    for model in (topk, k1):
        losses(model, standardised)[2].sum().backward()
    assert torch.allclose(topk.encoder.weight.grad, k1.encoder.weight.grad, atol=1e-6)


def test_runs_trained_together_are_those_trained_alone(known):
    _, x = known
    both, alone = train("topk", x, RUNS, SHORT), train("topk", x, RUNS[1:], SHORT)
    z, (other,) = both.encode(x[:100])[1], alone.encode(x[:100])
    assert torch.allclose(z, other, atol=1e-3)


def test_one_run_taken_out_says_what_it_said_among_all(known):
    _, x = known
    for arm in ARMS:
        model = train(arm, x, RUNS, SparseAutoencoder(features=32, steps=3, minibatch=256))
        assert torch.allclose(model.one(1)(x[:20])[0], model(x[:20])[1], atol=1e-5)
        assert torch.allclose(
            model.replacement(1)(x[:20].view(4, 5, -1)).flatten(0, 1), model(x[:20])[1], atol=1e-5
        )


def trained_with_a_feature_that_cannot_fire(x, knobs, monkeypatch):
    """Feature 3 of both runs begins with a bias far below 0."""

    class Handicapped(training.Autoencoder):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            with torch.no_grad():
                self.encoder.bias[:, 3] = -100

    monkeypatch.setattr(training, "Autoencoder", Handicapped)
    return train("topk", x, RUNS, knobs)


@pytest.mark.parametrize("renew", [False, True])
def test_dead_features_start_again_where_it_was_asked_for(known, renew, monkeypatch):
    _, x = known
    model = trained_with_a_feature_that_cannot_fire(x, SHORT.model_copy(update={"renew": renew}), monkeypatch)
    assert (model.encoder.bias[:, 3] > -50).tolist() == [renew, renew]


def test_decoder_rows_have_length_one(known):
    _, x = known
    assert torch.allclose(train("gated", x, RUNS, SHORT).rows.norm(dim=-1), torch.ones(2, 32), atol=1e-5)


@pytest.mark.parametrize(
    ("arm", "runs", "knobs", "said"),
    [
        ("topk", [Run(33, 0)], {}, "an autoencoder of 32 features with 33 active ones a token was asked for"),
        ("topk", [Run(0, 0)], {}, "with 0 active ones a token was asked for, expected 1 to 32; set l0"),
        ("topk", [], {}, "0 autoencoders of 32 features were asked for"),
        ("topk", RUNS, {"minibatch": 7000}, "there are 6,000 vectors, expected at least 7,000, a minibatch"),
        ("topk2", RUNS, {}, "arm topk2 is unknown to kanlib.sae; did you mean topk?"),
    ],
)
def test_what_cannot_be_trained_is_refused(known, arm, runs, knobs, said):
    _, x = known
    with pytest.raises(BadInputError, match=said):
        train(arm, x, runs, SHORT.model_copy(update=knobs))
