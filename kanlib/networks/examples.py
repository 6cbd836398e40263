"""Which examples are explained: drawn by a rule from the test split or from texts, or named."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kanlib.errors import BadInputError, nearest, shown
from kanlib.machine import generator
from kanlib.networks.images import Images
from kanlib.networks.language import next_token
from kanlib.networks.models import predict
from kanlib.networks.outputs import OutputFunction, answered, logits_of, margin, values
from kanlib.networks.patterns import plain
from kanlib.networks.texts import Texts
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
        return _named(p.examples, len(labels))
    pool = _half(len(labels), p, development)
    if p.only_class is not None:
        if p.only_class not in data.classes:
            raise BadInputError(
                f"only_class {plain(p.only_class)} is unknown to {len(data.classes)} classes; "
                f"did you mean {plain(nearest(p.only_class[:60], data.classes))}?"
            )
        pool = pool[labels[pool] == data.classes.index(p.only_class)]
    return _first(pool, p, lambda pool: _margins(model, data, pool))


def choose_texts(
    model: nn.Module,
    texts: Texts,
    p: Perturbation,
    *,
    development: bool | None = None,
    read: Callable[[Texts], OutputFunction] = next_token,
) -> Tensor:
    """Positions ``[n]`` of the texts that ``p`` asks for, by the rules of :func:`choose_examples`.

    A text is right where ``read`` of it is above 0: the margin of the next token, or another function of
    :mod:`kanlib.networks.language`. One half of the texts is for development, the other to be reported.

    Args:
        model: in evaluation mode.
        texts: to draw from, on the model's device.
        p: the knobs, ``only_class`` excepted, as texts have none.
        development: which half; ``None``: as ``p.example_set`` says.
        read: what makes a function of texts.

    Raises:
        BadInputError: as :func:`choose_examples`, or the function cannot be read.
    """
    if p.examples is not None:
        return _named(p.examples, len(texts))
    if p.only_class is not None:
        raise BadInputError(f"only_class is {plain(p.only_class)}, but texts have no class; leave it out.")
    return _first(_half(len(texts), p, development), p, lambda pool: _read(model, texts.of(pool), read))


def _named(positions: list[int], n: int) -> Tensor:
    if max(positions) >= n or len(set(positions)) < len(positions):
        raise BadInputError(f"examples is {shown(positions)}, expected different positions from 0 to {n - 1}.")
    return torch.tensor(positions)


def _half(n: int, p: Perturbation, development: bool | None) -> Tensor:
    """Positions of the development or the reported half of n examples, in a random order."""
    order = torch.randperm(n, generator=generator(p.seed, "examples"))
    if development is None:
        development = p.example_set == "development"
    return order[: n // 2] if development else order[n // 2 :]


def _first(pool: Tensor, p: Perturbation, read: Callable[[Tensor], Tensor]) -> Tensor:
    """The first positions of a pool that obey the rule, by the margins that ``read`` gives of positions."""
    pool = pool[: p.n_candidates]
    if p.choose != "any" and len(pool):
        margins = read(pool)
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


@torch.inference_mode()
def _read(model: nn.Module, texts: Texts, read: Callable[[Texts], OutputFunction], at_once: int = 50) -> Tensor:
    """A function of each text ``[n]``, on the CPU."""
    function = read(texts)
    found: list[Tensor] = []
    for rows in texts.rows.split(at_once):
        found += values(answered(model, texts.tokens[rows], at_once), rows, [function])
    out = torch.cat(found).cpu()
    if out.isnan().any():
        raise BadInputError(
            "what is read of a text is no number (nan), expected a finite one; check the model's weights."
        )
    return out
