import os

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from kanlib.errors import BadInputError
from kanlib.networks import images
from kanlib.networks.folders import counted, find, some


def put(root, *paths):
    """A picture at each path; those that end in / are folders without one."""
    for k, path in enumerate(paths):
        target = root / path
        (target if path.endswith("/") else target.parent).mkdir(parents=True, exist_ok=True)
        if not path.endswith("/"):
            Image.new("RGB", (4, 4), (k, 0, 0)).save(target, "png")
    return root


def order(files):
    """By the red of each picture, which of the paths it is."""
    return [opened().getpixel((0, 0))[0] for opened in files.open]


def noted(found):
    return "\n".join(found.notes)


def test_classes_are_numbered_by_name_over_both_splits(tmp_path):
    train = [f"train/{k}/a.png" for k in (0, 90, 180, 270)]
    found = find(put(tmp_path, *train, *(f"test/{k}/a.png" for k in (0, 90, 270))))
    assert found.classes == ("0", "180", "270", "90")
    assert found.splits["train"].labels.tolist() == [0, 1, 2, 3]
    assert [found.classes[k] for k in found.splits["test"].labels.tolist()] == ["0", "270", "90"]
    assert found.notes == ("Without a picture in split test: 1 class, 180.",)
    assert found.splits["test"].labels.dtype == torch.int64


def test_a_class_of_the_test_split_alone_is_numbered_too(tmp_path):
    found = find(put(tmp_path, "train/b/1.png", "train/c/1.png", "test/a/1.png", "test/c/1.png"))
    assert found.classes == ("a", "b", "c")
    assert (found.splits["train"].labels.tolist(), found.splits["test"].labels.tolist()) == ([1, 2], [0, 2])
    assert "in split train: 1 class, a." in noted(found)
    assert "in split test: 1 class, b." in noted(found)


def test_files_come_as_torchvision_orders_them(tmp_path):
    paths = ["b/2.png", "b/10.PNG", "b/x/1.jpg", "b/x-y/1.jpeg", "b/x/z/0.webp", "B/1.bmp", "é/1.tif", "a b/1.ppm"]
    found = find(put(tmp_path, *paths)).splits["test"]
    theirs = ImageFolder(tmp_path)
    assert find(tmp_path).classes == tuple(theirs.classes)
    assert found.labels.tolist() == theirs.targets
    assert order(found) == [image.getpixel((0, 0))[0] for image, _ in theirs]


def test_a_class_that_is_a_folder_without_a_picture_is_said(tmp_path):
    found = find(put(tmp_path, "a/", "b/1.png"))
    assert found.classes == ("a", "b")
    assert found.splits["test"].labels.tolist() == [1]
    assert noted(found) == "Without a picture in split test: 1 class, a."


def test_many_missing_classes_are_counted(tmp_path):
    found = find(put(tmp_path, "x/1.png", *(f"{k:02d}/" for k in range(12))))
    assert noted(found) == "Without a picture in split test: 12 classes, 00, 01, 02 and 9 more."


