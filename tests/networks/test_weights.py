import json
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import ResNet18_Weights

from kanlib.errors import BadInputError
from kanlib.networks.weights import published, with_weights


def small():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def test_weights_are_loaded_and_the_model_evaluates():
    source = small()
    nn.init.constant_(source[1].running_mean, 2.0)
    model = with_weights(small(), source.state_dict())
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda w: w.pop("1.bias"), r"hold nothing at 1\.bias, expected \(4,\)"),
        (lambda w: w.update(extra=torch.ones(2)), r"hold \(2,\) at extra, expected nothing"),
        (lambda w: w.update({"3.weight": torch.ones(3, 4)}), r"hold \(3, 4\) at 3\.weight, expected \(2, 4\)"),
        (lambda w: (w.pop("0.bias"), w.pop("3.bias")), r"at 0\.bias"),
        (lambda w: w["3.bias"].fill_(torch.nan), r"weights at 3\.bias are not all finite"),
    ],
    ids=["missing", "extra", "shape", "first", "finite"],
)
def test_weights_of_another_model_are_refused_by_the_first_key(change, sentence):
    weights = small().state_dict()
    change(weights)
    with pytest.raises(BadInputError, match=sentence):
        with_weights(small(), weights)


@pytest.mark.parametrize(
    ("architecture", "weights", "sentence"),
    [
        ("torchvision/resnet18", "IMAGENET", r"weights IMAGENET of .* are unknown; there are IMAGENET1K_V1"),
        ("torchvision/resnet18", "DEFAULT", r"neither at .*resnet18\.safetensors nor in .*set download to true"),
        ("timm/deit_tiny_patch16_224", "DEFAULT", r"neither at .*set download to true"),
        ("mine.py:plain", "DEFAULT", r"DEFAULT of mine\.py:plain is no file"),
        ("torchvision/resnet18", "none.safetensors", r"none\.safetensors is missing"),
        ("torchvision/resnet18", "broken.safetensors", r"broken\.safetensors cannot be read"),
        ("torchvision/resnet18", "broken.pt", r"broken\.pt cannot be read"),
        ("torchvision/resnet18", "list.pt", r"list\.pt hold a list, expected a state dict"),
    ],
)
def test_weights_that_are_not_there_or_no_weights_are_refused(own, monkeypatch, architecture, weights, sentence):
    monkeypatch.setenv("KANLIB_DATA", str(own))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(own))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(own))
    for name in ("broken.safetensors", "broken.pt"):
        (own / name).write_bytes(b"nonsense")
    torch.save([torch.zeros(1)], own / "list.pt")
    with pytest.raises(BadInputError, match=sentence):
        published(architecture, weights)


@pytest.mark.parametrize("architecture", ["torchvision/resnet18", "timm/deit_tiny_patch16_224"])
def test_without_a_network_nothing_is_left_half_written(own, monkeypatch, architecture):
    def unreachable(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setenv("KANLIB_DATA", str(own))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(own / "hub"))
    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    before = sorted(own.rglob("*.*"))
    with pytest.raises(BadInputError, match="could not be downloaded; set weights to a file"):
        published(architecture, "DEFAULT", download=True)
    assert sorted(own.rglob("*.*")) == before


def test_weights_that_would_run_code_are_refused(own):
    class Harm:
        def __reduce__(self):
            return (print, ("harm",))

    torch.save({"a": Harm()}, own / "harm.pt")
    with pytest.raises(BadInputError, match=r"harm\.pt cannot be read .*expected tensors only"):
        published("mine.py:plain", "harm.pt")


def test_a_file_in_the_data_folder_goes_before_the_cache(own, monkeypatch):
    monkeypatch.setenv("KANLIB_DATA", str(own))
    save_file({"a": torch.ones(2)}, own / "resnet18.safetensors")
    assert published("torchvision/resnet18", "DEFAULT")[0]["a"].tolist() == [1, 1]


def zipped(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def cut(path, n):
    torch.save(small().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-n])


def shortened(path):
    """A whole archive in which a tensor has less data than it says."""
    torch.save(small().state_dict(), path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content[:8] if name.endswith("data/0") else content)


