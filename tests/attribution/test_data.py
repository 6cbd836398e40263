import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import Ridge

from kanlib.attribution.data import Retrained, grouped, per_group, tracin
from kanlib.attribution.games import Game, leave_one_out
from kanlib.attribution.inputs import gradient
from kanlib.errors import BadInputError
from kanlib.metrics import spearman
from tests.helpers import randn

N, D, K, G = 90, 5, 3, 6
SLOPE = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)


def made(ridge=0.01):
    """Features of three classes that lie apart, their last layer, and the features of a query."""
    labels = torch.arange(N) % K
    features = randn(N, D) + 1.5 * F.one_hot(labels, D).double()
    layer = Retrained.of(features, labels, grouped(N, G, 0), K, ridge)
    return layer, labels, features, randn(D, seed=5)


def game(layer, query):
    return Game(
        lambda w: layer.logits(query, w) @ SLOPE, [str(g) for g in range(G)], 4, torch.float64,
        lambda w: layer.second(query, SLOPE, w),
    )  # fmt: skip


def refitted(layer, query, kept):
    """By scikit-learn, on the images that are kept alone."""
    h = F.pad(query, (0, 1), value=1.0)
    model = Ridge(layer.ridge, fit_intercept=False).fit(layer.features[kept].numpy(), layer.targets[kept].numpy())
    return float(torch.from_numpy(model.coef_) @ h @ SLOPE)


def test_a_layer_without_groups_is_the_one_that_never_saw_them():
    layer, _, _, query = made()
    played = game(layer, query)
    sets = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 1, 1, 0, 1, 1], [0, 0, 0, 0, 0, 1.0]])
    for w, value in zip(sets, played(sets).tolist(), strict=True):
        assert value == pytest.approx(refitted(layer, query, w.bool()[layer.groups]), abs=1e-9)
    assert float(played(torch.zeros(1, G))[0]) == 0


def test_single_images_are_worth_what_the_layer_loses_without_them():
    layer, _, _, query = made()
    alone, influence = layer.single(query, SLOPE)
    every = torch.ones(N, dtype=torch.bool)
    whole = refitted(layer, query, every)
    for i in (0, 17, 89):
        kept = every.clone()
        kept[i] = False
        assert float(alone[i]) == pytest.approx(whole - refitted(layer, query, kept), abs=1e-9)
    assert not torch.allclose(alone, influence, rtol=1e-3)


def test_the_gradient_of_groups_is_the_influence_of_their_images():
    layer, _, _, query = made()
    played = game(layer, query)
    _, influence = layer.single(query, SLOPE)
    torch.testing.assert_close(gradient(played), per_group(influence, layer.groups))
    assert float(spearman(gradient(played)[None], leave_one_out(played)[None])) > 0.9


def test_second_derivatives_are_those_of_autograd():
    layer, _, _, query = made()
    w = torch.rand(5, G, dtype=torch.float64)
    by_autograd = Game(lambda w: layer.logits(query, w) @ SLOPE, range(G), 4, torch.float64)
    torch.testing.assert_close(game(layer, query).hessians(w), by_autograd.hessians(w))


def test_tracin_is_the_product_of_gradients():
    _, labels, features, query = made()
    layer = torch.nn.Linear(D, K).double()
    errors = F.one_hot(labels, K) - layer(features).softmax(1).detach()
    found = tracin(features, errors, query, SLOPE)
    parameters = list(layer.parameters())
    of_output = torch.autograd.grad(layer(query) @ SLOPE, parameters)
    for i in (0, 40):
        of_loss = torch.autograd.grad(F.cross_entropy(layer(features[i : i + 1]), labels[i : i + 1]), parameters)
        true = -sum((a * b).sum() for a, b in zip(of_output, of_loss, strict=True))
        assert float(found[i]) == pytest.approx(float(true))


def test_groups_are_even_and_seeded():
    groups = grouped(100, 7, 3)
    assert torch.bincount(groups).tolist() == [15, 15, 14, 14, 14, 14, 14]
    assert torch.equal(groups, grouped(100, 7, 3))
    assert not torch.equal(groups, grouped(100, 7, 4))


def test_what_cannot_be_trained_is_refused():
    layer, labels, features, _ = made()
    with pytest.raises(BadInputError, match="200 groups of 90 training images were asked for, expected 1 to 90"):
        grouped(N, 200, 0)
    with pytest.raises(BadInputError, match="ridge is 0, expected above 0"):
        made(ridge=0)
    with pytest.raises(BadInputError, match="90 features, 89 labels and 90 groups were given for 3 classes"):
        Retrained.of(features, labels[1:], layer.groups, K)
    with pytest.raises(BadInputError, match="labels below the classes"):
        Retrained.of(features, labels, layer.groups, 2)
