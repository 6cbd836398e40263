"""Higher-order component attribution with Kolmogorov–Arnold networks.

Modules in the order in which data flows, each importing only what stands before it::

    errors store setups images models training components perturbation references
    networks recording metrics splines kan levenberg_marquardt fitting pykan surrogates
    closed_forms edges library engines symbolic refit shortening notation interactions
    mixer charts claims
"""

__version__ = "0.1.0"
