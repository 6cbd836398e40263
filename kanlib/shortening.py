"""Algorithm 2: prune, replace, refit. From a KAN to closed forms, first the faithful ones, then the short ones."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from kanlib import engines
from kanlib import refit as refitting
from kanlib.closed_forms import ClosedForm
from kanlib.edges import of_layer
from kanlib.kan import KAN, mixed, multiplied
from kanlib.metrics import pearson
from kanlib.splines import features
from kanlib.symbolic import Batch, SymbolicKAN

_REST = 10.0  # what derivatives at rest count against values, see kanlib.edges.Rest
_EXAMPLES = 16  # whose activations are held at a time
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
        products: of the KAN.
        bias: of the KAN.
    """

    fronts: list[list[list[list[ClosedForm]]]]
    effects: list[list[list[float]]]
    products: tuple[int, ...]
    bias: float

    def network(self, choice: Callable[[int, int, int], ClosedForm]) -> SymbolicKAN:
        """The network in which ``choice(layer, i, o)`` stands for each edge."""
        edges = [
            [[choice(layer, i, o) for o in range(len(row))] for i, row in enumerate(rows)]
            for layer, rows in enumerate(self.fronts)
        ]
        return SymbolicKAN.of(edges, self.products, self.bias)

    def faithful(self, r2: float, max_nodes: float = math.inf) -> SymbolicKAN:
        """The shortest form of each edge with a misfit of at most ``1 − r2``, else the best one."""
        return self.network(lambda layer, i, o: engines.shortest(self.fronts[layer][i][o], r2, max_nodes))

    def priced(self, price: float, max_nodes: float = math.inf) -> SymbolicKAN:
        """The form of each edge for which misfit times effect plus ``price`` times nodes is lowest.

        An edge that is not worth its price becomes a constant. So does every edge into a node that no edge leads
        out of, for which layers are taken from the last to the first.
        """
        chosen: dict[tuple[int, int, int], ClosedForm] = {}
        wanted = [True]
        for layer in reversed(range(len(self.fronts))):
            q = self.products[layer]
            alone = len(wanted) - q
            of_sums = wanted[:alone] + [w for w in wanted[alone:] for _ in range(2)]
            wanted = []
            for i, row in enumerate(self.fronts[layer]):
                for o, forms in enumerate(row):
                    effect = self.effects[layer][i][o] * of_sums[o]
                    short = [form for form in forms if form.complexity <= max_nodes]
                    chosen[layer, i, o] = min(
                        short, key=lambda f, effect=effect: f.misfit * effect + price * f.complexity
                    )
                wanted.append(any(chosen[layer, i, o].template != 0 for o in range(len(row))))
        return self.network(lambda *edge: chosen[edge])


@dataclass(frozen=True)
class Stage:
    """One point on the front of an example: its ``price``, the network, and its Pearson on validation masks."""

    price: float
    form: SymbolicKAN
    pearson: float


def candidates(kan: KAN, masks: Tensor, *, rest: float = _REST, **options) -> list[Candidates]:
    """Closed forms for every edge of E KANs, fitted where the fit masks ``[N, m]`` send its inputs.

    Args:
        kan: E fitted KANs.
        masks: fit masks ``[N, m]``.
        rest: what derivatives at σ = 0 count against values; 0: nothing.
        options: see :func:`kanlib.engines.fronts`.
    """
    out = []
    for part in torch.arange(len(kan.bias)).split(_EXAMPLES):
        out += _candidates(_doubled(kan.select(part)), masks.double(), rest, options)
    return out


def symbolic_kans(kan: KAN, masks: Tensor, *, r2: float = 0.9999, **options) -> list[SymbolicKAN]:
    """Every edge replaced, nothing pruned or refitted: the faithful forms of E KANs.

    Args:
        kan: E fitted KANs.
        masks: fit masks ``[N, m]``.
        r2: edge R² at which the shortest closed form is taken.
        options: see :func:`candidates`.
    """
    return [found.faithful(r2) for found in candidates(kan, masks, **options)]


def front(
    found: Sequence[Candidates],
    masks: Tensor,
    responses: Tensor,
    unseen: Tensor,
    truth: Tensor,
    *,
    prices: Sequence[float] = PRICES,
    max_nodes: float = 12,
) -> list[list[Stage]]:
    """Each example's networks at rising prices, refitted briefly: a front of validation Pearson against length.

    A brief refit takes six steps at most, on the first thousand masks; :func:`shortened` goes on from there.
    The refit moves derivatives at σ = 0, so candidates for it are best found with ``rest=0``.

    Args:
        found: candidates of E examples.
        masks: fit masks ``[N, m]``.
        responses: ``[E, N]``.
        unseen: validation masks ``[V, m]``.
        truth: responses to them, ``[E, V]``.
        prices: see :meth:`Candidates.priced`.
        max_nodes: complexity that no edge exceeds before the refit, which may turn a sign, and a minus counts.
    """
    few, to_few = masks[:_BRIEF_MASKS], responses[:, :_BRIEF_MASKS]
    stages: list[list[Stage]] = [[] for _ in found]
    for price in prices:
        forms = [of_example.priced(price, max_nodes) for of_example in found]
        forms = refitting.refitted(forms, few, to_few, unseen, truth, _BRIEF_STEPS)
        scores = pearson(Batch(forms)(unseen), truth).nan_to_num(0.0)
        for of_example, form, score in zip(stages, forms, scores.tolist(), strict=True):
            of_example.append(Stage(price, form, score))
    return stages


