import copy
import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file, save_model
from torch import nn
from torch.optim.swa_utils import AveragedModel

from kanlib import store
from kanlib.errors import BadInputError
from kanlib.networks.checkpoints import fitted, read
from kanlib.networks.components import find, gated
from kanlib.networks.models import load
from kanlib.networks.weights import with_weights
from kanlib.setups import Training


def small():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


class Under(nn.Module):
    """A network that is kept under a name of another one, as training frameworks do."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


def same(weights, model):
    return weights.keys() == model.state_dict().keys() and all(
        torch.equal(value, weights[key]) for key, value in model.state_dict().items()
    )


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [
        (nn.DataParallel, "module."),
        (torch.compile, "_orig_mod."),
        (lambda net: Under(model=net), "model."),
        (lambda net: Under(backbone=net), "backbone."),
        (lambda net: Under(encoder=net), "encoder."),
        (lambda net: nn.DataParallel(Under(model=net)), "module.model."),
        (lambda net: torch.compile(nn.DataParallel(net)), "_orig_mod.module."),
    ],
)
def test_a_prefix_before_every_key_is_taken_off(wrap, prefix):
    source = small()
    weights, adapted = fitted(wrap(source).state_dict(), small())
    assert same(weights, source)
    assert adapted == [f"{prefix} was taken off every key"]


def test_a_prefix_that_the_network_has_too_stays():
    source = Under(model=small())
    for wrapped, said in ((source, []), (nn.DataParallel(source), ["module. was taken off every key"])):
        weights, adapted = fitted(wrapped.state_dict(), Under(model=small()))
        assert same(weights, source)
        assert adapted == said


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda w: w.update(extra=torch.ones(2)), r"hold nothing at 0\.weight"),
        (lambda w: w.update({"module.extra": torch.ones(2)}), r"hold \(2,\) at extra, expected nothing"),
        (lambda w: w.pop("module.3.bias"), r"hold nothing at 3\.bias"),
        (
            lambda w: w.update({"module.3.weight": torch.ones(5, 4)}),
            r"hold \(5, 4\) at 3\.weight, expected \(2, 4\)",
        ),
    ],
    ids=["prefix of some", "left over", "missing", "head"],
)
def test_what_no_adapting_mends_is_refused_by_its_key(change, sentence):
    weights = dict(nn.DataParallel(small()).state_dict())
    change(weights)
    with pytest.raises(BadInputError, match=sentence):
        with_weights(small(), fitted(weights, small())[0])


def test_keys_of_another_network_stay_as_they_are():
    weights = {"module.a.b": torch.ones(2), "module.a.c": torch.ones(2)}
    found, adapted = fitted(weights, nn.Linear(2, 2))
    assert (found, adapted) == (weights, [])
    assert fitted({"a." * 10**6: torch.ones(2)}, nn.Linear(2, 2))[1] == []


def test_counters_of_before_2018_are_zero():
    source = small()
    source(torch.randn(2, 3, 3, 3))
    weights = {key: value for key, value in source.state_dict().items() if "num_batches" not in key}
    found, adapted = fitted(weights, small())
    assert adapted == ["1 missing counters num_batches_tracked were set to 0"]
    model, x = with_weights(small(), found), torch.randn(2, 3, 3, 3)
    assert model[1].num_batches_tracked == 0
    assert torch.equal(model(x), source.eval()(x))
    assert "1.num_batches_tracked" not in weights


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_numbers_of_half_precision_become_fp32(dtype):
    source = small().to(dtype)
    weights, adapted = fitted(source.state_dict(), small())
    assert adapted == [f"numbers of {dtype} became torch.float32"]
    assert with_weights(small(), weights)[3].weight.dtype == torch.float32


def test_a_tensor_under_two_keys_may_be_missing_under_one(tmp_path):
    def twice():
        layer = nn.Linear(3, 3)
        return nn.Sequential(layer, nn.ReLU(), layer)

    source = twice()
    # It writes each tensor once.
    save_model(source, tmp_path / "tied.safetensors")
    weights, _ = read(tmp_path / "tied.safetensors")
    assert len(weights) == 2
    found, adapted = fitted(weights, twice())
    assert same(found, source)
    assert adapted[0] in (
        "2.weight was taken from 0.weight, which is the same tensor",
        "0.weight was taken from 2.weight, which is the same tensor",
    )
    assert len(adapted) == 2
    with pytest.raises(BadInputError, match=r"hold nothing at 0\.weight"):
        with_weights(twice(), fitted({"0.bias": torch.ones(3)}, twice())[0])


def filled(value):
    return {"a": torch.full((2,), float(value))}


@pytest.mark.parametrize(
    ("content", "value", "chosen"),
    [
        (filled(1), 1, []),
        ({"state_dict": filled(1), "best_prec1": 91.7}, 1, []),
        ({"net": filled(1), "epoch": 3}, 1, []),
        ({"model": filled(1), "optimizer": {"a": torch.ones(3)}}, 1, []),
        ({"model_ema": filled(1)}, 1, []),
        ({"model": {"state_dict": filled(1)}}, 1, []),
        ({"model": filled(1), "model_ema": filled(2)}, 2, ["model_ema was taken, not model"]),
        ({"state_dict": filled(1), "state_dict_ema": filled(2)}, 2, ["state_dict_ema was taken, not state_dict"]),
        ({"model": filled(1), "model_ema": {"state_dict": filled(2)}}, 2, ["model_ema was taken, not model"]),
    ],
)
def test_a_state_dict_is_found_where_training_scripts_keep_it(tmp_path, content, value, chosen):
    torch.save(content, tmp_path / "weights.pt")
    weights, said = read(tmp_path / "weights.pt")
    assert (weights["a"].tolist(), list(weights), said) == ([value, value], ["a"], chosen)


def test_an_average_of_torchs_own_is_taken(tmp_path):
    source, average = small(), AveragedModel(small())
    average.update_parameters(source)
    torch.save({"model": small().state_dict(), "model_ema": average.state_dict()}, tmp_path / "weights.pt")
    weights, said = read(tmp_path / "weights.pt")
    found, adapted = fitted(weights, small())
    assert said + adapted == [
        "model_ema was taken, not model",
        "the counter n_averaged was left aside",
        "module. was taken off every key",
    ]
    assert same(found, average.module)


@pytest.fixture
def index(tmp_path):
    """The index of a network in two shards, as the library of a hub writes them."""
    torch.manual_seed(0)
    save_torch_state_dict(small().state_dict(), tmp_path, max_shard_size=300)
    found = tmp_path / "model.safetensors.index.json"
    assert len(set(json.loads(found.read_text())["weight_map"].values())) == 2
    return found


def test_weights_in_shards_are_put_together(index):
    torch.manual_seed(0)
    weights, chosen = read(index)
    assert same(weights, small())
    assert chosen == []


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[]", "has no weight_map from keys to files, expected an index of shards"),
        ('{"weight_map": ["a"]}', "has no weight_map"),
        ('{"weight_map": {"a": 3}}', "has no weight_map"),
        ('{"weight_map": {"a": "../one.safetensors"}}', r"shard '\.\./one\.safetensors', expected a file beside"),
        ('{"weight_map": {"a": "/one.safetensors"}}', r"shard '/one\.safetensors', expected a file beside"),
        ('{"weight_map": {"a": "deeper/one.safetensors"}}', "expected a file beside"),
        ('{"weight_map": {"a": ".."}}', r"shard '\.\.', which is missing; put all shards beside"),
        ('{"weight_map": {"a": ""}}', "shard '', which is missing"),
        ('{"weight_map": {"a": "two.safetensors"}}', r"shard 'two\.safetensors', which is missing"),
        (
            '{"weight_map": {"a\\n": "one.safetensors"}}',
            r"has 'a\\n' in the shard 'one\.safetensors', which does not",
        ),
        ('{"weight_map": {"a": "odd.safetensors"}}', r"cannot be read \(SafetensorError"),
        ("nonsense", r"cannot be read \(JSONDecodeError"),
        ("[" * 10**5, r"cannot be read \(RecursionError"),
        ('{"weight_map": {}}', None),
    ],
)
def test_an_index_of_shards_that_are_not_there_is_refused(tmp_path, content, sentence):
    folder = tmp_path / "weights"
    folder.mkdir()
    for place in (folder, tmp_path):
        save_file({"a": torch.ones(2)}, place / "one.safetensors")
    (folder / "odd.safetensors").write_bytes(b"nonsense")
    index = folder / "odd.safetensors.index.json"
    index.write_text(content, encoding="utf8")
    if sentence is None:
        assert read(index) == ({}, [])
        return
    with pytest.raises(BadInputError, match=sentence) as caught:
        read(index)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Block(nn.Module):
    def __init__(self, n, n_out, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(n, n_out, 3, stride, 1, bias=False), nn.BatchNorm2d(n_out)
        self.conv2, self.bn2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False), nn.BatchNorm2d(n_out)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut = Lambda(lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, n_out // 4, n_out // 4)))

    def forward(self, x):
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.shortcut(x))


class ResNet20(nn.Module):
    """He's residual network for CIFAR, option A: a shortcut takes every second pixel and adds zero channels."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16, 1), Block(16, 16, 1), Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1))
        self.layer3 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1), Block(64, 64, 1))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(F.avg_pool2d(x, x.shape[3]).flatten(1))


