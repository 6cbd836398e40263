"""Labelled images: scikit-learn's digits, torchvision's data sets, or any folder."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from kanlib import store
from kanlib.errors import BadInputError, cause, shown
from kanlib.memory import room_for
from kanlib.networks import datasets, folders, tables
from kanlib.networks.folders import USED, Files, Found, counted, some
from kanlib.networks.pictures import named, there

Transform = Callable[[Image.Image], Tensor]


@dataclass(frozen=True)
class Labelled:
    """Labelled images that are read when they are asked for.

    Attributes:
        labels: ``[n]``, int64.
        read: positions ``[k]`` → images ``[k, 3, H, W]``, fp32, as the classifier takes them.
    """

    labels: Tensor
    read: Callable[[Tensor], Tensor]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Images:
    """A labelled data set; one that is only to be explained has no training split.

    Attributes:
        train: what a classifier is fitted to.
        test: what is explained.
        classes: their names, in the order of the labels.
        notes: what one might not expect of the data, a sentence each: what was left out, and which classes and
            splits lack a picture or are not used.
    """

    train: Labelled | None
    test: Labelled
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read(
    data: str, *, size: int = 32, seed: int = 0, transform: Transform | None = None, download: bool = False
) -> Images:
    """The data set of that name.

    Args:
        data: ``digits``; ``torchvision/<name>``, looked up in the folder of :func:`folder`, where a folder
            ``<name>`` with a ``labels.csv`` goes before torchvision's own files; or the path of a folder
            (:func:`kanlib.networks.tables.listed`, :func:`kanlib.networks.folders.find`).
        size: side in pixels, from 1 on, to which images are resized where there is no ``transform``.
        seed: of the split of the digits.
        transform: from an image, RGB and upright (:func:`kanlib.networks.pictures.rgb`), to what the classifier
            takes, as it comes with trained weights. ``None``: standardised, each channel by mean and standard
            deviation of the training split, as a classifier that is trained here expects.
        download: whether torchvision may fetch what is not there.

    Raises:
        BadInputError: no such size, data set or folder, files that are missing or cannot be read, no training
            split to standardise by, a label out of range, images that no memory holds. What is wrong with an
            image, or with what the transform makes of it, is raised where it is read.
    """
    if data == "digits":
        return digits(size, seed)
    source, _, name = data.partition("/")
    if source == "torchvision" and not there(folder() / name / "labels.csv"):
        found = datasets.read(name, folder(), download=download)
    else:
        found = _in_folder(data, folder() / name if source == "torchvision" else Path(data))
    splits, classes = found.splits, found.classes
    notes = found.notes
    if found.others:
        notes += (f"Splits that are not used: {_sizes(found.others)}.",)
    there_are = _sizes({split: len(files.labels) for split, files in splits.items()} | found.others)
    if "test" not in splits:
        raise BadInputError(
            f"data {named(data)} has no split test, only {there_are}; name one in labels.csv or as a subfolder."
        )
    if transform is not None:
        as_asked = {split: Labelled(files.labels, _decoded(files, transform)) for split, files in splits.items()}
        return Images(as_asked.get("train"), as_asked["test"], classes, notes)
    if "train" not in splits:
        raise BadInputError(
            f"data {named(data)} has no split train, by which its images are standardised, only {there_are}; add "
            "one, or set weights."
        )
    # Three channels as fp32, and once more as fp64 while mean and deviation are measured.
    _room(
        36, sum(len(splits[split].labels) for split in USED), size, "images", "set image_size lower, or take fewer"
    )
    train, test = (_pixels(splits[split], size) for split in USED)
    mean, std = _moments(train)
    seen, unseen = (
        Labelled(splits[name].labels, _standardised(x, mean, std))
        for name, x in (("train", train), ("test", test))
    )
    return Images(seen, unseen, classes, notes)


def folder() -> Path:
    """Where data sets are looked up: the environment variable ``KANLIB_DATA``, by default ``_data``."""
    return Path(os.environ.get("KANLIB_DATA", store.ROOT / "_data"))


def digits(size: int, seed: int) -> Images:
    """scikit-learn's 1,797 scans of handwritten digits, 8×8 in 17 grey levels, enlarged to ``size`` × ``size``.

    A fifth of each class is the test split, drawn by ``seed``. Grey values are standardised by mean and
    standard deviation of the training split, enlarged bilinearly and repeated over three channels.
    Source: Alpaydin and Kaynak (1998), as shipped with scikit-learn.
    """
    raw = load_digits()
    n = len(raw.target)
    _room(4, n, size, "digits", "set image_size lower")
    x_train, x_test, y_train, y_test = train_test_split(
        raw.images, raw.target, test_size=0.2, random_state=seed, stratify=raw.target
    )
    mean, std = x_train.mean(), x_train.std()

    def prepared(images: np.ndarray, labels: np.ndarray) -> Labelled:
        x = torch.from_numpy((images - mean) / std).float()[:, None]
        x = F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False).expand(-1, 3, -1, -1)
        return Labelled(torch.from_numpy(labels).long(), x.__getitem__)

    return Images(
        prepared(x_train, y_train), prepared(x_test, y_test), tuple(str(name) for name in raw.target_names)
    )


def _room(n_bytes: int, n: int, size: int, what: str, remedy: str) -> None:
    """Refuse a size that is none, and images that no memory holds at so many bytes a pixel."""
    if size < 1:
        raise BadInputError(f"image_size is {shown(size)}, expected 1 or more; set it higher.")
    room_for(n_bytes * n * size**2, f"{n:,} {what} of {size} × {size} pixels", remedy)


def _sizes(splits: dict[str, int]) -> str:
    return some([f"{split} ({counted(n, 'picture', 'pictures')})" for split, n in splits.items()])


def _in_folder(data: str, path: Path) -> Found:
    table = path / "labels.csv"
    if there(table):
        return tables.listed(table)
    try:
        is_folder = bool(data) and path.is_dir()
    except (OSError, ValueError):
        is_folder = False
    if not is_folder:
        raise BadInputError(
            f"data {named(data)} is no folder, expected digits, torchvision/<name> or a folder of images."
        )
    if os.path.lexists(table):
        raise BadInputError(f"{named(table)} is no regular file, expected a table of pictures; replace it.")
    return folders.find(path)


def _decoded(files: Files, transform: Transform) -> Callable[[Tensor], Tensor]:
    """Positions ``[k]`` → the images there as the transform leaves them, ``[k, 3, H, W]``."""
    name = named(getattr(transform, "__qualname__", type(transform).__name__))

    def read(positions: Tensor) -> Tensor:
        images = [_transformed(transform, name, files.open[i]()) for i in positions.tolist()]
        for image in images:
            if image.shape != images[0].shape:
                raise BadInputError(
                    f"the transform {name} leaves images at {list(images[0].shape)} and {list(image.shape)}, "
                    "expected one size; resize or crop them in it."
                )
        return torch.stack(images).float()

    return read


def _transformed(transform: Transform, name: str, image: Image.Image) -> Tensor:
    try:
        x = transform(image)
    # A transform is anybody's code, which may raise anything.
    except Exception as error:
        raise BadInputError(
            f"the transform {name} fails on an image of {image.width} × {image.height} pixels ({cause(error)}); "
            "mend it."
        ) from error
    if not isinstance(x, Tensor):
        found = f"a {type(x).__name__}"
    elif x.layout != torch.strided or x.is_meta:
        found = f"a tensor that is {x.layout} on {x.device}"
    elif x.ndim != 3 or len(x) != 3 or not x.numel() or not x.is_floating_point():
        found = f"{list(x.shape)} of {x.dtype}"
    elif not x.isfinite().all():
        found = "values that are not finite"
    else:
        return x
    raise BadInputError(
        f"the transform {name} makes {found} of an image, expected [3, H, W] of finite floating numbers; mend it."
    )


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, ``[3, 1, 1]``, fp32."""
    whole = x.flatten(2).double()
    mean, std = whole.mean((0, 2)), whole.std((0, 2), correction=0)
    return mean[:, None, None].float(), std[:, None, None].float()


def _standardised(x: Tensor, mean: Tensor, std: Tensor) -> Callable[[Tensor], Tensor]:
    """Positions ``[k]`` → the images there, each channel less its mean and over its deviation."""
    whole = (x - mean) / std

    def read(positions: Tensor) -> Tensor:
        if not std.all():
            raise BadInputError(
                "the training images have one value everywhere in a channel, by which nothing can be "
                "standardised; take other data, or set weights."
            )
        return whole[positions]

    return read


def _pixels(files: Files, size: int) -> Tensor:
    """All images ``[n, 3, size, size]``, fp32 from 0 to 1."""

    def array(image: Image.Image) -> np.ndarray:
        return np.asarray(image if image.size == (size, size) else image.resize((size, size)))

    whole = np.stack([array(opened()) for opened in files.open])
    return torch.from_numpy(whole).permute(0, 3, 1, 2).float().div_(255)