@pytest.mark.parametrize(
    "name",
    [
        *(".ipynb_checkpoints", ".git", "__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "$Recycle.Bin"),
        *("System Volume Information", "lost+found"),
    ],
)
def test_hidden_and_system_folders_are_no_classes(tmp_path, name):
    put(tmp_path, "train/cat/1.png", "train/zebra/1.png", "test/cat/1.png", "test/zebra/1.png")
    put(tmp_path, f"{name}/a/1.png", f"train/{name}/1.png", f"test/cat/{name}/1.png")
    found = find(tmp_path)
    assert found.classes == ("cat", "zebra")
    assert (len(found.splits["train"].open), len(found.splits["test"].open)) == (2, 2)
    assert "hidden or a system's own: " in noted(found)
    for left in (name, f"train/{name}", f"test/cat/{name}"):
        assert left in noted(found)
    assert found.others == {}


def test_hidden_files_are_no_pictures(tmp_path):
    found = find(put(tmp_path, "cat/._x.png", "cat/x.png", "cat/.y.png", "._cat.png"))
    assert order(found.splits["test"]) == [1]
    assert noted(found) == "Not used, as hidden or a system's own: ._cat.png, cat/._x.png, cat/.y.png."


def test_files_that_are_no_pictures_by_their_names_are_said(tmp_path):
    put(tmp_path, "cat/x.png", "cat/x.gif", "cat/sub/x.heic", "README.md")
    found = find(tmp_path)
    assert order(found.splits["test"]) == [0]
    assert "no picture by its name" in noted(found)
    assert ": cat/sub/x.heic, cat/x.gif." in noted(found)


def test_pictures_beside_the_classes_are_said(tmp_path):
    assert "beside the folders of classes: x.png." in noted(find(put(tmp_path, "x.png", "cat/y.png")))
    found = find(put(tmp_path / "other", "train/cat/1.png", "test/cat/1.png", "train/stray.png", "top.png"))
    assert [len(found.splits[split].open) for split in ("train", "test")] == [1, 1]
    assert "beside the folders of classes: top.png, train/stray.png." in noted(found)


@pytest.mark.parametrize("name", ["train", "test", "val"])
def test_a_class_may_be_called_like_a_split(tmp_path, name):
    found = find(put(tmp_path, f"{name}/1.png", "car/1.png", "plane/1.png"))
    assert found.classes == tuple(sorted([name, "car", "plane"]))
    assert found.splits["test"].labels.tolist() == [0, 1, 2]
    assert found.notes == ()


def test_both_names_of_splits_may_be_classes(tmp_path):
    assert find(put(tmp_path, "train/1.png", "test/1.png")).classes == ("test", "train")


@pytest.mark.parametrize(
    "paths",
    [
        ("train/cat/1.png", "test/cat/1.png", "dog/1.png"),
        ("train/cat/1.png", "test/1.png"),
        ("test/cat/1.png", "train/1.png", "dog/1.png"),
        ("train/1.png", "train/fast/1.png", "car/1.png"),
        ("train/cat/1.png", "test/cat/1.png", "valid/1.png"),
    ],
)
def test_splits_beside_classes_are_refused(tmp_path, paths):
    with pytest.raises(BadInputError, match=r"as a split has, beside .* as a class has; expected one of both"):
        find(put(tmp_path, *paths))


@pytest.mark.parametrize("name", ["valid", "val", "validation", "dev", "extra", "unlabelled"])
def test_a_split_that_is_not_used_is_said(tmp_path, name):
    put(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png")
    put(tmp_path, f"{name}/a/1.png", f"{name}/b/1.png", f"{name}/b/2.png", f"{name}/new/.hidden.png")
    assert find(tmp_path).others == {name: 3}
    assert find(tmp_path).classes == ("a", "b")
    data = images.read(str(tmp_path), transform=lambda image: torch.zeros(3, 2, 2))
    assert data.notes == (f"Splits that are not used: {name} (3 pictures).",)


@pytest.mark.parametrize(
    ("paths", "there"),
    [
        (("train/a/1.png", "valid/a/1.png", "valid/a/2.png"), r"train \(1 picture\), valid \(2 pictures\)"),
        (("Train/a/1.png", "Test/a/1.png"), r"Test \(1 picture\), Train \(1 picture\)"),
        (("train/a/1.png", "test/a/"), r"train \(1 picture\), test \(0 pictures\)"),
        (("training/a/1.png", "val/a/1.png"), r"training \(1 picture\), val \(1 picture\)"),
    ],
)
def test_without_a_split_test_those_that_there_are_are_named(tmp_path, paths, there):
    with pytest.raises(BadInputError, match=f"has no split test, only {there}; name one"):
        images.read(str(put(tmp_path, *paths)))


def test_an_empty_training_split_is_said(tmp_path):
    put(tmp_path, "train/a/", "test/a/1.png")
    with pytest.raises(BadInputError, match=r"no split train, .* only test \(1 picture\), train \(0 pictures\)"):
        images.read(str(tmp_path))
    data = images.read(str(tmp_path), transform=lambda image: torch.zeros(3, 2, 2))
    assert data.train is None
    assert data.notes == ("Splits that are not used: train (0 pictures).",)


@pytest.mark.parametrize("paths", [(), ("a/",), ("train/a/", "test/a/"), (".a/1.png",), ("1.png",), ("a/1.gif",)])
def test_a_folder_without_pictures_of_classes_is_refused(tmp_path, paths):
    with pytest.raises(BadInputError, match=r"neither a labels\.csv nor a subfolder with images for each class"):
        find(put(tmp_path, *paths))


def test_links_in_a_circle_are_not_followed(tmp_path):
    put(tmp_path, "set/cat/1.png", "set/cat/in/2.png", "set/dog/3.png")
    root = tmp_path / "set"
    for link, target in (
        ("cat/in/up", ".."),
        ("cat/in/top", root),
        ("dog/here", "."),
        ("loop", ".."),
        ("self", "self"),
    ):
        (root / link).symlink_to(target)
    found = find(root)
    assert found.classes == ("cat", "dog", "loop")
    assert order(found.splits["test"]) == [0, 1, 2]
    assert "links to folders that are read already: cat/in/top, cat/in/up, dog/here and 1 more." in noted(found)


def test_links_that_fan_out_are_read_once(tmp_path):
    """Two links at each of thirty depths are a thousand million paths."""
    put(tmp_path, "set/cat/1.png", "30/2.png")
    for k in range(30):
        (tmp_path / f"{k}").mkdir()
        for link in "ab":
            (tmp_path / f"{k}" / link).symlink_to(tmp_path / f"{k + 1}")
    (tmp_path / "set/cat/fan").symlink_to(tmp_path / "0")
    assert order(find(tmp_path / "set").splits["test"]) == [0, 1]


def test_links_to_other_folders_are_followed(tmp_path):
    put(tmp_path, "far/1.png", "set/dog/1.png")
    (tmp_path / "set/cat").symlink_to(tmp_path / "far")
    (tmp_path / "set/cow").symlink_to(tmp_path / "far")
    assert find(tmp_path / "set").splits["test"].labels.tolist() == [0, 1, 2]


def test_a_folder_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    whole = os.scandir

    def closed(path):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied")
        return whole(path)

    put(tmp_path, "cat/1.png", "cat/secret/2.png")
    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(BadInputError, match=r"secret cannot be read \(PermissionError.*allow it, or leave it out"):
        find(tmp_path)


def test_a_class_whose_name_is_not_utf8_is_refused(tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    try:
        os.mkdir(folder)  # noqa: PTH102
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(os.fsdecode(folder) + "/1.png")
    with pytest.raises(BadInputError, match=r"caf\\udce9 has a name that is not UTF-8; rename it"):
        find(tmp_path)


def test_names_and_numbers_are_short_and_on_one_line():
    assert some(["a"]) == "a"
    assert some(["a", "b", "c", "d"]) == "a, b, c and 1 more"
    assert len(some(["x" * 5000] * 2000)) < 250
    assert some(["two\nlines"]) == r"two\nlines"
    assert (counted(1, "class", "classes"), counted(2000, "class", "classes")) == ("1 class", "2,000 classes")
