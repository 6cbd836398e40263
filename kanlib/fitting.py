"""Fitting KANs: candidates compete on some of the masks, the best go on with all, validation chooses."""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from kanlib.errors import BadInputError
from kanlib.kan import KAN, averaged
from kanlib.levenberg_marquardt import Found, Pairs, Problem, Shape, first_features, laid, mapped, search
from kanlib.setups import generator

_NUMBERS = 2**24  # in the tensors of one batch of searches


@dataclass(frozen=True)
class Fit:
    """What :func:`fit` found for each example: penalty, restart and step are those of the best member."""

    kan: KAN
    validation_mse: Tensor
    penalty: Tensor
    restart: Tensor
    steps: Tensor


def fit(
    x: Tensor,
    y: Tensor,
    x_validation: Tensor,
    y_validation: Tensor,
    *,
    hidden: Sequence[int | Sequence[int]] = (8,),
    grid: int = 5,
    order: int = 3,
    penalties: Sequence[float] = (1e-4, 1e-3),
    restarts: int = 3,
    finalists: int = 2,
    members: int = 1,
    iterations: int = 24,
    contest: int = 4,
    relaxed: float = 1.0,
    outside: float = 0.0,
    seed: int = 0,
    progress: bool = True,
) -> Fit:
    """Minimise equation 2, ``mean_i (g(σ_i; θ) − y_i)² / var(y) + penalty·roughness(θ)``, for all examples.

    The roughness of an edge is the sum of its spline's squared second differences, with hidden nodes scaled to
    unit variance. For every example ``len(penalties) × restarts`` candidates take half of the ``iterations`` on
    one in ``contest`` masks. The ``finalists`` best on validation go on with all masks and keep their step of
    lowest validation error; the best of them is the result, or the mean of the ``members`` best, which is a KAN
    again.
    Memory is bounded, whatever E: by about 2²⁴ numbers for a batch of searches (or one search's, if that is more)
    and 2²⁶ for products of features, beside the responses themselves.

    Args:
        x: fit masks ``[N, m]``, shared by all examples, fp32 or fp64, on the device that fits.
        y: responses ``[E, N]``.
        x_validation: ``[V, m]``.
        y_validation: ``[E, V]``.
        hidden: nodes of the hidden layers; ``(h, q)`` stands for h sums and q products of two sums.
        grid: intervals G of each edge's spline.
        order: spline order k.
        penalties: on roughness, to choose from.
        restarts: random starts for each of them.
        finalists: candidates that go on with all masks.
        members: how many of the finalists are averaged.
        iterations: Levenberg–Marquardt steps at most.
        contest: one in so many masks that candidates compete on; with 1 all take all iterations on all masks.
        relaxed: what the penalty is multiplied with for the last third of the steps on all masks.
        outside: share of a hidden node's values beyond either end of its grid, less than 1/``grid``. There a grid
            is extended by k intervals, which follow rare masks closer than one wide interval would.
        seed: of the random starts.
        progress: whether a bar shows it.

    Raises:
        BadInputError: responses that are constant or not finite (the example is named), or shapes that differ.
    """
    _check(x, y, x_validation, y_validation)
    shape = _shape(x.shape[1], hidden, grid, order, outside)
    if len(x) < shape.n_parameters:
        warnings.warn(
            f"a KAN of {shape.n_parameters} parameters is fitted to {len(x)} masks, so the penalty decides much "
            "of it; record more masks or make it smaller.",
            stacklevel=2,
        )
    first_grid = laid(x.T[None], grid)
    mean, deviation = y.mean(1, keepdim=True), y.std(1, keepdim=True)
    every = Problem(first_features(x, first_grid, order), (y - mean) / deviation)
    held_out = Problem(first_features(x_validation, first_grid, order), (y_validation - mean) / deviation)
    coarse = every.part(max(len(x) // contest, min(len(x), 2 * shape.n_parameters)))

    choices = [(penalty, restart) for penalty in penalties for restart in range(restarts)]
    starts = [_start(shape, restart, seed, x) for _, restart in choices]
    coefs = tuple(torch.stack(layer).repeat(len(y), 1, 1, 1) for layer in zip(*starts, strict=True))
    choice = torch.arange(len(choices), device=x.device).repeat(len(y))
    example = torch.arange(len(y), device=x.device).repeat_interleave(len(choices))
    finalists = min(max(finalists, members), len(choices))
    half, last_kept = max(1, iterations // 2), min(members, finalists)
    if contest == 1:
        stages = [(every, last_kept, iterations, relaxed)]
    else:
        stages = [(coarse, finalists, half, 1.0), (every, last_kept, half, relaxed)]
    grids: tuple[Tensor, ...] = ()
    searches = len(choices) + (finalists if contest > 1 else 0)
    total, shown = len(y) * searches, {"desc": "KAN fits", "unit": "search", "mininterval": 1}
    with tqdm(total=total, disable=not progress, **shown) as bar:
        for problem, kept, *how in stages:
            penalty = x.new_tensor([p for p, _ in choices])[choice]
            found = _searched(shape, coefs, grids, problem, held_out, example, penalty, *how, bar)
            best = found.error.view(len(y), -1).argsort(dim=1, stable=True)[:, :kept]
            best = (best + len(example) // len(y) * torch.arange(len(y), device=x.device)[:, None]).flatten()
            found, choice, example = mapped(lambda v, best=best: v[best], found), choice[best], example[best]
            coefs, grids = found.coefs[:-1], found.grids[:-1]

    last = found.coefs[-1] * deviation[example, :, None, None]
    bias = found.bias * deviation[example, 0] + mean[example, 0]
    all_grids = (first_grid.expand(len(example), -1, -1), *found.grids)
    kan = averaged(KAN(all_grids, (*coefs, last), shape.products, bias, order), kept)
    error = (kan(x_validation) - y_validation).square().mean(1)
    first = torch.arange(0, len(example), kept, device=x.device)
    return Fit(kan, error, penalty[best][first], choice[first] % restarts, found.step[first])


def _check(x: Tensor, y: Tensor, x_validation: Tensor, y_validation: Tensor) -> None:
    if y.shape[1] != len(x) or y_validation.shape != (len(y), len(x_validation)):
        raise BadInputError(
            f"responses are {tuple(y.shape)} and {tuple(y_validation.shape)}, expected {len(y)} examples by "
            f"{len(x)} and {len(x_validation)} masks; use the responses recorded with these masks."
        )
    if x_validation.shape[1] != x.shape[1]:
        raise BadInputError(
            f"validation masks have {x_validation.shape[1]} components, expected {x.shape[1]} as the fit masks."
        )
    for i in (~x.isfinite().all(1)).nonzero().flatten().tolist():
        raise BadInputError(f"mask {i + 1} is not finite, expected numbers; record the responses again.")
    for e in (~(y.std(1) > 0) | ~y_validation.isfinite().all(1)).nonzero().flatten().tolist():
        raise BadInputError(
            f"responses of example {e + 1} are constant or not finite, so there is nothing to fit; leave it out."
        )


def _shape(m: int, hidden: Sequence[int | Sequence[int]], grid: int, order: int, outside: float) -> Shape:
    nodes = tuple((n, 0) if isinstance(n, int) else tuple(n) for n in hidden)
    if not 0 <= outside < 1 / grid:
        raise BadInputError(f"outside is {outside}, expected from 0 to less than 1/{grid}; set a smaller share.")
    for layer, (alone, q) in enumerate(nodes):
        if alone + q == 0:
            raise BadInputError(f"hidden layer {layer + 1} has no nodes, expected one at least; set hidden.")
    return Shape(m, nodes, grid, order, outside)


def _start(shape: Shape, restart: int, seed: int, like: Tensor) -> list[Tensor]:
    """Random coefficients of all but the last layer; equal for equal restarts, whatever the batch."""
    source = generator(seed, "kan", restart)
    return [0.3 * torch.randn(s, generator=source, dtype=like.dtype).to(like.device) for s in shape.layers[:-1]]


def _searched(
    shape: Shape,
    coefs: tuple[Tensor, ...],
    grids: tuple[Tensor, ...],
    problem: Problem,
    held_out: Problem,
    example: Tensor,
    penalty: Tensor,
    steps: int,
    relaxed: float,
    bar: tqdm,
) -> Found:
    """Searches from these coefficients and middle grids for these examples, as many at a time as memory allows.

    On the CPU every thread searches by itself: the matrices of one search are too small to share.
    """
    pairs = Pairs(problem.features)
    workers = torch.get_num_threads() if example.device.type == "cpu" else 1
    size = max(1, _NUMBERS // (workers * shape.numbers(problem.features.shape[1])))

    def searched(part: Tensor) -> Found:
        mine, unseen = (Problem(p.features, p.y[example[part]]) for p in (problem, held_out))
        start = mapped(lambda v: v[part], (coefs, grids))
        found = search(shape, *start, mine, pairs, unseen, penalty[part], steps, relaxed)
        bar.update(len(part))
        return found

    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            found = list(pool.map(searched, torch.arange(len(example), device=example.device).split(size)))
    finally:
        torch.set_num_threads(workers)
    return mapped(lambda *parts: torch.cat(parts), *found)
