"""Fitting KANs: candidates compete on some of the masks, the best go on with all, validation chooses."""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from kanlib.errors import BadInputError
from kanlib.kan.gauss_newton import Pairs, Shape
from kanlib.kan.kan import KAN, averaged
from kanlib.kan.search import Found, Problem, Search, first_features
from kanlib.kan.splines import grid_over
from kanlib.kan.trees import tree_map
from kanlib.machine import generator
from kanlib.masks import Split

_BATCH_NUMBERS = 2**24  # in the tensors of one batch of searches


class Knobs(Protocol):
    """What a fit is told; :class:`kanlib.setups.Surrogate` has the defaults and the ranges."""

    @property
    def hidden(self) -> Sequence[int]:
        """Nodes of the hidden layers."""
        ...

    @property
    def grid(self) -> int:
        """Intervals G of each edge's spline."""
        ...

    @property
    def spline_order(self) -> int:
        """Order k of the splines."""
        ...

    @property
    def penalties(self) -> Sequence[float]:
        """On roughness, to choose from."""
        ...

    @property
    def restarts(self) -> int:
        """Random starts for each penalty."""
        ...

    @property
    def finalists(self) -> int:
        """Candidates that go on with all masks."""
        ...

    @property
    def members(self) -> int:
        """How many of the finalists are averaged."""
        ...

    @property
    def iterations(self) -> int:
        """Levenberg–Marquardt steps at most."""
        ...

    @property
    def contest(self) -> int:
        """One in so many masks that candidates compete on; with 1 all take all iterations on all masks."""
        ...

    @property
    def relaxed(self) -> float:
        """What the penalty is multiplied with for the last third of the steps on all masks."""
        ...

    @property
    def outside(self) -> float:
        """Share of a hidden node's values beyond either end of its grid, less than 1/G.

        There a grid is extended by k intervals, which follow rare masks closer than one wide interval would.
        """
        ...

    @property
    def seed(self) -> int:
        """Of the random starts."""
        ...


@dataclass(frozen=True)
class Fit:
    """What :func:`fit` found for each example: penalty, restart and step are those of the best member."""

    kan: KAN
    validation_mse: Tensor
    penalty: Tensor
    restart: Tensor
    steps: Tensor


def fit(data: Split, validation: Split, knobs: Knobs, *, seed: int | None = None, progress: bool = True) -> Fit:
    """Minimise equation 2, ``mean_i (g(σ_i; θ) − y_i)² / var(y) + penalty·roughness(θ)``, for all examples.

    The roughness of an edge is the sum of its spline's squared second differences, with hidden nodes scaled to
    unit variance. For every example ``len(penalties) × restarts`` candidates take half of the ``iterations`` on
    one in ``contest`` masks. The ``finalists`` best on validation go on with all masks and keep their step of
    lowest validation error; the best of them is the result, or the mean of the ``members`` best, which is a KAN
    again.
    Memory is bounded, whatever E: by about 2²⁴ numbers for a batch of searches (or one search's, if that is more)
    and 2²⁶ for products of features, beside the responses themselves.

    Args:
        data: masks ``[N, m]`` and responses ``[E, N]``, fp32 or fp64, on the device that fits.
        validation: others, of the same examples.
        knobs: see :class:`Knobs`.
        seed: of the random starts; ``None``: the knobs'.
        progress: whether a bar shows it.

    Raises:
        BadInputError: responses that are constant or not finite (the example is named), or shapes that differ.
    """
    _check(data, validation)
    masks, y = data.masks, data.responses
    shape = _shape(masks.shape[1], knobs)
    if len(masks) < shape.n_parameters:
        warnings.warn(
            f"a KAN of {shape.n_parameters} parameters is fitted to {len(masks)} masks, so the penalty decides "
            "much of it; record more masks or make it smaller.",
            stacklevel=2,
        )
    first_grid = grid_over(masks.T[None], knobs.grid)
    mean, deviation = y.mean(1, keepdim=True), y.std(1, keepdim=True)
    problem, held_out = (
        Problem(first_features(s.masks, first_grid, shape.order), (s.responses - mean) / deviation)
        for s in (data, validation)
    )
    choices = [(penalty, restart) for penalty in knobs.penalties for restart in range(knobs.restarts)]
    seed = knobs.seed if seed is None else seed
    starts = [_start(shape, restart, seed, masks) for _, restart in choices]
    candidates = _Candidates(
        tuple(torch.stack(layer).repeat(len(y), 1, 1, 1) for layer in zip(*starts, strict=True)),
        (),
        torch.arange(len(choices), device=y.device).repeat(len(y)),
        torch.arange(len(y), device=y.device).repeat_interleave(len(choices)),
    )
    rounds = _rounds(problem, shape, knobs, len(choices))
    members = rounds[-1].kept
    penalties = masks.new_tensor([penalty for penalty, _ in choices])
    found, winners = _contest(rounds, candidates, shape, held_out, penalties, progress)

    example = winners.example
    last = found.coefs[-1] * deviation[example, :, None, None]
    bias = found.bias * deviation[example, 0] + mean[example, 0]
    grids = (first_grid.expand(len(example), -1, -1), *found.grids)
    kan = averaged(KAN(grids, (*found.coefs[:-1], last), bias, shape.order), members)
    error = (kan(validation.masks) - validation.responses).square().mean(1)
    best = torch.arange(0, len(example), members, device=y.device)
    choice = winners.choice[best]
    return Fit(kan, error, penalties[choice], choice % knobs.restarts, found.step[best])


