"""What pays in a KAN fit, on development examples at equal compute: ``data/kan_design.json``; the book shows it.

Every row has the cost of 4,000 forward passes an example and is compared with the default on the same examples
and test masks; a backward pass counts as two forward ones. Gradients and a robust loss are tried by L-BFGS in fp64
from the fit to the values, keeping for each example the iterate of lowest validation error.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.runs import responses, splits
from kanlib import files, metrics, store
from kanlib.kan import KAN, fit
from kanlib.kan.trees import tree_map, tree_where
from kanlib.masks import Split, sobol, two_scales
from kanlib.networks import Live, Probe
from kanlib.setups import Perturbation, Surrogate

SETUP = "digits_resnet18"
TARGET = store.ROOT / "data" / "kan_design.json"
SEEDS = (0, 1)
EXAMPLES = 4
#: Name → what differs from the defaults of :class:`kanlib.setups.Surrogate`.
SETTINGS: dict[str, dict[str, Any]] = {
    "default: [8, 8, 1], grid 5": {},
    "grid 3": {"grid": 3},
    "grid 8": {"grid": 8},
    "spline order 5": {"spline_order": 5},
    "almost no penalty": {"penalties": [1e-8]},
    "depth: [8, 6, 4, 1]": {"hidden": [6, 4]},
    "half the width: [8, 4, 1]": {"hidden": [4]},
    "twice the width: [8, 16, 1]": {"hidden": [16]},
    "one start": {"restarts": 1},
    "mean of 2 members": {"members": 2},
    "mean of 4 members": {"members": 4},
    "four times the steps": {"iterations": 96},
}


def refined(kan: KAN, loss: Callable[[KAN, int], Tensor], validation: Callable[[KAN, int], Tensor]) -> list[KAN]:
    """L-BFGS on all coefficients of each example; of its iterates the one of lowest validation error."""
    out = []
    for e in range(len(kan.bias)):
        now = kan.select(torch.tensor([e])).to(torch.float64)
        free = [v.requires_grad_() for v in (*now.coefs, now.bias)]
        optimiser = torch.optim.LBFGS(free, max_iter=5, history_size=20, line_search_fn="strong_wolfe")

        def closure(now: KAN = now, optimiser: torch.optim.LBFGS = optimiser, e: int = e) -> Tensor:
            optimiser.zero_grad()
            value = loss(now, e)
            value.backward()
            return value

        best, lowest = tree_map(lambda v: v.detach().clone(), now), validation(now, e).detach()
        for _ in range(10):
            optimiser.step(closure)
            error = validation(now, e).detach()
            here = tree_map(lambda v: v.detach().clone(), now)
            best, lowest = tree_where((error < lowest)[None], here, best), torch.minimum(error, lowest)
        out.append(best)
    return out


def settings(data: Split, validation: Split, test: Split) -> dict[str, list[Tensor]]:
    """Test predictions of every setting, a fit a seed."""
    return {
        name: [fit(data, validation, Surrogate(**changes), seed=seed).kan(test.masks) for seed in SEEDS]
        for name, changes in SETTINGS.items()
    }


def designs(probe: Probe, validation: Split, test: Split) -> dict[str, list[Tensor]]:
    """Test predictions of default fits to masks of other designs, which the network is asked about."""
    m = len(probe.components)
    found = {}
    for name, masks in (("Sobol masks", sobol(4000, m, 0)), ("masks of two scales", two_scales(4000, m, 0))):
        data = Split(masks, probe.responses(masks)[0])
        found[name] = [fit(data, validation, Surrogate(), seed=seed).kan(test.masks) for seed in SEEDS]
    return found


def losses(probe: Probe, data: Split, validation: Split, test: Split) -> dict[str, list[Tensor]]:
    """Test predictions where something else than the squared error of values is minimised in the end."""
    double = {name: s.to(torch.float64) for name, s in (("fit", data), ("validation", validation))}
    scale, third, at = data.responses.std(1), len(data.masks) // 3, test.masks.double()
    few = data.part(third)
    slopes = probe.gradients(few.masks).double()

    def error(kan: KAN, e: int) -> Tensor:
        s = double["validation"]
        return ((kan(s.masks)[0] - s.responses[e]) / scale[e]).square().mean()

    def huber(kan: KAN, e: int) -> Tensor:
        s = double["fit"]
        return F.huber_loss(kan(s.masks)[0] / scale[e], s.responses[e] / scale[e], delta=0.5)

    def with_slopes(kan: KAN, e: int) -> Tensor:
        s = double["fit"].part(third)
        value, gradient = kan.derivatives(s.masks, 1)
        of_slopes = ((gradient[0] - slopes[e]) / scale[e]).square().mean()
        return ((value[0] - s.responses[e]) / scale[e]).square().mean() + 0.1 * of_slopes

    def predicted(kans: list[KAN]) -> Tensor:
        return torch.cat([kan(at) for kan in kans]).detach()

    whole = [fit(data, validation, Surrogate(), seed=seed).kan for seed in SEEDS]
    thirds = [fit(few, validation, Surrogate(), seed=seed).kan for seed in SEEDS]
    return {
        "robust loss (Huber)": [predicted(refined(kan, huber, error)) for kan in whole],
        "a third of the masks": [kan(test.masks) for kan in thirds],
        "a third of the masks, with gradients": [predicted(refined(kan, with_slopes, error)) for kan in thirds],
    }


def rows(found: Mapping[str, Sequence[Tensor]], true: Tensor) -> list[dict]:
    """What is written: a row for each variant, compared with the first one."""
    base, out = torch.stack(list(next(iter(found.values())))).double(), []
    for name, predictions in found.items():
        both = torch.stack(list(predictions)).double()
        pearson, lead = metrics.pearson(both, true), metrics.ahead(both, base, true)
        row = {
            "variant": name,
            "Pearson": pearson.mean().item(),
            "± std over examples": pearson.mean(0).std().item(),
        }
        out.append(row | {"ahead by": lead.value, "low": lead.low, "high": lead.high})
        print(out[-1])
    return out


def main() -> None:
    torch.set_num_threads(2)
    knobs = {"source": "live", "example_set": "development", "n_examples": 8, "n_fit": 4000, "n_reference": 0}
    recorded = responses(SETUP, "digits_development", **knobs)
    first = slice(EXAMPLES)
    data, validation, test = (s.of(first) for s in splits(recorded, "fit", "validation", "test"))
    live = Live(Perturbation.from_setup(SETUP, knobs | {"run": "digits_development"}))
    probe = live.probe.of(first)
    found = settings(data, validation, test) | designs(probe, validation, test)
    found |= losses(probe, data, validation, test)
    files.write_json(TARGET, rows(found, test.responses))


if __name__ == "__main__":
    main()
