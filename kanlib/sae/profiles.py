"""What a feature is about: where it is active, what it makes more likely, and what else it goes with."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kanlib.networks.llama import Llama
from kanlib.networks.streams import Stream
from kanlib.sae.autoencoder import Autoencoder

#: Tokens before and after the one that a context is about.
BEFORE, AFTER = 10, 4
_CONTEXTS, _EXTREMES, _LINKS = 8, 8, 3
_DOUBT = 2.0  # tokens' worth of the mean over the last token that a mean over the last two counts


@dataclass(frozen=True)
class Moments:
    """Of each row of logit weights over the vocabulary, ``[m]`` each.

    Attributes:
        mean: mean.
        deviation: standard deviation.
        skewness: ``E[z³]`` of the standardised weights: above 0, where few tokens are much more likely.
        kurtosis: ``E[z⁴]``; 3 for a normal distribution.
    """

    mean: Tensor
    deviation: Tensor
    skewness: Tensor
    kurtosis: Tensor


def logit_weights(directions: Tensor, network: Llama) -> Tensor:
    """How much each direction raises each token's logit, ``D diag(norm) Wᵀ``, ``[m, V]``, by itself alone.

    The final norm is taken without its division. Source: nostalgebraist (2020), *interpreting GPT: the logit
    lens*.
    """
    return (directions * network.norm.weight) @ network.output.weight.T


def moments(weights: Tensor) -> Moments:
    """Moments of logit weights ``[m, V]``."""
    mean, deviation = weights.mean(1), weights.std(1, correction=0)
    z = (weights - mean[:, None]) / deviation[:, None].clamp_min(1e-12)
    return Moments(mean, deviation, z.pow(3).mean(1), z.pow(4).mean(1))


@torch.inference_mode()
def activations(model: Autoencoder, vectors: Tensor) -> Tensor:
    """Of an autoencoder alone on vectors ``[n, d]``: ``[n, m]``, on the CPU."""
    return torch.cat([model.encode(x)[0].cpu() for x in vectors.split(8192)])


def correlations(one: Tensor, other: Tensor) -> Tensor:
    """Pearson correlations between columns ``[n, a]`` and ``[n, b]``: ``[a, b]``; 0 where a column is constant."""
    a, b = (F.normalize(v - v.mean(0), dim=0) for v in (one, other))
    return a.T @ b


def rule_scores(z: Tensor, stream: Stream) -> Tensor:
    """How well a feature follows a rule on the last two tokens: Pearson of simulated and true values, ``[m]``.

    Explain and simulate without a language model. A rule is written down on the first half of the texts: the mean
    activation given the token and the one before it, drawn towards that given the token alone, as if it had been
    seen twice more. On the other half it says what the feature does. 0 for a feature that is constant there.
    After Bills et al. (2023), *Language models can explain neurons in language models*.

    Args:
        z: activations ``[n, m]``.
        stream: whose tokens they are of.
    """
    tokens, texts = stream.tokens.cpu(), stream.texts.cpu()
    # The first of a text follows its beginning, which the stream leaves out.
    first = torch.cat([torch.ones(1, dtype=torch.bool), texts[1:] != texts[:-1]])
    before = torch.where(first, -1, tokens.roll(1)) + 1
    vocabulary = int(tokens.max()) + 1
    _, pairs = torch.unique(before * vocabulary + tokens, return_inverse=True)
    known = texts < (int(texts.max()) + 1) / 2
    n_pairs, found = int(pairs.max()) + 1, []
    for part in z.split(64, dim=1):
        seen, one, two = part[known], tokens[known], pairs[known]
        everywhere = seen.mean(0)
        alone = _means(seen, one, vocabulary, everywhere.expand(vocabulary, -1), 1.0)
        both = _means(seen, two, n_pairs, None, 0.0)
        counts = torch.bincount(two, minlength=n_pairs)[pairs[~known]][:, None]
        rule = (both[pairs[~known]] * counts + _DOUBT * alone[tokens[~known]]) / (counts + _DOUBT)
        true = part[~known]
        a, b = (F.normalize(v - v.mean(0), dim=0) for v in (rule, true))
        found.append((a * b).sum(0))
    return torch.cat(found)


def _means(values: Tensor, group: Tensor, n: int, prior: Tensor | None, weight: float) -> Tensor:
    """Means of rows by group ``[n, m]``, with a prior of this weight; 0 where there is none."""
    sums = torch.zeros(n, values.shape[1]).index_add_(0, group, values)
    counts = torch.bincount(group, minlength=n)[:, None].float()
    if prior is not None:
        return (sums + weight * prior) / (counts + weight)
    return sums / counts.clamp_min(1)


def profiles(
    z: Tensor,
    stream: Stream,
    weights: Tensor,
    pieces: Sequence[str],
    chosen: Sequence[int],
    neurons: Tensor | None = None,
) -> list[dict]:
    """A card for each chosen feature, as JSON has it.

    Args:
        z: activations ``[n, m]`` of an autoencoder.
        stream: whose tokens they are of.
        weights: logit weights ``[m, V]``.
        pieces: what each token says, V.
        chosen: numbers of features.
        neurons: of the network's own neurons, ``[n, h]``, to correlate with; ``None``: none.

    Returns:
        Of each ``feature`` its ``density``; ``largest`` activation; ``histogram`` of its activations where it is
        active (20 equal bins up to the largest); ``contexts``, the eight of the largest activations in different
        texts, each ``[tokens before, token, tokens after, activation]``; ``raises`` and ``lowers``, eight tokens
        with their logit weights; ``moments`` of these; ``features`` and ``neurons`` that it correlates with most;
        and ``rule``, see :func:`rule_scores`.
    """
    numbers = list(chosen)
    of_chosen = z[:, numbers]
    with_features = correlations(of_chosen, z)
    with_features[torch.arange(len(numbers)), torch.tensor(numbers)] = -1
    with_neurons = None if neurons is None else correlations(of_chosen, neurons.cpu())
    rules, shape = rule_scores(of_chosen, stream), moments(weights)
    cards = []
    for place, number in enumerate(numbers):
        values = of_chosen[:, place]
        active = values[values > 0]
        largest = float(values.max())
        cards.append(
            {
                "feature": number,
                "density": _short(float((values > 0).float().mean())),
                "largest": _short(largest),
                "histogram": active.histc(20, 0, max(largest, 1e-9)).int().tolist(),
                "contexts": contexts(values, stream, pieces),
                "raises": _extreme(weights[number], pieces, largest=True),
                "lowers": _extreme(weights[number], pieces, largest=False),
                "moments": [
                    _short(float(part[number]))
                    for part in (shape.mean, shape.deviation, shape.skewness, shape.kurtosis)
                ],
                "features": _links(with_features[place]),
                "neurons": [] if with_neurons is None else _links(with_neurons[place]),
                "rule": _short(float(rules[place])),
            }
        )
    return cards


def contexts(values: Tensor, stream: Stream, pieces: Sequence[str]) -> list[list]:
    """The tokens around the eight largest activations, each in a text of its own.

    Args:
        values: activations of one feature, ``[n]``.
        stream: whose tokens they are of.
        pieces: what each token says.

    Returns:
        ``[tokens before, token, tokens after, activation]`` of each, the largest first; fewer where it is active
        in fewer texts.
    """
    texts, tokens = stream.texts, stream.tokens
    found: list[list] = []
    seen: set[int] = set()
    for at in values.argsort(descending=True)[: 50 * _CONTEXTS].tolist():
        text = int(texts[at])
        if len(found) == _CONTEXTS or values[at] <= 0:
            break
        if text in seen:
            continue
        seen.add(text)
        low, high = max(0, at - BEFORE), min(len(tokens), at + AFTER + 1)
        around = [i for i in range(low, high) if int(texts[i]) == text]
        before, after = (
            "".join(pieces[int(tokens[i])] for i in around if (i < at if side else i > at))
            for side in (True, False)
        )
        found.append([before, pieces[int(tokens[at])], after, _short(float(values[at]))])
    return found


def _extreme(weights: Tensor, pieces: Sequence[str], *, largest: bool) -> list[list]:
    found = weights.topk(min(_EXTREMES, len(weights)), largest=largest)
    return [[pieces[i], _short(v)] for v, i in zip(found.values.tolist(), found.indices.tolist(), strict=True)]


def _links(row: Tensor) -> list[list]:
    found = row.topk(min(_LINKS, len(row)))
    return [[i, _short(v)] for v, i in zip(found.values.tolist(), found.indices.tolist(), strict=True)]


def _short(value: float) -> float:
    return float(f"{value:.3g}")