def test_hes_networks_run_from_a_short_file_and_weights_as_they_were_published(tmp_path, monkeypatch):
    """Trained on several devices, before batches were counted, saved in torch's old format with an accuracy."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    source = nn.DataParallel(ResNet20())
    with torch.no_grad():
        source(torch.randn(8, 3, 32, 32))
    state = {key: value for key, value in source.state_dict().items() if "num_batches_tracked" not in key}
    whole = {"state_dict": state, "best_prec1": 91.73}
    torch.save(whole, "resnet20.th", _use_new_zipfile_serialization=False)
    shutil.copy(store.ROOT / "tests/examples/resnet20.py", tmp_path)
    knobs = {"architecture": "resnet20.py:resnet20", "weights": "resnet20.th", "small_images": False}
    model, data, adapted = load(Training.from_setup("digits_resnet18", knobs))
    assert adapted == [
        "The weights were adapted: module. was taken off every key; 19 missing counters num_batches_tracked were "
        "set to 0."
    ]
    source, x = source.module.eval().requires_grad_(False), data.test.read(torch.arange(4))
    torch.testing.assert_close(model.requires_grad_(False)(x), source(x))
    names = find(model, ["layer*.*"])
    assert len(names) == 9
    removed = -torch.eye(9)[[0, 3, 8, 8]]
    with gated(model, names, "branch") as gates:
        found = gates(x, removed)
    for row, name in enumerate([names[0], names[3], names[8], names[8]]):
        without = copy.deepcopy(source)
        for weight in without.get_submodule(name).bn2.parameters():
            weight.zero_()
        torch.testing.assert_close(found[row], without(x)[row], atol=1e-5, rtol=1e-5)
