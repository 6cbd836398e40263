"""Kolmogorov–Arnold networks, E independent ones at once: their values and derivatives.

Parametrisation as in pykan: an edge is ``φ(x) = w·silu(x) + Σ_b c_b B_b(x)`` with B-splines of order k on a grid
of G intervals, extended by k intervals on each side; a node sums its edges.
Source: Liu et al. (2024), *KAN: Kolmogorov–Arnold Networks*, section 2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kanlib.errors import BadInputError
from kanlib.kan.splines import features
from kanlib.kan.trees import tree_map
from kanlib.store import Artifact


@dataclass(frozen=True)
class KAN:
    """E independent KANs of one shape.

    Attributes:
        grids: for each layer the points of the grids, ``[E, in, G + 1]``.
        coefs: for each layer ``[E, out, in, 1 + G + k]``: the weight of silu, then those of the B-splines, of
            the edges into each node.
        bias: ``[E]``, added to the output.
        order: spline order k.
    """

    grids: tuple[Tensor, ...]
    coefs: tuple[Tensor, ...]
    bias: Tensor
    order: int

    @property
    def widths(self) -> tuple[int, ...]:
        """Nodes a layer: ``(m, …, 1)``."""
        return (*(c.shape[2] for c in self.coefs), self.coefs[-1].shape[1])

    def __call__(self, x: Tensor) -> Tensor:
        """``g(x)`` ``[E, N]`` at masks ``x`` ``[N, m]``, shared, or ``[E, N, m]``, one set each."""
        return self.activations(x)[-1][:, 0] + self.bias[:, None]

    def activations(self, x: Tensor) -> list[Tensor]:
        """What enters each layer, and last what leaves the last one before the bias: ``[E, width, N]`` each."""
        if x.shape[-1] != self.widths[0]:
            raise BadInputError(
                f"masks have {x.shape[-1]} components, expected {self.widths[0]} as the KAN; ask it about its own."
            )
        h = x.mT.expand(len(self.bias), *x.mT.shape[-2:])
        out = [h]
        for grid, coef in zip(self.grids, self.coefs, strict=True):
            h = weighted_sums(coef, features(h, grid, self.order))
            out.append(h)
        return out

    def edge_values(self, layer: int, x: Tensor) -> Tensor:
        """Values ``[E, in, out, N]`` of one layer's edge functions at points ``x`` ``[E, in, N]``."""
        return self._edges(layer, x, 0).transpose(1, 2)

    def derivatives(self, x: Tensor, order: int = 2) -> tuple[Tensor, ...]:
        """``g`` and all its partial derivatives up to ``order``, exact, from the splines' own derivatives.

        Args:
            x: masks ``[N, m]``, shared, or ``[E, N, m]``.
            order: 1, 2 or 3. Third derivatives of splines of order 3 jump at their knots.

        Returns:
            Tensors ``[E, N]``, ``[E, N, m]``, ``[E, N, m, m]``, … in units of the response.
        """
        h = x.mT.expand(len(self.bias), *x.mT.shape[-2:])
        m = h.shape[1]
        unit = torch.eye(m, dtype=h.dtype, device=h.device)[:, None].expand(len(h), m, h.shape[2], m)
        zeros = [h.new_zeros(*h.shape, *[m] * r) for r in range(2, order + 1)]
        parts = [h, unit, *zeros][: order + 1]
        for layer in range(len(self.coefs)):
            parts = _chained([self._edges(layer, parts[0], r) for r in range(order + 1)], parts)
        return parts[0][:, 0] + self.bias[:, None], *(p[:, 0] for p in parts[1:])

    def to_tensors(self) -> dict[str, Tensor]:
        """Plain arrays from which :meth:`from_tensors` restores the KANs."""
        layers = range(len(self.coefs))
        return (
            {f"grids.{i}": self.grids[i] for i in layers}
            | {f"coefs.{i}": self.coefs[i] for i in layers}
            | {"bias": self.bias, "order": torch.tensor(self.order)}
        )

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "KAN":
        """Read :meth:`to_tensors`."""
        layers = range(sum(name.startswith("coefs.") for name in tensors))
        return cls(
            tuple(tensors[f"grids.{i}"] for i in layers),
            tuple(tensors[f"coefs.{i}"] for i in layers),
            tensors["bias"],
            int(tensors["order"]),
        )

    @classmethod
    def read(cls, fitted: Artifact) -> "KAN":
        """The KANs of what 02_surrogate wrote.

        Raises:
            BadInputError: its arrays are not those of KANs.
        """
        order = int(fitted.tensor("kan.order", (), torch.int64))
        if order not in (3, 5):
            raise fitted.wrong(f"kan.order is {order}, expected 3 or 5")
        bias = fitted.tensor("kan.bias", (None,))
        n_layers, width = sum(name.startswith("kan.coefs.") for name in fitted.content), None
        for i in range(n_layers):
            grid = fitted.tensor(f"kan.grids.{i}", (len(bias), width, None))
            if grid.shape[-1] < 2 or not (grid.diff() > 0).all():
                raise fitted.wrong(f"kan.grids.{i} holds points that do not rise")
            last = 1 if i == n_layers - 1 else None
            shape = (len(bias), last, grid.shape[1], grid.shape[2] + order)
            width = fitted.tensor(f"kan.coefs.{i}", shape).shape[1]
        if not n_layers or not len(bias):
            raise fitted.wrong("it holds no KAN")
        return cls.from_tensors(fitted.part("kan."))

    def to(self, place: torch.device | torch.dtype) -> "KAN":
        """The KANs on that device, or in that precision."""
        return tree_map(lambda v: v.to(place), self)

    def through_rest(self) -> "KAN":
        """The KANs less what they answer to the mask of zeros, so that g(0) = 0."""
        at_rest = self.activations(self.bias.new_zeros(1, self.widths[0]))[-1]
        return KAN(self.grids, self.coefs, -at_rest[:, 0, 0], self.order)

    def detached(self) -> "KAN":
        """The KANs without the graph that they were computed by."""
        return tree_map(Tensor.detach, self)

    def select(self, index: Tensor) -> "KAN":
        """The KANs at these positions of the batch."""
        return tree_map(lambda v: v[index], self)

    def _edges(self, layer: int, x: Tensor, derivative: int) -> Tensor:
        """``[E, out, in, N]`` from ``x`` ``[E, in, N]``."""
        return torch.einsum(
            "eoib,eibn->eoin", self.coefs[layer], features(x, self.grids[layer], self.order, derivative)
        )


