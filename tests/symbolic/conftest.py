"""Symbolic KANs that more than one test file looks at."""

import pytest
import sympy

from kanlib.symbolic.closed_forms import X
from tests.helpers import symbolic_kan


@pytest.fixture(scope="session")
def hand_made():
    """Two layers, 3 → 2 → 1, one edge a constant."""
    f = sympy.Float
    layers = [
        [[sympy.exp(f(0.3) * X), X**2], [sympy.tanh(X) + f(0.1) * X, f(0.7)], [sympy.sin(X), X]],
        [[1 / (1 + (f(0.5) * X) ** 2)], [sympy.log(1 + sympy.exp(X))]],
    ]
    return symbolic_kan(layers, 0.25)
