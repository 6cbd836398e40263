"""Untrained classifiers, by name or of the user's own making."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from traceback import walk_tb
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from kanlib.errors import BadInputError, cause, nearest
from kanlib.networks.images import Transform
from kanlib.networks.patterns import plain

_HALF = (torch.float16, torch.bfloat16)
#: What tokens come as; images may be whole numbers too, of 8 bits.
_TOKENS = (torch.int32, torch.int64)


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
        BadInputError: no such model (the nearest name is suggested), one without that stem, a file or a
            factory that fails, or a network that cannot be trained, gated and kept.
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


def single(model: nn.Module) -> tuple[nn.Module, list[str]]:
    """A network of half precision in fp32, as a copy, and a sentence that says so; any other as it is.

    One that was made in torch's inference mode, whose tensors leave no graph, is copied as well; nothing of it
    changes, so nothing is said.

    Raises:
        BadInputError: it cannot be copied.
    """
    halves = sorted({str(value.dtype) for value in model.parameters() if value.dtype in _HALF})
    if not halves:
        made_apart = any(value.is_inference() for value in (*model.parameters(), *model.buffers()))
        return copied(model, "tensors that gradients can pass") if made_apart else model, []
    said = f"The network came in {' and '.join(halves)} and is computed in torch.float32."
    return copied(model, "torch.float32, in which it is computed").float(), [said]


def copied(model: nn.Module, purpose: str) -> nn.Module:
    """A copy of a network, to be turned to other numbers.

    Raises:
        BadInputError: it cannot be copied; ``purpose`` says to what it should have been.
    """
    try:
        return deepcopy(model)
    # A network's own attributes are copied by their own code.
    except Exception as error:
        raise BadInputError(
            f"the network cannot be copied to {purpose} ({cause(error)}); let it keep tensors and modules only."
        ) from error


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Examples in that precision; tokens stay what they are."""
    return x if x.dtype in _TOKENS else x.to(dtype)


def like_masks(model: nn.Module, x: Tensor) -> Tensor:
    """A tensor of the precision and on the device of masks: the examples, or a weight where these are tokens."""
    return next(value for value in (x, *model.parameters(), x.float()) if value.is_floating_point())


def torchvision_name(architecture: str) -> str:
    """The name of a classifier of torchvision, from ``torchvision/<name>``.

    Raises:
        BadInputError: there is none (the nearest one is suggested).
    """
    source, _, name = architecture.partition("/")
    known = torchvision.models.list_models(module=torchvision.models)
    if source != "torchvision" or name not in known:
        near = nearest((name or source)[:60], known)
        raise BadInputError(f"architecture {plain(architecture)} is unknown; did you mean torchvision/{near}?")
    return name


def timm_with(name: str) -> Any:
    """The library timm, which has a model of that name.

    Raises:
        BadInputError: it is not installed, or has none (the nearest one is suggested).
    """
    try:
        import timm
        import timm.data
    except ImportError:
        raise BadInputError("timm is not installed, which architecture timm/… needs; pip install timm.") from None
    if not timm.is_model(name.partition(".")[0]):
        near = nearest(name[:60], timm.list_models())
        raise BadInputError(f"architecture timm/{plain(name)} is unknown; did you mean timm/{near}?")
    return timm


def there(file: str | Path) -> bool:
    """Whether a file is there; a name that no file can have is not."""
    try:
        return Path(file).is_file()
    except (OSError, ValueError):
        return False


def _from_torchvision(architecture: str, n_classes: int) -> tuple[nn.Module, Transform | None]:
    name = torchvision_name(architecture)
    default = getattr(torchvision.models.get_model_weights(name), "DEFAULT", None)
    with _making(architecture):
        model = torchvision.models.get_model(name, weights=None, num_classes=n_classes)
    return model, default.transforms() if default else None


def _from_timm(name: str, n_classes: int) -> tuple[nn.Module, Transform]:
    timm = timm_with(name)
    with _making(f"timm/{name}"):
        model = timm.create_model(name, num_classes=n_classes)
        return model, timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))