def weighted_sums(coef: Tensor, feats: Tensor) -> Tensor:
    """Nodes ``[E, out, N]``, sums of edges: coefficients ``[E, out, in, n]``, features ``[E, in, n, N]``."""
    return coef.flatten(2) @ feats.flatten(1, 2)


def _chained(phi: Sequence[Tensor], h: Sequence[Tensor]) -> list[Tensor]:
    """Derivatives of ``Σ_i φ_oi(h_i)`` from those of φ, ``[E, o, i, N]``, and of h, ``[E, i, N, m, …]``.

    Faà di Bruno's formula up to order 3.
    """
    out = [phi[0].sum(2), torch.einsum("eoin,eina->eona", phi[1], h[1])]
    if len(h) > 2:
        out.append(
            torch.einsum("eoin,eina,einb->eonab", phi[2], h[1], h[1])
            + torch.einsum("eoin,einab->eonab", phi[1], h[2])
        )
    if len(h) > 3:
        out.append(
            torch.einsum("eoin,eina,einb,einc->eonabc", phi[3], h[1], h[1], h[1])
            + _symmetric(torch.einsum("eoin,einab,einc->eonabc", phi[2], h[2], h[1]))
            + torch.einsum("eoin,einabc->eonabc", phi[1], h[3])
        )
    return out


def _symmetric(t: Tensor) -> Tensor:
    """``t_abc + t_acb + t_bca`` of ``t`` that is symmetric in a and b."""
    return t + t.transpose(-1, -2) + t.movedim(-1, -3)


def averaged(kan: KAN, members: int) -> KAN:
    """The mean of every ``members`` neighbours of the batch: KANs whose hidden layers hold all of theirs.

    Members share the masks, and add up in the output; layers in between are block-diagonal.
    """
    if members == 1:
        return kan
    last = len(kan.coefs) - 1
    grids, coefs = [], []
    for layer, (grid, coef) in enumerate(zip(kan.grids, kan.coefs, strict=True)):
        grid, coef = (v.unflatten(0, (-1, members)) for v in (grid, coef))
        e, _, n_out, n_in, n = coef.shape
        # How far apart members' rows and columns lie.
        down, across = 0 if layer == last else n_out, n_in if layer else 0
        whole = coef.new_zeros(e, n_out + (members - 1) * down, n_in + (members - 1) * across, n)
        for k in range(members):
            block = whole[:, k * down : k * down + n_out, k * across : k * across + n_in]
            block += coef[:, k] if layer < last else 1 / members * coef[:, k]
        coefs.append(whole)
        grids.append(grid.flatten(1, 2) if layer else grid[:, 0])
    return KAN(tuple(grids), tuple(coefs), kan.bias.unflatten(0, (-1, members)).mean(1), kan.order)
