"""The artifacts of shards put together, a shard at a time, to the bytes that one run would have written.

``python -m kanlib.merging <setup> <kind> <shard> …`` writes the whole artifact of that kind.
"""

import hashlib
import json
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from kanlib import formats, setups, shards, store
from kanlib.errors import BadInputError, spoken
from kanlib.files import write_pieces

#: What all examples share: masks, and what is no array of theirs.
_SHARED = ("masks.", "orders", "kan.order")
#: In the safetensors format wide numbers come first, and then names in their order.
_TYPES = {"torch.int64": "I64", "torch.float64": "F64", "torch.float32": "F32"}
#: What a record keeps of each example.
_OF_EXAMPLES = ("label_names",)

#: Content of one shard after the other.
Parts = Callable[[], Iterator[Any]]
#: Its pieces from these, where each shard's examples start, and the record.
_Writer = Callable[[Parts, Sequence[int], Mapping], Iterator[bytes]]


def merged(setup: str, kind: str, names: Sequence[str]) -> Path:
    """Write the whole artifact of that kind of a setup from those of its shards.

    Only one shard is in memory at a time, tables of scores excepted. Of the record, parameters are those of the
    setup, and inputs of which there are shards are the whole ones.

    Args:
        setup: its name.
        kind: of the artifact, see :func:`kanlib.setups.sharded_kinds`.
        names: of the shards, in their order.

    Raises:
        BadInputError: a shard is missing or damaged, or was made with other parameters or code, or from other
            inputs than the others (it is named).
    """
    target = store.path(setup, kind)
    files = [store.path(setups.shard_folder(setup, name), kind) for name in names]
    record = _record(setup, kind, [store.load(file, kind).record for file in files], names)
    inputs = {
        name: formats.digest_of(store.path(setup, name)) if name in setups.sharded_kinds() else found
        for name, found in record["inputs"].items()
    }
    starts = [shards.rows(name, 10**9, 1).start for name in names]

    def parts() -> Iterator[Any]:
        for file in files:
            yield store.load(file, kind).content

    write_pieces(target, _WRITERS[target.suffix](parts, starts, record | {"inputs": inputs}))
    store.note(target)
    return target


def _record(setup: str, kind: str, records: Sequence[dict], names: Sequence[str]) -> dict:
    """The record of the whole; those of the shards have to agree."""
    stage = setups.of_notebook(store.written_by(kind))
    inputs, first = setups.sharded_kinds(), records[0]

    def determined(record: dict) -> dict:
        """What all shards have in common; how many examples there are does not change one of them."""
        parameters = {k: v for k, v in record["parameters"].items() if k not in ("n_examples", "setup")}
        given = {k: v for k, v in record["inputs"].items() if k not in inputs}
        rest = {k: v for k, v in record.items() if k not in ("parameters", "inputs", *_OF_EXAMPLES)}
        return rest | {"parameters": parameters, "inputs": given}

    for name, record in zip(names, records, strict=True):
        mine, theirs = determined(record), determined(first)
        for key in sorted(mine.keys() | theirs.keys()):
            if mine.get(key) != theirs.get(key):
                raise BadInputError(
                    f"shard {name} of {kind} was made with other {key} than shard {names[0]}, expected one for "
                    f"all; run {store.written_by(kind)} again for both."
                )
    together = {key: [text for r in records for text in r[key]] for key in _OF_EXAMPLES if key in first}
    own = first["parameters"] | {"setup": setup}
    if "n_examples" in own:
        own["n_examples"] = stage.from_setup(setup).recorded()["n_examples"]
    return first | together | {"parameters": own}


def _with_digest(pieces: _Writer) -> _Writer:
    """The pieces of a file with their digest in the record, for which they are made twice."""

    def written(parts: Parts, starts: Sequence[int], record: Mapping) -> Iterator[bytes]:
        blank = hashlib.sha256()
        for piece in pieces(parts, starts, {**record, "digest": formats.BLANK}):
            blank.update(piece)
        return pieces(parts, starts, {**record, "digest": blank.hexdigest()})

    return written


@_with_digest
def _safetensors(parts: Parts, starts: Sequence[int], record: Mapping) -> Iterator[bytes]:
    shapes: dict[str, list[int]] = {}
    types: dict[str, str] = {}
    for content in parts():
        for key, value in content.items():
            if key in shapes and not key.startswith(_SHARED):
                shapes[key][0] += len(value)
            else:
                shapes[key], types[key] = list(value.shape), _TYPES[str(value.dtype)]
    order = sorted(shapes, key=lambda key: (list(_TYPES.values()).index(types[key]), key))
    header: dict[str, Any] = {"__metadata__": {"record": formats.text(record)}}
    end = 0
    for key in order:
        start, end = end, end + int(types[key][1:]) // 8 * _product(shapes[key])
        header[key] = {"dtype": types[key], "shape": shapes[key], "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for key in order:
        for i, content in enumerate(parts()):
            if i == 0 or not key.startswith(_SHARED):
                yield _bytes(content[key])


def _product(shape: Sequence[int]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total


def _bytes(value: Tensor) -> bytes:
    return value.contiguous().numpy().tobytes()


def _parquet(parts: Parts, starts: Sequence[int], record: Mapping) -> Iterator[bytes]:
    """Rows in the order in which one run has them: by what comes before the example, then by the example."""
    whole = pd.concat(
        [table.assign(example=table["example"] + start) for table, start in zip(parts(), starts, strict=True)]
    )
    groups = [name for name in whole.columns if name != "example" and not pd.api.types.is_float_dtype(whole[name])]
    place = whole.groupby(groups, sort=False).ngroup()
    whole = whole.assign(place=place).sort_values(["place", "example"], kind="stable").drop(columns="place")
    yield formats.written(".parquet", whole, record)


@_with_digest
def _json(parts: Parts, starts: Sequence[int], record: Mapping) -> Iterator[bytes]:
    """Lists of lists of examples; as :func:`json.dumps` writes them, an entry at a time."""
    keys = sorted(next(parts()))
    yield b'{\n "content": {\n'
    for key in keys:
        before = f'  "{key}": ['
        for content, start in zip(parts(), starts, strict=True):
            for entry in content[key]:
                if "example" in entry:
                    entry = entry | {"example": entry["example"] + start}
                yield (before + "\n   " + formats.text(entry, indent=1).replace("\n", "\n   ")).encode()
                before = ","
        yield f"\n  ]{',' if key != keys[-1] else ''}\n".encode()
    yield (' },\n "record": ' + formats.text(record, indent=1).replace("\n", "\n ") + "\n}").encode()


_WRITERS: dict[str, _Writer] = {".safetensors": _safetensors, ".parquet": _parquet, ".json": _json}

if __name__ == "__main__":
    _setup, _kind, *_names = sys.argv[1:]
    with spoken():
        merged(_setup, _kind, _names)
