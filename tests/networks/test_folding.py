import pytest
import torch
from torch import nn

from kanlib.networks.components import find, gated
from kanlib.networks.folding import folded, folds


def network():
    torch.manual_seed(0)
    return (
        nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2, bias=False), nn.Flatten(), nn.Linear(16, 5)
        )
        .eval()
        .requires_grad_(False)
    )


@pytest.mark.parametrize(
    "patterns",
    [["0[*]", "2[*]"], ["0.weight[*]", "4[1]", "4[3]"], ["group:0[*] 4.weight[2]", "2[1]"], ["4.weight[*]"]],
)
def test_folded_masks_are_gates(patterns):
    model = network()
    before = {name: value.clone() for name, value in model.named_parameters()}
    names = find(model, patterns)
    assert folds(model, names)
    x = torch.randn(6, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    masks = torch.randn(3, len(names), generator=torch.Generator().manual_seed(2))
    with gated(model, names) as gates:
        expected = [gates(x, mask.expand(6, -1)) for mask in masks]
    with folded(model, names) as scale:
        for mask, logits in zip(masks, expected, strict=True):
            scale(mask)
            torch.testing.assert_close(model(x), logits)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_weights_come_back_after_an_exception():
    model = network()
    before = model[0].weight.clone()

    def fail():
        with folded(model, ["0[1]"]) as scale:
            scale(torch.tensor([-1.0]))
            assert model[0].weight[1].eq(0).all()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(model[0].weight, before)


def test_heads_and_whole_modules_do_not_fold():
    attention = nn.Sequential(nn.MultiheadAttention(8, 2, batch_first=True))
    assert not folds(attention, ["0[1]"])
    assert not folds(network(), ["0"])
