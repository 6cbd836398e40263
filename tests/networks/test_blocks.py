import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kanlib.errors import BadInputError
from kanlib.networks.blocks import abnormality, block_outputs, likelihood, strangers


def network():
    torch.manual_seed(0)
    return (
        nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(20, 3)
        )
        .eval()
        .requires_grad_(False)
    )


X = torch.randn(6, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def test_what_modules_put_out_is_theirs_before_what_follows_works_in_place():
    model = network()
    first, last = block_outputs(model, ["0", "2"], X)
    torch.testing.assert_close(first.float(), model[0](X))
    torch.testing.assert_close(last.float(), model[2](model[0](X).relu()))
    assert float(first.min()) < 0


def test_slopes_are_those_of_the_likeliest_class_and_abnormality_their_norm():
    model, second = network(), network()[2]
    y = second(network()[0](X).relu()).requires_grad_(True)
    logits = model[4](y.flatten(1))
    (slope,) = torch.autograd.grad(F.log_softmax(logits, 1).amax(1).sum(), y)
    (found,) = block_outputs(model, ["2"], X, slopes=True)
    torch.testing.assert_close(found.float(), slope)
    torch.testing.assert_close(abnormality(model, ["2"], X).float(), slope.mean((2, 3)).norm(dim=1))
    torch.testing.assert_close(likelihood(model, X).float(), model(X).softmax(1).amax(1))


def test_strangers_are_as_they_are_called():
    found = strangers(X, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found["turned by 90°"].rot90(-1, (2, 3)), X)
    torch.testing.assert_close(found["inverted"].amax((0, 2, 3)), X.amax((0, 2, 3)))
    assert (found["inverted"] + X).flatten(2).std(2).max() < 1e-5
    assert found["noise"].shape == X.shape


def test_a_part_of_a_module_has_no_output_of_its_own():
    with pytest.raises(BadInputError, match=r"0\[1\] is not a module of this model, expected whole modules"):
        block_outputs(network(), ["0[1]"], X)
