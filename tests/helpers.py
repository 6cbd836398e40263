"""What more than one test file makes things with."""

import math
from itertools import pairwise

import numpy as np
import torch

from kanlib.kan.kan import KAN
from kanlib.setups import Surrogate, Symbolic
from kanlib.symbolic import engines
from kanlib.symbolic.closed_forms import ClosedForm
from kanlib.symbolic.edges import Edges
from kanlib.symbolic.symbolic_kan import SymbolicKAN

#: Nodes of each layer of a KAN.
SHAPES = [(3, 1), (3, 2, 1), (3, 3, 1), (3, 2, 2, 1)]


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def knobs(**changes):
    """What a KAN is fitted with, by few and exact steps; unlike a setup's, the changes are not checked."""
    few = {"optimiser": "levenberg_marquardt", "hidden": [8], "grid": 5, "restarts": 3}
    return Surrogate().model_copy(update=few | changes)


def symbolic_knobs(**changes):
    """What closed forms are found with; unlike a setup's, the changes are not checked."""
    return Symbolic().model_copy(update=changes)


def some_kan(shape, n=2, grid=4, order=3, dtype=torch.float64):
    """``n`` KANs of random coefficients, whose uneven grids differ and are shorter than their inputs reach."""
    grids, coefs = [], []
    for layer, (n_in, n_out) in enumerate(pairwise(shape)):
        steps = 0.3 + randn(n, n_in, grid + 1, seed=layer, dtype=dtype).sigmoid()
        grids.append(steps.cumsum(-1) - 2.5)
        coefs.append(0.5 * randn(n, n_out, n_in, 1 + grid + order, seed=layer + 9, dtype=dtype))
    return KAN(tuple(grids), tuple(coefs), randn(n, seed=99, dtype=dtype), order)


def symbolic_kan(layers, bias):
    """The symbolic KAN of expressions ``layers[layer][i][o]``."""
    return SymbolicKAN.of([[[ClosedForm.of(e) for e in row] for row in layer] for layer in layers], bias)


def points(low=-2.0, high=3.0, n=101):
    return np.linspace(low, high, n)


def edges(y, x=None, weights=None):
    x = points() if x is None else x
    weights = np.full_like(x, 1 / x.shape[-1]) if weights is None else weights
    rows = [torch.from_numpy(np.atleast_2d(np.asarray(v, dtype=float))) for v in (x, y, weights)]
    return Edges(rows[0], rows[1], rows[2])


def forms_of(given, r2=0.9995, max_length=math.inf, **changes):
    """The shortest form of each edge that suffices."""
    found = engines.fronts(given, symbolic_knobs(**{"max_degree": 3} | changes), max_length)
    return [engines.shortest(forms, r2) for forms in found]


def form_of(y, x=None, weights=None, **options):
    return forms_of(edges(y, x, weights), **options)[0]


def weighted_r2(y, fitted, weights):
    mean = np.average(y, weights=weights)
    return 1 - np.average((y - fitted) ** 2, weights=weights) / np.average((y - mean) ** 2, weights=weights)


def values(form, x):
    return form.values(torch.from_numpy(x)).numpy()
