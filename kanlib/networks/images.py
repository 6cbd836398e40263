"""Labelled images: scikit-learn's digits, torchvision's data sets, or any folder."""

import csv
import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image, UnidentifiedImageError
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from kanlib import store
from kanlib.errors import BadInputError, nearest

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
    """A labelled data set; one that is only to be explained has no training split."""

    train: Labelled | None
    test: Labelled
    classes: tuple[str, ...]


@dataclass(frozen=True)
class _Files:
    """Images still to be decoded: what opens each, and their labels."""

    open: Sequence[Callable[[], Image.Image]]
    labels: Tensor


def read(
    data: str, *, size: int = 32, seed: int = 0, transform: Transform | None = None, download: bool = False
) -> Images:
    """The data set of that name.

    Args:
        data: ``digits``; ``torchvision/<name>``, looked up in the folder of :func:`folder`, where a folder
            ``<name>`` with a ``labels.csv`` goes before torchvision's own files; or the path of a folder.
        size: side in pixels to which images are resized where there is no ``transform``.
        seed: of the split of the digits.
        transform: from an image to what the classifier takes, as it comes with trained weights. ``None``:
            standardised, each channel by mean and standard deviation of the training split, as a classifier
            that is trained here expects.
        download: whether torchvision may fetch what is not there.

    Raises:
        BadInputError: no such data set or folder, files that are missing or cannot be read, no training split
            to standardise by, a label out of range.
    """
    if data == "digits":
        return digits(size, seed)
    source, _, name = data.partition("/")
    if source == "torchvision" and not (folder() / name / "labels.csv").is_file():
        splits, classes = _torchvision(name, download)
    else:
        splits, classes = _folder(folder() / name if source == "torchvision" else Path(data))
    if "test" not in splits:
        raise BadInputError(f"data {data} has no split test; name one in labels.csv or as a subfolder.")
    if transform is not None:
        as_asked = {split: Labelled(files.labels, _decoded(files, transform)) for split, files in splits.items()}
        return Images(as_asked.get("train"), as_asked["test"], classes)
    if "train" not in splits:
        raise BadInputError(f"data {data} has no split train, by which its images are standardised; set weights.")
    train, test = (_pixels(splits[split], size) for split in ("train", "test"))
    scaled = train.flatten(2).double()
    mean, std = (v[:, None, None].float() for v in (scaled.mean((0, 2)), scaled.std((0, 2), correction=0)))
    seen, unseen = (
        Labelled(splits[name].labels, ((x - mean) / std).__getitem__)
        for name, x in (("train", train), ("test", test))
    )
    return Images(seen, unseen, classes)


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


def _torchvision(name: str, download: bool) -> tuple[dict[str, _Files], tuple[str, ...]]:
    kind: Any = getattr(torchvision.datasets, name, None)
    if not inspect.isclass(getattr(torchvision.datasets, name, None)):
        raise BadInputError(
            f"data torchvision/{name} is unknown; did you mean torchvision/{nearest(name, _datasets())}?"
        )
    accepted = inspect.signature(kind).parameters
    which: dict[str, dict[str, Any]]
    if "train" in accepted:
        which = {"train": {"train": True}, "test": {"train": False}}
    else:
        which = {"train": {"split": "train"}, "test": {"split": "val" if name.startswith("Image") else "test"}}
    if "download" in accepted:
        which = {split: chosen | {"download": download} for split, chosen in which.items()}
    splits = {}
    for split, chosen in which.items():
        try:
            images: Any = kind(folder(), **chosen)
        except (RuntimeError, OSError) as error:
            raise BadInputError(
                f"data torchvision/{name} cannot be read from {folder()} ({str(error).splitlines()[0]}); "
                "put it there, set KANLIB_DATA, or set download to true."
            ) from error
        labels = next(getattr(images, a) for a in ("targets", "labels", "_labels") if hasattr(images, a))
        openers = [lambda i=i, images=images: images[i][0] for i in range(len(images))]
        splits[split] = _Files(openers, torch.as_tensor(labels).long())
    names = getattr(
        images, "classes", range(int(labels.max()) + 1 if torch.is_tensor(labels) else max(labels) + 1)
    )
    return splits, tuple(c[0] if isinstance(c, tuple) else str(c) for c in names)


def _datasets() -> list[str]:
    return [name for name, kind in vars(torchvision.datasets).items() if inspect.isclass(kind)]


def _folder(path: Path) -> tuple[dict[str, _Files], tuple[str, ...]]:
    if not path.is_dir():
        raise BadInputError(
            f"data {path} is no folder, expected digits, torchvision/<name> or a folder of images."
        )
    if (path / "labels.csv").is_file():
        return _listed(path / "labels.csv")
    splits = {split: path / split for split in ("train", "test") if (path / split).is_dir()} or {"test": path}
    try:
        found = {split: torchvision.datasets.ImageFolder(root) for split, root in splits.items()}
    except FileNotFoundError as error:
        raise BadInputError(
            f"{path} has neither a labels.csv nor a subfolder with images for each class ({error}); add one."
        ) from error
    classes = tuple(found["test"].classes)
    return {
        split: _Files([_opener(Path(f)) for f, _ in images.samples], torch.tensor(images.targets))
        for split, images in found.items()
    }, classes


def _listed(table: Path) -> tuple[dict[str, _Files], tuple[str, ...]]:
    """What a ``labels.csv`` lists: columns ``file``, ``class_index`` and, if any, ``class_name`` and ``split``."""
    with table.open(encoding="utf8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"file", "class_index"} <= rows[0].keys():
        raise BadInputError(
            f"{table} has {', '.join(rows[0]) if rows else 'no rows'}, expected the columns file and class_index."
        )
    for row in rows:
        if not row["class_index"].isdecimal():
            raise BadInputError(
                f"{table} gives {row['file']} the class_index {row['class_index']}, expected 0, 1, 2 …; mend it."
            )
    named = {int(row["class_index"]): row.get("class_name") or row["class_index"] for row in rows}
    classes = tuple(named.get(k, str(k)) for k in range(max(named) + 1))
    splits: dict[str, list] = {}
    for row in rows:
        splits.setdefault(row.get("split") or "test", []).append(row)
    return {
        split: _Files(
            [_opener(table.parent / row["file"]) for row in members],
            torch.tensor([int(row["class_index"]) for row in members]),
        )
        for split, members in splits.items()
    }, classes


def _opener(file: Path) -> Callable[[], Image.Image]:
    def opened() -> Image.Image:
        try:
            return Image.open(file).convert("RGB")
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise BadInputError(
                f"{file} is not a readable image ({error}); replace it or leave it out."
            ) from error

    return opened


def _decoded(files: _Files, transform: Transform) -> Callable[[Tensor], Tensor]:
    return lambda positions: torch.stack([transform(files.open[i]().convert("RGB")) for i in positions.tolist()])


def _pixels(files: _Files, size: int) -> Tensor:
    """All images ``[n, 3, size, size]``, fp32 from 0 to 1."""

    def array(image: Image.Image) -> np.ndarray:
        image = image.convert("RGB")
        return np.asarray(image if image.size == (size, size) else image.resize((size, size)))

    whole = np.stack([array(opened()) for opened in files.open])
    return torch.from_numpy(whole).permute(0, 3, 1, 2).float().div_(255)
