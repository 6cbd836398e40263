"""Algorithm 3: interaction coefficients, mixed partial derivatives of a surrogate at σ = 0, all at once."""

from collections.abc import Sequence

import numpy as np
import sympy
import torch
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from sklearn.preprocessing import PolynomialFeatures
from torch import Tensor

from kanlib.errors import BadInputError, shown
from kanlib.kan.kan import KAN
from kanlib.masks import Subset, subsets
from kanlib.symbolic.grammar import check, check_length
from kanlib.symbolic.jets import Jet, lifted, of_jets, units
from kanlib.symbolic.limits import plain, written_out
from kanlib.symbolic.symbolic_kan import SymbolicKAN

_BATCH_NUMBERS = 2**23  # in the derivatives of KANs at a time


def of_expression(
    expression: sympy.Expr, symbols: Sequence[sympy.Symbol], max_order: int = 3
) -> tuple[list[Subset], Tensor]:
    """``L_S = ∂^|S| ĝ / ∏_{j∈S} ∂σ_j`` at ``σ = 0`` (equation 3) for all ``|S| ≤ max_order``.

    Args:
        expression: ĝ, of sums, products, constant powers, exp, log, sin and tanh.
        symbols: σ_1 … σ_m, in the order of the components.
        max_order: the highest order k, 1 to 4 and at most m.

    Returns:
        The subsets and their coefficients (fp64), in units of the response.

    Raises:
        BadInputError: ``max_order`` out of range, ĝ holds other symbols or functions, or has no finite value or
            derivative at 0.
    """
    index = subsets(len(symbols), max_order)
    if others := {part for part in check_length(expression) if part.is_Symbol} - set(symbols):
        raise BadInputError(
            f"a closed form holds {shown(others)}, expected {shown(symbols)} alone; name them all."
        )
    # Names of a caller's symbols would be pasted into code.
    named = sympy.symbols(f"sigma_1:{len(symbols) + 1}", real=True)
    with written_out():
        renamed = check(plain(expression.xreplace(dict(zip(symbols, named, strict=True)))))
        function = of_jets(named, renamed)
    with np.errstate(all="ignore"):
        return index, _read(function(*units(len(symbols), max_order)), index)


def of_symbolic(symbolic: SymbolicKAN, max_order: int = 3) -> tuple[list[Subset], Tensor]:
    """:func:`of_expression`, of a symbolic KAN, layer by layer.

    Written out as one expression, one of three layers has every node of the first in it as often as later
    edges have their variable; so it is never written out.
    """
    nodes: list[Jet | float] = [*units(len(symbolic.symbols), max_order)]
    index = subsets(len(nodes), max_order)
    with np.errstate(all="ignore"):
        for forms, biases in zip(symbolic.forms, symbolic.biases, strict=True):
            # Numbers of numpy overflow to infinity; Python's raise errors, and turn complex.
            sums: list[Jet | float] = [*np.array(biases)]
            for row, h in zip(forms, nodes, strict=True):
                for o, form in enumerate(row):
                    sums[o] += lifted(form.template, len(form.constants))(h, *np.array(form.constants))
            nodes = sums
        return index, _read(nodes[0], index)


