"""What a fit of KANs is told."""

from collections.abc import Sequence
from typing import Protocol


class Knobs(Protocol):
    """What a fit is told; :class:`kanlib.setups.Surrogate` has the defaults and the ranges."""

    @property
    def hidden(self) -> Sequence[int]:
        """Nodes of the hidden layers."""
        ...

    @property
    def grid(self) -> int:
        """Intervals G of each edge's spline."""
        ...

    @property
    def spline_order(self) -> int:
        """Order k of the splines."""
        ...

    @property
    def optimiser(self) -> str:
        """``adamw``, minibatch descent, or ``levenberg_marquardt``, second-order steps on all masks."""
        ...

    @property
    def decays(self) -> Sequence[float]:
        """Of the weights in minibatch descent, to choose from."""
        ...

    @property
    def steps(self) -> int:
        """Of minibatch descent."""
        ...

    @property
    def minibatch(self) -> int:
        """Masks a step of it."""
        ...

    @property
    def rate(self) -> float:
        """The highest learning rate of it."""
        ...

    @property
    def penalties(self) -> Sequence[float]:
        """On roughness in second-order fits, to choose from."""
        ...

    @property
    def restarts(self) -> int:
        """Random starts for each decay or penalty."""
        ...

    @property
    def finalists(self) -> int:
        """Candidates of a second-order fit that go on with all masks."""
        ...

    @property
    def members(self) -> int:
        """How many of the best candidates are averaged."""
        ...

    @property
    def iterations(self) -> int:
        """Levenberg–Marquardt steps at most."""
        ...

    @property
    def contest(self) -> int:
        """One in so many masks that candidates compete on; with 1 all take all iterations on all masks."""
        ...

    @property
    def relaxed(self) -> float:
        """What the penalty is multiplied with for the last third of the steps on all masks."""
        ...

    @property
    def outside(self) -> float:
        """Share of a hidden node's values beyond either end of its grid, less than 1/G.

        There a grid is extended by k intervals, which follow rare masks closer than one wide interval would.
        """
        ...

    @property
    def seed(self) -> int:
        """Of the random starts."""
        ...