def _from_file(architecture: str, n_classes: int) -> tuple[nn.Module, Transform | None]:
    file, _, factory = architecture.rpartition(":")
    if not there(file):
        raise BadInputError(
            f"architecture {plain(architecture)} names no file {plain(file)}, expected path/to/file.py:factory."
        )
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    if spec is None or spec.loader is None:
        raise BadInputError(
            f"architecture {plain(architecture)} names {plain(file)}, which is no Python file; correct it."
        )
    module = importlib.util.module_from_spec(spec)
    with _making(architecture, spec.origin):
        spec.loader.exec_module(module)
        if not callable(make := getattr(module, factory, None)):
            raise BadInputError(f"{plain(file)} has no function {plain(factory)}; correct architecture.")
        made = make(n_classes)
        model, transform = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
        if not isinstance(model, nn.Module) or not (transform is None or callable(transform)):
            found = type(transform if isinstance(model, nn.Module) else model)
            raise BadInputError(
                f"{plain(architecture)} returns a {found.__name__}, expected an nn.Module, or a pair of one and "
                "a transform; correct the factory."
            )
        if (flaw := _flaw(model)) is not None:
            raise BadInputError(f"architecture {plain(architecture)} returns a network that {flaw}.")
    return model, transform


@contextmanager
def _making(architecture: str, file: str | None = None) -> Iterator[None]:
    """Say in a sentence why a classifier could not be made and, of the user's own file, in which line."""
    try:
        yield
    except BadInputError:
        raise
    # What makes a network is anybody's code, which may raise anything, and even exit.
    except (Exception, SystemExit) as error:
        lines = [line for frame, line in walk_tb(error.__traceback__) if frame.f_code.co_filename == file]
        if isinstance(error, SyntaxError) and error.filename == file and error.lineno:
            lines = [error.lineno]
        where = f" in line {lines[-1]} of {plain(Path(file).name)}" if file and lines else ""
        raise BadInputError(
            f"architecture {plain(architecture)} cannot be made: it fails{where} ({cause(error)}); mend it, or "
            "correct architecture or n_classes."
        ) from error


def _flaw(model: nn.Module) -> str | None:
    """What makes a network unfit to be trained, gated and kept; ``None``: nothing."""
    for name, module in model.named_modules():
        # A compiled module keeps the plain one under this name.
        if isinstance(module, torch.jit.ScriptModule) or hasattr(module, "_orig_mod"):
            kind = f"is traced, scripted or compiled at {plain(name) or 'its top'}"
            return f"{kind}, so that its parts cannot be gated; return the plain module"
    parameters = dict(model.named_parameters())
    if not parameters:
        return "has no parameters; return a classifier"
    for name, value in [*parameters.items(), *model.named_buffers()]:
        if is_lazy(value):
            return f"has a lazy layer at {plain(name)}, whose shape is not known yet; give it its sizes"
        if value.is_meta or value.ndim > 4:
            what = "no values (device meta)" if value.is_meta else f"{value.ndim} dimensions, expected 4 at most"
            return f"holds a tensor of {what} at {plain(name)}; return a classifier of images [B, 3, H, W]"
    for name, value in parameters.items():
        if value.dtype not in (torch.float32, *_HALF):
            return f"holds {value.dtype} at {plain(name)}, expected torch.float32; call .float() on it"
    for name, kept in model.state_dict().items():
        if not isinstance(kept, Tensor):
            return f"keeps a {type(kept).__name__} at {plain(name)} of its state, expected tensors; leave it out"
    return None


def _shrink_stem(model: nn.Module, architecture: str) -> None:
    stem = getattr(model, "conv1", None)
    if not isinstance(stem, nn.Conv2d) or not hasattr(model, "maxpool"):
        raise BadInputError(
            f"{plain(architecture)} has no conv1 and maxpool to replace; set small_images to false."
        )
    model.conv1 = nn.Conv2d(stem.in_channels, stem.out_channels, 3, padding=1, bias=stem.bias is not None)
    model.maxpool = nn.Identity()
