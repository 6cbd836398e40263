"""Training of a classifier, resumable after any epoch."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from kanlib import store
from kanlib.errors import BadInputError, cause
from kanlib.machine import enough_memory, generator
from kanlib.networks.outputs import answered, logits_of
from kanlib.setups import Training

_SHIFT = 4


def train(p: Training, model: nn.Module, x: Tensor, y: Tensor, checkpoint: Path | None = None) -> pd.DataFrame:
    """Fit ``model`` by SGD with Nesterov momentum and one cycle of the learning rate (Smith and Topin, 2019).

    The loss is the cross-entropy with smoothed labels. With ``p.augment`` every image is shifted by up to 4
    pixels (reflected at its border) and mirrored half of the time, anew in each epoch. ``p.training_sizes``
    are the sides in pixels to which the images of the first epochs are shrunk, which makes these cheaper.

    Args:
        p: the knobs.
        model: changed in place; on the device it is to be trained on.
        x: images ``[n, 3, H, W]``, fp32, standardised.
        y: labels ``[n]``, int64.
        checkpoint: where weights, momenta and losses are kept after every epoch, and where training goes on
            from if that file was left by a run of the same parameters.

    Returns:
        Columns ``step``, ``epoch`` and ``loss``, a row a step.

    Raises:
        BadInputError: the loss is not finite, the network fails on the images, gives no logits for their labels or
            cannot be differentiated, or the checkpoint does not hold this training.
    """
    if not len(x) or (p.augment and min(x.shape[-2:]) <= _SHIFT):
        raise BadInputError(
            f"there are {len(x)} training images of {list(x.shape[2:])} pixels, expected some, and with augment "
            f"more than {_SHIFT} pixels a side; take other data, or set augment to false."
        )
    optimiser = torch.optim.SGD(
        model.parameters(), p.learning_rate, momentum=0.95, weight_decay=p.weight_decay, nesterov=True
    )
    steps = -(-len(x) // p.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, p.learning_rate, total_steps=p.epochs * steps)
    order = generator(p.seed, "order of images")
    losses = _resumed(p, checkpoint, model, optimiser, schedule, steps)
    done = len(losses) // steps
    model.train()
    with tqdm(total=p.epochs * steps, initial=done * steps, desc="training", unit="step", mininterval=1) as bar:
        for epoch in range(p.epochs):
            batches = torch.randperm(len(x), generator=order).split(p.batch_size)
            if epoch < done:
                continue
            augmentation = generator(p.seed, "augmentation", epoch)
            for batch in batches:
                images = _augmented(x[batch], augmentation) if p.augment else x[batch]
                images = _shrunk(images, p.training_sizes[epoch : epoch + 1])
                losses.append(_step(p, model, images, y[batch], optimiser))
                schedule.step()
                bar.update()
            if not torch.tensor(losses[-1]).isfinite():
                raise BadInputError(f"the loss of epoch {epoch + 1} is {losses[-1]}; lower learning_rate.")
            if checkpoint:
                _keep(p, checkpoint, model, optimiser, losses)
    number = range(1, len(losses) + 1)
    return pd.DataFrame({"step": number, "epoch": [(n - 1) // steps + 1 for n in number], "loss": losses})


def _step(p: Training, model: nn.Module, x: Tensor, y: Tensor, optimiser: torch.optim.Optimizer) -> float:
    device = next(model.parameters()).device
    x = x.to(device, memory_format=torch.channels_last)
    remedy = "raise image_size or training_sizes, or mend the network"
    if len(x) == 1:
        remedy = "set batch_size so that no batch, also the last one, holds a single image"
    with torch.autocast(device.type, torch.bfloat16, enabled=p.precision == "bf16"):
        logits = logits_of(answered(model, x, len(x), remedy), len(x), y)
        loss = F.cross_entropy(logits, y.to(device), label_smoothing=p.label_smoothing)
    optimiser.zero_grad()
    if not loss.requires_grad:
        raise BadInputError(
            "no parameter of the network gets a gradient, expected some to train; let the factory return a "
            "network whose parameters require gradients, or set weights."
        )
    try:
        with enough_memory(len(x)):
            loss.backward()
    except RuntimeError as error:
        raise BadInputError(
            f"the loss of the network cannot be differentiated ({cause(error)}); mend its forward pass."
        ) from error
    optimiser.step()
    return loss.item()


def _augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """Images ``[B, C, H, W]``, each shifted by up to 4 pixels either way and mirrored or not."""
    b, _, height, width = x.shape
    padded = F.pad(x, [_SHIFT] * 4, mode="reflect")
    down, right = torch.randint(2 * _SHIFT + 1, (2, b, 1), generator=generator)
    mirrored = torch.rand(b, 1, generator=generator) < 0.5
    rows = down + torch.arange(height)
    columns = right + torch.where(mirrored, torch.arange(width).flip(0), torch.arange(width))
    return padded[torch.arange(b)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _shrunk(x: Tensor, side: Sequence[int]) -> Tensor:
    if not side or side[0] >= x.shape[-1]:
        return x
    return F.interpolate(x, size=(side[0], side[0]), mode="bilinear", align_corners=False, antialias=True)


def _keep(
    p: Training, checkpoint: Path, model: nn.Module, optimiser: torch.optim.Optimizer, losses: list[float]
) -> None:
    # A weight that has had no gradient yet has no momentum, which is one of zero.
    momenta = {
        name: optimiser.state.get(weight, {}).get("momentum_buffer", torch.zeros_like(weight))
        for name, weight in model.named_parameters()
    }
    store.save(
        checkpoint,
        {f"model.{name}": value for name, value in model.state_dict().items()}
        | {f"momentum.{name}": value for name, value in momenta.items()}
        | {"losses": torch.tensor(losses, dtype=torch.float64)},
        kind="checkpoint",
        parameters=p.model_dump(exclude={"run"}),
        inputs={},
    )


def _resumed(
    p: Training,
    checkpoint: Path | None,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    steps: int,
) -> list[float]:
    if not (checkpoint and checkpoint.exists()):
        return []
    kept = store.load(checkpoint)
    if kept.record["parameters"] != p.model_dump(exclude={"run"}):
        return []
    if (flaw := _flaw(kept.content, model, p.epochs, steps)) is not None:
        raise BadInputError(
            f"{kept.place} does not hold this training: {flaw}; delete it to train from the start."
        )
    model.load_state_dict(kept.part("model."))
    for name, weight in model.named_parameters():
        buffer = kept[f"momentum.{name}"].to(weight.device)
        optimiser.state[weight]["momentum_buffer"] = torch.empty_like(weight).copy_(buffer)
    losses = kept["losses"].tolist()
    with warnings.catch_warnings():
        # It asks for a step of the optimiser before each of its own, and those were made before.
        warnings.simplefilter("ignore", UserWarning)
        for _ in losses:
            schedule.step()
    return losses


def _flaw(content: Mapping[str, Tensor], model: nn.Module, epochs: int, steps: int) -> str | None:
    """What a checkpoint has that this training does not leave, or lacks; ``None``: nothing."""
    expected = {f"model.{name}": value for name, value in model.state_dict().items()}
    expected |= {f"momentum.{name}": weight for name, weight in model.named_parameters()}
    for name in sorted({*expected, *content} - {"losses"}):
        have, want = (
            f"{list(some[name].shape)} of {some[name].dtype}" if name in some else "nothing"
            for some in (content, expected)
        )
        if have != want:
            return f"it has {have} at {name[:60]}, expected {want}"
    losses = content.get("losses")
    if losses is None or losses.dtype != torch.float64 or losses.ndim != 1:
        return "it has no losses"
    if not 0 < len(losses) <= epochs * steps or len(losses) % steps:
        return f"it has {len(losses)} losses, expected {steps} for each of up to {epochs} epochs"
    return next((f"{name} is not finite" for name, value in content.items() if not value.isfinite().all()), None)
