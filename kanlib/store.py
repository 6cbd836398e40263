"""Artifacts on disk: what determines a result is inside the file, what merely happened is beside it.

An artifact is a ``.safetensors`` file (arrays), a ``.parquet`` file (a table) or a ``.json`` file
(expressions). Each carries a *record*: its kind, the parameters and the hashes of the inputs that
determine it, the version of the code, and a *digest* of the file itself, by which damage is noticed.
Equal runs give equal bytes. A file is written whole under a temporary name and then renamed, so a reader
never meets half of one and a failed run harms nothing.

torch and pandas are imported by what reads and writes artifacts, not by who asks where they lie: the processes
that order and execute notebooks stay small.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanlib import sources
from kanlib.errors import BadInputError, cause
from kanlib.files import write_whole
from kanlib.setup_files import name_of

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
ARTIFACTS = ROOT / "_artifacts"
RESPONSES = ROOT / "data" / "responses"
_IMPORTED = time.time()

NOTEBOOKS = ROOT / "notebooks"
#: Kinds of artifacts that are no tensors.
_SUFFIX = dict.fromkeys(("scores", "curve", "evaluation", "edits"), ".parquet") | {"symbolic": ".json"}


@dataclass(frozen=True)
class Artifact:
    """One artifact as read: its ``content``, its ``record`` and its digest, the ``hash``.

    ``content`` is a dict of tensors (``.safetensors``), a DataFrame (``.parquet``) or what JSON held. ``hash`` is
    the SHA-256 of the file's bytes with a blank where they say it; ``place`` is its path, for sentences.
    """

    content: Any = field(repr=False)
    record: dict
    hash: str
    place: str = field(default="an artifact", compare=False)

    def __getitem__(self, key: str) -> Any:
        return self.content[key]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with ``prefix``, by the rest of their names."""
        return {key.removeprefix(prefix): value for key, value in self.content.items() if key.startswith(prefix)}

    def tensor(self, key: str, shape: Sequence[int | None], dtype: torch.dtype | None = None) -> Tensor:
        """The tensor of that name.

        Args:
            key: its name.
            shape: that it must have; ``None``: any length.
            dtype: that it must have; ``None``: fp32.

        Raises:
            BadInputError: it is missing, or another one.
        """
        import torch

        dtype = dtype or torch.float32
        found = self.content.get(key)
        there = "missing" if found is None else f"{_of(found.shape)} of {found.dtype}"
        fits = found is not None and found.dtype == dtype and len(found.shape) == len(shape)
        if not (fits and all(n in (None, have) for n, have in zip(shape, found.shape, strict=True))):
            raise self.wrong(f"{key[:60]} is {there}, expected {_of(shape)} of {dtype}")
        return found

    def table(self, columns: Mapping[str, type]) -> pd.DataFrame:
        """The table, which must have at least these columns.

        Args:
            columns: their names, and whether each holds ``str``, ``int`` or ``float``.

        Raises:
            BadInputError: one is missing, or holds something else.
        """
        import pandas as pd

        types = pd.api.types
        holds = {str: types.is_string_dtype, int: types.is_integer_dtype, float: types.is_float_dtype}
        for name, kind in columns.items():
            if list(self.content.columns).count(name) != 1 or not holds[kind](self.content[name]):
                raise self.wrong(f"column {name} is missing, there twice, or holds no {kind.__name__}")
        return self.content

    def said(self, key: str, kind: type) -> Any:
        """What the record says of ``key``.

        Raises:
            BadInputError: nothing, or something of another type.
        """
        found = self.record.get(key)
        if not isinstance(found, kind) or isinstance(found, bool) > (kind is bool):
            raise self.wrong(f"its record says {type(found).__name__} of {key}, expected {kind.__name__}")
        return found

    def wrong(self, what: str) -> BadInputError:
        """A sentence that says what is wrong in this artifact."""
        return BadInputError(f"{self.place} is not what kanlib writes: {what}; make it anew, or take it from git.")


def _of(shape: Sequence[int | None]) -> str:
    return "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"


@cache
def written_by(kind: str) -> str:
    """The notebook that writes this kind of artifact, the remedy named when one is missing; empty if none does."""
    return next((n.stem for n in sources.notebooks(NOTEBOOKS) if kind in sources.artifacts(n)[1]), "")


