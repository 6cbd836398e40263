"""Surrogates made for the point σ = 0: how near to it must their masks be? ``data/interactions_narrow.json``.

A polynomial's gradient is fitted to the network's own, in fp64, at masks of a falling scale, and its coefficients
are compared with the network's exact derivatives at σ = 0: over all scales on four development examples of
digits_resnet18, and at the scale of :data:`NARROW` on the examples that the chapters of all setups report.
"""

import pandas as pd
import torch
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import PolynomialFeatures
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.interactions_fidelity import compared
from benchmarks.runs import made
from kanlib import claims, files, store
from kanlib.attribution import fidelity
from kanlib.attribution.coefficients import of_polynomial
from kanlib.masks import Subset, gaussian, subsets
from kanlib.networks import Live
from kanlib.setups import Perturbation

TARGET = store.ROOT / "data" / "interactions_narrow.json"
COMMAND = claims.Command("python -m benchmarks.interactions_narrow", device="cpu")
DIGITS = "digits_resnet18"
SCALES = [10.0**-r for r in range(9)]
NARROW = 1e-7
SETUPS = (DIGITS, "cifar10_resnet18", "imagenet_deit_tiny")
ORDER = 3
MASKS = 2  # for each coefficient of a component's polynomial


def main() -> None:
    torch.set_num_threads(2)
    rows = []
    for scale, table in fidelities(DIGITS, SCALES, n_examples=4, example_set="development").items():
        for order, of_order in table.groupby("order"):
            measures = of_order[["spearman", "signs"]].mean().to_dict()
            rows.append({"surrogate": "polynomial of gradients", "scale": scale, "order": str(order)} | measures)
            print(*rows[-1].values(), flush=True)
    files.write_json(TARGET, rows)
    for setup in SETUPS:
        table = fidelities(setup, [NARROW])[NARROW].assign(reliability=1.0)
        claims.record(compared(COMMAND, setup, {"narrow": table}, Perturbation.from_setup(setup).seed))


def fidelities(setup: str, scales: list[float], **knobs) -> dict[float, pd.DataFrame]:
    """How close polynomials fitted at each scale come to the network's local derivatives."""
    if not store.path(setup, "model").exists():
        made(setup, "model")
    p = Perturbation.from_setup(setup, {"source": "live", "derivative_order": ORDER} | knobs)
    live = Live(p)
    local, m = live.local_derivatives(), len(live.components)
    probe, index = live.probe.double(), subsets(m, ORDER)
    n_masks = MASKS * (1 + m + m * (m + 1) // 2)
    found = {}
    for scale in scales:
        x = gaussian(n_masks, m, 1.0, p.seed, "narrow").double() * scale
        with sdpa_kernel(SDPBackend.MATH):
            gradient = probe.gradients(x)
        found[scale] = fidelity(of_gradients(x, gradient, scale, index), local, index)
    return found


def of_gradients(x: Tensor, gradient: Tensor, scale: float, index: list[Subset]) -> Tensor:
    """``L_S`` ``[E, n_S]`` of polynomials whose gradients come nearest to ``gradient`` ``[E, N, m]``.

    That of component k is a polynomial of one degree less, in which ``∏_{j ∈ S∖k} σ_j`` has the coefficient
    ``L_S``, for each k in S; their mean is taken.
    """
    e, n, m = gradient.shape
    terms = PolynomialFeatures(max(map(len, index)) - 1)
    features = terms.fit_transform(x.numpy() / scale)
    found = LinearRegression(fit_intercept=False).fit(features, gradient.transpose(0, 1).reshape(n, e * m).numpy())
    weights = torch.from_numpy(found.coef_).view(e, m, -1)
    columns = []
    for s in index:
        rest = [tuple(j for j in s if j != k) for k in s]
        each = torch.stack([of_polynomial(terms, weights[:, k], [r])[:, 0] for k, r in zip(s, rest, strict=True)])
        columns.append(each.mean(0) / scale ** (len(s) - 1))
    return torch.stack(columns, 1)


if __name__ == "__main__":
    main()
