import csv
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from kanlib import memory
from kanlib.errors import BadInputError
from kanlib.networks import images, tables


def whole(split):
    return split.read(torch.arange(len(split)))


def test_digits_have_the_asked_shape():
    data = images.digits(16, seed=0)
    n = len(load_digits().target)
    train, test = whole(data.train), whole(data.test)
    assert train.shape[1:] == test.shape[1:] == (3, 16, 16)
    assert len(train) + len(test) == len(data.train) + len(data.test) == n
    assert train.dtype == torch.float32
    assert data.train.labels.dtype == data.test.labels.dtype == torch.int64
    assert data.classes == tuple("0123456789")


def test_digits_are_standardised_by_the_training_split():
    data = images.digits(8, seed=0)
    assert whole(data.train).mean().item() == pytest.approx(0, abs=1e-5)
    assert whole(data.train).std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert abs(whole(data.test).mean().item()) > 1e-4


def test_the_splits_of_the_digits_part_the_data_set():
    raw = load_digits()
    data = images.digits(8, seed=3)
    x = torch.cat([whole(data.train), whole(data.test)])[:, 0].double().flatten(1)
    # Grey values run from 0 to 16, so that standardisation can be undone.
    grey = ((x - x.min()) / (x.max() - x.min()) * 16).round().int().tolist()
    y = torch.cat([data.train.labels, data.test.labels]).tolist()
    true = Counter(
        (label, *image) for label, image in zip(raw.target.tolist(), raw.data.astype(int).tolist(), strict=True)
    )
    assert Counter((label, *image) for label, image in zip(y, grey, strict=True)) == true


def test_a_fifth_of_each_class_is_the_test_split():
    data = images.digits(8, seed=1)
    counts = np.bincount(load_digits().target)
    assert np.abs(np.bincount(data.test.labels.numpy()) - counts / 5).max() <= 1


def test_the_seed_alone_determines_the_splits(same_global_rng):
    first, again, other = images.digits(8, seed=0), images.digits(8, seed=0), images.digits(8, seed=1)
    assert torch.equal(whole(first.test), whole(again.test))
    assert not torch.equal(whole(first.test), whole(other.test))


