"""What is read: closed forms in place of a KAN's edges, faithful or short, and how they are written.

Example: the symbolic KANs of a batch of KANs, as expressions and as functions::

    faithful = replace_edges(kan, fit.masks, Symbolic())
    short, fronts = shorten(kan, fit, validation, Symbolic(max_length=12))
    faithful[0].expression                   # sympy, in sigma_1, sigma_2, …
    Batch(short)(masks)                      # [E, N]; short[0](masks) is one of them
    latex_whole(short[0], digits=2)          # for readers; vega is for charts
    bounds(short, -end, end, gap=0.1).high   # no mask from −end to end is answered by more
    shortest_of_all(one_sum, fit, validation, 30)  # of all examples, from KANs with one hidden node

``edge_table``, ``edge_curves`` and ``front_table`` are these as tables.
"""

from kanlib.symbolic.bounds import Bounds, bounds
from kanlib.symbolic.closed_forms import ClosedForm
from kanlib.symbolic.edge_tables import edge_curves, edge_table
from kanlib.symbolic.notation import html, latex_lines, latex_one_sum, latex_whole, vega
from kanlib.symbolic.one_sum import OneSum, shortest_of_all
from kanlib.symbolic.shortening import front_table, replace_edges, shorten
from kanlib.symbolic.symbolic_kan import Batch, SymbolicKAN

__all__ = [
    "Batch",
    "Bounds",
    "ClosedForm",
    "OneSum",
    "SymbolicKAN",
    "bounds",
    "edge_curves",
    "edge_table",
    "front_table",
    "html",
    "latex_lines",
    "latex_one_sum",
    "latex_whole",
    "replace_edges",
    "shorten",
    "shortest_of_all",
    "vega",
]
