"""A KAN whose edges are closed forms: one expression, and a batch of them as one function of all constants."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd
import sympy
import torch
from torch import Tensor

from kanlib.closed_forms import ClosedForm, X, compiled, nodes
from kanlib.kan import multiplied


@dataclass(frozen=True)
class SymbolicKAN:
    """A KAN whose edges are closed forms without offsets.

    Attributes:
        edges: ``edges[layer][i][o]`` leads from node i to sum o of the next layer.
        products: for each layer the number of product nodes it ends in, see :class:`kanlib.kan.KAN`.
        biases: ``biases[layer][o]``, added to each sum.
    """

    edges: Sequence[Sequence[Sequence[ClosedForm]]]
    products: Sequence[int]
    biases: Sequence[Sequence[float]]

    @classmethod
    def of(
        cls, edges: Sequence[Sequence[Sequence[ClosedForm]]], products: Sequence[int], bias: float
    ) -> "SymbolicKAN":
        """The network of these edges, whose offsets go to the nodes, and ``bias`` to the output."""
        biases = [[sum(row[o].offset for row in layer) for o in range(len(layer[0]))] for layer in edges]
        biases[-1][0] += bias
        bare = [[[form.without_offset for form in row] for row in layer] for layer in edges]
        return cls(bare, list(products), biases)

    @cached_property
    def symbols(self) -> tuple[sympy.Symbol, ...]:
        """σ_1, …, σ_m."""
        return self.nodes(0)

    def nodes(self, layer: int) -> tuple[sympy.Symbol, ...]:
        """What enters a layer: ``σ_1, …`` the first, ``h_1, …`` a later one."""
        return sympy.symbols(f"{'h' if layer else 'sigma'}_1:{len(self.edges[layer]) + 1}", real=True)

    @cached_property
    def sums(self) -> list[list[list[sympy.Expr]]]:
        """The terms of each sum of each layer, in what enters it; the bias last."""
        return [
            [
                [row[o].expression.subs(X, node) for row, node in zip(edges, self.nodes(layer), strict=True)]
                + [sympy.Float(bias)]
                for o, bias in enumerate(biases)
            ]
            for layer, (edges, biases) in enumerate(zip(self.edges, self.biases, strict=True))
        ]

    @cached_property
    def hidden(self) -> list[list[sympy.Expr]]:
        """What each layer puts out, as expressions in what enters it."""
        return [
            paired([sum(terms, sympy.Integer(0)) for terms in sums], q)
            for sums, q in zip(self.sums, self.products, strict=True)
        ]

    @cached_property
    def expression(self) -> sympy.Expr:
        """``ĝ(σ)``, the whole surrogate as one expression."""
        values = list(self.symbols)
        for layer, outputs in enumerate(self.hidden):
            inside = dict(zip(self.nodes(layer), values, strict=True))
            values = [output.xreplace(inside) for output in outputs]
        return values[0]

    @property
    def complexity(self) -> int:
        """Operations and leaves of all layers' expressions together."""
        used = self.used
        return sum(
            nodes(output)
            for layer, outputs in enumerate(self.hidden)
            for o, output in enumerate(outputs)
            if layer == len(self.hidden) - 1 or o in used[layer + 1]
        )

    @cached_property
    def used(self) -> list[set[int]]:
        """For each layer the nodes that something leads on from to the output."""
        out: list[set[int]] = []
        wanted = {0}
        for edges, q in zip(reversed(self.edges), reversed(self.products), strict=True):
            alone = len(edges[0]) - 2 * q
            sums = {o for o in wanted if o < alone}
            sums |= {alone + 2 * (o - alone) + side for o in wanted if o >= alone for side in (0, 1)}
            wanted = {i for i, row in enumerate(edges) if any(row[o].template != 0 for o in sums)}
            out.append(wanted)
        return out[::-1]

    def __call__(self, masks: Tensor) -> Tensor:
        """``ĝ(σ)`` ``[N]`` (fp64) at masks ``[N, m]``."""
        return Batch([self])(masks)[0]

    def activations(self, masks: Tensor) -> list[Tensor]:
        """What enters each layer, and last the output, ``[width, N]`` each."""
        return [h[0] for h in Batch([self]).activations(masks)]

    def to_json(self) -> dict:
        """A JSON value from which :meth:`from_json` restores every number exactly."""
        return {
            "biases": [list(layer) for layer in self.biases],
            "products": list(self.products),
            "edges": [[[form.to_json() for form in row] for row in layer] for layer in self.edges],
        }

    @classmethod
    def from_json(cls, value: dict) -> "SymbolicKAN":
        """Read :meth:`to_json`."""
        edges = [[[ClosedForm.from_json(form) for form in row] for row in layer] for layer in value["edges"]]
        return cls(edges, value["products"], value["biases"])


def edge_table(forms: Sequence[SymbolicKAN]) -> pd.DataFrame:
    """A row for each edge of these networks: ``example``, ``layer``, ``kept``, ``R²``, ``complexity``.

    An edge that is not kept is a constant.
    """
    return pd.DataFrame(
        [
            {
                "example": e + 1,
                "layer": layer + 1,
                "kept": edge.template != 0,
                "R²": edge.r2,
                "complexity": edge.complexity,
            }
            for e, form in enumerate(forms)
            for layer, rows in enumerate(form.edges)
            for row in rows
            for edge in row
        ]
    )


