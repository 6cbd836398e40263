import pytest
import torch

from kanlib.networks import streams
from kanlib.networks.texts import of_tokens
from kanlib.sae import Autoencoder, Run, measured, stability, text_losses, train
from kanlib.setups import SparseAutoencoder
from tests.language import small_llama


def test_measures_are_what_they_say(known):
    _, x = known
    model = Autoencoder("topk", [Run(2, 0), Run(3, 1)], x, 32).eval()
    found, z, back = measured(model, x), model.encode(x), model(x)
    left = (back - x).square().sum((1, 2)) / (x - x.mean(0)).square().sum()
    assert found.explained.tolist() == pytest.approx((1 - left).tolist(), abs=1e-5)
    assert found.l0.tolist() == pytest.approx((z > 0).float().sum(-1).mean(1).tolist(), abs=1e-4)
    assert torch.allclose(found.density.float(), (z > 0).float().mean(1))
    assert found.histogram.sum(1).tolist() == pytest.approx([1, 1])
    assert found.live.tolist() == (z > 0).any(1).float().mean(1).tolist()


def test_the_loss_with_a_reconstruction_is_that_of_the_network_with_it():
    network = small_llama()
    texts = of_tokens([[1, 5, 7, 9], [1, 4, 8, 3, 2, 11]], None, network)
    stream = streams.read(network, texts, "layers.0")
    model = Autoencoder("topk", [Run(2, 0), Run(16, 1)], stream.vectors, 16).eval()
    found = text_losses(model, network, texts, "layers.0")
    with streams.replaced(network, "layers.0", lambda v: model(v.flatten(0, 1))[1].view_as(v)):
        assert torch.allclose(streams.losses(network, texts), found[1])
    assert found.shape == (2, 2)


def test_an_autoencoder_that_is_not_sparse_gives_back_all(known):
    _, x = known
    knobs = SparseAutoencoder(features=12, steps=1500, minibatch=256, rate=0.01, renew=False)
    assert measured(train("dense", x, [Run(12, 0)], knobs), x).explained.item() > 0.999


def test_stability_is_one_where_seeds_agree_up_to_order():
    rows = torch.nn.functional.normalize(torch.randn(8, 5, generator=torch.Generator().manual_seed(0)), dim=-1)
    live = torch.ones(3, 8, dtype=torch.bool)
    same = torch.stack([rows, rows.flip(0), rows])
    assert stability(same, live).tolist() == pytest.approx([1] * 6, abs=1e-5)
    other = torch.stack([rows, -rows])
    assert stability(other, live[:2]).max() < 0.999
    live[:2, 3:] = False
    assert stability(torch.stack([rows, rows]), live[:2]).tolist() == pytest.approx([1, 1], abs=1e-5)
