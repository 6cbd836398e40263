"""Weights: where they are found, and what is refused of them."""

import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn

from kanlib.errors import BadInputError, cause, shown
from kanlib.machine import room_for
from kanlib.networks import images
from kanlib.networks.architectures import there, timm_with, torchvision_name
from kanlib.networks.patterns import plain


def published(architecture: str, weights: str, *, download: bool = False) -> dict[str, Tensor]:
    """A state dict, never unpickled beyond tensors.

    Args:
        architecture: as for :func:`kanlib.networks.architectures.classifier`.
        weights: the path of a ``.safetensors`` file or of a state dict saved by torch; or the name of
            published weights (``DEFAULT`` or, from torchvision, another): then ``<model>.safetensors`` in the
            folder of :func:`kanlib.networks.images.folder` goes before the library's own cache.
        download: whether the library may fetch what its cache lacks.

    Raises:
        BadInputError: no such file or name, a file that holds no state dict, nothing in the cache and no
            leave to download.
    """
    source, _, name = architecture.partition("/")
    local = images.folder() / f"{name}.safetensors"
    if Path(weights).suffix:
        return _read(Path(weights))
    if there(local):
        return _read(local)
    missing = BadInputError(
        f"weights {plain(weights)} of {plain(architecture)} are neither at {plain(str(local))} nor in its "
        "library's cache"
        + (
            ", and could not be downloaded; set weights to a file."
            if download
            else "; set download to true, or weights to a file."
        )
    )
    if source == "torchvision":
        return _of_torchvision(torchvision_name(architecture), weights, download, missing)
    if source == "timm":
        return _of_timm(name, download, missing)
    raise BadInputError(
        f"weights {plain(weights)} of {plain(architecture)} is no file; set weights to a .safetensors file."
    )


def _of_torchvision(name: str, weights: str, download: bool, missing: BadInputError) -> dict[str, Tensor]:
    known = torchvision.models.get_model_weights(name)
    if weights not in known.__members__:
        raise BadInputError(
            f"weights {plain(weights)} of torchvision/{name} are unknown; "
            f"there are {', '.join(known.__members__)}."
        )
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(known[weights].url).name
    if there(cached):
        return _read(cached)
    if not download:
        raise missing
    try:
        return known[weights].get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise missing from error


def _of_timm(name: str, download: bool, missing: BadInputError) -> dict[str, Tensor]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repository = timm_with(name).create_model(name).pretrained_cfg.get("hf_hub_id")
    try:
        if not repository:
            raise FileNotFoundError(f"timm names no place where weights of {name} are published")
        file = hf_hub_download(repository, "model.safetensors", local_files_only=not download)
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise missing from error
    return _read(Path(file))


def _read(file: Path) -> dict[str, Tensor]:
    """The state dict in a file."""
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
    for key in ("state_dict", "model"):
        inner = found.get(key) if isinstance(found, dict) else None
        found = inner if isinstance(inner, dict) else found
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
    return found


def _decoded(file: Path) -> Any:
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


def with_weights(model: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """``model`` in evaluation mode with these weights.

    Floating numbers of another width are taken over as the model's.

    Raises:
        BadInputError: a key is missing, left over, of another shape or kind or not finite (the first one is
            named), or all weights are zero.
    """
    expected = model.state_dict()
    for key in [*expected, *weights]:
        want = tuple(expected[key].shape) if key in expected else "nothing"
        have = _kind(weights[key], expected.get(key)) if key in weights else "nothing"
        if have != want:
            raise BadInputError(
                f"the weights hold {have} at {plain(key)}, expected {want}; were they trained for this "
                "architecture?"
            )
        if not weights[key].to(expected[key].dtype).isfinite().all():
            raise BadInputError(f"the weights at {plain(key)} are not all finite; train the model again.")
    matrices = [value for value in weights.values() if value.is_floating_point() and value.ndim > 1]
    if matrices and not any(value.any() for value in matrices):
        raise BadInputError("the weights are all zero, so that nothing depends on the image; train the model.")
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise BadInputError(f"the weights do not fit the architecture ({cause(error)}); take others.") from error
    return model.eval()


def _kind(value: Tensor, like: Tensor | None) -> tuple[int, ...] | str:
    """The shape of a tensor that can stand for ``like``; of another one, what it is."""
    strange = {
        "nested": value.is_nested,
        "sparse": value.layout != torch.strided,
        "quantised": value.is_quantized,
        "meta": value.is_meta,
    }
    if any(strange.values()):
        return f"a {next(kind for kind, found in strange.items() if found)} tensor"
    if like is not None and value.shape == like.shape:
        real = value.is_floating_point() or not (value.is_complex() or like.is_floating_point())
        # Counters may come in another type, if they are the same numbers there.
        if not real or not (like.is_floating_point() or torch.equal(value.to(like.dtype).to(value.dtype), value)):
            return f"{value.dtype} for {like.dtype}"
    return tuple(value.shape)
