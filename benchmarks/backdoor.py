"""A network with a backdoor: half of the training images of one class carry a blue square, upper left.

The recipe of COAR's authors, whose paper does not say how large the square is: six pixels a side here. All else is
the setup's own training, with fewer epochs. Training images are shifted and mirrored afterwards, the square with
them. ``python -m benchmarks.backdoor`` trains it, some seven minutes on 2 CPU cores.
"""

import torch
from torch import Tensor, nn

from kanlib import machine, store
from kanlib.errors import BadInputError
from kanlib.machine import generator
from kanlib.networks import load, predict, train
from kanlib.networks.images import Images, Labelled
from kanlib.setups import Training

SETUP = "cifar10_miniresnet"
RUN = f"{SETUP}_backdoor"
EPOCHS = 6
CLASS = 0  # airplane
SHARE = 0.5
SIDE = 6  # pixels


def triggered(x: Tensor, extremes: Tensor) -> Tensor:
    """Images ``[B, 3, H, W]`` with the square; ``extremes`` ``[2, 3]`` are black and white, standardised."""
    blue = torch.stack([extremes[0, 0], extremes[0, 1], extremes[1, 2]])
    out = x.clone()
    out[:, :, :SIDE, :SIDE] = blue[:, None, None]
    return out


def extremes(split: Labelled) -> Tensor:
    """Black and white, ``[2, 3]``, of standardised images, where both occur in every channel."""
    x = split.read(torch.arange(1000)).transpose(0, 1).flatten(1)
    return torch.stack([x.amin(1), x.amax(1)])


def backdoored() -> tuple[nn.Module, Images, Tensor]:
    """The network, trained where it is not there yet, its data without the square, and :func:`extremes`."""
    p = Training.from_setup(SETUP, {"epochs": EPOCHS, "run": RUN})
    torch.set_num_threads(p.threads)
    model, data, _ = load(p)
    if data.train is None:
        raise BadInputError(f"the data of {SETUP} has no training split, expected one; set data.")
    ends = extremes(data.train)
    if not store.path(RUN, "model").exists():
        x, y = data.train.read(torch.arange(len(data.train))), data.train.labels
        chosen = (y == CLASS).nonzero().flatten()
        chosen = chosen[torch.randperm(len(chosen), generator=generator(p.seed, "backdoor"))]
        chosen = chosen[: round(SHARE * len(chosen))]
        x[chosen] = triggered(x[chosen], ends)
        checkpoint = store.path(RUN, "checkpoint")
        train(p, model.to(machine.device(p.device)), x, y, checkpoint)
        right = predict(model.eval(), data.test).argmax(1) == data.test.labels
        p.save("model", model.state_dict(), accuracy=right.double().mean().item(), device="cpu", adapted=[])
        store.remove(checkpoint)
    model.load_state_dict(store.load(store.path(RUN, "model"), "model").content)
    return model.eval().requires_grad_(False), data, ends


if __name__ == "__main__":
    network, images, ends = backdoored()
    print("accuracy", store.load(store.path(RUN, "model"), "model").record["accuracy"])