def paired(sums: list, q: int) -> list:
    """The last 2q sums multiplied in pairs of neighbours, after those that stand alone."""
    alone = len(sums) - 2 * q
    return [*sums[:alone], *(a * b for a, b in zip(sums[alone::2], sums[alone + 1 :: 2], strict=True))]


#: Of constants ``[E, P]``: those of a group of edges, or of a layer's biases.
_Place = tuple[Tensor, Tensor] | tuple[slice, slice]


@dataclass(frozen=True)
class _Group:
    """The edges of one layer, over all networks, that share a template."""

    function: Callable
    network: Tensor
    node: Tensor
    sum: Tensor
    places: Tensor


class Batch:
    """E symbolic KANs of one shape as one function of masks and of all their constants.

    Attributes:
        start: their constants ``[E, P]``, edge by edge, then the biases; rows are filled up with zeros.
    """

    def __init__(self, forms: Sequence[SymbolicKAN]):
        self.forms = list(forms)
        rows: list[list[float]] = [[] for _ in self.forms]
        groups: list[dict] = [defaultdict(list) for _ in self.forms[0].edges]
        for e, form in enumerate(self.forms):
            for layer, edges in enumerate(form.edges):
                for i, row in enumerate(edges):
                    for o, edge in enumerate(row):
                        places = range(len(rows[e]), len(rows[e]) + len(edge.constants))
                        rows[e] += edge.constants
                        groups[layer][edge.template, len(edge.constants)].append((e, i, o, *places))
        self._layers = [
            [
                _Group(compiled(template, n), *index[:3], index[3:])
                for (template, n), found in of_layer.items()
                if template != 0
                for index in (torch.tensor(found).T,)
            ]
            for of_layer in groups
        ]
        biases = [[bias for layer in form.biases for bias in layer] for form in self.forms]
        width = max(map(len, rows))
        filled = [row + [0.0] * (width - len(row)) + more for row, more in zip(rows, biases, strict=True)]
        self.start = torch.tensor(filled, dtype=torch.float64)

    def __call__(self, masks: Tensor, constants: Tensor | None = None) -> Tensor:
        """``ĝ(σ)`` ``[E, N]`` (fp64), with ``constants`` ``[E, P]`` in place of ``start``.

        At masks ``[N, m]``, or each network at its own, ``[E, N, m]``.
        """
        return self.activations(masks, constants)[-1][:, 0]

    def activations(self, masks: Tensor, constants: Tensor | None = None) -> list[Tensor]:
        """What enters each layer, and last the output: ``[E, width, N]`` each."""
        c = self.start if constants is None else constants
        return self._activations(masks, lambda place: c[place][..., None])

    def slopes(self, masks: Tensor, constants: Tensor) -> tuple[Tensor, Tensor]:
        """``ĝ(σ)`` ``[E, N]`` at masks and its derivatives ``[E, P, N]`` by ``constants`` ``[E, P]``."""
        places: list[_Place] = []
        copies: list[Tensor] = []

        def copied(place: _Place) -> Tensor:
            # One of each constant for each mask, so that one backward pass gives every mask's own derivatives.
            at = constants[place][..., None]
            places.append(place)
            copies.append(at.expand(*at.shape[:-1], len(masks)).requires_grad_())
            return copies[-1]

        values = self._activations(masks, copied)[-1][:, 0]
        out = values.new_zeros(*constants.shape, len(masks))
        found = torch.autograd.grad(values.sum(), copies, allow_unused=True, materialize_grads=True)
        for place, slopes in zip(places, found, strict=True):
            out[place] = slopes
        return values.detach(), out

    def _activations(self, masks: Tensor, given: Callable[[_Place], Tensor]) -> list[Tensor]:
        """The same with the constants at each place of ``[E, P]`` that ``given`` answers with."""
        h = masks.double().mT.expand(len(self.forms), *masks.mT.shape[-2:])
        out = [h]
        like = self.forms[0]
        first_bias = self.start.shape[1] - sum(map(len, like.biases))
        for groups, biases, q in zip(self._layers, like.biases, like.products, strict=True):
            n = len(biases)
            sums = given((slice(None), slice(first_bias, first_bias + n)))
            sums = sums.expand(-1, -1, h.shape[2]).flatten(0, 1)
            first_bias += n
            for group in groups:
                constants = [given((group.network, place)) for place in group.places]
                values = group.function(h[group.network, group.node], *constants)
                sums = sums.index_add(0, group.network * n + group.sum, values.expand(len(group.sum), h.shape[2]))
            h = multiplied(sums.unflatten(0, (-1, n)), q)
            out.append(h)
        return out

    def with_constants(self, constants: Tensor) -> list[SymbolicKAN]:
        """The networks with these constants ``[E, P]`` in place of their own."""
        return [_filled(form, row.tolist()) for form, row in zip(self.forms, constants, strict=True)]


def _filled(form: SymbolicKAN, row: list[float]) -> SymbolicKAN:
    values = iter(row)

    def refilled(edge: ClosedForm) -> ClosedForm:
        return edge.with_constants(tuple(next(values) for _ in edge.constants))

    edges = [[[refilled(edge) for edge in of_node] for of_node in layer] for layer in form.edges]
    last = iter(row[len(row) - sum(map(len, form.biases)) :])
    return SymbolicKAN(edges, form.products, [[next(last) for _ in layer] for layer in form.biases])
