"""Closed forms from the library, from pykan and from Operon for the same edges: edges a second, and end to end.

The edges are those of KANs with three hidden nodes, fitted to the examples of digits_resnet18. The library and
Operon take the edges of all examples together, as they are made to; pykan, which needs seconds for each, those of
the first. It works on its own model of the same network and on 1,000 of the fit masks, by ``auto_symbolic``, with
those functions of its library that are finite everywhere and with weight on the fit alone: with its defaults, all
functions and weight on simple ones, the Pearson of what it makes is no number. Nothing is refitted. All run one
after the other in one process; Pearson is compared on the first example.
"""

import time
import warnings

import torch

from kanlib import claims, engines, fitting, metrics
from kanlib.kan import KAN
from kanlib.pykan import quietly, to_pykan
from kanlib.setups import Symbolic, generator
from kanlib.shortening import symbolic_kans
from kanlib.symbolic import Batch

SETUP = "digits_resnet18"
COMMAND = "python -m benchmarks.symbolic_speed"
#: Of pykan's library, what is finite everywhere.
FINITE = ["x", "x^2", "x^3", "x^4", "x^5", "exp", "abs", "sin", "cos", "tanh", "arctan", "gaussian"]


def by_pykan(kan: KAN, fit: torch.Tensor, test: torch.Tensor) -> torch.Tensor:
    (model,) = to_pykan(kan)
    with quietly(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model(fit[:1000])
        model.auto_symbolic(lib=FINITE, weight_simple=0.0, verbose=0)
        return model(test)[:, 0].detach()[None]


def main() -> None:
    torch.set_num_threads(2)
    p = Symbolic.from_setup(SETUP)
    recorded = p.load("responses")
    fit, unseen, test = (recorded[f"masks.{split}"] for split in ("fit", "validation", "test"))
    y, truth, true = (recorded[f"responses.{split}"] for split in ("fit", "validation", "test"))
    kan = fitting.fit(fit, y, unseen, truth, hidden=[3], seed=p.seed).kan
    first, true = kan.select(torch.tensor([0])), true[:1]
    of_one = sum(coef.shape[1] * coef.shape[2] for coef in kan.coefs)

    def by(backend: str) -> torch.Tensor:
        return Batch(symbolic_kans(kan, fit, r2=p.r2, backend=backend))(test)[:1]

    methods = {"library": lambda: by("library"), "pykan": lambda: by_pykan(first, fit, test)}
    if not engines.missing("operon"):
        methods["operon"] = lambda: by("operon")
    seconds, predicted = {}, {}
    for name, method in methods.items():
        start = time.perf_counter()
        predicted[name] = method().double()
        n_edges = of_one if name == "pykan" else of_one * len(y)
        seconds[name] = (time.perf_counter() - start) / n_edges
        pearson = metrics.pearson(predicted[name], true).item()
        print(f"{name}: {seconds[name]:.3g} s an edge, {n_edges} edges, test Pearson {pearson:.4f}", flush=True)
    shared = {"command": COMMAND, "cost": "long", "device": "cpu, 2 threads"}
    rows = []
    for peer in list(methods)[1:]:
        ratio = seconds[peer] / seconds["library"]
        rows.append(
            claims.Claim(
                id=f"symbolic.speedup_vs_{peer}",
                statement=f"Edges a second of the library, {of_one * len(y)} at a time, over those of {peer}, of "
                f"KANs of {SETUP}",
                value=ratio,
                low=ratio,
                high=ratio,
                target=">= 100" if peer == "pykan" else "",
                **shared,
            )
        )
        draws = metrics.bootstrap_pearson(
            torch.stack([predicted["library"], predicted[peer]]), true, 2000, generator(0, "bootstrap")
        )
        low, high = metrics.interval(draws[0] - draws[1])
        ahead = metrics.pearson(predicted["library"], true) - metrics.pearson(predicted[peer], true)
        rows.append(
            claims.Claim(
                id=f"symbolic.ahead_of_{peer}",
                statement=f"Test Pearson of the library's closed form less that of {peer}'s, same edges, not "
                "refitted, on one example (interval over masks)",
                value=float(ahead.mean()),
                low=low,
                high=high,
                target=">= 0" if peer == "pykan" else "",
                **shared,
            )
        )
    claims.record(rows)


if __name__ == "__main__":
    main()
