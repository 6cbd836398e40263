"""Higher-order component attribution with Kolmogorov–Arnold networks: five wings on one ground floor.

``networks`` is what is asked, ``kan`` what is fitted, ``symbolic`` what is read, ``attribution`` what is said, and
``sae`` what a stream of vectors holds. The ground floor (from ``errors`` to ``masks``: files, setups, claims,
metrics) serves them all; ``charts``, ``mixer`` and :func:`kanlib.explaining.explain`, the steps of the notebooks
in one call, stand on top. A module imports only what stands below: ground < kan < symbolic < attribution < top,
and ground < networks < attribution; ``sae`` stands on ``networks`` and ``kan``, and ``networks`` and the
mathematics of ``kan`` and ``symbolic`` never meet.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kanlib.explaining import explain

__all__ = ["explain"]
__version__ = "0.4.0"


def __getattr__(name: str) -> Any:
    """``explain``, with all that it needs, when it is asked for: to import one module costs no other."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kanlib import explaining

    return explaining.explain
