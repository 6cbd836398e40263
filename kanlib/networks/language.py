"""Output functions of a language model: the scalar that is read from its logits at every position of a text.

Each is made of :class:`kanlib.networks.texts.Texts` and given to :class:`kanlib.networks.probe.Probe` as its
``output_function``: ``f(output, labels) → [B]``, with the numbers of texts (``texts.rows``) as labels. The logits
at position ``t − 1`` say which token comes at ``t``.

Example: heads and feed-forward networks of a Llama, asked how sure it is of a name::

    texts = prompts(["Once upon a time, there was a little girl named"], [" Lily"], tokeniser, llama)
    names = find(llama, ["layers.*.attention[*]", "layers.*.feed_forward"])
    probe = Probe(llama, names, texts.tokens, texts.rows, output_function=next_token(texts))
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from kanlib.errors import BadInputError
from kanlib.networks.outputs import OUTPUT_FUNCTIONS, OutputFunction, pieces
from kanlib.networks.patterns import plain
from kanlib.networks.texts import Texts

#: ``f(logits [..., V], tokens [...]) → [...]`` at each position.
_EachToken = Callable[[Tensor, Tensor], Tensor]


def next_token(texts: Texts, function: str = "margin") -> OutputFunction:
    """A function of the first token that is predicted; by default its margin, its logit less the highest other.

    Args:
        texts: with one continuation each.
        function: a key of :data:`kanlib.networks.outputs.OUTPUT_FUNCTIONS`.

    Raises:
        BadInputError: texts have several continuations; when asked, there are no logits of tokens to read.
    """
    _single(texts, "next_token")
    first = Texts(texts.tokens, texts.starts, texts.starts + 1)
    return _read(first, OUTPUT_FUNCTIONS[function], mean=False)


def mean_over_tokens(texts: Texts, function: str = "margin") -> OutputFunction:
    """The mean of a function over all tokens that are predicted; by default of margins, as COAR reads GPT-2.

    ``loss`` is the mean of ``−log p`` in nats, that language models are trained on. Source: Shah et al. (2024),
    arXiv 2404.11534. Arguments and errors: as :func:`next_token`.
    """
    _single(texts, "mean_over_tokens")
    return _read(texts, OUTPUT_FUNCTIONS[function], mean=True)


def log_prob(texts: Texts) -> OutputFunction:
    """``log p(continuation | prompt)``, the sum over its tokens, in nats. Errors: as :func:`next_token`."""
    _single(texts, "log_prob")
    return _read(texts, OUTPUT_FUNCTIONS["log_prob"], mean=False)


def difference(texts: Texts) -> OutputFunction:
    """``log p(first continuation | prompt) − log p(second | prompt)``, in nats.

    The model is given both at once, ``[B, 2, T]``, and must put out logits ``[B, 2, T, V]``, as
    :class:`kanlib.networks.llama.Llama` does. Of one that takes ``[B, T]`` alone, responses of :func:`log_prob` to
    the same masks are subtracted: the difference of centred outputs is the centred difference.

    Args:
        texts: with two continuations each.

    Raises:
        BadInputError: texts have another number of continuations; when asked, as :func:`next_token`.
    """
    if texts.starts.ndim != 2 or texts.starts.shape[1] != 2:
        raise BadInputError(f"difference is asked of {_continuations(texts)}, expected two; give each prompt two.")
    both = _read(texts, OUTPUT_FUNCTIONS["log_prob"], mean=False)

    def read(output: object, labels: Tensor) -> Tensor:
        first, second = both(output, labels).unbind(-1)
        return first - second

    return read


def _single(texts: Texts, name: str) -> None:
    if texts.starts.ndim != 1:
        raise BadInputError(
            f"{name} is asked of {_continuations(texts)}, expected one; give each prompt one, or take difference."
        )


def _continuations(texts: Texts) -> str:
    n = 1 if texts.starts.ndim == 1 else texts.starts.shape[1]
    return f"texts with {n} continuation{'s' * (n != 1)} each"


def _read(texts: Texts, function: _EachToken, *, mean: bool) -> OutputFunction:
    """Sum or mean of a function over the predicted tokens of each text, ``[B]`` or ``[B, K]``."""

    def read(output: object, labels: Tensor) -> Tensor:
        there = texts.to(labels.device)
        asked = Texts(there.tokens[labels], there.starts[labels], there.lengths[labels])
        logits = token_logits(output, asked.tokens)
        # Only where something is predicted: a vocabulary is large, and a prompt may be long.
        low, high = int(asked.starts.min()), int(asked.lengths.max())
        value = function(logits[..., low - 1 : high - 1, :], asked.tokens[..., low:high])
        kept = asked.predicted[..., low:high]
        total = value.where(kept, 0).sum(-1)
        return total / kept.sum(-1) if mean else total

    return read


def token_logits(found: object, tokens: Tensor) -> Tensor:
    """The logits ``[..., T, V]`` of tokens ``[..., T]`` in what a network put out.

    Of a dict or an object they are what is called ``logits``, of a tuple what comes first.

    Raises:
        BadInputError: there are none, as a model without a language head has none, or a token has no logit.
    """
    held = pieces(found)
    logits: Any = next((held[place] for place in ("", "['logits']", ".logits", "[0]") if place in held), None)
    if not isinstance(logits, Tensor) or not logits.is_floating_point() or logits.shape[:-1] != tokens.shape:
        tensor = isinstance(logits, Tensor)
        what = f"{list(logits.shape)} of {logits.dtype}" if tensor else plain(type(found).__name__)
        raise BadInputError(
            f"the network puts out {what} for tokens {list(tokens.shape)}, expected logits of the next token at "
            "each; take a model with a language head."
        )
    if tokens.numel() and int(tokens.max()) >= logits.shape[-1]:
        raise BadInputError(
            f"a text holds token {int(tokens.max())}, and the network puts out {logits.shape[-1]} numbers at each "
            "position, expected a logit for each token; take a model with a language head and its own tokeniser."
        )
    return logits
