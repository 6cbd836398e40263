import pytest
import torch
from PIL import Image
from torch import nn

from kanlib.errors import BadInputError
from kanlib.networks.architectures import classifier


def test_a_classifier_has_the_asked_number_of_logits():
    assert classifier("torchvision/resnet18", 7)[0].fc.out_features == 7


def test_the_seed_alone_determines_the_initial_weights(same_global_rng):
    first, again, other = (
        classifier("torchvision/resnet18", 10, small_images=True, seed=seed)[0] for seed in (0, 0, 1)
    )
    assert torch.equal(first.conv1.weight, again.conv1.weight)
    assert torch.equal(first.fc.weight, again.fc.weight)
    assert not torch.equal(first.fc.weight, other.fc.weight)


def test_a_classifier_is_channels_last_also_with_weights(resnet):
    assert resnet.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["torchvision/resnet19", "resnet18", "torchvison/resnet18"])
def test_an_unknown_architecture_suggests_the_nearest(name):
    with pytest.raises(
        BadInputError, match=rf"architecture {name} is unknown; did you mean torchvision/resnet18\?"
    ):
        classifier(name, 10)


def test_small_images_keep_their_resolution_through_the_stem(resnet):
    stem = nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool)
    assert stem(torch.zeros(1, 3, 16, 16)).shape == (1, 64, 16, 16)


@pytest.mark.parametrize("name", ["squeezenet1_1", "shufflenet_v2_x0_5"])
def test_small_images_need_a_residual_stem(name):
    with pytest.raises(BadInputError, match=rf"torchvision/{name} has no conv1 and maxpool .*small_images"):
        classifier(f"torchvision/{name}", 10, small_images=True)


def test_a_factory_in_a_file_makes_a_classifier(own, same_global_rng):
    model, transform = classifier("mine.py:plain", 10, seed=1)
    assert transform is None
    assert model[1].out_features == 10
    again, _ = classifier("mine.py:plain", 10, seed=1)
    assert torch.equal(model[1].weight, again[1].weight)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("other.py:plain", r"names no file other\.py, expected path/to/file\.py:factory"),
        ("mine.py:plane", r"mine\.py has no function plane"),
        ("mine.py:none", r"mine\.py:none returns a int, expected an nn\.Module"),
    ],
)
def test_a_factory_that_makes_no_classifier_is_refused(own, name, sentence):
    with pytest.raises(BadInputError, match=sentence):
        classifier(name, 10)


def test_a_model_of_timm_comes_with_its_transform():
    model, transform = classifier("timm/deit_tiny_patch16_224", 1000)
    assert model.head.out_features == 1000
    assert transform(Image.new("RGB", (300, 200))).shape == (3, 224, 224)


def test_a_published_torchvision_model_comes_with_its_transform():
    _, transform = classifier("torchvision/resnet50", 1000)
    assert transform(Image.new("RGB", (300, 200))).shape == (3, 224, 224)


def file(folder, text):
    (folder / "odd.py").write_text(text, encoding="utf8")


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (
            "from torch import nn\n\ndef made(n_classes)\n    return nn.Linear(2, 2)\n",
            r"line 3 of odd\.py \(SyntaxError",
        ),
        ("import torhc\n\ndef made(n): ...\n", r"line 1 of odd\.py \(ModuleNotFoundError: .*torhc"),
        (
            "def made(n):\n    a = n\n    return helper(a)\n\ndef helper(a):\n    return a / 0\n",
            r"line 6 .*ZeroDiv",
        ),
        (
            "from torch import nn\n\ndef made(n):\n    return nn.Linear(2, -n)\n",
            r"line 4 of odd\.py \(RuntimeError",
        ),
        ("import sys\n\ndef made(n):\n    sys.exit('bye')\n", r"line 4 of odd\.py \(SystemExit: bye\)"),
        ("raise SystemExit(0)\n", r"line 1 of odd\.py \(SystemExit: 0\)"),
        ("def made():\n    return 3\n", r"it fails \(TypeError: made\(\) takes 0"),
        ("def made(n):\n    return made(n)\n", r"line 2 of odd\.py \(RecursionError"),
        ("def made(n):\n    raise ValueError('x' * 10**6)\n", r"line 2 of odd\.py \(ValueError: xxx"),
        ("def __getattr__(name):\n    raise OSError('gone')\n", r"line 2 of odd\.py \(OSError: gone\)"),
        ("made = 3\n", r"odd\.py has no function made"),
        ("\0", r"fails.* \((SyntaxError|ValueError)"),
        ("# -*- coding: klingon -*-\n", r"fails.* \(SyntaxError"),
    ],
)
def test_a_factory_that_fails_is_said_with_its_line(tmp_path, monkeypatch, text, where):
    monkeypatch.chdir(tmp_path)
    file(tmp_path, text)
    with pytest.raises(BadInputError, match=where) as caught:
        classifier("odd.py:made", 10)
    assert len(str(caught.value)) < 350
    assert "\n" not in str(caught.value)


