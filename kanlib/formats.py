"""The three formats of artifacts: content and record as the bytes of a file, and back.

A record holds a *digest*: the SHA-256 of the file's bytes with a blank of equal length in the digest's place. It
says whether a file is what was written, not who wrote it.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from kanlib.memory import room_for

#: Stands in a record where its digest will.
BLANK = "the SHA-256 of this file, with these very words in its own place"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_RECORD_BYTES = 1_000_000


def written(suffix: str, content: Any, record: Mapping) -> bytes:
    """The bytes of a file of that suffix with this content and record, and with their digest in the record."""
    blank = _WRITERS[suffix](content, {**record, "digest": BLANK})
    digest = hashlib.sha256(blank).hexdigest()
    return blank.replace(BLANK.encode(), digest.encode(), 1)


def digest_of(source: Path) -> str:
    """The digest that the record of a file says, without reading its content into memory."""
    if source.suffix == ".safetensors":
        with safe_open(source, framework="pt") as file:
            return str(_parsed(file.metadata()["record"])["digest"])
    if source.suffix == ".parquet":
        with pq.ParquetFile(source) as file:
            return str(_parsed(file.metadata.metadata[b"record"])["digest"])
    with source.open("rb") as file:
        # The record comes last.
        file.seek(max(0, source.stat().st_size - _RECORD_BYTES))
        return re.findall(rb'\n  "digest": "([0-9a-f]{64})"', file.read())[-1].decode()


def read(source: Path) -> tuple[Any, dict, str]:
    """Content, record and digest of a file.

    Raises:
        ValueError: it is damaged, or holds an array that is not finite; or whatever its reader raises.
    """
    content, record = unverified(source)
    digest = record.pop("digest", None)
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise ValueError("its record has no digest")
    if _blanked(source, digest.encode()) != digest:
        raise ValueError("it is damaged: its digest is another one")
    return content, record, digest


def _blanked(source: Path, said: bytes) -> str:
    """SHA-256 of a file with a blank where it first says its digest."""
    found = hashlib.sha256()
    with source.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as raw, memoryview(raw) as view:
        at = raw.find(said)
        found.update(view[:at])
        found.update(BLANK.encode())
        found.update(view[at + len(BLANK) :])
    return found.hexdigest()


def unverified(source: Path) -> tuple[Any, dict]:
    """Content and record of a file, whatever its digest; raises whatever its reader raises."""
    return _READERS[source.suffix](source)


def finite(value: Tensor) -> bool:
    """Whether all values of an array are."""
    # A sum is quick, and finite only if all it sums is.
    return not value.is_floating_point() or math.isfinite(value.sum().item()) or bool(value.isfinite().all())


def text(value: Any, indent: int | None = None) -> str:
    """A JSON value as records and contents are written."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=indent)


def _safetensors(content: Mapping[str, Tensor], record: Mapping) -> bytes:
    tensors = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in content.items()}
    # One metadata key only: safetensors orders several by a random hash.
    return safetensors.torch.save(tensors, {"record": text(record)})


def _parquet(content: pd.DataFrame, record: Mapping) -> bytes:
    table = pa.Table.from_pandas(content, preserve_index=False).replace_schema_metadata({"record": text(record)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def _json(content: Any, record: Mapping) -> bytes:
    return text({"content": content, "record": record}, indent=1).encode()


def _read_safetensors(source: Path) -> tuple[dict[str, Tensor], dict]:
    with safe_open(source, framework="pt") as file:
        content = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        record = _parsed(file.metadata()["record"])
    for key, value in content.items():
        if not finite(value):
            raise ValueError(f"{key[:60]} is not finite")
    return content, record


def _read_parquet(source: Path) -> tuple[pd.DataFrame, dict]:
    with pq.ParquetFile(source) as file:
        cells = file.metadata.num_rows * file.metadata.num_columns
        room_for(100 * cells, "its rows", "it is no table of scores")
        return file.read().to_pandas(), _parsed(file.metadata.metadata[b"record"])


def _read_json(source: Path) -> tuple[Any, dict]:
    whole = _parsed(source.read_bytes())
    return whole["content"], whole["record"]


def _parsed(raw: str | bytes) -> Any:
    def refused(name: str) -> None:
        raise ValueError(f"{name} is no number of JSON")

    return json.loads(raw, parse_constant=refused)


_WRITERS: dict[str, Callable[[Any, Mapping], bytes]] = {
    ".safetensors": _safetensors,
    ".parquet": _parquet,
    ".json": _json,
}
_READERS: dict[str, Callable[[Path], tuple[Any, dict]]] = {
    ".safetensors": _read_safetensors,
    ".parquet": _read_parquet,
    ".json": _read_json,
}
