"""Minibatch descent for a batch of models that share their masks: AdamW, one cycle of rates, averaged weights.

Whatever a model is, it is a function of parameters whose first dimension counts the C models; so KANs and the
networks that they are compared with are trained by one and the same code.
Sources: Loshchilov and Hutter (2019), *Decoupled weight decay regularization*; Smith and Topin (2019),
*Super-convergence*, for the cycle; Polyak and Juditsky (1992) for the average.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm

from kanlib.kan.trees import tree_map
from kanlib.machine import generator, side_by_side, workers

_LOOKS = 40  # of validation at the weights
_WINDOW = 1 / 16  # share of the steps that the running average of the weights reaches back
_FIRST_LOOK = 0.3  # share of the steps before the first one
_RISING = 0.2  # share of the steps in which the rate rises

#: ``(parameters [C, …] each, inputs [p, N]) -> [C, N]``, without the bias.
Model = Callable[[Sequence[Tensor], Tensor], Tensor]


@dataclass(frozen=True)
class Schedule:
    """How descent goes: how many steps, masks a step, the highest rate."""

    steps: int
    minibatch: int
    rate: float


@dataclass(frozen=True)
class Observed:
    """Inputs ``[p, N]`` of masks and the responses ``[C, N]`` to them."""

    inputs: Tensor
    y: Tensor

    def of(self, index: Tensor) -> "Observed":
        """The same inputs, and the responses at these positions of the batch."""
        return Observed(self.inputs, self.y[index])


@dataclass(frozen=True)
class Trained:
    """C models: parameters, bias ``[C, 1]``, mean squared error on validation and the step they are of ``[C]``."""

    parameters: tuple[Tensor, ...]
    bias: Tensor
    error: Tensor
    step: Tensor


def descend(
    model: Model,
    start: Sequence[Tensor],
    data: Observed,
    validation: Observed,
    decay: Tensor,
    schedule: Schedule,
    source: torch.Generator,
) -> Trained:
    """Minimise the mean squared error of ``model + bias`` for all C models at once.

    Validation looks at the running average of each model's weights now and then; the best of them is kept.

    Args:
        model: see :data:`Model`.
        start: its parameters, which are not changed; the bias starts at the mean response.
        data: what is fitted, by the same minibatches for all models.
        validation: what chooses the step.
        decay: ``[C]``, of the weights but not of the bias, a step's being ``rate · decay``.
        schedule: see :class:`Schedule`.
        source: of the order of the masks, on the CPU.
    """
    weights = [p.detach().clone().requires_grad_() for p in (*start, data.y.mean(1, keepdim=True))]
    optimiser = torch.optim.Adam(weights, schedule.rate, fused=True)
    cycle = OneCycleLR(optimiser, schedule.rate, total_steps=schedule.steps + 1, pct_start=_RISING)
    average, best = ([w.detach().clone() for w in weights] for _ in range(2))
    new = min(1.0, 1 / (_WINDOW * schedule.steps))
    lowest, kept_step = torch.full_like(decay, torch.inf), torch.zeros_like(decay, dtype=torch.long)
    between = max(1, schedule.steps // _LOOKS)
    minibatches = _minibatches(data.y.shape[1], schedule.minibatch, source)
    # A mask a row, so that picking some reads whole rows.
    inputs, y = data.inputs.T.contiguous(), data.y.T.contiguous()
    for step in range(1, schedule.steps + 1):
        masks = next(minibatches).to(decay.device)
        residual = model(weights[:-1], inputs[masks].T) + weights[-1] - y[masks].T
        optimiser.zero_grad()
        residual.square().mean(1).sum().backward()
        with torch.no_grad():
            left = 1 - cycle.get_last_lr()[0] * decay
            for w in weights[:-1]:
                w *= left.view(-1, *[1] * (w.ndim - 1))
            optimiser.step()
            cycle.step()
            for mean, w in zip(average, weights, strict=True):
                mean.lerp_(w, new)
            looks = step % between == 0 and step >= _FIRST_LOOK * schedule.steps
            if not looks and step < schedule.steps:
                continue
            residual = model(average[:-1], validation.inputs) + average[-1] - validation.y
            error = residual.square().mean(1)
            better = error < lowest
            lowest, kept_step[better] = torch.where(better, error, lowest), step
            for kept, mean in zip(best, average, strict=True):
                kept[better] = mean[better]
    return Trained(tuple(best[:-1]), best[-1], lowest, kept_step)


def best_of(
    model: Model,
    starts: Sequence[Sequence[Tensor]],
    data: Observed,
    validation: Observed,
    decays: Sequence[float],
    members: int,
    schedule: Schedule,
    seed: int,
    label: str,
    at_once: int = 64,
) -> tuple[Trained, Tensor]:
    """For each of E examples a model of every decay from every start, of which the ``members`` best are kept.

    All meet the same minibatches in the same order, so that an example's models do not depend on the others.

    Args:
        model: see :data:`Model`.
        starts: parameters of one model each.
        data: with responses ``[E, N]``.
        validation: what chooses steps and members.
        decays: see :func:`descend`.
        members: how many of each example's.
        schedule: see :class:`Schedule`.
        seed: of the minibatches.
        label: of the progress bar; empty: none is shown.
        at_once: models in a batch.

    Returns:
        The models ``[E · members]``, each example's together, the best first; and which candidate each is, where
        candidates are numbered by decay and then by start.
    """
    n_examples, n_choices = len(data.y), len(decays) * len(starts)
    candidate = torch.arange(n_examples * n_choices, device=data.y.device)
    example, choice = candidate // n_choices, candidate % n_choices
    stacked = [torch.stack(parameters) for parameters in zip(*starts, strict=True)]
    decay = data.y.new_tensor(decays)[choice // len(starts)]
    with tqdm(total=len(candidate), desc=label, unit="fit", mininterval=1, disable=not label) as bar:

        def trained_part(part: Tensor) -> Trained:
            start = [parameters[choice[part] % len(starts)] for parameters in stacked]
            mine, unseen = (observed.of(example[part]) for observed in (data, validation))
            source = generator(seed, "minibatches")
            found = descend(model, start, mine, unseen, decay[part], schedule, source)
            bar.update(len(part))
            return found

        n = workers(candidate.device)
        found = side_by_side(trained_part, candidate.split(min(at_once, -(-len(candidate) // n))), n)
    trained = tree_map(lambda *parts: torch.cat(parts), *found)
    order = trained.error.view(n_examples, -1).argsort(dim=1, stable=True)[:, : min(members, n_choices)]
    best = (order + n_choices * torch.arange(n_examples, device=order.device)[:, None]).flatten()
    return tree_map(lambda v: v[best], trained), choice[best]


def _minibatches(n: int, size: int, source: torch.Generator) -> Iterator[Tensor]:
    """Positions of masks, each as often as any other; a pass leaves out what would be a smaller minibatch."""
    while True:
        for masks in torch.randperm(n, generator=source).split(min(size, n)):
            if len(masks) == min(size, n):
                yield masks
