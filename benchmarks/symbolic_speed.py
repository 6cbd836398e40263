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

from benchmarks.runs import splits
from kanlib import claims, metrics
from kanlib.kan import KAN, fit, to_pykan
from kanlib.kan.pykan import quietly
from kanlib.setups import Backend, Surrogate, Symbolic
from kanlib.symbolic import Batch, replace_edges
from kanlib.symbolic.engines import missing

SETUP = "digits_resnet18"
COMMAND = claims.Command("python -m benchmarks.symbolic_speed")
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
    data, validation, test = splits(p.load("responses"), "fit", "validation", "test")
    kan = fit(data, validation, Surrogate(hidden=[3], seed=p.seed)).kan
    n_edges = sum(coef.shape[1] * coef.shape[2] for coef in kan.coefs)

    def by(backend: Backend) -> torch.Tensor:
        symbolic = replace_edges(kan, data.masks, Symbolic(backend=backend, r2=p.r2))
        return Batch(symbolic)(test.masks)[:1]

    first = kan.select(torch.tensor([0]))
    every = n_edges * len(data.responses)
    methods = {
        "library": (lambda: by("library"), every),
        "pykan": (lambda: by_pykan(first, data.masks, test.masks), n_edges),
        "operon": (lambda: by("operon"), every),
    }
    if missing("operon"):
        del methods["operon"]
    seconds, predicted, true = {}, {}, test.responses[:1]
    for name, (method, n) in methods.items():
        start = time.perf_counter()
        predicted[name] = method().double()
        seconds[name] = (time.perf_counter() - start) / n
        pearson = metrics.pearson(predicted[name], true).item()
        print(f"{name}: {seconds[name]:.3g} s an edge, {n} edges, test Pearson {pearson:.4f}", flush=True)
    claims.record([row for peer in list(methods)[1:] for row in compared(peer, seconds, predicted, true, every)])


def compared(
    peer: str, seconds: dict[str, float], predicted: dict[str, torch.Tensor], true: torch.Tensor, n: int
) -> list[claims.Claim]:
    """How much faster the library is than another source of closed forms, and how much better."""
    faster = f"Edges a second of the library, {n} at a time, over those of {peer}, of KANs of {SETUP}"
    better = f"Test Pearson of the library's closed form less that of {peer}'s, same edges, not refitted, on one "
    better += "example (interval over masks)"
    of_pykan = peer == "pykan"
    ratio, lead = seconds[peer] / seconds["library"], metrics.ahead(predicted["library"], predicted[peer], true)
    return [
        COMMAND.claim(f"symbolic.speedup_vs_{peer}", faster, ratio, ">= 100" if of_pykan else ""),
        COMMAND.claim(f"symbolic.ahead_of_{peer}", better, lead, ">= 0" if of_pykan else ""),
    ]


if __name__ == "__main__":
    main()
