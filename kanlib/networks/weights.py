"""Weights: where they are found, and what is refused of them."""

from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from kanlib.errors import BadInputError, cause
from kanlib.networks import images
from kanlib.networks.architectures import there, timm_with, torchvision_name
from kanlib.networks.checkpoints import read, tied
from kanlib.networks.patterns import plain


def published(architecture: str, weights: str, *, download: bool = False) -> tuple[dict[str, Tensor], list[str]]:
    """A state dict, and what was chosen of its file, by :func:`kanlib.networks.checkpoints.read`.

    Args:
        architecture: as for :func:`kanlib.networks.architectures.classifier`.
        weights: the path of a file that :func:`kanlib.networks.checkpoints.read` reads; or the name of published
            weights (``DEFAULT`` or, from torchvision, another): then ``<model>.safetensors`` in the
            folder of :func:`kanlib.networks.images.folder` goes before the library's own cache.
        download: whether the library may fetch what its cache lacks.

    Raises:
        BadInputError: no such file or name, a file that holds no state dict, nothing in the cache and no
            leave to download.
    """
    source, _, name = architecture.partition("/")
    local = images.folder() / f"{name}.safetensors"
    if Path(weights).suffix:
        return read(Path(weights))
    if there(local):
        return read(local)
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


def _of_torchvision(
    name: str, weights: str, download: bool, missing: BadInputError
) -> tuple[dict[str, Tensor], list[str]]:
    known = torchvision.models.get_model_weights(name)
    if weights not in known.__members__:
        raise BadInputError(
            f"weights {plain(weights)} of torchvision/{name} are unknown; "
            f"there are {', '.join(known.__members__)}."
        )
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(known[weights].url).name
    if there(cached):
        return read(cached)
    if not download:
        raise missing
    try:
        return known[weights].get_state_dict(progress=True, check_hash=True, weights_only=True), []
    except (OSError, RuntimeError) as error:
        raise missing from error


def _of_timm(name: str, download: bool, missing: BadInputError) -> tuple[dict[str, Tensor], list[str]]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repository = timm_with(name).create_model(name).pretrained_cfg.get("hf_hub_id")
    try:
        if not repository:
            raise FileNotFoundError(f"timm names no place where weights of {name} are published")
        file = hf_hub_download(repository, "model.safetensors", local_files_only=not download)
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise missing from error
    return read(Path(file))


def with_weights(model: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """``model`` in evaluation mode with these weights.

    Floating numbers of another width are taken over as the model's.

    Raises:
        BadInputError: a key is missing, left over, of another shape or kind or not finite (the first one is
            named), two keys of one tensor differ, or all weights are zero.
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
    for first, other in [(keys[0], other) for keys in tied(model) for other in keys[1:]]:
        if not torch.equal(*(weights[key].to(expected[key].dtype) for key in (first, other))):
            raise BadInputError(
                f"the weights differ at {plain(first)} and {plain(other)}, which are one tensor of the model; "
                "were they trained for this architecture?"
            )
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
