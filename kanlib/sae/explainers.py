"""Explain and simulate by a language model that answers at an address, where a rule does in :mod:`.profiles`.

The service has the chat interface that many servers of language models share: it is sent ``messages`` and returns
``choices``. Texts leave this machine only where somebody names such an address.
Source: Bills et al. (2023), *Language models can explain neurons in language models*.
"""

import json
import os
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from kanlib import metrics
from kanlib.errors import BadInputError, cause, shown
from kanlib.machine import generator
from kanlib.networks.streams import Stream

KEY = "KANLIB_EXPLAINER_KEY"
_SCALE = 10  # activations are told as whole numbers up to it
_BEFORE, _AFTER = 10, 4  # tokens of an excerpt around the one in its middle
_LARGEST, _ANY = 5, 5  # excerpts around the largest activations, and around tokens drawn
_PATIENCE = 60  # seconds for a reply
_LONGEST = 10**6  # bytes of one

_EXPLAIN = """Below are excerpts of texts, one token a line, and after it how active a feature of a neural network
is on that token, from 0 to 10. Excerpts are parted by lines of dashes. Say in one short sentence what the feature
is active on.

"""
_SIMULATE = """A feature of a neural network is said to be active on this: {explanation}
How active is it on each of these {n} tokens, which follow each other in a text? Reply with a JSON list of {n}
whole numbers from 0 to 10, and with nothing else.

{tokens}"""


@dataclass(frozen=True)
class Explained:
    """A feature in words.

    Attributes:
        words: the explanation.
        score: Pearson correlation of simulated and true activations on excerpts of other texts; nan where nothing
            was simulated or it is constant.
        simulated: share of these excerpts for which the reply was a number a token.
    """

    words: str
    score: float
    simulated: float


@dataclass(frozen=True)
class Explainer:
    """A language model behind an address; ``KANLIB_EXPLAINER_KEY`` of the environment is sent as its key.

    Attributes:
        address: ``http://localhost:8000/v1``, to which ``/chat/completions`` is added.
        model: its name there.
    """

    address: str
    model: str

    def __post_init__(self) -> None:
        if not self.address.startswith(("http://", "https://")):
            raise BadInputError(
                f"the explainer's address is {shown(self.address)}, expected one that begins with http:// or "
                "https://; set explainer."
            )

    def reply(self, prompt: str) -> str:
        """What the model says to one message.

        Raises:
            BadInputError: no service answers there, or not as a chat does.
        """
        asked = {"model": self.model, "temperature": 0, "messages": [{"role": "user", "content": prompt}]}
        key = os.environ.get(KEY)
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        where = self.address.rstrip("/") + "/chat/completions"
        # The scheme was checked above.
        request = urllib.request.Request(where, json.dumps(asked).encode(), headers)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:  # noqa: S310
                said = json.loads(answer.read(_LONGEST))["choices"][0]["message"]["content"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise self._silent(cause(error)) from error
        if not isinstance(said, str):
            raise self._silent(f"its content is {shown(said)}")
        return said.strip()

    def _silent(self, why: str) -> BadInputError:
        return BadInputError(
            f"the explainer at {self.address} did not reply ({why}), expected a service with a chat interface; "
            "start it, or set explainer to none."
        )


def in_words(
    explainer: Explainer, z: Tensor, stream: Stream, pieces: Sequence[str], seed: int = 0
) -> list[Explained]:
    """Each feature in words, and how well they tell it.

    The words are made from excerpts around the largest activations in the first half of the texts. In the other
    half the model is told the words and simulates the feature, on excerpts around its largest activations and
    around tokens drawn at random.

    Args:
        explainer: the language model.
        z: activations ``[n, F]`` of the features to explain, on the CPU.
        stream: whose tokens they are of.
        pieces: what each token says.
        seed: of the tokens drawn.

    Raises:
        BadInputError: as :meth:`Explainer.reply`.
    """
    texts, said = stream.texts.cpu(), [pieces[token] for token in stream.tokens.tolist()]
    known = texts < (int(texts.max()) + 1) / 2
    others, found = (~known).nonzero().flatten(), []
    for number in tqdm(range(z.shape[1]), "explanations", unit="feature", mininterval=1):
        values = z[:, number]
        told = [_around(at, texts) for at in _largest(values.where(known, 0), texts)]
        words = _words(explainer, told, said, values)
        drawn = torch.randperm(len(others), generator=generator(seed, "excerpts", number))[:_ANY]
        places = [
            _around(at, texts) for at in [*_largest(values.where(~known, 0), texts), *others[drawn].tolist()]
        ]
        replies = [(_simulated(explainer, words, [said[i] for i in place]), values[place]) for place in places]
        heard = [(guess, true) for guess, true in replies if guess is not None]
        score = torch.nan
        if heard:
            guessed, true = (torch.cat(side)[None] for side in zip(*heard, strict=True))
            score = float(metrics.pearson(guessed, true))
        found.append(Explained(words, score, len(heard) / len(places)))
    return found


def _largest(values: Tensor, texts: Tensor) -> list[int]:
    """Where a feature is most active, in texts of their own."""
    best: dict[int, int] = {}
    for at in values.argsort(descending=True)[:200].tolist():
        if values[at] > 0 and len(best) < _LARGEST:
            best.setdefault(int(texts[at]), at)
    return list(best.values())


def _around(at: int, texts: Tensor) -> list[int]:
    """Places of the tokens around one, in its text."""
    return [i for i in range(max(0, at - _BEFORE), min(len(texts), at + _AFTER + 1)) if texts[i] == texts[at]]


def _words(explainer: Explainer, places: Sequence[list[int]], said: Sequence[str], values: Tensor) -> str:
    scale = _SCALE / float(values.max().clamp_min(1e-9))
    excerpts = [
        "".join(f"{_spelt(said[i])}\t{round(float(values[i]) * scale)}\n" for i in place) for place in places
    ]
    return " ".join(explainer.reply(_EXPLAIN + "---\n".join(excerpts)).split())


def _simulated(explainer: Explainer, words: str, tokens: Sequence[str]) -> Tensor | None:
    """What the model says of these tokens; ``None``: anything but a number for each."""
    asked = _SIMULATE.format(explanation=words, n=len(tokens), tokens="\n".join(map(_spelt, tokens)))
    try:
        numbers = json.loads(explainer.reply(asked))
        guess = torch.tensor(numbers, dtype=torch.float32)
    except (ValueError, TypeError, RuntimeError, OverflowError):
        return None
    return guess if guess.shape == (len(tokens),) and bool(guess.isfinite().all()) else None


def _spelt(token: str) -> str:
    """A token on one line, whatever it says."""
    return json.dumps(token, ensure_ascii=False)
