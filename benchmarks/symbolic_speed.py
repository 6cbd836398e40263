"""Closed forms from the library, from pykan and from Operon for the same edges: edges a second, and end to end.

The edges are those of a KAN with three hidden nodes, fitted to the first example of digits_resnet18: pykan needs
many seconds for each. It works on its own model of the same network and on 1,000 of the fit masks, with its
defaults (``auto_symbolic``), Operon and the library on the same edges. Nothing is refitted. All run one after the
other in one process. Where a closed form has no finite value at a test mask, as pykan's may, it is taken to
predict the mean of its finite ones.
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


def by_pykan(kan: KAN, fit: torch.Tensor, test: torch.Tensor) -> torch.Tensor:
    out = []
    for model in to_pykan(kan):
        with quietly(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model(fit[:1000])
            model.auto_symbolic(verbose=0)
            out.append(model(test)[:, 0].detach())
    return torch.stack(out)


def completed(predicted: torch.Tensor) -> torch.Tensor:
    """Predictions ``[E, N]`` with every row's mean in place of what is not finite, 0 if nothing is."""
    finite = predicted.isfinite()
    kept = predicted.where(finite, torch.zeros_like(predicted))
    return kept.where(finite, kept.sum(1, keepdim=True) / finite.sum(1, keepdim=True).clamp_min(1))


def main() -> None:
    torch.set_num_threads(2)
    p = Symbolic.from_setup(SETUP)
    recorded = p.load("responses")
    fit, unseen, test = (recorded[f"masks.{split}"] for split in ("fit", "validation", "test"))
    y, truth, true = (recorded[f"responses.{split}"][:1] for split in ("fit", "validation", "test"))
    kan = fitting.fit(fit, y, unseen, truth, hidden=[3], seed=p.seed).kan
    n_edges = sum(coef.shape[1] * coef.shape[2] for coef in kan.coefs)

    def by(backend: str) -> torch.Tensor:
        return Batch(symbolic_kans(kan, fit, r2=p.r2, backend=backend))(test)

    methods = {"library": lambda: by("library"), "pykan": lambda: by_pykan(kan, fit, test)}
    if not engines.missing("operon"):
        methods["operon"] = lambda: by("operon")
    seconds, predicted = {}, {}
    for name, method in methods.items():
        start = time.perf_counter()
        raw = method().double()
        seconds[name] = time.perf_counter() - start
        predicted[name], missing = completed(raw), 1 - raw.isfinite().double().mean().item()
        scores = metrics.pearson(predicted[name], true).tolist()
        print(f"{name}: {seconds[name] / n_edges:.3g} s an edge, test Pearson {scores}, not finite {missing:.1%}")
    shared = {"command": COMMAND, "cost": "long", "device": "cpu, 2 threads"}
    rows = []
    for peer in list(methods)[1:]:
        ratio = seconds[peer] / seconds["library"]
        rows.append(
            claims.Claim(
                id=f"symbolic.speedup_vs_{peer}",
                statement=f"Edges a second of the library over those of {peer}, on the {n_edges} edges of "
                f"a KAN of {SETUP}",
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
                "refitted (interval over examples and masks)",
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
