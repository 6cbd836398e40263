"""Do examples of one class have the same interactions? Profiles of 64 digits, compared two by two.

A profile is an example's coefficients of one order, averaged over the masks, or COAR's weights; two profiles are
as alike as they correlate. The score is how often two examples of one class are more alike than two of different
classes (the area under the ROC curve): one half where profiles know nothing of classes. Nothing told them.
"""

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from benchmarks.runs import digits64, splits
from kanlib import claims, metrics
from kanlib.attribution import bias_corrected, of_kan
from kanlib.attribution.surrogates import Kan, Linear
from kanlib.machine import generator
from kanlib.setups import Surrogate

COMMAND = claims.Command("python -m benchmarks.interactions_alike")
SETUP, EXAMPLES, DRAWS = "digits_resnet18", 64, 2000
WORDS = {"coar": "by COAR's weights"} | {f"{r}": f"by coefficients of order {r} over the masks" for r in (1, 2, 3)}


def main() -> None:
    torch.set_num_threads(2)
    data = digits64()
    fit, unseen = splits(data, "fit", "validation")
    settings = Surrogate.from_setup(SETUP)
    kan = Kan(settings).fit(fit, unseen).kan
    index, level = of_kan(kan, 3, unseen.masks)
    found = bias_corrected(level, kan, fit, 3)
    orders = torch.tensor([len(s) for s in index])
    m = fit.masks.shape[1]
    linear = Linear(settings).fit(fit, unseen)
    weights = (linear.predict(torch.eye(m)) - linear.predict(torch.zeros(1, m))).double()
    profiles = {"coar": weights} | {f"{r}": found[:, orders == r] for r in (1, 2, 3)}

    everyone = torch.arange(EXAMPLES)
    drawn = torch.randint(EXAMPLES, (DRAWS, EXAMPLES), generator=generator(0, "bootstrap"))
    whole = {name: area(profile, data["labels"], everyone) for name, profile in profiles.items()}
    draws = {
        name: torch.tensor([area(profile, data["labels"], draw) for draw in drawn], dtype=torch.float64)
        for name, profile in profiles.items()
    }
    what = (
        f"How often two of {EXAMPLES} examples of {SETUP} that share a class are more alike than two that do not"
    )
    rows = [
        COMMAND.claim(
            f"interactions.same_class.{name}",
            f"{what}, {WORDS[name]} (chance: one half)",
            metrics.Estimate(whole[name], *metrics.interval(draws[name])),
        )
        for name in profiles
    ]
    lead = metrics.Estimate(whole["2"] - whole["coar"], *metrics.interval(draws["2"] - draws["coar"]))
    words = f"{what}, {WORDS['2']} less {WORDS['coar']} (chance: one half)"
    rows.append(COMMAND.claim("interactions.same_class_minus_coar", words, lead, "low > 0"))
    claims.record(rows)
    for row in rows:
        print(f"{row.id}: {row.value:.3f} [{row.low:.3f}, {row.high:.3f}]")


def area(profiles: Tensor, labels: Tensor, drawn: Tensor) -> float:
    """The area under the curve over all pairs of two different ones of the examples drawn."""
    similarity = torch.corrcoef(profiles)
    a, b = drawn[torch.triu_indices(len(drawn), len(drawn), 1)]
    a, b = a[a != b], b[a != b]
    return roc_auc_score(labels[a] == labels[b], similarity[a, b])


if __name__ == "__main__":
    main()
