"""Data sets of torchvision."""

import inspect
from collections.abc import Sized
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from PIL import Image
from torch import Tensor

from kanlib.errors import BadInputError, cause, nearest
from kanlib.networks.folders import Files, Found, counted
from kanlib.networks.patterns import plain
from kanlib.networks.pictures import named, opened, rgb
from kanlib.networks.tables import LARGEST


def read(name: str, root: Path, *, download: bool) -> Found:
    """The data set of torchvision of that name, its splits ``train`` and ``test`` (of ImageNet: ``val``).

    Args:
        name: of the class in ``torchvision.datasets``.
        root: folder in which torchvision looks for it.
        download: whether torchvision may fetch what is not there.

    Raises:
        BadInputError: no such data set (the nearest name is suggested), one without these splits or without a
            label for each picture, files that are missing or cannot be read, or classes that differ.
    """
    known: dict[str, Any] = {
        key: kind for key, kind in vars(torchvision.datasets).items() if inspect.isclass(kind)
    }
    if name not in known:
        near = nearest(name[:60], known)
        raise BadInputError(f"data torchvision/{plain(name)} is unknown; did you mean torchvision/{near}?")
    kind, accepted = known[name], inspect.signature(known[name]).parameters
    which: dict[str, dict[str, Any]]
    if "train" in accepted:
        which = {"train": {"train": True}, "test": {"train": False}}
    elif "split" in accepted:
        which = {"train": {"split": "train"}, "test": {"split": "val" if name.startswith("Image") else "test"}}
    else:
        raise BadInputError(
            f"data torchvision/{name} has no splits train and test, expected one like CIFAR10; take another."
        )
    for option, value in (("download", download), ("loader", lambda file: opened(Path(file)))):
        if option in accepted or (option == "loader" and issubclass(kind, torchvision.datasets.ImageFolder)):
            which = {split: chosen | {option: value} for split, chosen in which.items()}
    parts, splits = {}, {}
    for split, chosen in which.items():
        try:
            parts[split] = part = kind(root, **chosen)
        # What reads or fetches the files of a data set raises whatever they, or the net, lead it to.
        except Exception as error:
            raise BadInputError(
                f"data torchvision/{name} cannot be read from {named(root)} ({cause(error)}); "
                "put it there, set KANLIB_DATA, or set download to true."
            ) from error
        splits[split] = Files([partial(_item, part, name, i) for i in range(len(part))], _labels(part, name))
    return Found(splits, _classes(parts, splits, name), {})


def _labels(part: Any, name: str) -> Tensor:
    """Labels ``[n]`` of a data set of torchvision, int64."""
    given = next((getattr(part, a) for a in ("targets", "labels", "_labels") if hasattr(part, a)), None)
    try:
        labels = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        labels = torch.empty(0)
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if not (
        whole and labels.shape == (len(part),) and len(part) and labels.min() >= 0 and labels.max() <= LARGEST
    ):
        raise BadInputError(
            f"data torchvision/{name} has no label for each picture, expected integers from 0 on, as for a "
            "classifier; take another data set."
        )
    return labels.long()


def _classes(parts: dict[str, Any], splits: dict[str, Files], name: str) -> tuple[str, ...]:
    train, test = (getattr(parts[split], "classes", None) for split in ("train", "test"))
    if train != test:
        raise BadInputError(
            f"data torchvision/{name} has {_n(train)} in train and {_n(test)} in test, so that labels mean other "
            "classes there, expected the same; complete its folders."
        )
    largest = max(int(files.labels.max()) for files in splits.values())
    names = range(largest + 1) if test is None else test
    return tuple(c[0] if isinstance(c, tuple) else str(c) for c in names)


def _n(classes: Sized | None) -> str:
    return "no classes" if classes is None else counted(len(classes), "class", "classes")


def _item(part: Any, name: str, i: int) -> Image.Image:
    what = f"picture {i} of torchvision/{name}"
    try:
        image = part[i][0]
        if isinstance(image, Image.Image):
            return rgb(image, what)
    except BadInputError:
        raise
    # The data set decodes a file, and raises whatever its bytes lead it to.
    except Exception as error:
        raise BadInputError(f"{what} cannot be read ({cause(error)}); fetch the data set anew.") from error
    raise BadInputError(f"{what} is a {type(image).__name__}, expected an image; take another data set.")
