"""Classifiers with their weights and their data, and what they predict."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import resize, to_tensor
from tqdm import tqdm

from kanlib.errors import BadInputError
from kanlib.memory import room_for
from kanlib.networks import images
from kanlib.networks.architectures import classifier, single
from kanlib.networks.checkpoints import fitted
from kanlib.networks.images import Images, Labelled, Transform
from kanlib.networks.outputs import answered, logits_of, reading
from kanlib.networks.patterns import plain
from kanlib.networks.weights import published, with_weights
from kanlib.setups import Training
from kanlib.store import Artifact


def load(p: Training) -> tuple[nn.Module, Images, list[str]]:
    """The classifier and the data that these knobs ask for: untrained, or with its published weights.

    The classifier is in evaluation mode, and has answered to the first test image.

    Returns:
        Model, data, and what was adapted of weights, network and output, a sentence each.

    Raises:
        BadInputError: as :func:`classifier`, :func:`published`, :func:`kanlib.networks.images.read` and
            :func:`predict`, or the data has a label that the classifier has no logit for, or lacks a class of a
            classifier that is to be trained.
    """
    weights, chosen = (
        (None, []) if p.weights is None else published(p.architecture, p.weights, download=p.download)
    )
    model, data, adapted = _built(p, weights, chosen)
    return model.eval(), data, [*adapted, *_first_answer(model, data.test)]


def trained(
    artifact: Artifact, device: torch.device | None = None, setup: str | None = None
) -> tuple[nn.Module, Images]:
    """The classifier that 00_training left behind, in evaluation mode, and its data.

    Its parameters do not ask for gradients, and nothing is downloaded.

    Args:
        artifact: what 00_training wrote.
        device: where the classifier is to be; ``None``: on the CPU.
        setup: whose ``architecture`` may be a file of the user's own; ``None``: none may.

    Raises:
        BadInputError: the weights do not fit the architecture that the record names; or this is a file, which
            would be run, and the setup does not name it.
    """
    p = Training.of(artifact).model_copy(update={"download": False})
    asked = None if setup is None else Training.from_setup(setup).architecture
    if ".py:" in p.architecture and p.architecture != asked:
        raise BadInputError(
            f"the artifact model names the program {plain(p.architecture)}, which runs only where the setup names "
            f"it (it has {plain(str(asked))}); set architecture there, or take another model."
        )
    model, data, _ = _built(p, artifact.content)
    return model.to(device).requires_grad_(False), data


def _built(
    p: Training, weights: dict[str, Tensor] | None, chosen: Sequence[str] = ()
) -> tuple[nn.Module, Images, list[str]]:
    """Model, untrained without ``weights``, data from the knobs of 00_training, and what was adapted of the model.

    ``chosen`` is what was adapted of the weights before.
    """

    def data(transform: Transform | None) -> Images:
        return images.read(p.data, size=p.image_size, seed=p.seed, transform=transform, download=p.download)

    def resized(image: Image.Image) -> Tensor:
        return to_tensor(resize(image, [p.image_size] * 2))

    # Nothing is decoded before it is asked for, so that the classes are known before there is a transform.
    found = data(None if p.weights is None else resized)
    n_classes = p.n_classes or len(found.classes)
    # One logit is asked for by n_classes 1: its sign tells two classes apart.
    _check_labels(p, found, 2 if p.n_classes == 1 else n_classes)
    model, transform = classifier(p.architecture, n_classes, small_images=p.small_images, seed=p.seed)
    if p.weights is not None and transform is not None:
        found = data(transform)
    model, adapted = single(model)
    if weights is not None:
        weights, changes = fitted(weights, model)
        model = with_weights(model, weights)
        if changes := [*chosen, *changes]:
            adapted = [f"The weights were adapted: {'; '.join(changes)}.", *adapted]
    return model, found, adapted


def _check_labels(p: Training, data: Images, n_classes: int) -> None:
    """Refuse labels without a logit and, where a classifier is trained, classes without an image."""
    labels = torch.cat([split.labels for split in (data.train, data.test) if split is not None]).unique()
    for label in labels[(labels < 0) | (labels >= n_classes)].tolist()[-1:]:
        raise BadInputError(
            f"data {plain(p.data)} has label {label}, expected 0 to {n_classes - 1}; set n_classes."
        )
    if p.weights is None and n_classes < 2:
        raise BadInputError(f"data {plain(p.data)} has one class, expected two to tell apart; take other data.")
    missing = sorted(set(range(n_classes)) - set(labels.tolist())) if p.weights is p.n_classes is None else ()
    if missing:
        listed = ", ".join(map(str, missing[:5])) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise BadInputError(
            f"data {plain(p.data)} has no picture of class {listed}, expected one of each to train on; number "
            "classes from 0, or set n_classes."
        )


@torch.inference_mode()
def _first_answer(model: nn.Module, split: Labelled) -> list[str]:
    """How the answer to the first image is read, which is given twice, as a single row could be anything."""
    output = answered(model, split.read(torch.zeros(2, dtype=torch.long)), 2)
    logits_of(output, 2, torch.stack(split.labels.aminmax()))
    return reading(output, 2)


@torch.inference_mode()
def predict(model: nn.Module, split: Labelled, positions: Tensor | None = None, batch_size: int = 100) -> Tensor:
    """Logits ``[n, classes]`` of the images at these positions (``None``: all), read ``batch_size`` at a time.

    Raises:
        BadInputError: the model fails, runs out of memory, or gives no logits ``[n, classes]`` that are numbers.
    """
    device = next((weight.device for weight in model.parameters()), None)
    positions = torch.arange(len(split)) if positions is None else positions
    rows: list[Tensor] = []
    for some in tqdm(positions.split(batch_size), "predictions", unit="batch", mininterval=1, leave=False):
        logits = logits_of(answered(model, split.read(some).to(device), batch_size), len(some)).cpu()
        if logits.isnan().any():
            at = int(some[int(logits.isnan().any(1).nonzero()[0])])
            raise BadInputError(
                f"the logits of the image at position {at} are no numbers (nan), expected finite ones; check the "
                "model's weights and that image."
            )
        if not rows:
            room_for(4 * len(positions) * logits.shape[1], f"logits of {len(positions)} images", "take fewer")
        rows.append(logits)
    return torch.cat(rows)
