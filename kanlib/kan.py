"""Kolmogorov–Arnold networks, E independent ones at once: their values and derivatives.

Parametrisation as in pykan: an edge is ``φ(x) = w·silu(x) + Σ_b c_b B_b(x)`` with B-splines of order k on a grid
of G intervals, extended by k intervals on each side; a node sums its edges. A product node multiplies two such
sums (KAN 2.0).
Sources: Liu et al. (2024), *KAN: Kolmogorov–Arnold Networks*, section 2; *KAN 2.0*, section 3.1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kanlib.splines import features


@dataclass(frozen=True)
class KAN:
    """E independent KANs of one shape.

    Attributes:
        grids: for each layer the points of the grids, ``[E, in, G + 1]``.
        coefs: for each layer ``[E, sums, in, 1 + G + k]``: the weight of silu, then those of the B-splines, of
            the edges into each sum.
        products: for each layer the number q of product nodes it ends in. Of its sums the last 2q are multiplied
            in pairs of neighbours, so that ``sums − q`` nodes leave it, the products last.
        bias: ``[E]``, added to the output.
        order: spline order k.
    """

    grids: tuple[Tensor, ...]
    coefs: tuple[Tensor, ...]
    products: tuple[int, ...]
    bias: Tensor
    order: int

    @property
    def widths(self) -> tuple[int, ...]:
        """Nodes a layer: ``(m, …, 1)``."""
        return (*(c.shape[2] for c in self.coefs), self.coefs[-1].shape[1] - self.products[-1])

    def __call__(self, x: Tensor) -> Tensor:
        """``g(x)`` ``[E, N]`` at masks ``x`` ``[N, m]``, shared, or ``[E, N, m]``, one set each."""
        return self.activations(x)[-1][:, 0] + self.bias[:, None]

    def activations(self, x: Tensor) -> list[Tensor]:
        """What enters each layer, and last what leaves the network before the bias: ``[E, width, N]`` each."""
        h = x.mT.expand(len(self.bias), *x.mT.shape[-2:])
        out = [h]
        for grid, coef, q in zip(self.grids, self.coefs, self.products, strict=True):
            h = multiplied(mixed(coef, features(h, grid, self.order)), q)
            out.append(h)
        return out

    def edges(self, layer: int, x: Tensor) -> Tensor:
        """Values ``[E, in, sums, N]`` of one layer's edge functions at points ``x`` ``[E, in, N]``."""
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
        for layer, q in enumerate(self.products):
            parts = _chained([self._edges(layer, parts[0], r) for r in range(order + 1)], parts)
            parts = _multiplied_parts(parts, q)
        return parts[0][:, 0] + self.bias[:, None], *(p[:, 0] for p in parts[1:])

    def to_tensors(self) -> dict[str, Tensor]:
        """Plain arrays from which :meth:`from_tensors` restores the KANs."""
        layers = range(len(self.coefs))
        return (
            {f"grids.{i}": self.grids[i] for i in layers}
            | {f"coefs.{i}": self.coefs[i] for i in layers}
            | {"products": torch.tensor(self.products), "bias": self.bias, "order": torch.tensor(self.order)}
        )

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "KAN":
        """Read :meth:`to_tensors`."""
        layers = range(sum(name.startswith("coefs.") for name in tensors))
        return cls(
            tuple(tensors[f"grids.{i}"] for i in layers),
            tuple(tensors[f"coefs.{i}"] for i in layers),
            tuple(tensors["products"].tolist()),
            tensors["bias"],
            int(tensors["order"]),
        )

    def to(self, device: torch.device | str) -> "KAN":
        """The KANs on that device."""
        grids, coefs = (tuple(v.to(device) for v in layers) for layers in (self.grids, self.coefs))
        return KAN(grids, coefs, self.products, self.bias.to(device), self.order)

    def select(self, index: Tensor) -> "KAN":
        """The KANs at these positions of the batch."""
        return KAN(
            tuple(g[index] for g in self.grids),
            tuple(c[index] for c in self.coefs),
            self.products,
            self.bias[index],
            self.order,
        )

    def _edges(self, layer: int, x: Tensor, derivative: int) -> Tensor:
        """``[E, sums, in, N]`` from ``x`` ``[E, in, N]``."""
        return torch.einsum(
            "eoib,eibn->eoin", self.coefs[layer], features(x, self.grids[layer], self.order, derivative)
        )


