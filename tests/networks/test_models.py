import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn

from kanlib import store
from kanlib.errors import BadInputError
from kanlib.networks import images, models
from kanlib.setups import Training


def test_a_classifier_has_the_asked_number_of_logits():
    assert models.classifier("torchvision/resnet18", 7)[0].fc.out_features == 7


def test_the_seed_alone_determines_the_initial_weights(same_global_rng):
    first, again, other = (
        models.classifier("torchvision/resnet18", 10, small_images=True, seed=seed)[0] for seed in (0, 0, 1)
    )
    assert torch.equal(first.conv1.weight, again.conv1.weight)
    assert torch.equal(first.fc.weight, again.fc.weight)
    assert not torch.equal(first.fc.weight, other.fc.weight)


def test_a_classifier_is_channels_last_also_with_weights(resnet):
    assert resnet.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)


def test_the_trained_classifier_is_rebuilt_from_its_artifact(resnet, tmp_path):
    made = Training.from_setup("digits_resnet18", {"image_size": 8, "seed": 3}).model_dump()
    file = store.save(
        tmp_path / "model.safetensors", resnet.state_dict(), kind="model", parameters=made, inputs={}
    )
    model, data = models.trained(store.load(file))
    x = data.test.read(torch.arange(2))
    assert torch.equal(data.test.labels, images.digits(8, seed=3).test.labels)
    assert torch.equal(model(x), resnet(x))


def test_predictions_do_not_depend_on_the_batch_size(resnet):
    x = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    split = images.Labelled(torch.zeros(5, dtype=torch.long), x.__getitem__)
    torch.testing.assert_close(models.predict(resnet, split, batch_size=2), resnet(x))
    torch.testing.assert_close(models.predict(resnet, split, torch.tensor([4, 1])), resnet(x[[4, 1]]))


@pytest.mark.parametrize("name", ["torchvision/resnet19", "resnet18", "torchvison/resnet18"])
def test_an_unknown_architecture_suggests_the_nearest(name):
    with pytest.raises(
        BadInputError, match=rf"architecture {name} is unknown; did you mean torchvision/resnet18\?"
    ):
        models.classifier(name, 10)


def test_small_images_keep_their_resolution_through_the_stem(resnet):
    stem = nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool)
    assert stem(torch.zeros(1, 3, 16, 16)).shape == (1, 64, 16, 16)


@pytest.mark.parametrize("name", ["squeezenet1_1", "shufflenet_v2_x0_5"])
def test_small_images_need_a_residual_stem(name):
    with pytest.raises(BadInputError, match=rf"torchvision/{name} has no conv1 and maxpool .*small_images"):
        models.classifier(f"torchvision/{name}", 10, small_images=True)


def small():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def test_weights_are_loaded_and_the_model_evaluates():
    source = small()
    nn.init.constant_(source[1].running_mean, 2.0)
    model = models.with_weights(small(), source.state_dict())
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
        models.with_weights(small(), weights)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A user's own file with two factories, digits as a folder beside it, and weights."""
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\n\n"
        "def plain(n_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, n_classes))\n\n\n"
        "def with_transform(n_classes):\n"
        "    from torchvision.transforms.functional import resize, to_tensor\n\n"
        "    return plain(n_classes), lambda image: to_tensor(resize(image, (8, 8)))\n\n\n"
        "def none(n_classes):\n"
        "    return n_classes\n",
        encoding="utf8",
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_factory_in_a_file_makes_a_classifier(own, same_global_rng):
    model, transform = models.classifier("mine.py:plain", 10, seed=1)
    assert transform is None
    assert model[1].out_features == 10
    again, _ = models.classifier("mine.py:plain", 10, seed=1)
    assert torch.equal(model[1].weight, again[1].weight)


def test_weights_of_a_users_own_model_come_with_its_transform(own, monkeypatch):
    weights = {"1.weight": torch.randn(10, 192), "1.bias": torch.zeros(10)}
    save_file(weights, own / "mine.safetensors")
    torch.save({"state_dict": weights}, own / "mine.pt")
    digits = load_digits()
    folder = own / "scans"
    folder.mkdir()
    rows = ["file,class_index"]
    for i in range(20):
        image = Image.fromarray((digits.images[i] * 15).astype("uint8"))
        image.save(folder / f"{i}.png")
        rows.append(f"{i}.png,{digits.target[i]}")
    (folder / "labels.csv").write_text("\n".join(rows), encoding="utf8")
    for file in ("mine.safetensors", "mine.pt"):
        p = Training.from_setup(
            "digits_resnet18",
            {"architecture": "mine.py:with_transform", "weights": file, "data": "scans", "small_images": False},
        )
        model, data = models.load(p)
        x = data.test.read(torch.tensor([4]))
        assert (x.min(), x.shape) == (0, (1, 3, 8, 8))
        torch.testing.assert_close(model(x), x.flatten(1) @ weights["1.weight"].T)


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
        models.classifier(name, 10)


def test_a_model_of_timm_comes_with_its_transform():
    model, transform = models.classifier("timm/deit_tiny_patch16_224", 1000)
    assert model.head.out_features == 1000
    assert transform(Image.new("RGB", (300, 200))).shape == (3, 224, 224)


def test_a_published_torchvision_model_comes_with_its_transform():
    _, transform = models.classifier("torchvision/resnet50", 1000)
    assert transform(Image.new("RGB", (300, 200))).shape == (3, 224, 224)


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
        models.published(architecture, weights)


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
        models.published(architecture, "DEFAULT", download=True)
    assert sorted(own.rglob("*.*")) == before


def test_weights_that_would_run_code_are_refused(own):
    class Harm:
        def __reduce__(self):
            return (print, ("harm",))

    torch.save({"a": Harm()}, own / "harm.pt")
    with pytest.raises(BadInputError, match=r"harm\.pt cannot be read .*expected tensors only"):
        models.published("mine.py:plain", "harm.pt")


def test_a_file_in_the_data_folder_goes_before_the_cache(own, monkeypatch):
    monkeypatch.setenv("KANLIB_DATA", str(own))
    save_file({"a": torch.ones(2)}, own / "resnet18.safetensors")
    assert models.published("torchvision/resnet18", "DEFAULT")["a"].tolist() == [1, 1]


def test_labels_beyond_the_logits_are_refused():
    p = Training.from_setup("digits_resnet18", {"n_classes": 5})
    with pytest.raises(BadInputError, match=r"data digits has label 9, expected 0 to 4; set n_classes"):
        models.load(p)