def safetensors(header):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("empty.pt", lambda f: f.write_bytes(b"")),
        ("text.pt", lambda f: f.write_text("weights, said the stranger\n")),
        ("cut.pt", lambda f: cut(f, 600)),
        ("half.pt", lambda f: cut(f, 3000)),
        ("short.pt", shortened),
        ("zip.pt", lambda f: zipped(f, readme="none")),
        ("pickle.pt", lambda f: f.write_bytes(b"\x80\x02}q\x00.")),
        ("numbers.pt", lambda f: f.write_bytes(bytes(range(256)) * 9)),
        ("array.npz", lambda f: np.savez(f, a=np.ones(3))),
        ("array.npy", lambda f: np.save(f, np.ones(3))),
        ("keras.h5", lambda f: f.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))),
        ("empty.safetensors", lambda f: f.write_bytes(b"")),
        ("text.safetensors", lambda f: f.write_text("weights, said the stranger\n")),
        ("large.safetensors", lambda f: f.write_bytes((10**18).to_bytes(8, "little") + b"{}")),
        ("json.safetensors", lambda f: f.write_bytes(safetensors([1, 2]))),
        ("utf.safetensors", lambda f: f.write_bytes(safetensors(b"\xff\xfe\xfd"))),
        (
            "beyond.safetensors",
            lambda f: f.write_bytes(
                safetensors({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}})
            ),
        ),
    ],
)
def test_a_file_that_holds_no_weights_is_refused(own, name, write):
    write(own / name)
    with pytest.raises(BadInputError, match=rf"weights {name} (cannot be read|hold)") as caught:
        published("mine.py:plain", name)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "error",
    [
        *(kind("x") for kind in (IndexError, KeyError, AttributeError, TypeError, RecursionError, MemoryError)),
        *(struct.error("x"), zipfile.BadZipFile("x"), UnicodeDecodeError("utf8", b"x", 0, 1, "x")),
    ],
)
def test_whatever_a_decoder_raises_is_the_files_fault(own, monkeypatch, error):
    def broken(*_, **__):
        raise error

    (own / "odd.pt").write_bytes(b"odd")
    monkeypatch.setattr(torch, "load", broken)
    with pytest.raises(BadInputError, match=rf"odd\.pt cannot be read \({type(error).__name__}"):
        published("mine.py:plain", "odd.pt")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({1: torch.ones(2)}, "a Tensor at 1, expected a state dict"),
        ({"a": 3}, "a int at 'a', expected a state dict"),
        ({"a" * 5000: [3]}, "a list at 'aaa"),
        ({"state_dict": {"a": None}}, "a NoneType at 'a'"),
        (torch.ones(2), "hold a Tensor"),
        (None, "hold a NoneType"),
    ],
)
def test_what_is_no_state_dict_is_refused(own, content, what):
    torch.save(content, own / "odd.pt")
    with pytest.raises(BadInputError, match=what) as caught:
        published("mine.py:plain", "odd.pt")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["x" * 5000 + ".pt", "a\0.pt", "folder.pt", "no such\nfile.pt", "/dev/null.pt"])
def test_a_name_that_is_no_files_is_refused(own, name):
    (own / "folder.pt").mkdir()
    with pytest.raises(BadInputError, match="is missing or no file") as caught:
        published("mine.py:plain", name)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("weights", ["x" * 5000, "a\0b", ""])
@pytest.mark.parametrize("architecture", ["torchvision/resnet18", "mine.py:plain", "torchvision/" + "x" * 5000])
def test_a_name_of_weights_that_nobody_published_is_refused(own, architecture, weights):
    with pytest.raises(BadInputError, match=r"(are unknown|is no file|is unknown)") as caught:
        published(architecture, weights)
    assert len(str(caught.value)) < 500


def test_weights_of_an_unknown_model_suggest_the_nearest_model(own):
    with pytest.raises(BadInputError, match=r"did you mean torchvision/resnet18\?"):
        published("torchvision/resnet19", "DEFAULT")
    with pytest.raises(BadInputError, match=r"did you mean timm/resnet18\?"):
        published("timm/resnet18s", "DEFAULT")


def test_a_file_that_unpacks_to_more_than_memory_is_refused(own, monkeypatch):
    torch.save({"a": torch.zeros(1000)}, own / "large.pt")
    monkeypatch.setattr("kanlib.memory.memory", lambda: 1000)
    with pytest.raises(BadInputError, match=r"the weights in large\.pt take .* and the memory here is 1 kB"):
        published("mine.py:plain", "large.pt")


@pytest.mark.filterwarnings("error")
def test_what_torch_warns_of_does_not_matter(own, monkeypatch):
    def warning(*_, **__):
        warnings.warn("an old file", UserWarning, stacklevel=1)
        return {"a": torch.ones(2)}

    (own / "old.pt").write_bytes(b"old")
    monkeypatch.setattr(torch, "load", warning)
    assert published("mine.py:plain", "old.pt")[0]["a"].tolist() == [1, 1]


