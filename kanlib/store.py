"""Artifacts on disk: what determines a result is inside the file, what merely happened is beside it.

An artifact is a ``.safetensors`` file (arrays), a ``.parquet`` file (a table) or a ``.json`` file
(expressions). Each carries a *record*: its kind, the parameters and the hashes of the inputs that
determine it, and the version of the code. Equal runs give equal bytes. A file is written whole under
a temporary name and then renamed, so a reader never meets half of one and a failed run harms nothing.
"""

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kanlib import sources
from kanlib.errors import BadInputError

ROOT = Path(__file__).resolve().parents[1]
ARTIFACTS = ROOT / "_artifacts"
_IMPORTED = time.time()

NOTEBOOKS = ROOT / "notebooks"
#: Kinds of artifacts that are no tensors.
_SUFFIX = {"scores": ".parquet", "curve": ".parquet", "symbolic": ".json"}


@dataclass(frozen=True)
class Artifact:
    """One artifact as read: its ``content``, its ``record`` and the SHA-256 ``hash`` of its bytes.

    ``content`` is a dict of tensors (``.safetensors``), a DataFrame (``.parquet``) or what JSON held.
    """

    content: Any = field(repr=False)
    record: dict
    hash: str

    def __getitem__(self, key: str) -> Any:
        return self.content[key]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with ``prefix``, by the rest of their names."""
        return {key.removeprefix(prefix): value for key, value in self.content.items() if key.startswith(prefix)}


@cache
def written_by(kind: str) -> str:
    """The notebook that writes this kind of artifact, the remedy named when one is missing; empty if none does."""
    return next((n.stem for n in sources.notebooks(NOTEBOOKS) if kind in sources.artifacts(n)[1]), "")


def path(run: str, kind: str) -> Path:
    """Where the artifact of this ``kind`` of this ``run`` lies: ``_artifacts/<run>/<kind>.<suffix>``."""
    return ARTIFACTS / run / (kind + _SUFFIX.get(kind, ".safetensors"))


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
    for key, value in content.items() if target.suffix == ".safetensors" else ():
        if not value.isfinite().all():
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
    text = json.dumps(record, sort_keys=True, ensure_ascii=False)
    writers: dict[str, Callable[[Path], object]] = {
        # One metadata key only: safetensors orders several by a random hash.
        ".safetensors": lambda p: save_file(
            {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in content.items()},
            p,
            {"record": text},
        ),
        ".parquet": lambda p: pq.write_table(
            pa.Table.from_pandas(content, preserve_index=False).replace_schema_metadata({"record": text}), p
        ),
        ".json": lambda p: p.write_text(
            json.dumps({"record": record, "content": content}, sort_keys=True, ensure_ascii=False, indent=1),
            encoding="utf8",
        ),
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, writers[target.suffix])
    happened = json.dumps(_happened(), indent=1)
    write_whole(circumstances(target), lambda p: p.write_text(happened, encoding="utf8"))
    return target


def load(source: Path, kind: str | None = None) -> Artifact:
    """Read an artifact of that kind; ``None``: of the kind that its name says.

    Raises:
        BadInputError: it is missing, truncated, or not one of ours.
    """
    kind = kind or source.name.split(".")[0]
    if not source.is_file():
        raise BadInputError(f"{_short(source)} is missing; it is written by {_writer(kind)}, so run that first.")
    readers = {".safetensors": _read_safetensors, ".parquet": _read_parquet, ".json": _read_json}
    try:
        content, record = readers[source.suffix](source)
        found = record["kind"]
    except (SafetensorError, pa.ArrowException, ValueError, KeyError, TypeError, OSError) as error:
        raise BadInputError(
            f"{_short(source)} cannot be read ({str(error).splitlines()[0] if str(error) else 'no content'}): "
            f"expected a whole {source.suffix} artifact with its record; delete it and run {_writer(kind)} again."
        ) from error
    if found != kind:
        raise BadInputError(
            f"{_short(source)} holds {found}, expected {kind}; run {_writer(kind)} to write it anew."
        )
    return Artifact(content, record, hashlib.sha256(source.read_bytes()).hexdigest())


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and values of tensors, in the order of their names."""
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


def write_whole(target: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` on a temporary neighbour of ``target``, then rename it onto ``target``."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        write(temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(target: Path, value: Any) -> None:
    """Write a JSON value, a row a line, whole or not at all."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    write_whole(target, lambda part: part.write_text(text, encoding="utf8"))


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
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "seconds": round(time.time() - _IMPORTED, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_initialized() else platform.machine(),
    }


def _read_safetensors(source: Path) -> tuple[dict[str, Tensor], dict]:
    with safe_open(source, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, json.loads(file.metadata()["record"])  # noqa: SIM118


def _read_parquet(source: Path) -> tuple[pd.DataFrame, dict]:
    table = pq.read_table(source)
    return table.to_pandas(), json.loads(table.schema.metadata[b"record"])


def _read_json(source: Path) -> tuple[Any, dict]:
    whole = json.loads(source.read_text(encoding="utf8"))
    return whole["content"], whole["record"]


def _writer(kind: str) -> str:
    return written_by(kind) or "the notebook before this one"


def _short(source: Path) -> Path:
    return source.relative_to(ROOT) if source.is_relative_to(ROOT) else source