def path(run: str, kind: str) -> Path:
    """Where the artifact of this ``kind`` of this ``run`` lies: ``_artifacts/<run>/<kind>.<suffix>``."""
    return ARTIFACTS / run / (kind + _SUFFIX.get(kind, ".safetensors"))


def recording(setup: str, section: str | None = None) -> Path:
    """Where the frozen responses of a setup lie, or what was recorded for the chapter of that section."""
    return RESPONSES / f"{name_of(setup)}{f'.{section}' if section else ''}.safetensors"


def circumstances(target: Path) -> Path:
    """The sidecar of an artifact, which says what merely happened: date, seconds, versions, device."""
    return target.with_name(target.name + ".run.json")


def save(
    target: Path, content: Any, *, kind: str, parameters: Mapping, inputs: Mapping[str, str], **more: Any
) -> Path:
    """Write ``content`` (dict of tensors, DataFrame or JSON value) with its record, then its sidecar.

    ``parameters`` and ``inputs`` (name → hash) are what determines the content; ``more`` is what else its
    reader needs to know, such as the names of the components. The sidecar ``<target>.run.json`` holds what
    merely happened: date, seconds since kanlib was imported, versions.

    Raises:
        BadInputError: a tensor is not finite; nothing is written.
    """
    import torch

    from kanlib import formats

    for key, value in content.items() if target.suffix == ".safetensors" else ():
        if not formats.finite(value):
            raise BadInputError(
                f"{key} of the {kind} is not finite and was not saved, so that what was there before stays; "
                f"look for the cause in {written_by(kind) or 'its notebook'}."
            )
    record = {
        "kind": kind,
        "parameters": dict(parameters),
        "inputs": dict(inputs),
        "code": code_hash(),
        "torch": torch.__version__,
        **more,
    }
    write_whole(target, formats.written(target.suffix, content, record))
    note(target)
    return target


def note(target: Path) -> None:
    """Write the sidecar of an artifact: what merely happened while it was made."""
    write_whole(circumstances(target), json.dumps(_happened(), indent=1).encode())


def load(source: Path, kind: str | None = None) -> Artifact:
    """Read an artifact of that kind; ``None``: of the kind that its name says.

    Raises:
        BadInputError: it is missing, truncated, or not one of ours.
    """
    from kanlib import formats

    kind = kind or source.name.split(".")[0]
    if not source.is_file():
        raise BadInputError(f"{_short(source)} is missing; it is written by {_writer(kind)}, so run that first.")
    try:
        content, record, digest = formats.read(source)
        found = record["kind"]
        if not (isinstance(found, str) and all(isinstance(record[k], dict) for k in ("parameters", "inputs"))):
            raise TypeError("its record is none")
    # What three libraries raise on a stranger's bytes is not limited to errors of their own.
    except Exception as error:
        raise BadInputError(
            f"{_short(source)} cannot be read ({cause(error)}): "
            f"expected a whole {source.suffix} artifact with its record; delete it and run {_writer(kind)} again."
        ) from error
    if found != kind:
        raise BadInputError(
            f"{_short(source)} holds {found[:60]}, expected {kind}; run {_writer(kind)} to write it anew."
        )
    return Artifact(content, record, digest, str(_short(source)))


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and values of tensors, in the order of their names."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{value.dtype}{tuple(value.shape)}\0".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def remove(target: Path) -> None:
    """Remove an artifact and its sidecar, if they are there."""
    for file in (target, circumstances(target)):
        file.unlink(missing_ok=True)


@cache
def code_hash() -> str:
    """SHA-256 over the sources of kanlib's modules and of the notebooks' code cells: a record's code version."""
    digest = hashlib.sha256()
    for name, module in sorted(sources.modules().items()):
        digest.update(name.encode() + b"\0" + module.read_bytes() + b"\0")
    for notebook in sources.notebooks(NOTEBOOKS):
        cells = json.loads(notebook.read_text(encoding="utf8"))["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        digest.update(notebook.name.encode() + b"\0" + "\0".join(code).encode())
    return digest.hexdigest()


def _happened() -> dict:
    import torch

    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "seconds": round(time.time() - _IMPORTED, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_initialized() else platform.machine(),
    }


def _writer(kind: str) -> str:
    return written_by(kind) or "the notebook before this one"


def _short(source: Path) -> Path:
    return source.relative_to(ROOT) if source.is_relative_to(ROOT) else source
