import pytest
import torch
import torch.nn.functional as F

from kanlib.kan.splines import features
from kanlib.sae.encoders import Additive, Linear, Perceptron, Spline, n_parameters

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
DIRECTIONS = F.normalize(torch.randn(3, 9, 6, generator=torch.Generator().manual_seed(0)), dim=-1)


def sources():
    return [torch.Generator().manual_seed(i) for i in range(3)]


def encoders():
    return {
        "linear": Linear(DIRECTIONS),
        "spline": Spline(DIRECTIONS, (-2.0, 3.0), 9),
        "additive": Additive(DIRECTIONS, X, 8),
        "perceptron": Perceptron(DIRECTIONS, 8, sources()),
    }


@pytest.mark.parametrize("kind", encoders())
def test_every_encoder_starts_as_the_transpose_of_the_decoder(kind):
    encoder = encoders()[kind]
    expected = torch.einsum("bd,rmd->rbm", X, DIRECTIONS)
    assert torch.allclose(encoder.bent(encoder(X)), expected, atol=1e-5)


@pytest.mark.parametrize("kind", encoders())
def test_runs_do_not_meet(kind):
    encoder = encoders()[kind]
    encoder.bent(encoder(X))[1].square().sum().backward()
    for parameter in encoder.parameters():
        if parameter.grad is not None:
            assert parameter.grad[0].abs().max() == 0
            assert parameter.grad[2].abs().max() == 0


def bent(u, encoder):
    """By the splines of kanlib.kan."""
    grid = torch.linspace(*encoder.ends.tolist(), encoder.n_splines - 2)[None, None]
    basis = features(u.flatten()[None, None], grid, 3)[0, 0, 1:].view(encoder.n_splines, *u.shape)
    return u + torch.einsum("rmc,crbm->rbm", encoder.coefficients, basis)


def test_the_splines_of_k1_are_those_of_a_kan_and_so_are_their_gradients():
    encoder = Spline(DIRECTIONS, (-2.0, 3.0), 9)
    torch.nn.init.normal_(encoder.coefficients, generator=torch.Generator().manual_seed(2))
    u = torch.linspace(-6, 7, 50)[None, :, None].repeat(3, 1, 9).requires_grad_()
    expected = bent(u, encoder)
    assert torch.allclose(encoder.bent(u), expected, atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(encoder.bent(u), expected, atol=1e-5)
    ours, theirs = (
        torch.autograd.grad(values.sin().sum(), [u, encoder.coefficients])
        for values in (encoder.bent(u), bent(u, encoder))
    )
    assert all(torch.allclose(a, b, atol=2e-4) for a, b in zip(ours, theirs, strict=True))


def test_some_features_are_bent_as_among_all():
    encoder = Spline(DIRECTIONS, (-2.0, 3.0), 9)
    torch.nn.init.normal_(encoder.coefficients, generator=torch.Generator().manual_seed(2))
    u = encoder(X)
    which = torch.randint(9, (3, 40, 4), generator=torch.Generator().manual_seed(3))
    assert torch.equal(encoder.bent(u.gather(-1, which), which), encoder.bent(u).gather(-1, which))


def test_k2_is_a_sum_of_functions_of_one_input():
    encoder = Additive(DIRECTIONS, X, 8)
    torch.nn.init.normal_(encoder.coefficients, generator=torch.Generator().manual_seed(2))
    low, high = X[:1], X[1:2]
    mixed = torch.cat([torch.cat([a[:, :3], b[:, 3:]], 1) for a in (low, high) for b in (low, high)])
    u = encoder(mixed)
    assert torch.allclose(u[:, 0] + u[:, 3], u[:, 1] + u[:, 2], atol=1e-4)
    assert not torch.allclose(encoder(2 * X) - encoder(X), encoder(X) - encoder(0 * X), atol=0.1)


def test_the_mlp_has_the_parameters_of_k2():
    directions = F.normalize(torch.randn(1, 512, 64), dim=-1)
    x = torch.randn(500, 64)
    k2, mlp = Additive(directions, x, 10), Perceptron(directions, 10, sources()[:1])
    assert n_parameters(mlp) == pytest.approx(n_parameters(k2), rel=0.002)


@pytest.mark.parametrize("kind", encoders())
def test_dead_features_start_again_and_others_stay(kind):
    encoder = encoders()[kind]
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(4))
    before = encoder.bent(encoder(X)).detach()
    dead = torch.zeros(3, 9, dtype=torch.bool)
    dead[1, 4] = True
    encoder.renew(dead, DIRECTIONS)
    after = encoder.bent(encoder(X)).detach()
    assert torch.allclose(after[1, :, 4], 0.2 * X @ DIRECTIONS[1, 4], atol=1e-5)
    after[1, :, 4] = before[1, :, 4]
    assert torch.allclose(after, before, atol=1e-5)
