"""All coefficients up to order 3 of closed forms with 16 components, against ``sympy.diff`` a subset at a time.

32 closed forms of KANs [16, 8, 1], fitted to random smooth functions. sympy differentiates the same expressions;
it is timed on random subsets for one of them, and its time is scaled up to all.
"""

import random
import time

import sympy
import torch

from kanlib import claims, fitting, interactions
from kanlib.setups import generator
from kanlib.shortening import symbolic_kans

M, EXAMPLES, ORDER = 16, 32, 3
SAMPLED = 12
COMMAND = "python -m benchmarks.interactions_speed"


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
    expression, zero = form.expression, dict.fromkeys(form.symbols, 0)
    start = time.perf_counter()
    chosen = random.Random(0).sample(range(len(index)), SAMPLED)  # noqa: S311 (no secret)
    theirs = {i: float(sympy.diff(expression, *(form.symbols[j] for j in index[i])).subs(zero)) for i in chosen}
    seconds = (time.perf_counter() - start) / SAMPLED * len(index) * EXAMPLES
    largest = values.abs().max()
    error = max(abs(values[i].item() - value) for i, value in theirs.items()) / largest.item()
    shared = {"command": COMMAND, "cost": "long", "device": "cpu, 2 threads"}
    where = f"{len(index)} coefficients of {EXAMPLES} closed forms, {M} components, order {ORDER}"
    claims.record(
        [
            claims.Claim(
                "interactions.seconds_m16_k3", f"Seconds for {where}", ours, ours, ours, "<= 1", **shared
            ),
            claims.Claim(
                "interactions.speedup_vs_sympy",
                f"Times sympy.diff (timed on {SAMPLED} coefficients): {where}",
                *[seconds / ours] * 3,
                ">= 1000",
                **shared,
            ),
            claims.Claim(
                "interactions.sympy_error",
                f"Largest difference from sympy.diff over the largest coefficient, {SAMPLED} coefficients",
                *[error] * 3,
                "<= 1e-8",
                **shared,
            ),
        ]
    )
    print(f"{ours:.3f} s, {seconds / ours:.0f} times sympy.diff, error {error:.1e}")


if __name__ == "__main__":
    main()
