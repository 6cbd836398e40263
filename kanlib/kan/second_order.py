"""The contest of second-order fits: candidates compete on some of the masks, the best go on with all."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from kanlib.errors import BadInputError
from kanlib.kan.gauss_newton import Pairs, Shape
from kanlib.kan.kan import KAN
from kanlib.kan.knobs import Knobs
from kanlib.kan.search import Found, Problem, Search, first_features
from kanlib.kan.splines import grid_over
from kanlib.kan.trees import tree_map
from kanlib.machine import generator, side_by_side, workers
from kanlib.masks import Split

_BATCH_NUMBERS = 2**24  # in the tensors of one batch of searches


def contest(
    data: Split,
    validation: Split,
    shape: Shape,
    knobs: Knobs,
    penalties: Sequence[float],
    seed: int,
    progress: bool,
) -> tuple[KAN, Tensor, Tensor]:
    """Levenberg–Marquardt from several starts under several penalties, see :class:`kanlib.kan.search.Search`.

    For every example ``len(penalties) × restarts`` candidates take half of the ``iterations`` on one in
    ``contest`` masks. The ``finalists`` best on validation go on with all masks and keep their step of lowest
    validation error.
    Memory is bounded, whatever E: by about 2²⁴ numbers for a batch of searches (or one search's, if that is more)
    and 2²⁶ for products of features, beside the responses themselves.

    Returns:
        The ``members`` best KANs of each example, the best first, which candidates they are, and their steps.

    Raises:
        BadInputError: ``outside`` leaves nothing within a grid.
    """
    if not 0 <= shape.outside < 1 / shape.grid:
        raise BadInputError(
            f"outside is {shape.outside}, expected from 0 to less than 1/{shape.grid}; set a smaller share."
        )
    masks, y = data.masks, data.responses
    first_grid = grid_over(masks.T[None], knobs.grid)
    problem, held_out = (
        Problem(first_features(s.masks, first_grid, shape.order), s.responses) for s in (data, validation)
    )
    choices = [(penalty, restart) for penalty in penalties for restart in range(knobs.restarts)]
    starts = [_start(shape, restart, seed, masks) for _, restart in choices]
    candidates = _Candidates(
        tuple(torch.stack(layer).repeat(len(y), 1, 1, 1) for layer in zip(*starts, strict=True)),
        (),
        torch.arange(len(choices), device=y.device).repeat(len(y)),
        torch.arange(len(y), device=y.device).repeat_interleave(len(choices)),
    )
    rounds = _rounds(problem, shape, knobs, len(choices))
    weights = masks.new_tensor([penalty for penalty, _ in choices])
    found, winners = _contest(rounds, candidates, shape, held_out, weights, progress)
    grids = (first_grid.expand(len(winners.example), -1, -1), *found.grids)
    return KAN(grids, found.coefs, found.bias, shape.order), winners.choice, found.step


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
    n = workers(example.device)
    size = max(1, _BATCH_NUMBERS // (n * shape.numbers(r.problem.features.shape[1])))

    def searched(part: Tensor) -> Found:
        mine, unseen = (problem.of(example[part]) for problem in (r.problem, held_out))
        coefs, grids = tree_map(lambda v: v[part], (candidates.coefs, candidates.grids))
        found = Search(shape, mine, pairs, unseen, penalty[part]).run(coefs, grids, r.steps, r.relaxed)
        bar.update(len(part))
        return found

    found = side_by_side(searched, torch.arange(len(example), device=example.device).split(size), n)
    return tree_map(lambda *parts: torch.cat(parts), *found)


def _start(shape: Shape, restart: int, seed: int, like: Tensor) -> list[Tensor]:
    """Random coefficients of all but the last layer; equal for equal restarts, whatever the batch."""
    source = generator(seed, "kan", restart)
    return [0.3 * torch.randn(s, generator=source, dtype=like.dtype).to(like.device) for s in shape.layers[:-1]]
