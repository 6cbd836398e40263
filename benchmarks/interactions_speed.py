"""All coefficients up to order 3 of closed forms with 16 components, against ``sympy.diff`` a subset at a time.

32 closed forms of KANs [16, 8, 1], fitted to random smooth functions. sympy differentiates the same expressions,
with every component outside the subset set to 0 first, which makes it several times faster. A triple takes it
minutes, so it is timed on two components and a pair of one closed form, and every coefficient is taken to cost it
no more than these do on average: the ratio is a lower bound.
"""

import time

import sympy
import torch

from kanlib import claims
from kanlib.attribution import of_symbolic
from kanlib.kan import fit
from kanlib.machine import generator
from kanlib.masks import Split, Subset
from kanlib.setups import Surrogate, Symbolic
from kanlib.symbolic import SymbolicKAN, replace_edges

M, EXAMPLES, ORDER = 16, 32, 3
SAMPLED = ((3,), (11,), (1, 11))
COMMAND = claims.Command("python -m benchmarks.interactions_speed")
KNOBS = Surrogate(hidden=[8], restarts=1)


def by_sympy(symbolic: SymbolicKAN, subset: Subset) -> float:
    """One coefficient, differentiated as an expression."""
    chosen = [symbolic.symbols[j] for j in subset]
    few = symbolic.expression.xreplace({s: sympy.Integer(0) for s in symbolic.symbols if s not in chosen})
    return float(sympy.diff(few, *chosen).xreplace(dict.fromkeys(chosen, sympy.Float(0))))


def main() -> None:
    torch.set_num_threads(2)
    source = generator(0, "interactions_speed")
    x, v = torch.randn(1500, M, generator=source), torch.randn(300, M, generator=source)
    weights = torch.randn(EXAMPLES, 2, M, generator=source) / M**0.5

    def true(s: torch.Tensor) -> torch.Tensor:
        a, b = (weights @ s.T).unbind(1)
        return torch.tanh(a) * b + a.square()

    kan = fit(Split(x, true(x)), Split(v, true(v)), KNOBS).kan
    symbolic = replace_edges(kan, x, Symbolic())
    of_symbolic(symbolic[0], ORDER)
    start = time.perf_counter()
    found = [of_symbolic(one, ORDER) for one in symbolic]
    ours = time.perf_counter() - start

    index, values = found[0]
    start = time.perf_counter()
    theirs = {subset: by_sympy(symbolic[0], subset) for subset in SAMPLED}
    seconds = (time.perf_counter() - start) / len(SAMPLED) * len(index) * EXAMPLES
    error = max(abs(values[index.index(s)].item() - value) for s, value in theirs.items())
    error /= values.abs().max().item()
    what = f"{len(index)} coefficients of {EXAMPLES} closed forms, {M} components, order {ORDER}"
    faster = f"Times as fast as sympy.diff, at least (timed on {len(SAMPLED)} of orders 1 and 2): {what}"
    off = f"Largest difference from sympy.diff over the largest coefficient, {len(SAMPLED)} coefficients"
    claims.record(
        [
            COMMAND.claim("interactions.seconds_m16_k3", f"Seconds for {what}", ours, "<= 1"),
            COMMAND.claim("interactions.speedup_vs_sympy", faster, seconds / ours, ">= 1000"),
            COMMAND.claim("interactions.sympy_error", off, error, "<= 1e-8"),
        ]
    )
    print(f"{ours:.3f} s, {seconds / ours:.0f} times sympy.diff, error {error:.1e}")


if __name__ == "__main__":
    main()
