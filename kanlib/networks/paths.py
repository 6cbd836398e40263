"""Derivatives of a network's output at its components on the way from an input of zeros to the example."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from tqdm import tqdm

from kanlib.errors import BadInputError
from kanlib.networks.derivatives import slopes
from kanlib.networks.outputs import answered, values
from kanlib.networks.parts import n_heads
from kanlib.networks.patterns import Member, members, plain
from kanlib.networks.probe import Probe

_REMEDY = "leave the methods out that integrate along a path"


def along_path(
    probe: Probe, steps: int = 20, examples_at_once: int = 64, progress: str | None = "path"
) -> tuple[Tensor, Tensor]:
    """Neuron conductance and internal influence of filters and features, ``[E, m]`` each (fp32, on the CPU).

    On the way ``x_a = a z`` to the example z from an input of zeros, which is the mean colour where images are
    standardised, with ``y_j(a)`` what component j puts out at a, and ``∂f/∂y_j`` the slope of the output function
    there; both are summed over its pixels or tokens:

    - conductance ``∫ ∂f/∂y_j · dy_j/da da``, the sum over neighbouring points of the slope at the first times the
      difference of ``y_j``;
    - influence ``∫ ∂f/∂y_j da``.

    The points ``a`` are the ``steps + 1`` nodes of Gauss and Legendre, with whose weights influence is summed.

    Args:
        probe: of filters of convolutions or features of linear layers.
        steps: intervals of the path.
        examples_at_once: in one pass.
        progress: what the bar is called; ``None``: there is none.

    Raises:
        BadInputError: a component is no filter or feature, or the network cannot be differentiated.

    Source: Dhamdhere, Sundararajan and Yan (2019), equation 3; Leino et al. (2018), definition 1; a
    coefficient a component, as COAR's authors use them.
    """
    nodes, weights = np.polynomial.legendre.leggauss(steps + 1)
    places, share = (nodes + 1) / 2, weights / 2
    columns = _columns(probe)
    found = torch.zeros(2, len(probe.x), len(probe.components))
    batches = torch.arange(len(probe.x)).split(examples_at_once)
    with tqdm(total=len(batches) * len(places), desc=progress, disable=progress is None, mininterval=1) as bar:
        for rows in batches:
            before: dict[str, tuple[Tensor, Tensor]] = {}
            for place, weight in zip(places.tolist(), share.tolist(), strict=True):
                now = _slopes(probe, rows, place, list(columns))
                for name, (numbers, where) in columns.items():
                    y, slope = now[name]
                    found[1][rows[:, None], where] += weight * slope.sum(-1)[:, numbers]
                    if name in before:
                        old, old_slope = before[name]
                        found[0][rows[:, None], where] += (old_slope * (y - old)).sum(-1)[:, numbers]
                before = now
                bar.update()
    return found[0], found[1]


def _columns(probe: Probe) -> dict[str, tuple[Tensor, Tensor]]:
    """By module: the numbers of its parts that are components, and the columns of these."""
    found: dict[str, tuple[list[int], list[int]]] = {}
    for member, j in zip(*members(probe.model, probe.components), strict=True):
        if member.part is None or n_heads(probe.model.get_submodule(member.module)) is not None:
            raise _no_feature(member)
        numbers, columns = found.setdefault(member.module, ([], []))
        numbers.append(member.part)
        columns.append(j)
    return {name: (torch.tensor(parts), torch.tensor(columns)) for name, (parts, columns) in found.items()}


def _no_feature(member: Member) -> BadInputError:
    return BadInputError(
        f"component {plain(str(member))} is neither a filter nor a feature, expected one of these for conductance "
        f"and influence; {_REMEDY}."
    )


@contextmanager
def _watched(model: nn.Module, names: list[str]) -> Iterator[dict[str, Tensor]]:
    """What these modules put out in a forward pass, by name."""
    seen: dict[str, Tensor] = {}

    def keep(name: str, y: Tensor) -> Tensor:
        # A copy goes on, so that what later works in place leaves what was seen as it is.
        seen[name] = y
        return y.clone()

    handles = [
        model.get_submodule(name).register_forward_hook(lambda _, __, y, name=name: keep(name, y))
        for name in names
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _slopes(probe: Probe, rows: Tensor, place: float, names: list[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """What modules put out at a point of the path, and the output function's slope in it, ``[B, parts, …]``."""
    rows = rows.to(probe.x.device)
    x = (place * probe.x[rows]).requires_grad_(True)
    with _watched(probe.model, names) as seen:
        output = answered(probe.model, x, len(x))
        (value,) = values(output, probe.labels[rows], [probe.output_function])
    for name in set(names) - seen.keys():
        raise BadInputError(f"module {plain(name)} does not run in a forward pass; leave it out.")
    found = slopes(value, [seen[name] for name in names], 1, _REMEDY)
    both: dict[str, tuple[Tensor, Tensor]] = {}
    for name, slope in zip(names, found, strict=True):
        y = seen[name].detach()
        axis = 1 if isinstance(probe.model.get_submodule(name), _ConvNd) else -1
        slope = torch.zeros_like(y) if slope is None else slope
        both[name] = tuple(t.movedim(axis, 1).reshape(len(y), y.shape[axis], -1).cpu() for t in (y, slope))  # type: ignore[assignment]
    return both
