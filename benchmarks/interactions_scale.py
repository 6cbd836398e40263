"""How wide masks may be for derivatives at σ = 0 to be the network's own: ``data/interactions_scale.json``.

Four development examples of digits_resnet18. KANs and cubic polynomials are fitted to masks of several scales, in
fp64; KANs with weak penalties to choose from too, since at a small scale little is left beside the linear part.
Their derivatives at σ = 0 are compared with the network's exact ones, order by order.
"""

import json

import numpy as np
import torch
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import PolynomialFeatures
from torch import Tensor

from kanlib import fitting, interactions, networks, perturbation, store
from kanlib.interactions import Subset
from kanlib.setups import Perturbation

TARGET = store.ROOT / "data" / "interactions_scale.json"
SETUP, EXAMPLES = "digits_resnet18", 4
SCALES = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01)
SIZES = {"fit": 2000, "validation": 500}
ORDER = 3
KAN = {"hidden": [8], "penalties": [1e-7, 1e-6, 1e-5, 1e-4], "restarts": 1, "iterations": 40}


def of_cubic(x: Tensor, y: Tensor, scale: float, index: list[Subset]) -> Tensor:
    """``L_S`` ``[E, n_S]`` of least-squares polynomials: the coefficients of ``∏_{j∈S} σ_j``."""
    terms = PolynomialFeatures(ORDER, include_bias=False)
    coefficients = LinearRegression().fit(terms.fit_transform(x.numpy() / scale), y.T.numpy()).coef_
    powers = [np.isin(np.arange(x.shape[1]), s).astype(int).tolist() for s in index]
    at = [terms.powers_.tolist().index(power) for power in powers]
    sizes = torch.tensor([scale ** len(s) for s in index], dtype=torch.float64)
    return torch.from_numpy(coefficients[:, at]) / sizes


def main() -> None:
    torch.set_num_threads(2)
    asked = {"n_examples": EXAMPLES, "example_set": "development", "derivative_order": ORDER}
    p = Perturbation.from_setup(SETUP, asked)
    network = networks.network(p)
    local = network.local()
    rows = []
    for scale in SCALES:
        masks = {s: perturbation.masks(n, len(network.names), scale, p.seed, s) for s, n in SIZES.items()}
        data = [v for s, x in masks.items() for v in (x.double(), network.responses(s, x)[0].double())]
        index, of_kan = interactions.of_kan(fitting.fit(*data, **KAN, seed=p.seed).kan, ORDER)
        for name, found in (("KAN", of_kan), ("cubic polynomial", of_cubic(*data[:2], scale, index))):
            for order, of_order in interactions.fidelity(found, local, index).groupby("order"):
                measures = of_order[["spearman", "signs"]].mean().to_dict()
                rows.append({"surrogate": name, "scale": scale, "order": str(order)} | measures)
                print(*rows[-1].values(), flush=True)
    text = json.dumps(rows, indent=1) + "\n"
    store.write_whole(TARGET, lambda part: part.write_text(text, encoding="utf8"))


if __name__ == "__main__":
    main()
