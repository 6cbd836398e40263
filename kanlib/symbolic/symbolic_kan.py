"""A KAN whose edges are closed forms: one expression, and a batch of them as one function of all constants."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import sympy
import torch
from torch import Tensor

from kanlib.errors import BadInputError, shown
from kanlib.memory import room_for
from kanlib.store import Artifact
from kanlib.symbolic.closed_forms import ClosedForm, compiled, length, number
from kanlib.symbolic.limits import substituted, written_out

_MOST_LAYERS = 10
_MOST_EDGES = 10**6


@dataclass(frozen=True)
class SymbolicKAN:
    """A KAN whose edges are closed forms without offsets.

    Attributes:
        forms: ``forms[layer][i][o]`` leads from node i to node o of the next layer.
        biases: ``biases[layer][o]``, added to each node.
    """

    forms: Sequence[Sequence[Sequence[ClosedForm]]]
    biases: Sequence[Sequence[float]]

    @classmethod
    def of(cls, forms: Sequence[Sequence[Sequence[ClosedForm]]], bias: float) -> "SymbolicKAN":
        """The one of these edges, whose offsets go to the nodes, and ``bias`` to the output."""
        biases = [[sum(row[o].offset for row in layer) for o in range(len(layer[0]))] for layer in forms]
        biases[-1][0] += bias
        bare = [[[form.without_offset for form in row] for row in layer] for layer in forms]
        return cls(bare, biases)

    @cached_property
    def symbols(self) -> tuple[sympy.Symbol, ...]:
        """σ_1, …, σ_m."""
        return self.nodes(0)

    def nodes(self, layer: int) -> tuple[sympy.Symbol, ...]:
        """What enters a layer: ``σ_1, …`` the first, ``h_1, …`` a later one."""
        return sympy.symbols(f"{'h' if layer else 'sigma'}_1:{len(self.forms[layer]) + 1}", real=True)

    @cached_property
    def hidden(self) -> list[list[sympy.Expr]]:
        """What each layer puts out, as expressions in what enters it."""
        return [
            [
                sum(
                    [row[o].at(node) for row, node in zip(forms, self.nodes(layer), strict=True)]
                    + [sympy.Float(bias)],
                    sympy.Integer(0),
                )
                for o, bias in enumerate(biases)
            ]
            for layer, (forms, biases) in enumerate(zip(self.forms, self.biases, strict=True))
        ]

    @cached_property
    def expression(self) -> sympy.Expr:
        """``ĝ(σ)``, the whole surrogate as one expression.

        Raises:
            BadInputError: it is nested too deeply, or comes to a number beyond fp64.
        """
        values = list(self.symbols)
        with written_out():
            for layer, outputs in enumerate(self.hidden):
                inside = dict(zip(self.nodes(layer), values, strict=True))
                values = [substituted(output, inside) for output in outputs]
        return values[0]

    @property
    def length(self) -> int:
        """Operations and leaves of all layers' expressions together."""
        used = [*self.used[1:], {0}]
        return sum(length(self.hidden[layer][o]) for layer, nodes in enumerate(used) for o in nodes)

    @cached_property
    def used(self) -> list[set[int]]:
        """For each layer the nodes that enter it from which something leads on to the output."""
        out: list[set[int]] = []
        wanted = {0}
        for forms in reversed(self.forms):
            wanted = {i for i, row in enumerate(forms) if any(row[o].template != 0 for o in wanted)}
            out.append(wanted)
        return out[::-1]

    def __call__(self, masks: Tensor) -> Tensor:
        """``ĝ(σ)`` ``[N]`` (fp64) at masks ``[N, m]``."""
        return Batch([self])(masks)[0]

    def activations(self, masks: Tensor) -> list[Tensor]:
        """What enters each layer, and last the output, ``[width, N]`` each."""
        return [h[0] for h in Batch([self]).activations(masks)]

    def through_rest(self) -> "SymbolicKAN":
        """The one less what it answers to the mask of zeros, so that ĝ(0) = 0."""
        at_rest = self(torch.zeros(1, len(self.forms[0]), dtype=torch.float64))
        *before, (bias,) = self.biases
        return SymbolicKAN(self.forms, [*before, [bias - float(at_rest)]])

    def to_json(self) -> dict:
        """A JSON value from which :meth:`from_json` restores every number exactly."""
        return {
            "biases": [list(layer) for layer in self.biases],
            "edges": [[[form.to_json() for form in row] for row in layer] for layer in self.forms],
        }

    @classmethod
    def from_json(cls, value: dict) -> "SymbolicKAN":
        """Read :meth:`to_json`.

        Raises:
            BadInputError: it is something else, or its layers do not fit each other.
        """
        match value:
            case {"edges": [*layers], "biases": [*biases]} if _chained(layers, biases):
                forms = [[[ClosedForm.from_json(form) for form in row] for row in layer] for layer in layers]
                return cls(forms, [[number(bias) for bias in layer] for layer in biases])
        raise BadInputError(
            f"a stored symbolic KAN is {shown(value)}, expected edges and biases of layers that lead to one "
            "output; run 03_symbolic again."
        )

    @classmethod
    def read(cls, closed: Artifact, which: str) -> list["SymbolicKAN"]:
        """Those of what 03_symbolic wrote, an example each: the ``faithful`` or the ``short`` ones.

        Raises:
            BadInputError: it holds none, or some that are not of one shape.
        """
        stored = closed.content.get(which) if isinstance(closed.content, dict) else None
        if not (isinstance(stored, list) and stored):
            raise closed.wrong(f"{which} is {shown(stored)}, expected a symbolic KAN an example")
        found = [cls.from_json(value) for value in stored]
        if len({tuple(map(len, one.forms)) for one in found}) > 1:
            raise closed.wrong(f"the symbolic KANs of {which} differ in shape")
        return found


