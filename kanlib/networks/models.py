"""Classifiers by name, or of the user's own making, and their weights."""

import importlib.util
from pathlib import Path
from typing import Any

import torch
import torchvision
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.transforms.functional import resize, to_tensor
from tqdm import tqdm

from kanlib.errors import BadInputError, nearest
from kanlib.networks import images
from kanlib.networks.images import Images, Labelled, Transform
from kanlib.setups import Training
from kanlib.store import Artifact


def load(p: Training) -> tuple[nn.Module, Images]:
    """The classifier and the data that these knobs ask for: untrained, or with its published weights.

    Raises:
        BadInputError: as :func:`classifier`, :func:`published` and :func:`kanlib.networks.images.read`, or the
            data has a label that the classifier has no logit for.
    """
    weights = None if p.weights is None else published(p.architecture, p.weights, download=p.download)
    return _built(p, weights)


def trained(artifact: Artifact, device: torch.device | None = None) -> tuple[nn.Module, Images]:
    """The classifier that 00_training left behind, in evaluation mode, and its data.

    Its parameters do not ask for gradients.

    Args:
        artifact: what 00_training wrote.
        device: where the classifier is to be; ``None``: on the CPU.

    Raises:
        BadInputError: the weights do not fit the architecture that the record names.
    """
    model, data = _built(Training.of(artifact), artifact.content)
    return model.to(device).requires_grad_(False), data


def _built(p: Training, weights: dict[str, Tensor] | None) -> tuple[nn.Module, Images]:
    """Model and data from the knobs of 00_training; untrained without ``weights``."""

    def data(transform: Transform | None) -> Images:
        return images.read(p.data, size=p.image_size, seed=p.seed, transform=transform, download=p.download)

    def plain(image: Image.Image) -> Tensor:
        return to_tensor(resize(image, [p.image_size] * 2))

    # Nothing is decoded before it is asked for, so that the classes are known before there is a transform.
    found = data(None if p.weights is None else plain)
    n_classes = p.n_classes or len(found.classes)
    highest = int(found.test.labels.max())
    if highest >= n_classes:
        raise BadInputError(f"data {p.data} has label {highest}, expected 0 to {n_classes - 1}; set n_classes.")
    model, transform = classifier(p.architecture, n_classes, small_images=p.small_images, seed=p.seed)
    if p.weights is not None and transform is not None:
        found = data(transform)
    return (with_weights(model, weights) if weights is not None else model), found


def classifier(
    architecture: str, n_classes: int, *, small_images: bool = False, seed: int = 0
) -> tuple[nn.Module, Transform | None]:
    """An untrained classifier, channels-last (faster convolutions), and the transform that goes with it.

    Args:
        architecture: ``torchvision/<name>``, ``timm/<name>``, or ``path/to/file.py:factory``, where
            ``factory(n_classes)`` returns an ``nn.Module``, or a pair of one and its transform from a PIL
            image to ``[3, H, W]``; without one, images are resized and scaled to 0 … 1.
        n_classes: number of logits.
        small_images: replace the stem of a residual network by a 3×3 convolution of stride 1 and leave
            out the max-pool, as is usual for 32×32 images.
        seed: of the initial weights; the global random state is left as found.

    Returns:
        The model and the preprocessing of its published weights, ``None`` where there is none.

    Raises:
        BadInputError: no such model (the nearest name is suggested), or one without that stem.
    """
    source, _, name = architecture.partition("/")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if ".py:" in architecture:
            model, transform = _from_file(architecture, n_classes)
        elif source == "timm":
            model, transform = _from_timm(name, n_classes)
        else:
            model, transform = _from_torchvision(architecture, n_classes)
        if small_images:
            _shrink_stem(model, architecture)
    return model.to(memory_format=torch.channels_last), transform


def _from_torchvision(architecture: str, n_classes: int) -> tuple[nn.Module, Transform | None]:
    source, _, name = architecture.partition("/")
    known = torchvision.models.list_models(module=torchvision.models)
    if source != "torchvision" or name not in known:
        raise BadInputError(
            f"architecture {architecture} is unknown; did you mean torchvision/{nearest(name or source, known)}?"
        )
    default = getattr(torchvision.models.get_model_weights(name), "DEFAULT", None)
    model = torchvision.models.get_model(name, weights=None, num_classes=n_classes)
    return model, default.transforms() if default else None


def _from_timm(name: str, n_classes: int) -> tuple[nn.Module, Transform]:
    timm = _timm()
    if not timm.is_model(name.partition(".")[0]):
        raise BadInputError(
            f"architecture timm/{name} is unknown; did you mean timm/{nearest(name, timm.list_models())}?"
        )
    model = timm.create_model(name, num_classes=n_classes)
    return model, timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))


def _timm() -> Any:
    try:
        import timm
        import timm.data
    except ImportError:
        raise BadInputError("timm is not installed, which architecture timm/… needs; pip install timm.") from None
    return timm


