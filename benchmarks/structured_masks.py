"""Masks drawn in trees against independent ones, at equal seconds: ``data/structured_masks.json``.

Masks that share the scales of the first half of the components share what the network does up to there. If that is
a share p of a forward pass, and k masks share each first half, a mask costs ``p/k + 1 − p`` passes, and for the
seconds of N independent masks there are more of them. p is what the clock says of the trained network on this
machine; the network itself is asked mask by mask, so what is spared is computed and not saved. Four development
examples of the digits, the KAN and the MLP of the chapters; the test masks are independent.
"""

import time

import torch
from torch import Tensor, nn

from benchmarks.runs import made, responses, splits
from kanlib import files, metrics, store
from kanlib.attribution import SURROGATES
from kanlib.masks import Split, gaussian
from kanlib.networks import Live
from kanlib.networks.probe import Probe
from kanlib.setups import Perturbation, Surrogate

TARGET = store.ROOT / "data" / "structured_masks.json"
SETUP = "digits_resnet18"
EXAMPLES = 4
SIZES = (1000, 2000)
BRANCHES = (2, 4, 8)
PASSES = 20


def in_trees(n: int, m: int, branches: int, seed: int) -> Tensor:
    """``n`` masks ``[n, m]``, of which each so many share the scales of the first half of the components."""
    first = gaussian(-(-n // branches), m // 2, 1.0, seed, "first halves").repeat_interleave(branches, 0)[:n]
    return torch.cat([first, gaussian(n, m - m // 2, 1.0, seed, f"second halves of {branches}")], 1)


def share_before(probe: Probe) -> float:
    """The share of a forward pass that is over when the second half of the components begins."""
    begun: list[float] = []
    module = dict(probe.model.named_modules())[probe.components[len(probe.components) // 2]]

    def note(module: nn.Module, inputs: object) -> None:
        begun.append(time.perf_counter())

    x = probe.x[:1].expand(probe.batch_size, *probe.x.shape[1:])
    shares = []
    with torch.inference_mode(), module.register_forward_pre_hook(note):
        for _ in range(PASSES):
            start = time.perf_counter()
            probe.model(x)
            shares.append((begun[-1] - start) / (time.perf_counter() - start))
    return sorted(shares)[PASSES // 2]


def main() -> None:
    torch.set_num_threads(2)
    made(SETUP, "model")
    knobs = {"example_set": "development", "n_examples": EXAMPLES, "n_reference": 0}
    recorded = responses(SETUP, f"{SETUP}_development", n_fit=max(SIZES), **knobs)
    independent, validation, test = splits(recorded, "fit", "validation", "test")
    p = Perturbation.from_setup(SETUP, {"source": "live", "run": "structured_masks"} | knobs)
    probe = Live(p).probe
    before = share_before(probe)
    m, rows = len(probe.components), []
    for n in SIZES:
        designs = {1: independent.part(n)}
        for branches in BRANCHES:
            masks = in_trees(round(n / (before / branches + 1 - before)), m, branches, p.seed)
            designs[branches] = Split(masks, probe.responses(masks, f"{branches} branches")[0])
        for name in ("kan", "mlp"):
            surrogate = SURROGATES[name](Surrogate.from_setup(SETUP))
            predicted = {k: surrogate.fit(data, validation).predict(test.masks) for k, data in designs.items()}
            for k, values in predicted.items():
                lead = metrics.ahead(values, predicted[1], test.responses)
                row = {"surrogate": metrics.TITLES[name], "passes paid for": n, "masks that share a half": k}
                row |= {"share before": round(before, 3), "masks": len(designs[k].masks)}
                row |= {"Pearson": metrics.pearson(values, test.responses).mean().item()}
                rows.append(row | {"ahead by": lead.value, "low": lead.low, "high": lead.high})
                print(*rows[-1].values(), sep=" | ", flush=True)
    files.write_json(TARGET, rows)


if __name__ == "__main__":
    main()