@pytest.fixture
def coloured(tmp_path):
    """Twelve images of 6×4 pixels in two classes, and the folder they lie in."""
    source = np.random.default_rng(0)
    pixels = source.integers(0, 256, (12, 4, 6, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{i:02d}.png")
    return tmp_path, pixels


def listed(folder, rows, columns=("file", "class_index", "class_name", "split")):
    with (folder / "labels.csv").open("w", encoding="utf8", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return folder


def rows(n_train=8, n=12):
    return [(f"{i:02d}.png", i % 2, ("cat", "dog")[i % 2], "train" if i < n_train else "test") for i in range(n)]


def test_a_folder_with_labels_is_standardised_by_its_training_split(coloured):
    folder, _ = coloured
    data = images.read(str(listed(folder, rows())), size=4)
    assert data.classes == ("cat", "dog")
    assert data.train.labels.tolist() == [0, 1] * 4
    train, test = whole(data.train), whole(data.test)
    assert (train.shape, test.shape) == ((8, 3, 4, 4), (4, 3, 4, 4))
    torch.testing.assert_close(train.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(train.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)
    same = images.read(str(folder), size=4)
    assert torch.equal(whole(same.test), test)


def test_pixels_of_the_asked_size_are_not_resampled(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3), dtype=np.uint8)
    for name, image in zip("ab", pixels, strict=True):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    listed(tmp_path, [("a.png", 0, "x", "train"), ("b.png", 0, "x", "test")])
    data = images.read(str(tmp_path), size=5)
    train = torch.from_numpy(pixels[0]).permute(2, 0, 1).double() / 255
    mean, std = train.mean((1, 2), keepdim=True), train.std((1, 2), correction=0, keepdim=True)
    expected = (torch.from_numpy(pixels[1]).permute(2, 0, 1).double() / 255 - mean) / std
    torch.testing.assert_close(whole(data.test)[0].double(), expected, atol=1e-5, rtol=1e-5)


def test_a_transform_takes_the_place_of_standardising(coloured):
    folder, pixels = coloured
    listed(folder, [row[:2] for row in rows()], ("file", "class_index"))
    data = images.read(str(folder), transform=lambda image: torch.tensor(np.array(image)).permute(2, 0, 1) * 2.0)
    assert data.train is None
    assert data.classes == ("0", "1")
    assert torch.equal(data.test.read(torch.tensor([3]))[0], torch.from_numpy(pixels[3]).permute(2, 0, 1) * 2.0)


def test_images_are_read_only_when_they_are_asked_for(coloured):
    folder, _ = coloured
    (folder / "03.png").write_bytes(b"")
    data = images.read(str(listed(folder, rows())), transform=lambda image: torch.zeros(3, 2, 2))
    data.train.read(torch.tensor([0, 2]))
    with pytest.raises(BadInputError, match=r"03\.png is not a readable image .*replace it"):
        data.train.read(torch.tensor([3]))


def test_a_file_that_is_not_there_is_named(coloured):
    folder, _ = coloured
    listed(folder, [*rows(), ("none.png", 0, "cat", "test")])
    with pytest.raises(BadInputError, match=r"none\.png is not a readable image"):
        images.read(str(folder))


def test_a_subfolder_a_class_will_do(coloured):
    folder, _ = coloured
    for split, numbers in (("train", range(8)), ("test", range(8, 12))):
        for i in numbers:
            target = folder / "set" / split / ("cat", "dog")[i % 2]
            target.mkdir(parents=True, exist_ok=True)
            (folder / f"{i:02d}.png").rename(target / f"{i:02d}.png")
    data = images.read(str(folder / "set"), size=4)
    assert data.classes == ("cat", "dog")
    assert (len(data.train), len(data.test)) == (8, 4)


def test_a_folder_of_the_data_sets_name_goes_before_torchvisions(coloured, monkeypatch):
    folder, _ = coloured
    monkeypatch.setenv("KANLIB_DATA", str(folder.parent))
    listed(folder.rename(folder.parent / "CIFAR10"), rows())
    assert len(images.read("torchvision/CIFAR10", size=4).train) == 8


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("torchvision/CIFAR11", r"torchvision/CIFAR11 is unknown; did you mean torchvision/CIFAR10\d?\?"),
        ("torchvision/CIFAR10", r"cannot be read from .*set KANLIB_DATA, or set download to true"),
        ("digitz", r"digitz is no folder, expected digits, torchvision/<name> or a folder"),
        ("", "data  is no folder"),
        ("x" * 5000, "…x{150} is no folder"),
        ("nul\0", r"data nul\\x00 is no folder"),
        ("two\nlines", r"data two\\nlines is no folder"),
        ("pyproject.toml/x", "is no folder"),
        ("torchvision/nul\0", r"torchvision/nul\\x00 is unknown"),
        ("torchvision/" + "x" * 5000, "torchvision/x{99,100}… is unknown"),
    ],
)
def test_data_that_is_not_there_is_refused(tmp_path, monkeypatch, data, sentence):
    monkeypatch.setenv("KANLIB_DATA", str(tmp_path))
    with pytest.raises(BadInputError, match=sentence):
        images.read(data)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("rows", "columns", "sentence"),
    [
        ([("00.png", "cat")], ("file", "label"), "has file, label, expected the columns file and class_index"),
        ([], ("file", "class_index"), "has no rows, expected the columns"),
        ([("00.png", "cat")], ("file", "class_index"), r"gives 00\.png the class_index cat, expected 0, 1, 2"),
        ([("00.png", "-1")], ("file", "class_index"), "class_index -1, expected 0, 1, 2"),
        ([("00.png", 0, "train")], ("file", "class_index", "split"), "has no split test"),
        ([("00.png", 0, "test")], ("file", "class_index", "split"), "has no split train, .*set weights"),
    ],
)
def test_a_table_that_does_not_say_what_is_needed_is_refused(coloured, rows, columns, sentence):
    with pytest.raises(BadInputError, match=sentence):
        images.read(str(listed(coloured[0], rows, columns)))


def test_a_file_is_no_folder(coloured):
    with pytest.raises(BadInputError, match=r"00\.png is no folder"):
        images.read(str(coloured[0] / "00.png"))


def test_a_table_that_is_no_file_is_refused(tmp_path):
    (tmp_path / "labels.csv").mkdir()
    with pytest.raises(BadInputError, match=r"labels\.csv is no regular file, expected a table"):
        images.read(str(tmp_path))


def test_a_split_that_is_not_used_is_said(coloured):
    more = [("10.png", 0, "cat", "val"), ("11.png", 1, "dog", "holdout")]
    folder = listed(coloured[0], [*rows(8, 10), *more])
    data = images.read(str(folder), size=4)
    assert data.notes == ("Splits that are not used: val (1 picture), holdout (1 picture).",)
    assert data.notes == images.read(str(folder), transform=transform).notes
    listed(folder, [*rows(8, 8), *more])
    with pytest.raises(
        BadInputError, match=r"no split test, only train \(8 pictures\), val \(1 picture\), holdout"
    ):
        images.read(str(folder))


def test_images_that_are_all_alike_cannot_be_standardised(coloured):
    for i in range(8):
        Image.new("RGB", (6, 4), (i, 0, i)).save(coloured[0] / f"{i:02d}.png")
    data = images.read(str(listed(coloured[0], rows())), size=4)
    for split in (data.train, data.test):
        with pytest.raises(BadInputError, match="one value everywhere in a channel, by which nothing can be"):
            whole(split)


