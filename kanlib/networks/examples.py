"""Which examples are explained: drawn from the test split by a rule, or named."""

import torch
from torch import Tensor, nn

from kanlib.errors import BadInputError, nearest, shown
from kanlib.machine import generator
from kanlib.networks.images import Images
from kanlib.networks.models import predict
from kanlib.networks.outputs import logits_of, margin
from kanlib.networks.patterns import plain
from kanlib.setups import Perturbation


def choose_examples(model: nn.Module, data: Images, p: Perturbation, *, development: bool | None = None) -> Tensor:
    """Positions ``[n]`` in the test split of the examples that ``p`` asks for.

    Without ``p.examples``, up to ``p.n_candidates`` images are drawn by ``p.seed``, those of ``p.only_class`` if
    it is set, and the first ``p.n_examples`` of them that obey the rule ``p.choose`` are taken;
    ``smallest_margin`` means the correctly classified ones nearest to being misclassified. Development
    examples are drawn from one half of the test split, reported ones from the other, so that the two never meet.

    Args:
        model: in evaluation mode.
        data: its test split is drawn from.
        p: the knobs.
        development: which half; ``None``: as ``p.example_set`` says.

    Raises:
        BadInputError: fewer such examples than asked for, a position named twice or beyond the split, a
            class that the data does not have, or logits that no rule can be read from.
    """
    labels = data.test.labels
    if p.examples is not None:
        if max(p.examples) >= len(labels) or len(set(p.examples)) < len(p.examples):
            raise BadInputError(
                f"examples is {shown(p.examples)}, expected different positions from 0 to {len(labels) - 1}."
            )
        return torch.tensor(p.examples)
    order = torch.randperm(len(labels), generator=generator(p.seed, "examples"))
    half = len(labels) // 2
    if development is None:
        development = p.example_set == "development"
    pool = order[:half] if development else order[half:]
    if p.only_class is not None:
        if p.only_class not in data.classes:
            raise BadInputError(
                f"only_class {plain(p.only_class)} is unknown to {len(data.classes)} classes; "
                f"did you mean {plain(nearest(p.only_class[:60], data.classes))}?"
            )
        pool = pool[labels[pool] == data.classes.index(p.only_class)]
    pool = pool[: p.n_candidates]
    if p.choose != "any" and len(pool):
        margins = _margins(model, data, pool)
        if p.choose in ("correct", "smallest_margin"):
            pool, margins = pool[margins > 0], margins[margins > 0]
        elif p.choose == "misclassified":
            pool = pool[margins < 0]
        if p.choose == "smallest_margin":
            pool = pool[margins.argsort(stable=True)]
    if len(pool) < p.n_examples:
        raise BadInputError(
            f"n_examples is {p.n_examples}, but there are {len(pool)} to draw from ({p.choose}"
            f"{f', class {plain(p.only_class)}' if p.only_class else ''}); lower n_examples or raise n_candidates."
        )
    return pool[: p.n_examples]


def _margins(model: nn.Module, data: Images, pool: Tensor) -> Tensor:
    """Margins ``[n]`` of the test images at these positions."""
    labels = data.test.labels[pool]
    margins = margin(logits_of(predict(model, data.test, pool), len(pool), labels), labels)
    for at in pool[margins.isnan()].tolist()[:1]:
        raise BadInputError(
            f"the margin of test image {at} is no number (nan), expected a finite one; check the model's weights."
        )
    return margins
