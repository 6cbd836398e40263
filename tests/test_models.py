from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from kanlib import models, store
from kanlib.errors import BadInputError


def test_digits_have_the_asked_shape():
    images = models.digits(16, seed=0)
    n = len(load_digits().target)
    assert images.x_train.shape[1:] == images.x_test.shape[1:] == (3, 16, 16)
    assert len(images.x_train) + len(images.x_test) == n
    assert images.x_train.dtype == torch.float32
    assert images.y_train.dtype == images.y_test.dtype == torch.int64
    assert images.classes == tuple("0123456789")


def test_digits_are_standardised_by_the_training_split():
    images = models.digits(8, seed=0)
    assert images.x_train.mean().item() == pytest.approx(0, abs=1e-5)
    assert images.x_train.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert abs(images.x_test.mean().item()) > 1e-4


def test_the_splits_of_the_digits_part_the_data_set():
    raw = load_digits()
    images = models.digits(8, seed=3)
    x = torch.cat([images.x_train, images.x_test])[:, 0].double().flatten(1)
    # Grey values run from 0 to 16, so that standardisation can be undone.
    grey = ((x - x.min()) / (x.max() - x.min()) * 16).round().int().tolist()
    y = torch.cat([images.y_train, images.y_test]).tolist()
    true = Counter(
        (label, *image) for label, image in zip(raw.target.tolist(), raw.data.astype(int).tolist(), strict=True)
    )
    assert Counter((label, *image) for label, image in zip(y, grey, strict=True)) == true


def test_a_fifth_of_each_class_is_the_test_split():
    images = models.digits(8, seed=1)
    whole = np.bincount(load_digits().target)
    assert np.abs(np.bincount(images.y_test.numpy()) - whole / 5).max() <= 1


def test_the_seed_alone_determines_the_splits(same_global_rng):
    first, again, other = models.digits(8, seed=0), models.digits(8, seed=0), models.digits(8, seed=1)
    assert torch.equal(first.x_test, again.x_test)
    assert not torch.equal(first.x_test, other.x_test)


def test_a_classifier_has_the_asked_number_of_logits():
    assert models.classifier("torchvision/resnet18", 7).fc.out_features == 7


def test_the_seed_alone_determines_the_initial_weights(same_global_rng):
    first, again, other = (
        models.classifier("torchvision/resnet18", 10, small_images=True, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(first.conv1.weight, again.conv1.weight)
    assert torch.equal(first.fc.weight, again.fc.weight)
    assert not torch.equal(first.fc.weight, other.fc.weight)


def test_a_classifier_is_channels_last_also_with_weights(resnet):
    assert resnet.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)


def test_the_trained_classifier_is_rebuilt_from_its_artifact(resnet, tmp_path):
    made = {"architecture": "torchvision/resnet18", "image_size": 8, "seed": 3, "small_images": True}
    file = store.save(
        tmp_path / "model.safetensors", resnet.state_dict(), kind="model", parameters=made, inputs={}
    )
    model, images = models.trained(store.load(file))
    x = images.x_test[:2]
    assert torch.equal(images.y_test, models.digits(8, seed=3).y_test)
    assert torch.equal(model(x), resnet(x))


def test_predictions_do_not_depend_on_the_batch_size(resnet):
    x = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(models.predict(resnet, x, batch_size=2), resnet(x))


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


def test_the_cpu_is_always_a_device():
    assert models.device("cpu") == torch.device("cpu")
    assert models.device("auto").type in {"cuda", "mps", "cpu"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device, so none is missing")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(BadInputError, match="device cuda is not available"):
        models.device("cuda")
