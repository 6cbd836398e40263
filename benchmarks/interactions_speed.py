"""All coefficients up to order 3 of closed forms with 16 components, against ``sympy.diff`` a subset at a time.

32 closed forms of KANs [16, 8, 1], fitted to random smooth functions. sympy differentiates the same expressions,
with every component outside the subset set to 0 first, which makes it several times faster. A triple takes it
minutes, so it is timed on two components and a pair of one closed form, and every coefficient is taken to cost it
no more than these do on average: the ratio is a lower bound.
"""

import time

import sympy
import torch

from kanlib import claims, fitting, interactions
from kanlib.setups import generator
from kanlib.shortening import symbolic_kans
from kanlib.symbolic import SymbolicKAN

M, EXAMPLES, ORDER = 16, 32, 3
SAMPLED = ((3,), (11,), (1, 11))
COMMAND = "python -m benchmarks.interactions_speed"


def by_sympy(form: SymbolicKAN, subset: tuple[int, ...]) -> float:
    """One coefficient, differentiated as an expression."""
    chosen = [form.symbols[j] for j in subset]
    few = form.expression.xreplace({s: sympy.Integer(0) for s in form.symbols if s not in chosen})
    return float(sympy.diff(few, *chosen).xreplace(dict.fromkeys(chosen, sympy.Float(0))))


def main() -> None:
    torch.set_num_threads(2)
    source = generator(0, "interactions_speed")
    x, v = torch.randn(1500, M, generator=source), torch.randn(300, M, generator=source)
    weights = torch.randn(EXAMPLES, 2, M, generator=source) / M**0.5

    def true(s: torch.Tensor) -> torch.Tensor:
        a, b = (weights @ s.T).unbind(1)
        return torch.tanh(a) * b + a.square()

    kan = fitting.fit(x, true(x), v, true(v), hidden=[8], penalties=[1e-3], restarts=1, finalists=1).kan
    forms = symbolic_kans(kan, x)
    interactions.of_network(forms[0], ORDER)
    start = time.perf_counter()
    found = [interactions.of_network(form, ORDER) for form in forms]
    ours = time.perf_counter() - start

    (index, values), form = found[0], forms[0]
    start = time.perf_counter()
    theirs = {subset: by_sympy(form, subset) for subset in SAMPLED}
    seconds = (time.perf_counter() - start) / len(SAMPLED) * len(index) * EXAMPLES
    error = max(abs(values[index.index(s)].item() - value) for s, value in theirs.items())
    error /= values.abs().max().item()
    shared = {"command": COMMAND, "cost": "long", "device": "cpu, 2 threads"}
    where = f"{len(index)} coefficients of {EXAMPLES} closed forms, {M} components, order {ORDER}"
    claims.record(
        [
            claims.Claim(
                "interactions.seconds_m16_k3", f"Seconds for {where}", ours, ours, ours, "<= 1", **shared
            ),
            claims.Claim(
                "interactions.speedup_vs_sympy",
                f"Times as fast as sympy.diff, at least (timed on {len(SAMPLED)} of orders 1 and 2): {where}",
                *[seconds / ours] * 3,
                ">= 1000",
                **shared,
            ),
            claims.Claim(
                "interactions.sympy_error",
                f"Largest difference from sympy.diff over the largest coefficient, {len(SAMPLED)} coefficients",
                *[error] * 3,
                "<= 1e-8",
                **shared,
            ),
        ]
    )
    print(f"{ours:.3f} s, {seconds / ours:.0f} times sympy.diff, error {error:.1e}")


if __name__ == "__main__":
    main()
