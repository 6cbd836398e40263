"""Checkpoints as they come: read from files, and brought to the keys of a network."""

import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from kanlib.errors import BadInputError, cause, shown
from kanlib.memory import room_for
from kanlib.networks.architectures import there
from kanlib.networks.patterns import plain

#: Where training scripts keep a state dict. Averaged weights go first: it is their accuracy that is published.
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "net")
#: Wrappers within each other, and prefixes before a key, at most.
_NESTED = 4
_INDEX = ".safetensors.index.json"


def read(file: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict in a file, never unpickled beyond tensors, and what was chosen of it, a phrase each.

    Args:
        file: ``.safetensors``; the ``.safetensors.index.json`` of shards that lie beside it; or what
            ``torch.save`` wrote: a state dict, alone or under one of the names that training scripts give it.

    Raises:
        BadInputError: it is missing, cannot be read, or holds no state dict.
    """
    if not there(file):
        raise BadInputError(
            f"weights {plain(str(file))} is missing or no file, expected a .safetensors file or a state dict."
        )
    try:
        found = _decoded(file)
    except BadInputError:
        raise
    # Two decoders read a stranger's file, and raise whatever its bytes lead them to.
    except Exception as error:
        raise BadInputError(
            f"weights {plain(str(file))} cannot be read ({cause(error)}), expected tensors only; "
            "save model.state_dict() anew."
        ) from error
    found, chosen = _unwrapped(found)
    if not isinstance(found, dict):
        raise BadInputError(
            f"weights {plain(str(file))} hold a {type(found).__name__}, expected a state dict of tensors."
        )
    for key, value in found.items():
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            raise BadInputError(
                f"weights {plain(str(file))} hold a {type(value).__name__} at {shown(key)}, expected a state "
                "dict: names and tensors; save model.state_dict() anew."
            )
    return found, chosen


def fitted(weights: dict[str, Tensor], model: nn.Module) -> tuple[dict[str, Tensor], list[str]]:
    """Weights by the keys of ``model``, and what was adapted, a phrase each.

    A prefix before every key is taken off where no key fits with it. Counters of batches that are missing are 0.
    A key that is missing because ``model`` has one tensor under two keys gets the weights of the other key. What
    remains wrong is left for :func:`kanlib.networks.weights.with_weights` to refuse.
    """
    expected, adapted = model.state_dict(), []
    averaged = "n_averaged" in weights and "n_averaged" not in expected
    if averaged:
        # How many states torch's AveragedModel averaged; it is none of the weights.
        weights = {key: value for key, value in weights.items() if key != "n_averaged"}
        adapted.append("the counter n_averaged was left aside")
    weights, prefix = _unprefixed(weights, expected)
    if prefix:
        adapted.append(f"{plain(prefix)} was taken off every key")
    counters = [key for key in expected if key.endswith("num_batches_tracked") and key not in weights]
    if counters:
        adapted.append(f"{len(counters)} missing counters num_batches_tracked were set to 0")
    weights = weights | {key: torch.zeros_like(expected[key]) for key in counters}
    for keys in tied(model):
        given = [key for key in keys if key in weights]
        for key in keys if given else ():
            if key not in weights:
                weights[key] = weights[given[0]]
                adapted.append(f"{plain(key)} was taken from {plain(given[0])}, which is the same tensor")
    widths = {(value.dtype, expected[key].dtype) for key, value in weights.items() if key in expected}
    for have, want in sorted(widths, key=str):
        if have != want and have.is_floating_point and want.is_floating_point:
            adapted.append(f"numbers of {have} became {want}")
    return weights, adapted


def tied(model: nn.Module) -> list[list[str]]:
    """The keys under which a network keeps one tensor twice or more, a list for each such tensor."""
    keys: dict[int, list[str]] = {}
    for key, value in model.state_dict(keep_vars=True).items():
        keys.setdefault(id(value), []).append(key)
    return [same for same in keys.values() if len(same) > 1]


def _decoded(file: Path) -> Any:
    if file.name.endswith(_INDEX):
        return _of_shards(file)
    if file.suffix == ".safetensors":
        return load_file(file)
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            n_bytes = sum(member.file_size for member in archive.infolist())
        room_for(n_bytes, f"the weights in {plain(file.name)}", "take others")
    with warnings.catch_warnings():
        # Of how a file was written, torch warns; what counts is what it holds.
        warnings.simplefilter("ignore")
        return torch.load(file, map_location="cpu", weights_only=True)


def _of_shards(index: Path) -> dict[str, Tensor]:
    content = json.loads(index.read_bytes())
    shard_of = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shard_of, dict) or not all(isinstance(name, str) for name in shard_of.values()):
        raise BadInputError(
            f"weights {plain(str(index))} has no weight_map from keys to files, expected an index of shards; take "
            "it as it was published."
        )
    shards = {}
    for name in sorted(set(shard_of.values())):
        if Path(name).name != name:
            raise BadInputError(
                f"weights {plain(str(index))} names the shard {shown(name)}, expected a file beside the index; "
                "take it as it was published."
            )
        if not there(index.parent / name):
            raise BadInputError(
                f"weights {plain(str(index))} names the shard {shown(name)}, which is missing; put all shards "
                "beside the index."
            )
        shards[name] = load_file(index.parent / name)
    for key, name in shard_of.items():
        if key not in shards[name]:
            raise BadInputError(
                f"weights {plain(str(index))} has {shown(key)} in the shard {shown(name)}, which does not hold "
                "it; take index and shards of one model."
            )
    return {key: shards[name][key] for key, name in shard_of.items()}


def _unwrapped(found: Any) -> tuple[Any, list[str]]:
    """What lies under the names that training scripts give a state dict, and which of several was taken."""
    chosen = []
    for _ in range(_NESTED):
        names = [name for name in _WRAPPERS if isinstance(found, dict) and isinstance(found.get(name), dict)]
        if not names:
            break
        found = found[names[0]]
        if len(names) > 1:
            chosen.append(f"{names[0]} was taken, not {' or '.join(names[1:])}")
    return found, chosen


def _unprefixed(weights: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Weights without what stands before every key, if some key then fits; and what that was."""
    left, prefix = weights, ""
    for _ in range(_NESTED):
        if left.keys() & expected.keys():
            break
        first = next(iter(left), "").partition(".")[0] + "."
        if not all(key.startswith(first) for key in left):
            break
        left, prefix = {key.removeprefix(first): value for key, value in left.items()}, prefix + first
    return (left, prefix) if left.keys() & expected.keys() else (weights, "")