def shortened(
    stages: Sequence[Sequence[Stage]],
    references: Sequence[float],
    masks: Tensor,
    responses: Tensor,
    unseen: Tensor,
    truth: Tensor,
    *,
    budget: float = 0.005,
    steps: int = 24,
) -> list[SymbolicKAN]:
    """The :func:`knee` of every example's front, refitted on all masks.

    Args:
        stages: E fronts.
        references: validation Pearson that each is held to.
        masks: fit masks ``[N, m]``.
        responses: ``[E, N]``.
        unseen: validation masks ``[V, m]``.
        truth: responses to them, ``[E, V]``.
        budget: what may be lost.
        steps: of the refit.
    """
    forms = [knee(front, reference, budget).form for front, reference in zip(stages, references, strict=True)]
    return refitting.refitted(forms, masks, responses, unseen, truth, steps)


def table(stages: Sequence[Sequence[Stage]]) -> pd.DataFrame:
    """Fronts as rows: ``example``, ``price``, ``nodes``, ``validation Pearson``."""
    return pd.DataFrame(
        [
            {
                "example": e + 1,
                "price": stage.price,
                "nodes": stage.form.complexity,
                "validation Pearson": stage.pearson,
            }
            for e, of_example in enumerate(stages)
            for stage in of_example
        ]
    )


def knee(stages: Sequence[Stage], reference: float, budget: float) -> Stage:
    """The shortest network whose validation Pearson is within ``budget`` of ``reference``, else the best one."""
    enough = [stage for stage in stages if stage.pearson >= reference - budget]
    if enough:
        return min(enough, key=lambda stage: stage.form.complexity)
    return max(stages, key=lambda stage: stage.pearson)


def best_of(stages: Sequence[Sequence[Stage]], nodes: int) -> tuple[int, SymbolicKAN]:
    """An example and its network: of all with at most so many ``nodes`` that of highest validation Pearson.

    Where no network is that short, it is one of the shortest of every example.
    """
    all_stages = [(e, stage) for e, front in enumerate(stages) for stage in front]
    short = [(e, stage) for e, stage in all_stages if stage.form.complexity <= nodes]
    if not short:
        short = [(e, min(front, key=lambda stage: stage.form.complexity)) for e, front in enumerate(stages)]
    example, stage = max(short, key=lambda found: found[1].pearson)
    return example, stage.form


def _candidates(kan: KAN, masks: Tensor, rest: float, options: dict) -> list[Candidates]:
    inputs = kan.activations(masks)
    at_rest = kan.activations(torch.zeros_like(masks[:1]))
    variance = inputs[-1][:, 0].var(1, keepdim=True).clamp_min(1e-300)
    fronts: list[list] = [[] for _ in kan.bias]
    effects: list[list] = [[] for _ in kan.bias]
    for layer, slope in enumerate(_slopes(kan, masks)):
        n, n_out, n_in, _ = kan.coefs[layer].shape
        edges = of_layer(kan, layer, inputs[layer], at_rest[layer], rest)
        found = engines.fronts(edges, **options)
        effect = edges.spread.view(n, n_in, n_out) * (slope / variance)[:, None]
        for e in range(n):
            first = e * n_in * n_out
            fronts[e].append([found[first + i * n_out : first + (i + 1) * n_out] for i in range(n_in)])
            effects[e].append(effect[e].tolist())
    return [
        Candidates(of_example, effect, kan.products, bias)
        for of_example, effect, bias in zip(fronts, effects, kan.bias.tolist(), strict=True)
    ]


def _slopes(kan: KAN, masks: Tensor) -> list[Tensor]:
    """Mean over masks of ``(∂g/∂s)²`` for every sum s of each layer, ``[E, sums]``."""
    h = masks.T.expand(len(kan.bias), -1, -1)
    sums = []
    for grid, coef, q in zip(kan.grids, kan.coefs, kan.products, strict=True):
        sums.append(mixed(coef, features(h, grid, kan.order)).requires_grad_())
        h = multiplied(sums[-1], q)
    return [slope.square().mean(2) for slope in torch.autograd.grad(h.sum(), sums)]


def _doubled(kan: KAN) -> KAN:
    grids, coefs = (tuple(v.detach().double() for v in layers) for layers in (kan.grids, kan.coefs))
    return KAN(grids, coefs, kan.products, kan.bias.detach().double(), kan.order)