def _from_file(architecture: str, n_classes: int) -> tuple[nn.Module, Transform | None]:
    file, _, factory = architecture.rpartition(":")
    if not Path(file).is_file():
        raise BadInputError(f"architecture {architecture} names no file {file}, expected path/to/file.py:factory.")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    if spec is None or spec.loader is None:
        raise BadInputError(f"architecture {architecture} names {file}, which is no Python file; correct it.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, factory, None)):
        raise BadInputError(f"{file} has no function {factory}; correct architecture.")
    made = getattr(module, factory)(n_classes)
    model, transform = made if isinstance(made, tuple) else (made, None)
    if not isinstance(model, nn.Module):
        raise BadInputError(f"{architecture} returns a {type(model).__name__}, expected an nn.Module.")
    return model, transform


def _shrink_stem(model: nn.Module, architecture: str) -> None:
    stem = getattr(model, "conv1", None)
    if not isinstance(stem, nn.Conv2d) or not hasattr(model, "maxpool"):
        raise BadInputError(f"{architecture} has no conv1 and maxpool to replace; set small_images to false.")
    model.conv1 = nn.Conv2d(stem.in_channels, stem.out_channels, 3, padding=1, bias=stem.bias is not None)
    model.maxpool = nn.Identity()


def published(architecture: str, weights: str, *, download: bool = False) -> dict[str, Tensor]:
    """A state dict, never unpickled beyond tensors.

    Args:
        architecture: as for :func:`classifier`.
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
        return _from_weights(Path(weights))
    if local.is_file():
        return _from_weights(local)
    missing = BadInputError(
        f"weights {weights} of {architecture} are neither at {local} nor in its library's cache"
        + (
            ", and could not be downloaded; set weights to a file."
            if download
            else "; set download to true, or weights to a file."
        )
    )
    if source == "torchvision":
        known = torchvision.models.get_model_weights(name)
        if weights not in known.__members__:
            raise BadInputError(
                f"weights {weights} of {architecture} are unknown; there are {', '.join(known.__members__)}."
            )
        cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(known[weights].url).name
        if not (download or cached.is_file()):
            raise missing
        try:
            return known[weights].get_state_dict(progress=True, check_hash=True)
        except (OSError, RuntimeError) as error:
            raise missing from error
    if source == "timm":
        return _hub_weights(name, download, missing)
    raise BadInputError(f"weights {weights} of {architecture} is no file; set weights to a .safetensors file.")


def _hub_weights(name: str, download: bool, missing: BadInputError) -> dict[str, Tensor]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repository = _timm().create_model(name).pretrained_cfg["hf_hub_id"]
    try:
        file = hf_hub_download(repository, "model.safetensors", local_files_only=not download)
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise missing from error
    return _from_weights(Path(file))


def _from_weights(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise BadInputError(f"weights {file} is missing, expected a .safetensors file or a state dict.")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        found = torch.load(file, map_location="cpu", weights_only=True)
    except (
        SafetensorError,
        RuntimeError,
        OSError,
        EOFError,
        ValueError,
        torch.serialization.pickle.UnpicklingError,
    ) as error:
        raise BadInputError(
            f"weights {file} cannot be read ({str(error).splitlines()[0]}), expected tensors only; "
            "save model.state_dict() anew."
        ) from error
    for key in ("state_dict", "model"):
        found = found.get(key, found) if isinstance(found, dict) else found
    if not (isinstance(found, dict) and all(torch.is_tensor(value) for value in found.values())):
        raise BadInputError(f"weights {file} hold a {type(found).__name__}, expected a state dict of tensors.")
    return found


def with_weights(model: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """``model`` in evaluation mode with these weights.

    Raises:
        BadInputError: a key is missing, left over, of another shape or not finite; the first one is named.
    """
    expected = model.state_dict()
    for key in [*expected, *weights]:
        have = tuple(weights[key].shape) if key in weights else "nothing"
        want = tuple(expected[key].shape) if key in expected else "nothing"
        if have != want:
            raise BadInputError(
                f"the weights hold {have} at {key}, expected {want}; were they trained for this architecture?"
            )
        if not weights[key].isfinite().all():
            raise BadInputError(f"the weights at {key} are not all finite; train the model again.")
    model.load_state_dict(weights)
    return model.eval()


@torch.inference_mode()
def predict(model: nn.Module, split: Labelled, positions: Tensor | None = None, batch_size: int = 100) -> Tensor:
    """Logits ``[n, classes]`` of the images at these positions (``None``: all), read ``batch_size`` at a time."""
    device = next(model.parameters()).device
    positions = torch.arange(len(split)) if positions is None else positions
    bar = tqdm(positions.split(batch_size), "predictions", unit="batch", mininterval=1, leave=False)
    return torch.cat([model(split.read(some).to(device)).cpu() for some in bar])
