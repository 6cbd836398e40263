import pytest
import torch
import torch.nn.functional as F

from kanlib.sae.sparsifiers import BatchTopK, Gated, Jump, JumpReLU, Standard, Step, TopK, count

U = torch.randn(2, 50, 30, generator=torch.Generator().manual_seed(0))


def same(u, which=None):
    return u


def test_topk_is_torchs():
    z = TopK([3, 7], 30)(U, same)
    for run, k in enumerate((3, 7)):
        values, places = U[run].topk(k, -1)
        assert torch.equal(z[run], torch.zeros(50, 30).scatter(-1, places, F.relu(values)))


def test_the_gradient_of_topk_is_that_of_what_is_kept():
    u = U.clone().requires_grad_()
    z = TopK([3, 7], 30)(u, same)
    (z**2).sum().backward()
    assert torch.allclose(u.grad, 2 * z.detach())


def test_batchtopk_keeps_as_many_as_k_a_token_and_afterwards_those_above_its_threshold():
    sparsifier = BatchTopK([3, 7], 30)
    assert count(sparsifier(U, same)).mean(1).tolist() == [3, 7]
    sparsifier.eval()
    sparsifier.settle(U, same)
    assert count(sparsifier(U, same)).mean(1).tolist() == pytest.approx([3, 7], abs=0.02)


@pytest.mark.parametrize("kind", [Standard, Gated, JumpReLU])
def test_a_threshold_settles_what_is_left_to_the_target(kind):
    sparsifier = kind([3, 7], 30).eval()
    sparsifier.settle(U, same)
    assert count(sparsifier(U, same)).mean(1).tolist() == pytest.approx([3, 7], abs=0.05)


@pytest.mark.parametrize("kind", [Standard, Gated])
def test_the_weight_of_a_penalty_follows_l0(kind):
    sparsifier = kind([3, 29], 30)
    before = sparsifier.log_weight.clone()
    sparsifier.follow(F.relu(U))
    assert (sparsifier.log_weight - before).sign().tolist() == [1, -1]
    before = sparsifier.log_weight.clone()
    sparsifier.eval().follow(F.relu(U))
    assert torch.equal(sparsifier.log_weight, before)


def test_the_gate_decides_and_the_magnitude_says_how_much():
    sparsifier = Gated([3, 7], 30)
    with torch.no_grad():
        sparsifier.scale.fill_(0.5)
        sparsifier.shift.fill_(0.3)
    z = sparsifier(U, same)
    assert torch.allclose(z, torch.where(U > 0, F.relu(U * torch.tensor(0.5).exp() + 0.3), 0.0))


def smoothed(u, threshold, width, value):
    """Mean of ``value · 1[u > threshold + noise]`` over noise in a kernel's width, which has a true gradient."""
    share = ((u - threshold) / width + 0.5).clamp(0, 1)
    return value * share


@pytest.mark.parametrize(("function", "value"), [(Step, lambda u: 1.0), (Jump, lambda u: u)])
def test_gradients_by_thresholds_are_those_of_a_smoothed_step(function, value):
    u, width = U.double(), 0.1
    threshold = torch.full((2, 1, 30), 0.4, dtype=torch.float64, requires_grad=True)
    (ours,) = torch.autograd.grad(function.apply(u, threshold, width).sum(), threshold)
    expected = torch.autograd.grad(smoothed(u, threshold, width, value(u)).sum(), threshold)[0]
    # The threshold itself stands for u in the kernel, which is half a width off at most.
    assert torch.allclose(ours, expected, atol=0.5 * (U.sub(0.4).abs() < 0.05).sum(1).max())
    assert (ours <= 0).all()
    assert torch.equal(ours == 0, expected == 0)


def test_the_gradient_of_a_jump_by_what_it_is_given_is_that_of_what_passes():
    u = U.clone().requires_grad_()
    z = Jump.apply(u, torch.full((2, 1, 30), 0.4), 0.1)
    (z**2).sum().backward()
    assert torch.equal(u.grad, 2 * z.detach())
