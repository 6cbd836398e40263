"""Algorithm 2: prune, replace, refit. From a KAN to closed forms, first the faithful ones, then the short ones."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from kanlib.kan.kan import KAN, weighted_sums
from kanlib.kan.splines import features
from kanlib.masks import Split
from kanlib.metrics import pearson
from kanlib.symbolic import engines
from kanlib.symbolic.closed_forms import ClosedForm
from kanlib.symbolic.edges import of_layer
from kanlib.symbolic.engines import Knobs
from kanlib.symbolic.refit import refitted
from kanlib.symbolic.symbolic_kan import Batch, SymbolicKAN

_REST = 10.0  # what derivatives at rest count against values, see kanlib.symbolic.edges.Rest
#: A node must be worth these shares of the variance of the output, one after the other.
PRICES = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
# A point on the front is refitted this far; the one that is chosen, to the end.
_BRIEF_MASKS = 1000
_BRIEF_STEPS = 6


@dataclass(frozen=True)
class Candidates:
    """What may stand for each edge of one KAN.

    Attributes:
        fronts: ``fronts[layer][i][o]``: closed forms of one edge.
        effects: ``effects[layer][i][o]``: the variance that the edge brings into the output, to first order, as a
            share of the output's.
        bias: of the KAN.
    """

    fronts: list[list[list[list[ClosedForm]]]]
    effects: list[list[list[float]]]
    bias: float

    def chosen(self, choice: Callable[[int, int, int], ClosedForm]) -> SymbolicKAN:
        """The symbolic KAN in which ``choice(layer, i, o)`` stands for each edge."""
        forms = [
            [[choice(layer, i, o) for o in range(len(row))] for i, row in enumerate(rows)]
            for layer, rows in enumerate(self.fronts)
        ]
        return SymbolicKAN.of(forms, self.bias)

    def faithful(self, r2: float) -> SymbolicKAN:
        """The shortest form of each edge with a misfit of at most ``1 − r2``, else the best one."""
        return self.chosen(lambda layer, i, o: engines.shortest(self.fronts[layer][i][o], r2))

    def priced(self, price: float, max_length: float = math.inf) -> SymbolicKAN:
        """The form of each edge for which misfit times effect plus ``price`` times length is lowest.

        An edge that is not worth its price becomes a constant. So does every edge into a node that no edge leads
        out of, for which layers are taken from the last to the first.
        """
        chosen: dict[tuple[int, int, int], ClosedForm] = {}
        wanted = [True]
        for layer in reversed(range(len(self.fronts))):
            before = []
            for i, row in enumerate(self.fronts[layer]):
                for o, forms in enumerate(row):
                    effect = self.effects[layer][i][o] * wanted[o]
                    short = [form for form in forms if form.length <= max_length]
                    costs = [form.known_misfit * effect + price * form.length for form in short]
                    chosen[layer, i, o] = short[costs.index(min(costs))]
                before.append(any(chosen[layer, i, o].template != 0 for o in range(len(row))))
            wanted = before
        return self.chosen(lambda *edge: chosen[edge])


@dataclass(frozen=True)
class Priced:
    """One point on the front of an example: its ``price``, the symbolic KAN, and its validation Pearson."""

    price: float
    symbolic: SymbolicKAN
    pearson: float


def candidates(
    kan: KAN,
    masks: Tensor,
    knobs: Knobs,
    *,
    rest: float = _REST,
    max_length: float = math.inf,
    progress: bool = True,
) -> list[Candidates]:
    """Closed forms for every edge of E KANs, fitted where the fit masks ``[N, m]`` send its inputs.

    Args:
        kan: E fitted KANs.
        masks: fit masks ``[N, m]``.
        knobs: see :class:`kanlib.symbolic.engines.Knobs`.
        rest: what derivatives at σ = 0 count against values; 0: nothing.
        max_length: of the library's families that are tried.
        progress: whether a bar shows it.
    """
    out = []
    for part in torch.arange(len(kan.bias)).split(knobs.block):
        of_part = kan.detached().to(torch.float64).select(part)
        out += _candidates(of_part, masks.double(), knobs, rest, max_length, progress)
    return out


def replace_edges(kan: KAN, masks: Tensor, knobs: Knobs, progress: bool = True) -> list[SymbolicKAN]:
    """Every edge replaced, nothing pruned or refitted: the faithful symbolic KANs of E KANs, with ĝ(0) = 0.

    Args:
        kan: E fitted KANs.
        masks: fit masks ``[N, m]``.
        knobs: see :class:`kanlib.symbolic.engines.Knobs`.
        progress: whether a bar shows it.
    """
    found = candidates(kan, masks, knobs, progress=progress)
    return [of_example.faithful(knobs.r2).through_rest() for of_example in found]


def shorten(
    kan: KAN, data: Split, validation: Split, knobs: Knobs
) -> tuple[list[SymbolicKAN], list[list[Priced]]]:
    """The short symbolic KANs of E KANs: the knee of each example's front, refitted on all masks.

    In blocks of ``knobs.block`` examples, whose refits depend on each other to the last bits. A refit moves
    derivatives at σ = 0, so candidates for it are found without regard to them.

    Args:
        kan: E fitted KANs, to whose validation Pearson each is held.
        data: fit masks and responses.
        validation: others.
        knobs: see :class:`kanlib.symbolic.engines.Knobs`.

    Returns:
        E symbolic KANs, and the fronts that they were chosen from.
    """
    short: list[SymbolicKAN] = []
    fronts: list[list[Priced]] = []
    for at in torch.arange(len(kan.bias)).split(knobs.block):
        found = _shortened(kan.select(at), data.of(at), validation.of(at), knobs)
        short += found[0]
        fronts += found[1]
    return short, fronts


def _shortened(
    kan: KAN, data: Split, validation: Split, knobs: Knobs
) -> tuple[list[SymbolicKAN], list[list[Priced]]]:
    found = candidates(kan, data.masks, knobs, rest=0, max_length=knobs.max_length)
    fronts = front(found, data, validation, max_length=knobs.max_length)
    targets = pearson(kan(validation.masks), validation.responses).tolist()
    knees = [knee(front, target, knobs.budget).symbolic for front, target in zip(fronts, targets, strict=True)]
    return refitted(knees, data, validation, knobs.refit_steps), fronts


def front(
    found: Sequence[Candidates],
    data: Split,
    validation: Split,
    *,
    max_length: float,
    prices: Sequence[float] = PRICES,
) -> list[list[Priced]]:
    """Each example's symbolic KANs at rising prices, refitted briefly: validation Pearson against length.

    A brief refit takes six steps at most, on the first thousand masks.

    Args:
        found: candidates of E examples.
        data: fit masks and responses.
        validation: others.
        max_length: that no edge exceeds before the refit, which may turn a sign, and a minus counts.
        prices: see :meth:`Candidates.priced`.
    """
    fronts: list[list[Priced]] = [[] for _ in found]
    for price in prices:
        priced = [of_example.priced(price, max_length) for of_example in found]
        priced = refitted(priced, data.part(_BRIEF_MASKS), validation, _BRIEF_STEPS)
        scores = pearson(Batch(priced)(validation.masks), validation.responses).nan_to_num(0.0)
        for of_example, symbolic, score in zip(fronts, priced, scores.tolist(), strict=True):
            of_example.append(Priced(price, symbolic, score))
    return fronts


def front_table(fronts: Sequence[Sequence[Priced]]) -> pd.DataFrame:
    """Fronts as rows: ``example``, ``price``, ``length``, ``validation Pearson``."""
    return pd.DataFrame(
        [
            {
                "example": e + 1,
                "price": point.price,
                "length": point.symbolic.length,
                "validation Pearson": point.pearson,
            }
            for e, of_example in enumerate(fronts)
            for point in of_example
        ]
    )


def knee(front: Sequence[Priced], target: float, budget: float) -> Priced:
    """The shortest whose validation Pearson is within ``budget`` of ``target``, else the best one."""
    enough = [point for point in front if point.pearson >= target - budget]
    if enough:
        return min(enough, key=lambda point: point.symbolic.length)
    return max(front, key=lambda point: point.pearson)


def _candidates(
    kan: KAN, masks: Tensor, knobs: Knobs, rest: float, max_length: float, progress: bool
) -> list[Candidates]:
    inputs = kan.activations(masks)
    at_rest = kan.activations(torch.zeros_like(masks[:1]))
    variance = inputs[-1][:, 0].var(1, keepdim=True).clamp_min(1e-300)
    fronts: list[list] = [[] for _ in kan.bias]
    effects: list[list] = [[] for _ in kan.bias]
    for layer, slope in enumerate(_slopes(kan, masks)):
        n, n_out, n_in, _ = kan.coefs[layer].shape
        edges = of_layer(kan, layer, inputs[layer], at_rest[layer], rest)
        found = engines.fronts(edges, knobs, max_length, progress)
        effect = edges.variance.view(n, n_in, n_out) * (slope / variance)[:, None]
        for e in range(n):
            first = e * n_in * n_out
            fronts[e].append([found[first + i * n_out : first + (i + 1) * n_out] for i in range(n_in)])
            effects[e].append(effect[e].tolist())
    return [
        Candidates(of_example, effect, bias)
        for of_example, effect, bias in zip(fronts, effects, kan.bias.tolist(), strict=True)
    ]


def _slopes(kan: KAN, masks: Tensor) -> list[Tensor]:
    """Mean over masks of ``(∂g/∂h)²`` for every node h that each layer leads to, ``[E, out]``."""
    h = masks.T.expand(len(kan.bias), -1, -1)
    nodes = []
    for grid, coef in zip(kan.grids, kan.coefs, strict=True):
        h = weighted_sums(coef, features(h, grid, kan.order)).requires_grad_()
        nodes.append(h)
    return [slope.square().mean(2) for slope in torch.autograd.grad(h.sum(), nodes)]
