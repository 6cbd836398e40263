"""Refitting: all constants of symbolic surrogates at once, by Levenberg and Marquardt's method."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kanlib.masks import Split
from kanlib.symbolic.edges import OVERHANG
from kanlib.symbolic.symbolic_kan import Batch, SymbolicKAN

_BATCH_NUMBERS = 2**24  # in the Gauss–Newton matrices of one batch
_JACOBIAN_NUMBERS = 2**20  # at a time
_MIN_MASKS = 128  # of a Jacobian at a time, even so
_SMALL_GAIN = 1e-4  # a step that lowers an error by a smaller share is the last one


def refitted(symbolic: Sequence[SymbolicKAN], data: Split, validation: Split, steps: int) -> list[SymbolicKAN]:
    """Every constant of every symbolic KAN moved to lower ``mean_i (ĝ(σ_i) − y_i)²`` on the fit masks.

    Of all steps each keeps the one of lowest validation error; where that is the first, it is returned as it came.
    So it is where an edge would get a pole among its inputs. The response at rest, 0, counts among the others, and
    what is left there in the end is taken off: ĝ(0) = 0.

    Args:
        symbolic: E symbolic KANs.
        data: fit masks and responses of the E examples.
        validation: others.
        steps: at most so many.
    """
    out: list[SymbolicKAN] = []
    size = max(1, _BATCH_NUMBERS // Batch(symbolic).start.shape[1] ** 2)
    for part in torch.arange(len(symbolic)).split(size):
        batch = Batch([symbolic[e] for e in part])
        out += _refitted(batch, data.of(part).with_rest(), validation.of(part), steps)
    return [one.through_rest() for one in out]


def _refitted(batch: Batch, data: Split, validation: Split, steps: int) -> list[SymbolicKAN]:
    masks, y, unseen, truth = data.masks, data.responses, validation.masks, validation.responses
    scale = y.double().std(1, keepdim=True)
    y, truth = y.double() / scale, truth.double() / scale
    constants = batch.start
    damping = torch.full((len(y),), 1e-3, dtype=torch.float64)
    error, gram, descent = _linearised(batch, masks, constants, y, scale)
    best, lowest = constants, _error(truth - batch(unseen, constants) / scale)
    done = torch.zeros(len(y), dtype=torch.bool)
    for _ in range(steps):
        diagonal = gram.diagonal(dim1=1, dim2=2)
        ridge = damping[:, None] * diagonal + 1e-9 * diagonal.amax(1, keepdim=True)
        factor, failed = torch.linalg.cholesky_ex(gram + ridge.diag_embed())
        step = torch.cholesky_solve(descent, factor)[..., 0]
        proposed = constants + step.where((failed == 0)[:, None], torch.zeros_like(step))
        better = ~done & (_error(y - batch(masks, proposed) / scale) < error)
        constants = torch.where(better[:, None], proposed, constants)
        damping = torch.where(better, damping / 4, damping * 4).clamp(1e-8, 1e6)
        if not better.any():
            continue
        before = error
        error, gram, descent = _linearised(batch, masks, constants, y, scale)
        unseen_error = _error(truth - batch(unseen, constants) / scale)
        best = torch.where((unseen_error < lowest)[:, None], constants, best)
        lowest = torch.minimum(unseen_error, lowest)
        done |= better & (error > (1 - _SMALL_GAIN) * before)
        if done.all():
            break
    return [
        moved if _finite(moved, masks) else before
        for before, moved in zip(batch.symbolic, batch.with_constants(best), strict=True)
    ]


def _finite(symbolic: SymbolicKAN, masks: Tensor) -> bool:
    """Whether every edge is finite wherever these masks send its inputs, and a little beyond."""
    for layer, inputs in zip(symbolic.forms, symbolic.activations(masks)[:-1], strict=True):
        low, high = inputs.amin(1), inputs.amax(1)
        pad = OVERHANG * (high - low)
        reach = zip((low - pad).tolist(), (high + pad).tolist(), layer, strict=True)
        if not all(form.finite(first, last) for first, last, row in reach for form in row):
            return False
    return True


def _linearised(
    batch: Batch, masks: Tensor, constants: Tensor, y: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean squared residual ``[E]``, the Gauss–Newton matrix ``[E, P, P]`` and half the descent ``[E, P]``."""
    gram, descent = (constants.new_zeros(*constants.shape, n) for n in (constants.shape[1], 1))
    residuals = []
    size = max(_MIN_MASKS, _JACOBIAN_NUMBERS // constants.numel())
    for part, true in zip(masks.split(size), y.split(size, 1), strict=True):
        predicted, slopes = batch.slopes(part, constants)
        slopes = (slopes / scale[..., None]).nan_to_num(0.0, 0.0, 0.0)
        residuals.append(true - predicted / scale)
        gram.baddbmm_(slopes, slopes.mT)
        descent.baddbmm_(slopes, residuals[-1][..., None])
    return _error(torch.cat(residuals, 1)), gram, descent


def _error(residual: Tensor) -> Tensor:
    return residual.square().mean(1).nan_to_num(torch.inf)
