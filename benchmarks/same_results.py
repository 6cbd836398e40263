"""Whether two checkouts computed the same: ``python -m benchmarks.same_results <other checkout> [setup …]``.

Every tensor, table and expression of the setups' artifacts is compared, to the bit; a name of a column, of a key
or of a parameter that differs is said. Records are compared too, but for the version of the code, the hashes of
inputs, which follow from it, and digests. ``old=new`` says that a name of the other checkout is another one here,
``old=`` that it is gone. Ends with status 1 where anything else differs.
"""

import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from kanlib import formats, store

DEFAULT = ["digits_resnet18", "cifar10_resnet18", "imagenet_deit_tiny"]
#: What a record says of its code and of its inputs' bytes.
NOT_COMPARED = {"code", "inputs", "digest"}


def differences(one: Any, other: Any, at: str = "") -> list[str]:
    """Where two contents differ: a sentence for each place, with the largest relative difference of numbers."""
    if isinstance(one, dict) and isinstance(other, dict):
        only = [f"{at}/{key} is in one only" for key in sorted(one.keys() ^ other.keys())]
        return only + [
            d for k in sorted(one.keys() & other.keys()) for d in differences(one[k], other[k], f"{at}/{k}")
        ]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [d for i, (a, b) in enumerate(zip(one, other, strict=True)) for d in differences(a, b, f"{at}/{i}")]
    if isinstance(one, pd.DataFrame) and isinstance(other, pd.DataFrame):
        return differences(one.to_dict("list"), other.to_dict("list"), at)
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.dtype == other.dtype and torch.equal(one, other):
            return []
        if one.shape != other.shape:
            return [f"{at} has shape {tuple(one.shape)} and {tuple(other.shape)}"]
        off = ((one.double() - other.double()).abs().max() / other.double().abs().max()).item()
        return [f"{at} differs by {off:.1e} of its largest number"]
    return [] if one == other or (one != one and other != other) else [f"{at} is {one!r:.60} and {other!r:.60}"]


def renamed(value: Any, names: dict[str, str]) -> Any:
    """A content of the other checkout with the names that it has here, the last part of a dotted name counting."""
    if isinstance(value, list):
        return [renamed(v, names) for v in value]
    if not isinstance(value, dict):
        return value
    out = {}
    for key, v in value.items():
        head, dot, last = key.rpartition(".")
        if new := names.get(last, last):
            out[head + dot + new] = renamed(v, names)
    return out


def main(other: Path, setups: list[str], names: dict[str, str]) -> int:
    n_compared, found = 0, []
    for setup in setups:
        for mine in sorted((store.ARTIFACTS / setup).glob("*")):
            if mine.name.endswith(".run.json"):
                continue
            theirs = other / mine.relative_to(store.ROOT)
            where = f"{setup}/{mine.name}"
            # As they are: an older checkout's files have no digest.
            (a, a_record), (b, b_record) = map(formats.unverified, (mine, theirs))
            n_compared += 1
            found += differences(a, renamed(b, names), where)
            records = (a_record, b_record)
            one, another = ({k: v for k, v in x.items() if k not in NOT_COMPARED} for x in records)
            found += differences(one, renamed(another, names), f"{where} (record)")
    print(*found, sep="\n")
    print(f"{n_compared} artifacts compared, {len(found)} differences")
    return 1 if found else 0


if __name__ == "__main__":
    _names = dict(argument.split("=") for argument in sys.argv[2:] if "=" in argument)
    _setups = [argument for argument in sys.argv[2:] if "=" not in argument]
    sys.exit(main(Path(sys.argv[1]).resolve(), _setups or DEFAULT, _names))