def test_images_that_no_memory_holds_are_refused(coloured, monkeypatch):
    folder = listed(coloured[0], rows())
    monkeypatch.setattr(memory, "memory", lambda: 36 * 12 * 4 * 4 - 1)
    # The table itself is smaller than the images are here.
    monkeypatch.setattr(tables, "room_for", lambda *_: None)
    with pytest.raises(BadInputError, match=r"12 images of 4 × 4 pixels take 6\.91 kB, .*set image_size lower"):
        images.read(str(folder), size=4)
    with pytest.raises(BadInputError, match="1,797 digits of 8 × 8 pixels take 460 kB"):
        images.digits(8, seed=0)
    (folder / "00.png").unlink()
    monkeypatch.setattr(memory, "memory", lambda: 36 * 12 * 4 * 4)
    with pytest.raises(BadInputError, match=r"00\.png is not a readable image"):
        images.read(str(folder), size=4)


@pytest.mark.parametrize("size", [0, -1])
def test_a_size_that_is_none_is_refused(coloured, size):
    for data in ("digits", str(listed(coloured[0], rows()))):
        with pytest.raises(BadInputError, match=f"image_size is {size}, expected 1 or more; set it higher"):
            images.read(data, size=size)


def transform(image):
    return torch.tensor(np.array(image)).permute(2, 0, 1) / 255


class Named:
    def __call__(self, image):
        return np.array(image)


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (Named(), r"Named makes a ndarray of an image, expected \[3, H, W\] of finite floating numbers; mend it"),
        (lambda image: image, "<lambda> makes a Image of an image"),
        (lambda image: None, "makes a NoneType of an image"),
        (lambda image: transform(image).round().long(), r"makes \[3, 4, 6\] of torch\.int64"),
        (lambda image: transform(image) > 0, r"makes \[3, 4, 6\] of torch\.bool"),
        (lambda image: transform(image)[:1], r"makes \[1, 4, 6\] of torch\.float32"),
        (lambda image: transform(image)[None], r"makes \[1, 3, 4, 6\] of"),
        (lambda image: transform(image)[:, :0], r"makes \[3, 0, 6\] of"),
        (lambda image: torch.tensor(0.5), r"makes \[\] of"),
        (lambda image: transform(image).to_sparse(), r"makes a tensor that is torch\.sparse_coo on cpu of an"),
        (lambda image: transform(image).to("meta"), r"makes a tensor that is torch\.strided on meta of an"),
        (lambda image: transform(image) / 0, "makes values that are not finite of an image"),
        (lambda image: 1 / 0, r"fails on an image of 6 × 4 pixels \(ZeroDivisionError: .*\); mend it"),
    ],
)
def test_a_transform_that_makes_no_image_is_named(coloured, made, sentence):
    data = images.read(str(listed(coloured[0], rows())), transform=made)
    with pytest.raises(BadInputError, match=f"the transform .*{sentence}"):
        data.test.read(torch.tensor([0]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_what_a_transform_makes_is_handed_on_as_fp32(coloured, dtype):
    data = images.read(str(listed(coloured[0], rows())), transform=lambda image: transform(image).to(dtype))
    found = data.test.read(torch.tensor([0]))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[0], transform(Image.open(coloured[0] / "08.png")), atol=0.004, rtol=0)


def test_images_of_several_sizes_cannot_be_read_together(coloured):
    folder = listed(coloured[0], rows())
    Image.new("RGB", (5, 4)).save(folder / "09.png")
    data = images.read(str(folder), transform=transform)
    assert data.test.read(torch.tensor([0, 2])).shape == (2, 3, 4, 6)
    assert data.test.read(torch.tensor([1])).shape == (1, 3, 4, 5)
    with pytest.raises(
        BadInputError, match=r"transform leaves images at \[3, 4, 6\] and \[3, 4, 5\], expected one"
    ):
        data.test.read(torch.tensor([0, 1]))


@pytest.mark.parametrize("made", [transform, None])
def test_pictures_of_any_mode_are_read_as_what_they_show(coloured, made):
    folder = listed(coloured[0], rows())
    for name, value in (("08", 51), ("09", 204)):
        Image.new("RGB", (6, 4), (value,) * 3).save(folder / f"{name}.png")
    plain = whole(images.read(str(folder), size=4, transform=made).test)
    Image.fromarray(np.full((4, 6), 257 * 51, np.uint16)).save(folder / "08.png")
    Image.new("RGBA", (6, 4), (0, 0, 0, 51)).save(folder / "09.png")
    assert torch.equal(whole(images.read(str(folder), size=4, transform=made).test), plain)


def test_a_data_set_has_no_notes_unless_there_is_something_to_say(coloured):
    assert images.Images(None, images.digits(8, seed=0).test, ("a",)).notes == ()
    assert images.read(str(listed(coloured[0], rows())), size=4).notes == ()
    assert images.read("digits").notes == ()


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(BadInputError, match=r"neither a labels\.csv nor a subfolder"):
        images.read(str(tmp_path))
