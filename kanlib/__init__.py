"""Higher-order component attribution with Kolmogorov–Arnold networks: four wings on one ground floor.

``networks`` is what is asked, ``kan`` what is fitted, ``symbolic`` what is read, ``attribution`` what is said. The
ground floor (from ``errors`` to ``masks``: files, setups, claims, metrics) serves them all; ``charts`` and
``mixer`` stand on top. A module imports only what stands below: ground < kan < symbolic < attribution < top, and
ground < networks < attribution; ``networks`` and the mathematics of ``kan`` and ``symbolic`` never meet.
"""

__version__ = "0.4.0"