def _chained(layers: list, biases: list) -> bool:
    """Whether stored layers are rows of rows that chain, with a bias a node, and end in one output."""
    if not (0 < len(layers) == len(biases) <= _MOST_LAYERS):
        return False
    rows = [row for layer in layers if isinstance(layer, list) for row in layer]
    if not all(isinstance(part, list) and part for part in [*layers, *biases, *rows]):
        return False
    outs = [len(layer[0]) for layer in layers]
    return (
        all(len(row) == n for layer, n in zip(layers, outs, strict=True) for row in layer)
        and outs == [*map(len, layers[1:]), 1] == [*map(len, biases)]
        and sum(map(len, rows)) <= _MOST_EDGES
    )


#: Of constants ``[E, P]``: those of a group of edges, or of a layer's biases.
_Place = tuple[Tensor, Tensor] | tuple[slice, slice]


@dataclass(frozen=True)
class _Group:
    """The edges of one layer, over all E symbolic KANs, that share a template: from which node to which."""

    function: Callable
    example: Tensor
    node: Tensor
    to: Tensor
    places: list[Tensor]

    @classmethod
    def of(cls, template: sympy.Expr, n_constants: int, edges: list[tuple[int, ...]]) -> "_Group":
        """Rows of ``edges`` are example, node, node that it leads to, and the places of its constants."""
        example, node, to, *places = torch.tensor(edges).T.unbind()
        return cls(compiled(template, n_constants), example, node, to, places)


class Batch:
    """E symbolic KANs of one shape as one function of masks and of all their constants.

    Attributes:
        start: their constants ``[E, P]``, edge by edge, then the biases; rows are filled up with zeros.
    """

    def __init__(self, symbolic: Sequence[SymbolicKAN]):
        self.symbolic = list(symbolic)
        rows: list[list[float]] = [[] for _ in self.symbolic]
        groups: list[dict] = [defaultdict(list) for _ in self.symbolic[0].forms]
        for e, one in enumerate(self.symbolic):
            for layer, forms in enumerate(one.forms):
                for i, row in enumerate(forms):
                    for o, form in enumerate(row):
                        places = range(len(rows[e]), len(rows[e]) + len(form.constants))
                        rows[e] += form.constants
                        groups[layer][form.template, len(form.constants)].append((e, i, o, *places))
        self._layers = [
            [_Group.of(template, n, edges) for (template, n), edges in of_layer.items() if template != 0]
            for of_layer in groups
        ]
        biases = [[bias for layer in one.biases for bias in layer] for one in self.symbolic]
        width = max(map(len, rows))
        room_for(16 * len(rows) * width, f"the constants of {len(rows)} symbolic KANs", "run 03_symbolic again")
        filled = [row + [0.0] * (width - len(row)) + more for row, more in zip(rows, biases, strict=True)]
        self.start = torch.tensor(filled, dtype=torch.float64)

    def __call__(self, masks: Tensor, constants: Tensor | None = None) -> Tensor:
        """``ĝ(σ)`` ``[E, N]`` (fp64), with ``constants`` ``[E, P]`` in place of ``start``.

        At masks ``[N, m]``, or each at its own, ``[E, N, m]``.
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
        _check_masks(masks, len(self.symbolic), len(self.symbolic[0].forms[0]))
        h = masks.double().mT.expand(len(self.symbolic), *masks.mT.shape[-2:])
        out = [h]
        like = self.symbolic[0]
        first_bias = self.start.shape[1] - sum(map(len, like.biases))
        for groups, biases in zip(self._layers, like.biases, strict=True):
            n = len(biases)
            sums = given((slice(None), slice(first_bias, first_bias + n)))
            sums = sums.expand(-1, -1, h.shape[2]).flatten(0, 1)
            first_bias += n
            for group in groups:
                constants = [given((group.example, place)) for place in group.places]
                values = group.function(h[group.example, group.node], *constants)
                values = torch.as_tensor(values, dtype=torch.float64)
                sums = sums.index_add(0, group.example * n + group.to, values.expand(len(group.to), h.shape[2]))
            h = sums.unflatten(0, (-1, n))
            out.append(h)
        return out

    def with_constants(self, constants: Tensor) -> list[SymbolicKAN]:
        """The symbolic KANs with these constants ``[E, P]`` in place of their own."""
        return [_filled(one, row.tolist()) for one, row in zip(self.symbolic, constants, strict=True)]


def _check_masks(masks: object, n: int, m: int) -> None:
    """That these are masks ``[N, m]``, or ``[n, N, m]``."""
    if not (isinstance(masks, Tensor) and masks.is_floating_point()):
        kind = masks.dtype if isinstance(masks, Tensor) else type(masks).__name__
        raise BadInputError(f"masks are {kind}, expected a floating-point tensor; pass masks as they were drawn.")
    if masks.shape[-1:] != (m,) or masks.dim() not in (2, 3) or masks.shape[:-2] not in ((), (n,)):
        raise BadInputError(
            f"masks are {tuple(masks.shape)}, expected (N, {m}) or ({n}, N, {m}), for {n} closed forms of {m} "
            "components; ask them about their own."
        )


def _filled(symbolic: SymbolicKAN, row: list[float]) -> SymbolicKAN:
    values = iter(row)

    def refilled(form: ClosedForm) -> ClosedForm:
        return form.with_constants(tuple(next(values) for _ in form.constants))

    forms = [[[refilled(form) for form in of_node] for of_node in layer] for layer in symbolic.forms]
    last = iter(row[len(row) - sum(map(len, symbolic.biases)) :])
    return SymbolicKAN(forms, [[next(last) for _ in layer] for layer in symbolic.biases])
