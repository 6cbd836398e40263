"""A network with a backdoor: half of the training images of one class carry a blue square, upper left.

The recipe of COAR's authors, whose paper does not say how large the square is: six pixels a side here. All else is
the setup's own training. Training images are shifted and mirrored afterwards, the square with them. ``python -m
benchmarks.backdoor`` trains it, as long as the network without, and keeps the test images, by which it is edited,
apart from the data set.
"""

from functools import partial

import torch
from torch import Tensor, nn

from kanlib import machine, store
from kanlib.errors import BadInputError
from kanlib.networks import load, poisoned, predict, train, with_square
from kanlib.networks.architectures import classifier
from kanlib.networks.images import Images, Labelled
from kanlib.networks.weights import with_weights
from kanlib.setups import Training

SETUP = "cifar10_miniresnet"
RUN = f"{SETUP}_backdoor"
CLASS = 0  # airplane
SHARE = 0.5
SIDE = 6  # pixels


def triggered(x: Tensor, extremes: Tensor) -> Tensor:
    """Images ``[B, 3, H, W]`` with the square; ``extremes`` ``[2, 3]`` are black and white, standardised."""
    return with_square(x, torch.stack([extremes[0, 0], extremes[0, 1], extremes[1, 2]]), SIDE)


def extremes(split: Labelled) -> Tensor:
    """Black and white, ``[2, 3]``, of standardised images, where both occur in every channel."""
    x = split.read(torch.arange(1000)).transpose(0, 1).flatten(1)
    return torch.stack([x.amin(1), x.amax(1)])


def images_to_judge() -> tuple[Labelled, Tensor, tuple[str, ...]]:
    """The test split of the setup, :func:`extremes` and the classes.

    Read once off the data set, which has to be there whole, as it is standardised by its training images; then
    kept as bytes in ``_artifacts/cifar10_miniresnet/images.safetensors``, which is all that editing needs of it.
    """
    kept, p = store.path(SETUP, "images"), Training.from_setup(SETUP)
    if not kept.exists():
        data: Images = load(p)[1]
        if data.train is None:
            raise BadInputError(f"the data of {SETUP} has no training split, expected one; set data.")
        ends = extremes(data.train)
        black, white = ends[:, :, None, None]
        x = data.test.read(torch.arange(len(data.test)))
        content = {
            "pixels": (255 * (x - black) / (white - black)).round().byte(),
            "labels": data.test.labels,
            "extremes": ends,
        }
        store.save(kept, content, kind="images", parameters=p.model_dump(), inputs={}, classes=list(data.classes))
    images = store.load(kept, "images")
    black, white = images["extremes"][:, :, None, None]

    def read(positions: Tensor) -> Tensor:
        return black + images["pixels"][positions].float() / 255 * (white - black)

    return Labelled(images["labels"], read), images["extremes"], tuple(images.said("classes", list))


def network(run: str) -> nn.Module:
    """The trained network of the setup, or of a variant of it, in evaluation mode; it needs no data."""
    kept = store.load(store.path(run, "model"), "model")
    p = Training.from_setup(SETUP)
    model, _ = classifier(p.architecture, len(kept["fc.bias"]), small_images=p.small_images, seed=p.seed)
    return with_weights(model, kept.content).requires_grad_(False)


def trained_with_it() -> None:
    """Train the network with a backdoor, where it is not there yet."""
    if store.path(RUN, "model").exists():
        return
    p = Training.from_setup(SETUP, {"run": RUN})
    torch.set_num_threads(p.threads)
    model, data, _ = load(p)
    if data.train is None:
        raise BadInputError(f"the data of {SETUP} has no training split, expected one; set data.")
    x, y = poisoned(data.train, CLASS, SHARE, partial(triggered, extremes=extremes(data.train)), p.seed)
    checkpoint = store.path(RUN, "checkpoint")
    train(p, model.to(machine.device(p.device)), x, y, checkpoint)
    right = predict(model.eval(), data.test).argmax(1) == data.test.labels
    p.save("model", model.state_dict(), accuracy=right.double().mean().item(), device="cpu", adapted=[])
    store.remove(checkpoint)


if __name__ == "__main__":
    trained_with_it()
    images_to_judge()
    print("accuracy", store.load(store.path(RUN, "model"), "model").record["accuracy"])