def test_a_parameter_called_model_is_no_state_dict(own):
    torch.save({"model": torch.ones(2)}, own / "odd.pt")
    assert published("mine.py:plain", "odd.pt")[0]["model"].tolist() == [1, 1]


def test_what_lies_in_the_cache_of_torchvision_is_not_unpickled_beyond_tensors(own, monkeypatch):
    class Harm:
        def __reduce__(self):
            return (print, ("harm",))

    monkeypatch.setenv("KANLIB_DATA", str(own))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(own))
    (own / "checkpoints").mkdir()
    cached = own / "checkpoints" / Path(ResNet18_Weights.DEFAULT.url).name
    torch.save({"a": torch.ones(2)}, cached)
    assert published("torchvision/resnet18", "DEFAULT")[0]["a"].tolist() == [1, 1]
    torch.save({"a": Harm()}, cached)
    with pytest.raises(BadInputError, match=r"cannot be read .*expected tensors only"):
        published("torchvision/resnet18", "DEFAULT")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("3.weight", lambda w: w.to_sparse(), "hold a sparse tensor at 3.weight"),
        ("3.weight", lambda w: w.to_sparse_csr(), "hold a sparse tensor at 3.weight"),
        ("3.weight", lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), "hold a quantised tensor"),
        ("3.weight", lambda w: w.to("meta"), "hold a meta tensor at 3.weight"),
        ("3.weight", lambda w: torch.nested.nested_tensor([*w]), "hold a nested tensor at 3.weight"),
        ("3.weight", lambda w: w > 0, r"hold torch\.bool for torch\.float32 at 3.weight, expected \(2, 4\)"),
        ("3.weight", lambda w: w.cfloat(), r"hold torch\.complex64 for torch\.float32"),
        ("3.weight", lambda w: w.long(), r"hold torch\.int64 for torch\.float32"),
        ("3.weight", lambda w: w.double() + 1e300, "not all finite"),
        ("1.num_batches_tracked", lambda w: w.cfloat(), r"hold torch\.complex64 for torch\.int64"),
        ("1.num_batches_tracked", lambda w: w + 0.5, r"hold torch\.float32 for torch\.int64"),
    ],
)
def test_tensors_of_another_kind_are_refused(key, value, sentence):
    weights = small().state_dict()
    weights[key] = value(weights[key])
    with pytest.raises(BadInputError, match=sentence):
        with_weights(small(), weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_numbers_of_another_width_are_taken_over(dtype):
    weights = {key: value.to(dtype) for key, value in small().state_dict().items()}
    found = with_weights(small(), weights).state_dict()
    assert all(torch.equal(value.float(), weights[key].float()) for key, value in found.items())
    assert found["3.weight"].dtype == torch.float32
    assert found["1.num_batches_tracked"].dtype == torch.int64


def test_weights_that_are_all_zero_are_refused():
    weights = {key: torch.zeros_like(value) for key, value in small().state_dict().items()}
    weights["1.running_var"] += 1
    with pytest.raises(BadInputError, match="weights are all zero"):
        with_weights(small(), weights)
    weights["0.weight"][0, 0, 0, 0] = 1e-9
    with_weights(small(), weights)


def test_a_tensor_under_two_keys_has_one_value():
    def twice():
        layer = nn.Linear(3, 3)
        return nn.Sequential(layer, nn.ReLU(), layer)

    weights = twice().state_dict()
    assert torch.equal(with_weights(twice(), weights)[2].weight, weights["0.weight"])
    weights["2.weight"] = weights["2.weight"] + 1
    with pytest.raises(BadInputError, match=r"differ at 0\.weight and 2\.weight, which are one tensor"):
        with_weights(twice(), weights)


def test_a_strangers_key_is_not_said_in_full():
    weights = small().state_dict() | {"key\n" * 5000: torch.ones(2)}
    with pytest.raises(BadInputError, match=r"hold \(2,\) at key") as caught:
        with_weights(small(), weights)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_a_model_that_refuses_weights_of_its_own_shapes_is_said():
    class Picky(nn.Linear):
        def _load_from_state_dict(self, state, prefix, metadata, strict, missing, unexpected, errors):
            errors.append("not mine")

    with pytest.raises(BadInputError, match=r"do not fit the architecture \(RuntimeError: Error"):
        with_weights(Picky(2, 2), nn.Linear(2, 2).state_dict())
