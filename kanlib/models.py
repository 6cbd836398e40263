"""Classifiers and the images they classify."""

import difflib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import torchvision
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from kanlib.errors import BadInputError
from kanlib.store import Artifact


@dataclass(frozen=True)
class Images:
    """A labelled data set in two splits: images ``[n, 3, H, W]`` (fp32, standardised), labels ``[n]`` (int64)."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: tuple[str, ...]


def digits(size: int, seed: int) -> Images:
    """scikit-learn's 1,797 scans of handwritten digits, 8×8 in 17 grey levels, enlarged to ``size`` × ``size``.

    A fifth of each class is the test split, drawn by ``seed``. Grey values are standardised by mean and
    standard deviation of the training split, enlarged bilinearly and repeated over three channels.
    Source: Alpaydin and Kaynak (1998), as shipped with scikit-learn.
    """
    raw = load_digits()
    x_train, x_test, y_train, y_test = train_test_split(
        raw.images, raw.target, test_size=0.2, random_state=seed, stratify=raw.target
    )
    mean, std = x_train.mean(), x_train.std()

    def prepared(images) -> Tensor:
        x = torch.from_numpy((images - mean) / std).float()[:, None]
        return F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False).expand(-1, 3, -1, -1)

    return Images(
        prepared(x_train),
        torch.from_numpy(y_train).long(),
        prepared(x_test),
        torch.from_numpy(y_test).long(),
        tuple(str(name) for name in raw.target_names),
    )


def classifier(architecture: str, n_classes: int, *, small_images: bool = False, seed: int = 0) -> nn.Module:
    """An untrained ``torchvision/<name>`` with ``n_classes`` logits, channels-last (faster convolutions).

    Args:
        architecture: ``torchvision/<name>`` of a classifier.
        n_classes: number of logits.
        small_images: replace the stem of a residual network by a 3×3 convolution of stride 1 and leave
            out the max-pool, as is usual for 32×32 images.
        seed: of the initial weights; the global random state is left as found.

    Raises:
        BadInputError: no such model (the nearest name is suggested), or one without that stem.
    """
    source, _, name = architecture.partition("/")
    known = torchvision.models.list_models(module=torchvision.models)
    if source != "torchvision" or name not in known:
        near = difflib.get_close_matches(name or source, known, n=1, cutoff=0)
        raise BadInputError(f"architecture {architecture} is unknown; did you mean torchvision/{near[0]}?")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = torchvision.models.get_model(name, weights=None, num_classes=n_classes)
        if small_images:
            stem = getattr(model, "conv1", None)
            if not isinstance(stem, nn.Conv2d) or not hasattr(model, "maxpool"):
                raise BadInputError(
                    f"{architecture} has no conv1 and maxpool to replace; set small_images to false."
                )
            model.conv1 = nn.Conv2d(stem.in_channels, stem.out_channels, 3, padding=1, bias=stem.bias is not None)
            model.maxpool = nn.Identity()
    return model.to(memory_format=torch.channels_last)


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


def trained(artifact: Artifact) -> tuple[nn.Module, Images]:
    """The classifier that 00_training left behind, in evaluation mode, and its data.

    Raises:
        BadInputError: the weights do not fit the architecture that the record names.
    """
    made = artifact.record["parameters"]
    data = digits(made["image_size"], made["seed"])
    model = classifier(made["architecture"], len(data.classes), small_images=made["small_images"])
    return with_weights(model, artifact.content), data


@torch.inference_mode()
def predict(model: nn.Module, x: Tensor, batch_size: int = 100) -> Tensor:
    """Logits ``[n, classes]`` of images ``[n, ...]``, on the CPU, ``batch_size`` at a time."""
    where = next(model.parameters()).device
    return torch.cat([model(batch.to(where)).cpu() for batch in x.split(batch_size)])


def device(name: str) -> torch.device:
    """The device of that name; ``auto`` is CUDA where there is one, else MPS, else the CPU.

    Raises:
        BadInputError: the device was asked for by name and is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, present in there.items() if present)
    if not there[name]:
        raise BadInputError(f"device {name} is not available here, expected auto, cpu or one that is; set device.")
    if name == "cuda":
        # fp32 as it is recorded, and the same bits every time.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    return torch.device(name)