@dataclass(frozen=True)
class _Candidates:
    """Where C candidates stand: all but their last layers, which choice each is, and of which example."""

    coefs: tuple[Tensor, ...]
    grids: tuple[Tensor, ...]
    choice: Tensor
    example: Tensor


@dataclass(frozen=True)
class _Round:
    """Candidates search on these masks for so many steps, and so many of each example's go on."""

    problem: Problem
    kept: int
    steps: int
    relaxed: float


def _rounds(problem: Problem, shape: Shape, knobs: Knobs, n_choices: int) -> list[_Round]:
    finalists = min(max(knobs.finalists, knobs.members), n_choices)
    members = min(knobs.members, finalists)
    if knobs.contest == 1:
        return [_Round(problem, members, knobs.iterations, knobs.relaxed)]
    n_masks = problem.features.shape[1]
    few = problem.part(max(n_masks // knobs.contest, min(n_masks, 2 * shape.n_parameters)))
    half = max(1, knobs.iterations // 2)
    return [_Round(few, finalists, half, 1.0), _Round(problem, members, half, knobs.relaxed)]


def _contest(
    rounds: Sequence[_Round],
    candidates: _Candidates,
    shape: Shape,
    held_out: Problem,
    penalties: Tensor,
    progress: bool,
) -> tuple[Found, _Candidates]:
    """What the last round's winners found, each example's best first, and the winners."""
    n_examples = len(held_out.y)
    entering = [len(candidates.choice), *(n_examples * r.kept for r in rounds[:-1])]
    bar = tqdm(total=sum(entering), desc="KAN fits", unit="search", mininterval=1, disable=not progress)
    with bar:
        for r in rounds:
            found = _searched(candidates, r, shape, held_out, penalties[candidates.choice], bar)
            order = found.error.view(n_examples, -1).argsort(dim=1, stable=True)[:, : r.kept]
            first = len(candidates.choice) // n_examples * torch.arange(n_examples, device=order.device)
            best = (order + first[:, None]).flatten()
            found = tree_map(lambda v, best=best: v[best], found)
            candidates = _Candidates(
                found.coefs[:-1], found.grids[:-1], candidates.choice[best], candidates.example[best]
            )
    return found, candidates


def _searched(
    candidates: _Candidates, r: _Round, shape: Shape, held_out: Problem, penalty: Tensor, bar: tqdm
) -> Found:
    """One search a candidate, as many at a time as memory allows.

    On the CPU every thread searches by itself: the matrices of one search are too small to share.
    """
    example = candidates.example
    pairs = Pairs(r.problem.features)
    workers = torch.get_num_threads() if example.device.type == "cpu" else 1
    size = max(1, _BATCH_NUMBERS // (workers * shape.numbers(r.problem.features.shape[1])))

    def searched(part: Tensor) -> Found:
        mine, unseen = (problem.of(example[part]) for problem in (r.problem, held_out))
        coefs, grids = tree_map(lambda v: v[part], (candidates.coefs, candidates.grids))
        found = Search(shape, mine, pairs, unseen, penalty[part]).run(coefs, grids, r.steps, r.relaxed)
        bar.update(len(part))
        return found

    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            found = list(pool.map(searched, torch.arange(len(example), device=example.device).split(size)))
    finally:
        torch.set_num_threads(workers)
    return tree_map(lambda *parts: torch.cat(parts), *found)


def _check(data: Split, validation: Split) -> None:
    x, y, unseen, truth = data.masks, data.responses, validation.masks, validation.responses
    if y.shape[1] != len(x) or truth.shape != (len(y), len(unseen)):
        raise BadInputError(
            f"responses are {tuple(y.shape)} and {tuple(truth.shape)}, expected {len(y)} examples by "
            f"{len(x)} and {len(unseen)} masks; use the responses recorded with these masks."
        )
    if unseen.shape[1] != x.shape[1]:
        raise BadInputError(
            f"validation masks have {unseen.shape[1]} components, expected {x.shape[1]} as the fit masks."
        )
    for i in (~x.isfinite().all(1)).nonzero().flatten().tolist():
        raise BadInputError(f"mask {i + 1} is not finite, expected numbers; record the responses again.")
    for e in (~(y.std(1) > 0) | ~truth.isfinite().all(1)).nonzero().flatten().tolist():
        raise BadInputError(
            f"responses of example {e + 1} are constant or not finite, so there is nothing to fit; leave it out."
        )


def _shape(m: int, knobs: Knobs) -> Shape:
    if not 0 <= knobs.outside < 1 / knobs.grid:
        raise BadInputError(
            f"outside is {knobs.outside}, expected from 0 to less than 1/{knobs.grid}; set a smaller share."
        )
    return Shape(m, tuple(knobs.hidden), knobs.grid, knobs.spline_order, knobs.outside)


def _start(shape: Shape, restart: int, seed: int, like: Tensor) -> list[Tensor]:
    """Random coefficients of all but the last layer; equal for equal restarts, whatever the batch."""
    source = generator(seed, "kan", restart)
    return [0.3 * torch.randn(s, generator=source, dtype=like.dtype).to(like.device) for s in shape.layers[:-1]]
