"""What is fitted: Kolmogorov–Arnold networks, many at once, and the way to pykan and back.

Example: a KAN with eight hidden nodes for each of E examples, from masks ``[N, m]`` and responses ``[E, N]``::

    found = fit(Split(masks, responses), Split(other_masks, other_responses), Surrogate(hidden=[8]))
    found.kan(new_masks)                     # predictions [E, N]
    found.kan.derivatives(new_masks, 2)      # values, gradients and Hessians, exact
    to_pykan(found.kan)                      # pykan models, a list; from_pykan leads back
"""

from kanlib.kan.fitting import Fit, fit
from kanlib.kan.kan import KAN
from kanlib.kan.pykan import from_pykan, to_pykan

__all__ = ["KAN", "Fit", "fit", "from_pykan", "to_pykan"]