def of_kan(kan: KAN, max_order: int = 3, masks: Tensor | None = None) -> tuple[list[Subset], Tensor]:
    """The same of E KANs, ``[E, n_S]`` (fp64), from their splines' own derivatives.

    Args:
        kan: E of them.
        max_order: the highest order, at most 3 and at most the number of components.
        masks: where derivatives are averaged, ``[N, m]``; ``None``: at σ = 0 alone.
    """
    m, like = kan.widths[0], kan.bias
    index = subsets(m, max_order)
    masks = torch.zeros(1, m) if masks is None else masks
    total = torch.zeros(len(like), len(index), dtype=torch.float64)
    for part in masks.to(like).split(max(1, _BATCH_NUMBERS // (len(like) * m**max_order))):
        parts = [derivative.sum(1).double().cpu() for derivative in kan.derivatives(part, max_order)]
        total += torch.stack([parts[len(subset)].movedim(0, -1)[subset] for subset in index], 1)
    return index, total / len(masks)


def of_polynomial(terms: PolynomialFeatures, weights: Tensor, index: Sequence[Subset]) -> Tensor:
    """The same of polynomials: the weights ``[..., n_S]`` of the products ``∏_{j∈S} σ_j``.

    Args:
        terms: fitted; its monomials are the polynomials' terms.
        weights: of the terms, ``[..., terms]``.
        index: the subsets S; the empty one stands for the constant.
    """
    powers = enumerate(terms.powers_)
    at = {tuple(np.flatnonzero(power).tolist()): i for i, power in powers if power.max(initial=0) < 2}
    return weights[..., [at[s] for s in index]]


def derivative_errors(symbolic: Sequence[SymbolicKAN], kan: KAN, max_order: int = 3) -> dict[int, float]:
    """Median relative error of symbolic KANs' coefficients against the KANs' own exact ones, for each order.

    Over all E examples and those coefficients that are above 5 % of the largest of their example and order.

    Args:
        symbolic: E symbolic KANs.
        kan: the E KANs that they stand for.
        max_order: the highest order, at most 3 and at most the number of components.
    """
    index, exact = of_kan(kan, max_order)
    orders = torch.tensor([len(s) for s in index])
    errors: dict[int, list[Tensor]] = {r: [] for r in range(1, max_order + 1)}
    for one, of_example in zip(symbolic, exact, strict=True):
        _, values = of_symbolic(one, max_order)
        for r, found in errors.items():
            ours, true = values[orders == r], of_example[orders == r]
            large = true.abs() > 0.05 * true.abs().max()
            found.append(((ours - true).abs() / true.abs())[large])
    return {r: torch.cat(found).median().item() for r, found in errors.items()}


def pair_matrix(index: Sequence[Subset], values: Tensor, m: int) -> Tensor:
    """The coefficients ``[n_S]`` of the pairs in ``index`` as a symmetric matrix ``[m, m]``, 0 on its diagonal."""
    matrix = torch.zeros(m, m, dtype=values.dtype)
    for position, subset in enumerate(index):
        if len(subset) == 2:
            i, j = subset
            matrix[i, j] = matrix[j, i] = values[position]
    return matrix


def similarity_order(profiles: Tensor) -> tuple[list[int], Tensor]:
    """Examples by how their coefficients ``[E, n_S]`` correlate: an order in which the alike are neighbours.

    The order is that of the leaves of average linkage on ``1 − r`` (scipy). Returns it, and the correlations r
    ``[E, E]`` in that order, fp64. Where an example's coefficients are all equal, or there is one only,
    correlations are nan and the order is that given.
    """
    similarity = torch.corrcoef(profiles.double()).view(len(profiles), -1)
    if len(profiles) == 1 or similarity.isnan().any():
        return list(range(len(profiles))), similarity
    distance = squareform((1 - similarity).numpy(), checks=False)
    order = leaves_list(linkage(distance, "average", optimal_ordering=True)).tolist()
    return order, similarity[order][:, order]


def _read(value: Jet | float, index: Sequence[Subset]) -> Tensor:
    at_rest, jet = (value.parts[0], value.parts[1:]) if isinstance(value, Jet) else (value, np.zeros(len(index)))
    if not np.isfinite(at_rest):
        raise BadInputError(f"the closed form is {at_rest} at 0, expected a finite number; refit the closed form.")
    if not np.isfinite(jet).all():
        worst = index[int(np.flatnonzero(~np.isfinite(jet))[0])]
        raise BadInputError(f"the derivative over components {worst} is not finite at 0; refit the closed form.")
    return torch.from_numpy(jet.copy())
