import pytest
import torch
from torch import nn

from kanlib.errors import BadInputError
from kanlib.networks.components import find
from kanlib.networks.paths import along_path
from kanlib.networks.probe import Probe

FEATURES = ["0[*]", "3[*]", "7[*]"]


def network():
    torch.manual_seed(0)
    return (
        nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, 5, 3, padding=1, bias=False),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(20, 6),
            nn.ReLU(),
            nn.Linear(6, 3),
        )
        .eval()
        .requires_grad_(False)
    )


def probe(patterns=FEATURES, model=None, **more):
    model = model or network()
    x = torch.randn(3, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    return Probe(model, find(model, patterns), x, torch.tensor([0, 2, 1]), **more)


def test_conductance_of_a_layer_adds_up_to_what_the_output_gains_on_the_path():
    asked = probe(["3[*]"], output_function="logit")
    conductance, _ = along_path(asked, steps=400, progress=None)
    whole, empty = (asked.model(x) for x in (asked.x, torch.zeros_like(asked.x)))
    gain = (whole - empty).gather(1, asked.labels[:, None])[:, 0]
    torch.testing.assert_close(conductance.sum(1), gain, rtol=0.02, atol=2e-3)


def test_influence_of_what_the_output_is_linear_in_is_its_slope_there():
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 4), nn.Linear(4, 3)).requires_grad_(False)
    asked = probe(["1[*]"], model, output_function="logit")
    conductance, influence = along_path(asked, steps=5, progress=None)
    torch.testing.assert_close(influence, model[2].weight[asked.labels])
    ends = [model[1](x.flatten(1)) for x in (asked.x, torch.zeros_like(asked.x))]
    # Between the outermost nodes alone, which 400 steps bring to the ends.
    conductance, _ = along_path(asked, steps=400, progress=None)
    torch.testing.assert_close(conductance, influence * (ends[0] - ends[1]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("at_once", [1, 2, 64])
def test_examples_do_not_depend_on_those_beside_them(at_once):
    expected = along_path(probe(), steps=4, progress=None)
    for found, one in zip(along_path(probe(), 4, at_once, None), expected, strict=True):
        torch.testing.assert_close(found, one, rtol=1e-5, atol=1e-6)


def test_parts_and_order_are_those_of_the_components():
    every, some = probe(), probe(["3[2]", "0[1]"])
    for all_of_them, two in zip(along_path(every, 3, 64, None), along_path(some, 3, 64, None), strict=True):
        columns = [every.components.index(name) for name in some.components]
        torch.testing.assert_close(two, all_of_them[:, columns])


@pytest.mark.parametrize("place", ["0", "3", "7"])
def test_both_are_captums(place):
    captum = pytest.importorskip("captum.attr", reason="needs captum (extra peers)")
    asked = probe([f"{place}[*]"], output_function="logit")
    layer, steps = asked.model.get_submodule(place), 12
    # captum hooks the layer itself, whose output the activation behind it must not overwrite.
    for module in asked.model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    found = along_path(asked, steps, progress=None)
    by_captum = (
        captum.LayerConductance(asked.model, layer).attribute(asked.x, target=asked.labels, n_steps=steps),
        captum.InternalInfluence(asked.model, layer).attribute(asked.x, target=asked.labels, n_steps=steps + 1),
    )
    for mine, theirs in zip(found, by_captum, strict=True):
        torch.testing.assert_close(mine, theirs.detach().flatten(2).sum(2) if theirs.ndim > 2 else theirs.detach(),
                                   rtol=1e-5, atol=1e-5)  # fmt: skip


@pytest.mark.parametrize("patterns", [["0"], ["0[*]", "7"]])
def test_whole_modules_have_neither(patterns):
    with pytest.raises(BadInputError, match=r"component (0|7) is neither a filter nor"):
        along_path(probe(patterns), progress=None)


def test_the_model_is_left_as_it_was():
    asked = probe()
    before = asked.model(asked.x)
    along_path(asked, 2, progress=None)
    assert torch.equal(asked.model(asked.x), before)
    assert not any(module._forward_hooks for module in asked.model.modules())
