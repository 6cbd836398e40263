"""A folder of pictures: a subfolder for each class, and for each split if there are two."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from kanlib.errors import BadInputError, cause
from kanlib.networks.pictures import named, opened

#: The splits that are used.
USED = ("train", "test")
_SPLITS = {*USED, "valid", "val", "validation", "dev", "extra", "training", "testing", "eval", "evaluation"}
_SYSTEM = {"__macosx", "__pycache__", "@eadir", "$recycle.bin", "system volume information", "lost+found"}
_SYSTEM |= {"thumbs.db", "desktop.ini"}


@dataclass(frozen=True)
class Files:
    """Pictures still to be decoded.

    Attributes:
        open: what decodes each, to RGB.
        labels: ``[n]``, int64.
    """

    open: Sequence[Callable[[], Image.Image]]
    labels: Tensor


@dataclass(frozen=True)
class Found:
    """What a data set holds.

    Attributes:
        splits: its pictures, by split.
        classes: names, in the order of the labels.
        others: number of pictures in each split that is not used.
        notes: what one might not expect of it, in sentences.
    """

    splits: dict[str, Files]
    classes: tuple[str, ...]
    others: dict[str, int]
    notes: tuple[str, ...] = ()


def files_of(pairs: Iterable[tuple[Path, int]]) -> Files:
    """Files and their labels, to be decoded when they are asked for."""
    listed = list(pairs)
    labels = torch.tensor([label for _, label in listed], dtype=torch.int64)
    return Files([partial(opened, file) for file, _ in listed], labels)


def some(names: Sequence[str]) -> str:
    """The first three of many names, and how many more there are."""
    rest = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(named(name, 60) for name in names[:3]) + rest


def counted(n: int, one: str, many: str) -> str:
    """A number of things: ``1 picture``, ``2,000 pictures``."""
    return f"{n:,} {one if n == 1 else many}"


def find(path: Path) -> Found:
    """Pictures in a subfolder a class, or in ``train`` and ``test`` with a subfolder a class in each.

    Classes are numbered by name over both splits. ``train`` and ``test`` are splits where they hold folders, and
    classes where they hold pictures. Within a class, pictures come sorted by folder and by name.

    Raises:
        BadInputError: no pictures, splits beside folders of pictures, a class whose name is not UTF-8, or a
            folder that cannot be read.
    """
    walk = _Walk(path)
    splits = _splits(walk)
    roots = {"test": path} if splits is None else {split: path / split for split in splits}
    folders = {split: walk.listing(root).folders for split, root in roots.items()}
    beside = [file for root in {path, *roots.values()} for file in walk.listing(root).pictures]
    classes = tuple(sorted({_utf8(folder).name for found in folders.values() for folder in found}))
    number = {name: k for k, name in enumerate(classes)}
    held = {
        split: [(file, number[folder.name]) for folder in found for file in walk.pictures(folder)]
        for split, found in folders.items()
    }
    top = () if splits is None else walk.listing(path).folders
    others = {folder.name: len(_Walk(path).pictures(folder)) for folder in top if folder.name not in roots}
    others |= {split: 0 for split, pairs in held.items() if not pairs}
    if not any(held.values()) and not any(others.values()):
        raise BadInputError(
            f"{named(path)} has neither a labels.csv nor a subfolder with images for each class; add one."
        )
    walk.leave(beside, "pictures beside the folders of classes")
    splits_held = {split: files_of(pairs) for split, pairs in held.items() if pairs}
    return Found(splits_held, classes, others, (*walk.notes(), *_missing(splits_held, classes)))


@dataclass(frozen=True)
class _Listing:
    """What a folder holds directly, sorted by name, without what is hidden."""

    folders: list[Path]
    pictures: list[Path]
    rest: list[Path]


@dataclass(frozen=True)
class _Walk:
    """Reads the folders below ``root``, and keeps what it leaves out and why."""

    root: Path
    left_out: dict[str, set[str]] = field(default_factory=dict)

    def leave(self, paths: Iterable[Path], why: str) -> None:
        for path in paths:
            self.left_out.setdefault(why, set()).add(str(path.relative_to(self.root)))

    def notes(self) -> Iterator[str]:
        for why, names in self.left_out.items():
            yield f"Not used, as {why}: {some(sorted(names))}."

    def listing(self, folder: Path) -> _Listing:
        try:
            with os.scandir(folder) as found:
                entries = sorted((entry.name, _is_folder(entry)) for entry in found)
        except OSError as error:
            raise BadInputError(
                f"{named(folder)} cannot be read ({cause(error)}); allow it, or leave it out."
            ) from error
        self.leave((folder / name for name, _ in entries if _hidden(name)), "hidden or a system's own")
        kept = [(folder / name, is_folder) for name, is_folder in entries if not _hidden(name)]
        files = [path for path, is_folder in kept if not is_folder]
        return _Listing(
            [path for path, is_folder in kept if is_folder],
            [file for file in files if file.name.lower().endswith(IMG_EXTENSIONS)],
            [file for file in files if not file.name.lower().endswith(IMG_EXTENSIONS)],
        )

    def pictures(self, folder: Path) -> list[Path]:
        """All pictures below a folder; a folder that links lead to once more is read once."""
        whole = self.root.resolve()
        seen, waiting, found = {whole, *whole.parents}, [folder], {}
        while waiting:
            at = waiting.pop()
            if (real := at.resolve()) in seen:
                self.leave([at], "links to folders that are read already")
                continue
            seen.add(real)
            listing = self.listing(at)
            self.leave(listing.rest, f"no picture by its name, which does not end in {', '.join(IMG_EXTENSIONS)}")
            found[str(at)] = listing.pictures
            waiting += reversed(listing.folders)
        return [file for at in sorted(found) for file in found[at]]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself, for example.
        return False


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.casefold() in _SYSTEM


def _splits(walk: _Walk) -> list[str] | None:
    """Which of ``train`` and ``test`` are splits; ``None``: the folders are classes."""
    top = {folder.name: walk.listing(folder) for folder in walk.listing(walk.root).folders}
    named_so = [name for name, found in top.items() if name.casefold() in _SPLITS and found.folders]
    used = [split for split in USED if split in named_so]
    # Without train and test, names like val and Test are splits only if all are.
    if not used and (not top or len(named_so) < len(top)):
        return None
    classes = [name for name, found in top.items() if name not in named_so and found.pictures]
    if classes:
        raise BadInputError(
            f"{named(walk.root)} holds {some(named_so)} with folders in it, as a split has, beside "
            f"{some(classes)} with pictures in it, as a class has; expected one of both: move or rename the other."
        )
    return used


def _utf8(folder: Path) -> Path:
    try:
        folder.name.encode()
    except UnicodeEncodeError as error:
        raise BadInputError(f"{named(folder)} has a name that is not UTF-8; rename it.") from error
    return folder


def _missing(splits: dict[str, Files], classes: tuple[str, ...]) -> Iterator[str]:
    for split, files in splits.items():
        there = set(files.labels.tolist())
        missing = [name for k, name in enumerate(classes) if k not in there]
        if missing:
            n = counted(len(missing), "class", "classes")
            yield f"Without a picture in split {split}: {n}, {some(missing)}."