def mixed(coef: Tensor, feats: Tensor) -> Tensor:
    """Sums ``[E, sums, N]`` of edges with coefficients ``[E, sums, in, n]`` and features ``[E, in, n, N]``."""
    return coef.flatten(2) @ feats.flatten(1, 2)


def multiplied(sums: Tensor, q: int) -> Tensor:
    """Nodes ``[E, sums − q, N]``: the last 2q sums are multiplied in pairs of neighbours."""
    if q == 0:
        return sums
    alone = sums.shape[1] - 2 * q
    return torch.cat([sums[:, :alone], sums[:, alone::2] * sums[:, alone + 1 :: 2]], 1)


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


def _multiplied_parts(parts: Sequence[Tensor], q: int) -> list[Tensor]:
    """:func:`multiplied` for sums together with their derivatives (Leibniz's rule up to order 3)."""
    if q == 0:
        return list(parts)
    alone = parts[0].shape[1] - 2 * q
    a, b = ([p[:, alone + side :: 2] for p in parts] for side in (0, 1))

    out = [a[0] * b[0], a[1] * b[0][..., None] + a[0][..., None] * b[1]]
    if len(parts) > 2:
        cross = a[1][..., :, None] * b[1][..., None, :]
        out.append(a[2] * b[0][..., None, None] + cross + cross.mT + a[0][..., None, None] * b[2])
    if len(parts) > 3:
        cross = _symmetric(a[2][..., None] * b[1][..., None, None, :] + b[2][..., None] * a[1][..., None, None, :])
        out.append(a[3] * b[0][..., None, None, None] + cross + a[0][..., None, None, None] * b[3])
    return [torch.cat([p[:, :alone], product], 1) for p, product in zip(parts, out, strict=True)]


def _symmetric(t: Tensor) -> Tensor:
    """``t_abc + t_acb + t_bca`` of ``t`` that is symmetric in a and b."""
    return t + t.transpose(-1, -2) + t.movedim(-1, -3)


def averaged(kan: KAN, members: int) -> KAN:
    """The mean of every ``members`` neighbours of the batch: KANs whose hidden layers hold all of theirs.

    Layers in between become block-diagonal; edges between members are 0.
    """
    if members == 1:
        return kan

    def grouped(v: Tensor) -> Tensor:
        return v.unflatten(0, (-1, members))

    n_layers = len(kan.coefs)
    grids, coefs = [], []
    for layer, (grid, coef) in enumerate(zip(kan.grids, kan.coefs, strict=True)):
        into = _places(members, coef.shape[1], kan.products[layer]) if layer < n_layers - 1 else None
        out_of = _nodes(members, coef.shape[2], kan.products[layer - 1]) if layer else None
        grid, coef = grouped(grid), grouped(coef)
        n = 1 if into is None else members
        whole = coef.new_zeros(
            len(coef), n * coef.shape[2], (members if layer else 1) * coef.shape[3], coef.shape[4]
        )
        for member in range(members):
            rows = into[member] if into is not None else torch.arange(coef.shape[2])
            columns = out_of[member] if layer else torch.arange(coef.shape[3])
            scale = 1 / members if into is None else 1
            whole[:, rows[:, None], columns] += scale * coef[:, member]
        coefs.append(whole)
        if layer:
            order = torch.cat(out_of).argsort()
            grids.append(grid.flatten(1, 2)[:, order])
        else:
            grids.append(grid[:, 0])
    products = (*(members * q for q in kan.products[:-1]), kan.products[-1])
    return KAN(tuple(grids), tuple(coefs), products, grouped(kan.bias).mean(1), kan.order)


def _places(members: int, sums: int, q: int) -> list[Tensor]:
    """Where each member's sums go among all members' sums: those that stand alone first, then the factors."""
    alone = sums - 2 * q
    return [
        torch.cat([torch.arange(alone) + i * alone, members * alone + torch.arange(2 * q) + 2 * q * i])
        for i in range(members)
    ]


def _nodes(members: int, nodes: int, q: int) -> list[Tensor]:
    """Where each member's nodes are among all members' nodes: sums first, then products."""
    alone = nodes - q
    return [
        torch.cat([torch.arange(alone) + i * alone, members * alone + torch.arange(q) + q * i])
        for i in range(members)
    ]
