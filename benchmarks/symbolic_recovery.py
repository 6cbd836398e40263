"""Recovery of the univariate problems of public symbolic-regression suites, for each backend that runs here.

The problems are those of Nguyen (Uy et al., 2011), Keijzer (2003) and Livermore (Mundhenk et al., 2021) that have
one variable and a closed form, on their published intervals. A problem counts as recovered where the form is right
beyond the data: R² of at least 0.999 on the interval widened by half its length on either side, as far as the
function is defined there. A form that merely follows the data does not pass.
"""

import sys
import time
from collections.abc import Sequence

import numpy as np
import torch

from kanlib import claims, metrics
from kanlib.setups import Backend, Symbolic
from kanlib.symbolic.edges import Edges
from kanlib.symbolic.engines import fronts, missing, shortest

_POINTS = 101
BACKENDS: tuple[Backend, ...] = ("library", "operon", "pykan", "pysr")


def powers(*exponents):
    return lambda x: sum(x**p for p in exponents)


#: Name → function and interval.
PROBLEMS = {
    "Nguyen-1": (powers(3, 2, 1), -1, 1),
    "Nguyen-2": (powers(4, 3, 2, 1), -1, 1),
    "Nguyen-3": (powers(5, 4, 3, 2, 1), -1, 1),
    "Nguyen-4": (powers(6, 5, 4, 3, 2, 1), -1, 1),
    "Nguyen-5": (lambda x: np.sin(x**2) * np.cos(x) - 1, -1, 1),
    "Nguyen-6": (lambda x: np.sin(x) + np.sin(x + x**2), -1, 1),
    "Nguyen-7": (lambda x: np.log(x + 1) + np.log(x**2 + 1), 0, 2),
    "Nguyen-8": (np.sqrt, 0, 4),
    "Keijzer-1": (lambda x: 0.3 * x * np.sin(2 * np.pi * x), -1, 1),
    "Keijzer-2": (lambda x: 0.3 * x * np.sin(2 * np.pi * x), -2, 2),
    "Keijzer-3": (lambda x: 0.3 * x * np.sin(2 * np.pi * x), -3, 3),
    "Keijzer-4": (
        lambda x: x**3 * np.exp(-x) * np.cos(x) * np.sin(x) * (np.sin(x) ** 2 * np.cos(x) - 1),
        0,
        10,
    ),
    "Keijzer-7": (np.log, 1, 100),
    "Keijzer-8": (np.sqrt, 0, 100),
    "Keijzer-9": (np.arcsinh, 0, 100),
    "Livermore-1": (lambda x: 1 / 3 + x + np.sin(x**2), -10, 10),
    "Livermore-2": (lambda x: np.sin(x**2) * np.cos(x) - 2, -1, 1),
    "Livermore-3": (lambda x: np.sin(x**3) * np.cos(x**2) - 1, -1, 1),
    "Livermore-4": (lambda x: np.log(x + 1) + np.log(x**2 + 1) + np.log(x), 0.02, 2),
    "Livermore-6": (lambda x: 4 * x**4 + 3 * x**3 + 2 * x**2 + x, -1, 1),
    "Livermore-7": (np.sinh, -1, 1),
    "Livermore-8": (np.cosh, -1, 1),
    "Livermore-9": (powers(*range(1, 10)), -1, 1),
    "Livermore-13": (np.cbrt, 0, 4),
    "Livermore-14": (lambda x: powers(3, 2, 1)(x) + np.sin(x) + np.sin(x**2), -1, 1),
    "Livermore-15": (lambda x: x**0.2, 0, 4),
    "Livermore-16": (lambda x: x**0.4, 0, 4),
    "Livermore-18": (lambda x: np.sin(x**2) * np.cos(x) - 5, -1, 1),
    "Livermore-19": (powers(5, 4, 2, 1), -1, 1),
    "Livermore-20": (lambda x: np.exp(-(x**2)), -1, 1),
    "Livermore-21": (powers(*range(1, 9)), -1, 1),
    "Livermore-22": (lambda x: np.exp(-0.5 * x**2), -1, 1),
}


def recovered(form, function, low: float, high: float) -> bool:
    beyond = (high - low) / 2
    x = np.linspace(low - beyond, high + beyond, 1000)
    with np.errstate(all="ignore"):
        true = function(x)
    defined = np.isfinite(true)
    error = form.values(torch.from_numpy(x[defined])).numpy() - true[defined]
    return bool(np.square(error).mean() <= 1e-3 * true[defined].var())


def share(found: list[bool]) -> metrics.Estimate:
    """The share of what was recovered, with Wilson's interval."""
    z, n = 1.96, len(found)
    value = sum(found) / n
    middle, half = value + z * z / (2 * n), z * (value * (1 - value) / n + z * z / (4 * n * n)) ** 0.5
    return metrics.Estimate(value, (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n))


def recovery(backend: Backend, edges: Edges) -> claims.Claim:
    """What one backend recovers, and in which time."""
    start = time.perf_counter()
    forms = [shortest(of_edge, 1 - 1e-7) for of_edge in fronts(edges, Symbolic(backend=backend))]
    seconds = (time.perf_counter() - start) / len(forms)
    found = [recovered(form, *problem) for form, problem in zip(forms, PROBLEMS.values(), strict=True)]
    for name, form, right in zip(PROBLEMS, forms, found, strict=True):
        print(f"{backend:8} {name:13} {'recovered' if right else '-':9} {form.r2:.7f} {form.expression}")
    return claims.Command(f"python -m benchmarks.symbolic_recovery {backend}").claim(
        f"symbolic.recovery.{backend}",
        f"Share of {len(found)} univariate problems (Nguyen, Keijzer, Livermore) that {backend} recovers, right "
        f"beyond the data; {seconds:.2g} s a problem (95 % interval of a share)",
        share(found),
    )


def main(asked: Sequence[str]) -> None:
    torch.set_num_threads(2)
    x = torch.stack([torch.linspace(low, high, _POINTS).double() for _, low, high in PROBLEMS.values()])
    y = torch.stack([torch.from_numpy(f(row.numpy())) for row, (f, *_) in zip(x, PROBLEMS.values(), strict=True)])
    edges = Edges(x, y, torch.full_like(x, 1 / _POINTS))
    for name in asked:
        if name not in BACKENDS:
            sys.exit(f"backend {name} is unknown, expected {', '.join(BACKENDS)}")
    for backend in [b for b in BACKENDS if b in (asked or BACKENDS)]:
        if reason := missing(backend):
            print(f"skipped: {reason}")
        else:
            claims.record([recovery(backend, edges)])


if __name__ == "__main__":
    main(sys.argv[1:])
