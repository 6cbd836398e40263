"""What pays in a KAN fit, on development examples at equal compute: ``data/kan_design.json``; the book shows it.

Every row has the cost of 4,000 forward passes an example and is compared with the default on the same examples
and test masks; a backward pass counts as two forward ones. Gradients and a robust loss are tried by L-BFGS in fp64
from the fit to the values, keeping for each example the iterate of lowest validation error.
"""

import json
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Normal
from torch.quasirandom import SobolEngine

from benchmarks.recorded import responses
from kanlib import fitting, metrics, models, perturbation, store
from kanlib.kan import KAN
from kanlib.levenberg_marquardt import mapped, where
from kanlib.references import gradients
from kanlib.setups import Training, generator

SETUP = "digits_resnet18"
TARGET = store.ROOT / "data" / "kan_design.json"
SEEDS = (0, 1)
EXAMPLES = 4
#: Name → what differs from the default of :func:`kanlib.fitting.fit`.
SETTINGS = {
    "default: [8, 8, 1], grid 5": {},
    "grid 3": {"grid": 3},
    "grid 8": {"grid": 8},
    "spline order 5": {"order": 5},
    "almost no penalty": {"penalties": [1e-8]},
    "products: 6 sums, 1 product": {"hidden": [[6, 1]]},
    "products: 4 sums, 2 products": {"hidden": [[4, 2]]},
    "products: 2 sums, 3 products": {"hidden": [[2, 3]]},
    "depth: [8, 6, 4, 1]": {"hidden": [6, 4]},
    "half the width: [8, 4, 1]": {"hidden": [4]},
    "twice the width: [8, 16, 1]": {"hidden": [16]},
    "one start": {"restarts": 1},
    "mean of 2 members": {"members": 2},
    "mean of 4 members": {"members": 4},
    "four times the steps": {"iterations": 96},
}


def sobol(n: int, m: int, seed: int) -> Tensor:
    """Scrambled Sobol points, as Gaussians."""
    points = SobolEngine(m, scramble=True, seed=seed).draw(n, dtype=torch.float64)
    return Normal(0.0, 1.0).icdf(points.clamp(1e-9, 1 - 1e-9)).float()


def mixture(n: int, m: int, seed: int) -> Tensor:
    """Half of the masks of scale 1, half of scale 1.5."""
    scales = torch.tensor([1.0, 1.5]).repeat_interleave(n // 2)[:, None]
    return scales * perturbation.masks(n, m, 1.0, seed, "mixture")


def refined(kan: KAN, loss: Callable[[KAN, int], Tensor], validation: Callable[[KAN, int], Tensor]) -> list[KAN]:
    """L-BFGS on all coefficients of each example; of its iterates the one of lowest validation error."""
    out = []
    for e in range(len(kan.bias)):
        start = kan.select(torch.tensor([e]))
        grids, coefs, bias = mapped(lambda v: v.double(), (start.grids, start.coefs, start.bias))
        coefs, bias = tuple(c.requires_grad_() for c in coefs), bias.requires_grad_()
        now = KAN(grids, coefs, kan.products, bias, kan.order)
        optimiser = torch.optim.LBFGS([*coefs, bias], max_iter=5, history_size=20, line_search_fn="strong_wolfe")

        def closure(now: KAN = now, optimiser: torch.optim.LBFGS = optimiser, e: int = e) -> Tensor:
            optimiser.zero_grad()
            value = loss(now, e)
            value.backward()
            return value

        best, lowest = mapped(lambda v: v.detach().clone(), (coefs, bias)), validation(now, e).detach()
        for _ in range(10):
            optimiser.step(closure)
            error = validation(now, e).detach()
            here = mapped(lambda v: v.detach().clone(), (coefs, bias))
            best, lowest = where((error < lowest)[None], here, best), torch.minimum(error, lowest)
        out.append(KAN(grids, best[0], kan.products, best[1], kan.order))
    return out


def main() -> None:
    torch.set_num_threads(2)
    knobs = {"example_set": "development", "n_examples": 8, "n_fit": 4000, "n_reference": 0}
    data = responses(SETUP, "digits_development", **knobs)
    x, v, t = (data[f"masks.{split}"] for split in ("fit", "validation", "test"))
    y, w, true = (data[f"responses.{split}"][:EXAMPLES] for split in ("fit", "validation", "test"))
    model, images = models.trained(Training.from_setup(SETUP).load("model"))
    names = data.record["names"]
    seen = images.test.read(data["examples"][:EXAMPLES]), data["labels"][:EXAMPLES]
    found: dict[str, list[Tensor]] = {}

    def fitted(name: str, x: Tensor, y: Tensor, **changes) -> None:
        found[name] = [fitting.fit(x, y, v, w, seed=seed, **changes).kan(t) for seed in SEEDS]

    for name, changes in SETTINGS.items():
        fitted(name, x, y, **changes)
    for name, masks in (("Sobol masks", sobol(4000, len(names), 0)), ("masks of two scales", mixture(4000, 8, 0))):
        fitted(name, masks, perturbation.responses(model, names, *seen, masks)[0])

    scale = y.std(1)
    x64, y64, v64, w64, t64 = (value.double() for value in (x, y, v, w, t))

    def error(kan: KAN, e: int) -> Tensor:
        return ((kan(v64)[0] - w64[e]) / scale[e]).square().mean()

    def huber(kan: KAN, e: int) -> Tensor:
        return F.huber_loss(kan(x64)[0] / scale[e], y64[e] / scale[e], delta=0.5)

    def predicted(kans: list[KAN]) -> Tensor:
        return torch.cat([kan(t64) for kan in kans]).detach()

    found["robust loss (Huber)"] = [
        predicted(refined(fitting.fit(x, y, v, w, seed=seed).kan, huber, error)) for seed in SEEDS
    ]
    third = len(x) // 3
    slopes = gradients(model, names, *seen, x[:third]).double()

    def with_slopes(kan: KAN, e: int) -> Tensor:
        value, gradient = kan.derivatives(x64[:third], 1)
        of_slopes = ((gradient[0] - slopes[e]) / scale[e]).square().mean()
        return ((value[0] - y64[e, :third]) / scale[e]).square().mean() + 0.1 * of_slopes

    few = [fitting.fit(x[:third], y[:, :third], v, w, seed=seed).kan for seed in SEEDS]
    found["a third of the masks"] = [kan(t) for kan in few]
    found["a third of the masks, with gradients"] = [predicted(refined(kan, with_slopes, error)) for kan in few]

    rows = []
    base = torch.stack(found[next(iter(found))]).double()
    for name, predictions in found.items():
        both = torch.stack(predictions).double()
        draws = [
            metrics.bootstrap_pearson(torch.stack([a, b]), true, 2000, generator(0, "bootstrap"))
            for a, b in zip(both, base, strict=True)
        ]
        ahead = torch.stack([draw[0] - draw[1] for draw in draws]).mean(0)
        pearson = metrics.pearson(both, true)
        low, high = metrics.interval(ahead)
        row = {
            "variant": name,
            "Pearson": pearson.mean().item(),
            "± std over examples": pearson.mean(0).std().item(),
        }
        row |= {"ahead by": (pearson.mean() - metrics.pearson(base, true).mean()).item(), "low": low, "high": high}
        print(row)
        rows.append(row)
    text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    store.write_whole(TARGET, lambda part: part.write_text(text, encoding="utf8"))


if __name__ == "__main__":
    main()
