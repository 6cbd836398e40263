import os

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.datasets import VisionDataset

from kanlib.errors import BadInputError
from kanlib.networks import datasets, images


def read(name, root):
    return datasets.read(name, root, download=False)


@pytest.fixture
def offered(monkeypatch):
    """Makes a data set of torchvision that has these attributes and pictures."""

    def offer(pictures=None, **attributes):
        class Made(VisionDataset):
            def __init__(self, root, train=True):
                self.train = train
                for key, value in attributes.items():
                    setattr(self, key, value(train) if callable(value) else value)

            def __len__(self):
                return 2

            def __getitem__(self, i):
                return (pictures or [Image.new("RGB", (2, 2), (k, 0, 0)) for k in range(2)])[i], 0

        monkeypatch.setattr(torchvision.datasets, "Made", Made, raising=False)

    return offer


@pytest.mark.parametrize("kind", ["targets", "labels", "_labels"])
@pytest.mark.parametrize("as_given", [list, np.array, torch.tensor])
def test_labels_and_pictures_are_those_of_the_data_set(tmp_path, offered, kind, as_given):
    offered(**{kind: as_given([1, 0])}, classes=["cat", ("dog", "hound")])
    found = read("Made", tmp_path)
    assert found.classes == ("cat", "dog")
    assert found.splits["test"].labels.tolist() == [1, 0]
    assert found.splits["test"].labels.dtype == torch.int64
    assert [opened().getpixel((0, 0)) for opened in found.splits["train"].open] == [(0, 0, 0), (1, 0, 0)]


def test_without_names_classes_are_numbers_up_to_the_largest_of_both_splits(tmp_path, offered):
    offered(targets=lambda train: [0, 3] if train else [0, 1])
    assert read("Made", tmp_path).classes == ("0", "1", "2", "3")


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"targets": None},
        {"targets": ["a.txt", "b.txt"]},
        {"targets": [["a"], ["b"]]},
        {"targets": [[0], [1]]},
        {"targets": [0.0, 1.0]},
        {"targets": [True, False]},
        {"targets": [0, None]},
        {"targets": [0, -1]},
        {"targets": [0, 10**9]},
        {"targets": [0, 10**30]},
        {"targets": [0, 1, 2]},
    ],
)
def test_a_data_set_without_a_label_for_each_picture_is_refused(tmp_path, offered, attributes):
    offered(**attributes)
    with pytest.raises(BadInputError, match="torchvision/Made has no label for each picture, expected integers"):
        read("Made", tmp_path)


def test_splits_with_other_classes_are_refused(tmp_path, offered):
    offered(targets=[0, 1], classes=lambda train: ["a", "b", "c"] if train else ["a", "c"])
    with pytest.raises(
        BadInputError, match="has 3 classes in train and 2 classes in test, so that labels mean other"
    ):
        read("Made", tmp_path)


@pytest.mark.parametrize(
    "name", ["VisionDataset", "ImageFolder", "DatasetFolder", "FakeData", "CocoDetection", "SBU", "VOCDetection"]
)
def test_what_has_no_splits_is_refused(tmp_path, name):
    with pytest.raises(
        BadInputError, match=rf"torchvision/{name} has no splits train and test, expected one like"
    ):
        read(name, tmp_path)


@pytest.mark.parametrize("name", ["__class__", "wrap_dataset_for_transforms_v2", "folder", "", "cifar10"])
def test_what_is_no_data_set_is_refused(tmp_path, name):
    with pytest.raises(BadInputError, match=rf"torchvision/{name} is unknown; did you mean torchvision/\w+\?"):
        read(name, tmp_path)


def test_no_data_set_of_torchvision_ends_in_a_traceback(tmp_path):
    kinds = [name for name, kind in vars(torchvision.datasets).items() if isinstance(kind, type)]
    assert len(kinds) > 40
    for name in kinds:
        with pytest.raises(BadInputError, match=f"torchvision/{name} "):
            read(name, tmp_path)


@pytest.mark.parametrize("error", [TypeError("missing"), KeyError("x"), EOFError(), ModuleNotFoundError("h5py")])
def test_whatever_a_data_set_raises_is_one_sentence(tmp_path, monkeypatch, error):
    def fails(self, root, split="train"):
        raise error

    monkeypatch.setattr(torchvision.datasets, "Made", type("Made", (), {"__init__": fails}), raising=False)
    with pytest.raises(BadInputError, match=rf"cannot be read from .* \({type(error).__name__}.*set KANLIB_DATA"):
        read("Made", tmp_path)


def test_a_picture_that_a_data_set_cannot_give_is_named(tmp_path, offered):
    class Bad(list):
        def __getitem__(self, i):
            raise OSError("damaged")

    offered(targets=[0, 1], pictures=Bad("ab"))
    with pytest.raises(BadInputError, match=r"picture 1 of torchvision/Made cannot be read \(OSError: damaged\)"):
        read("Made", tmp_path).splits["test"].open[1]()
    offered(targets=[0, 1], pictures=[np.zeros((2, 2)), Image.fromarray(np.array([[3.0]], np.float32))])
    first, second = read("Made", tmp_path).splits["test"].open
    with pytest.raises(BadInputError, match="picture 0 of torchvision/Made is a ndarray, expected an image"):
        first()
    with pytest.raises(BadInputError, match="picture 1 of torchvision/Made has grey values from 3 to 3"):
        second()


def test_pictures_of_a_data_set_are_rgb_and_upright(tmp_path, offered):
    sideways = Image.new("L", (3, 2), 7)
    sideways.getexif()[0x0112] = 6
    offered(targets=[0, 1], pictures=[sideways, Image.new("RGBA", (1, 1))])
    first, second = (opened() for opened in read("Made", tmp_path).splits["test"].open)
    assert (first.size, first.mode, first.getpixel((0, 0))) == ((2, 3), "RGB", (7, 7, 7))
    assert second.getpixel((0, 0)) == (255, 255, 255)


def test_files_of_a_data_set_are_opened_as_those_of_a_folder(tmp_path, monkeypatch):
    """Country211 is a folder for each class, as torchvision reads it."""
    for split in ("train", "test"):
        for name in ("a", "b"):
            folder = tmp_path / "country211" / split / name
            os.makedirs(folder)  # noqa: PTH103
            Image.fromarray(np.full((2, 2), 2570, np.uint16)).save(folder / "1.png")
    (tmp_path / "country211" / "test" / "b" / "1.png").write_bytes(b"no picture")
    monkeypatch.setenv("KANLIB_DATA", str(tmp_path))
    data = images.read(
        "torchvision/Country211", transform=lambda x: torch.tensor(np.array(x)).permute(2, 0, 1) / 2
    )
    assert data.test.read(torch.tensor([0])).unique().tolist() == [5]
    with pytest.raises(BadInputError, match=r"test/b/1\.png is not a readable image .*; replace it"):
        data.test.read(torch.tensor([1]))