def test_a_factory_that_is_stopped_stops(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file(tmp_path, "def made(n):\n    raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        classifier("odd.py:made", 10)


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        ("nn.Linear(2, n).double()", r"holds torch\.float64 at weight, expected torch\.float32; call \.float\(\)"),
        ("nn.Linear(2, n, dtype=torch.complex64)", r"holds torch\.complex64 at weight"),
        ("nn.Sequential(nn.LazyLinear(n))", r"has a lazy layer at 0\.weight"),
        (
            "nn.Sequential(nn.LazyBatchNorm2d(affine=False), nn.Linear(2, 2))",
            r"has a lazy layer at 0\.running_mean",
        ),
        ("nn.Flatten()", "has no parameters"),
        ("nn.Linear(2, n, device='meta')", r"of no values \(device meta\) at weight"),
        ("nn.Conv3d(3, n, 3)", "of 5 dimensions, expected 4 at most at weight"),
        ("torch.jit.script(nn.Linear(2, n))", "is traced, scripted or compiled at its top"),
        ("nn.Sequential(nn.ReLU(), torch.jit.trace(nn.Linear(2, n), torch.ones(1, 2)))", "compiled at 1, so that"),
        ("torch.compile(nn.Linear(2, n))", "is traced, scripted or compiled at its top"),
        ("(nn.Linear(2, n), None, 3)", "returns a tuple, expected an nn.Module, or a pair"),
        ("(nn.Linear(2, n), 3)", "returns a int, expected an nn.Module, or a pair of one and a transform"),
        ("(3, None)", "returns a int, expected an nn.Module"),
        ("nn.Linear", "returns a type, expected an nn.Module"),
        ("None", "returns a NoneType, expected an nn.Module"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_network_that_cannot_be_trained_gated_or_kept_is_refused(tmp_path, monkeypatch, made, sentence):
    monkeypatch.chdir(tmp_path)
    file(tmp_path, f"import torch\nfrom torch import nn\n\ndef made(n):\n    return {made}\n")
    with pytest.raises(BadInputError, match=sentence):
        classifier("odd.py:made", 10)


def test_a_network_whose_state_is_no_tensors_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file(
        tmp_path,
        "from torch import nn\n\nclass Made(nn.Linear):\n    def __init__(self, n):\n"
        "        super().__init__(2, n)\n\n    def get_extra_state(self):\n        return {'seen': 3}\n",
    )
    with pytest.raises(BadInputError, match="keeps a dict at _extra_state of its state, expected tensors"):
        classifier("odd.py:Made", 10)


@pytest.mark.parametrize(
    "architecture",
    [
        "x" * 5000,
        "torchvision/" + "x" * 5000,
        "timm/" + "x" * 5000,
        "timm/resnet18.no_such_tag",
        "timm/hf-hub:timm/resnet18.a1_in1k",
        "x" * 5000 + ".py:made",
        "a\0b.py:made",
        "two\nlines.py:made",
        "/.py:made",
        "",
    ],
)
def test_a_name_that_nothing_can_have_is_refused_in_one_line(architecture):
    with pytest.raises(BadInputError, match=r"architecture .*(is unknown|names no file|cannot be made)") as caught:
        classifier(architecture, 10)
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


def test_a_classifier_that_memory_cannot_hold_is_refused():
    with pytest.raises(BadInputError, match=r"resnet18 cannot be made: it fails .*n_classes"):
        classifier("torchvision/resnet18", 10**15)
