"""How wide masks may be for derivatives at σ = 0 to be the network's own: ``data/interactions_scale.json``.

Four development examples of digits_resnet18. KANs and cubic polynomials are fitted to masks of several scales, in
fp64; KANs with weak penalties to choose from too, since at a small scale little is left beside the linear part.
Their derivatives at σ = 0 are compared with the network's exact ones, order by order.
"""

import torch
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import PolynomialFeatures
from torch import Tensor

from benchmarks.runs import made
from kanlib import files, store
from kanlib.attribution import fidelity, of_kan
from kanlib.attribution.coefficients import of_polynomial
from kanlib.kan import fit
from kanlib.masks import Split, Subset, gaussian
from kanlib.networks import network
from kanlib.setups import Perturbation, Surrogate

TARGET = store.ROOT / "data" / "interactions_scale.json"
SETUP, EXAMPLES = "digits_resnet18", 4
SCALES = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01)
SIZES = {"fit": 2000, "validation": 500}
ORDER = 3
KNOBS = Surrogate(
    optimiser="levenberg_marquardt",
    hidden=[8],
    grid=5,
    penalties=[1e-7, 1e-6, 1e-5, 1e-4],
    restarts=1,
    iterations=40,
)


def of_cubic(data: Split, index: list[Subset]) -> Tensor:
    """``L_S`` ``[E, n_S]`` of least-squares polynomials."""
    terms = PolynomialFeatures(ORDER, include_bias=False)
    features = terms.fit_transform(data.masks.numpy() / data.scale)
    weights = torch.from_numpy(LinearRegression().fit(features, data.responses.T.numpy()).coef_)
    sizes = torch.tensor([data.scale ** len(s) for s in index], dtype=torch.float64)
    return of_polynomial(terms, weights, index) / sizes


def main() -> None:
    torch.set_num_threads(2)
    made(SETUP, "model")
    asked = {"source": "live", "n_examples": EXAMPLES, "example_set": "development", "derivative_order": ORDER}
    p = Perturbation.from_setup(SETUP, asked)
    answers = network(p)
    local = answers.local_derivatives()
    rows = []
    for scale in SCALES:
        masks = {s: gaussian(n, len(answers.components), scale, p.seed, s) for s, n in SIZES.items()}
        data, validation = (
            Split(x, answers.responses(s, x)[0], scale).to(torch.float64) for s, x in masks.items()
        )
        index, of_spline = of_kan(fit(data, validation, KNOBS, seed=p.seed).kan, ORDER)
        for name, found in (("KAN", of_spline), ("cubic polynomial", of_cubic(data, index))):
            for order, of_order in fidelity(found, local, index).groupby("order"):
                measures = of_order[["spearman", "signs"]].mean().to_dict()
                rows.append({"surrogate": name, "scale": scale, "order": str(order)} | measures)
                print(*rows[-1].values(), flush=True)
    files.write_json(TARGET, rows)


if __name__ == "__main__":
    main()
