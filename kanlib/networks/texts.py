"""Texts as a language model takes them: tokens side by side, and which of them it is to say."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from kanlib.errors import BadInputError, cause, shown
from kanlib.networks.patterns import plain
from kanlib.networks.tokens import Encoder

_NO_BOUND = 2**63 - 1


@dataclass(frozen=True)
class Texts:
    """n texts, each the tokens of a prompt, which are given, and those of a continuation, which are predicted.

    Shorter texts are padded on the right with token 0. A model that looks back alone, as all that continue texts
    do, puts out the same before the padding as without it; so it needs no mask of its own.

    Attributes:
        tokens: ``[n, T]``, int64; or ``[n, K, T]`` where each prompt has K continuations.
        starts: number of the first token that is predicted, ``[n]`` or ``[n, K]``.
        lengths: tokens without padding, ``[n]`` or ``[n, K]``.
    """

    tokens: Tensor
    starts: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def rows(self) -> Tensor:
        """Numbers of the texts ``[n]``: the labels of a :class:`kanlib.networks.probe.Probe` of them.

        By these an output function (:mod:`kanlib.networks.language`) knows which text it is asked about.
        """
        return torch.arange(len(self), device=self.tokens.device)

    @property
    def predicted(self) -> Tensor:
        """Which tokens are predicted, bool, in the shape of ``tokens``; neither prompts nor padding are."""
        place = torch.arange(self.tokens.shape[-1], device=self.tokens.device)
        return (place >= self.starts[..., None]) & (place < self.lengths[..., None])

    def of(self, positions: Tensor | slice) -> "Texts":
        """Some of the texts, without the padding that they do not need; they are numbered anew."""
        lengths = self.lengths[positions]
        longest = int(lengths.max()) if len(lengths) else 0
        return Texts(self.tokens[positions][..., :longest], self.starts[positions], lengths)

    def to(self, device: torch.device | str) -> "Texts":
        """The same on that device."""
        return Texts(self.tokens.to(device), self.starts.to(device), self.lengths.to(device))


def of_tokens(
    rows: Sequence[Sequence[int]], starts: Sequence[int] | None = None, model: nn.Module | None = None
) -> Texts:
    """Texts that are tokens already.

    Args:
        rows: the tokens of each text.
        starts: numbers of the first tokens that are predicted; ``None``: all but the very first are.
        model: whose vocabulary and context they must fit; ``None``: any.

    Raises:
        BadInputError: there are none; or a text has nothing to predict or to predict it from, is longer than the
            context, or holds a token outside the vocabulary.
    """
    if not rows:
        raise BadInputError("there are no texts, expected one or more; give some.")
    begin = [1] * len(rows) if starts is None else list(starts)
    vocabulary, context = bounds(model)
    for i, (row, start) in enumerate(zip(rows, begin, strict=True)):
        _check(row, start, f"text {i + 1}", vocabulary, context)
    tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row)
    return Texts(tokens, torch.tensor(begin), torch.tensor([len(row) for row in rows]))


def documents(texts: Sequence[str], encoder: Encoder, model: nn.Module | None = None) -> Texts:
    """Whole texts, in which every token but the first is predicted from those before it.

    Args:
        texts: as people write them.
        encoder: the model's own, of which ``encode(text)`` is asked.
        model: as for :func:`of_tokens`.

    Raises:
        BadInputError: as :func:`of_tokens`, or a text is empty.
    """
    return of_tokens([_encoded(text, encoder, f"text {i + 1}") for i, text in enumerate(texts)], None, model)


def prompts(
    given: Sequence[str],
    continuations: Sequence[str] | Sequence[Sequence[str]],
    encoder: Encoder,
    model: nn.Module | None = None,
) -> Texts:
    """Prompts with what may follow: one continuation each (tokens ``[n, T]``), or K of them (``[n, K, T]``).

    Prompt and continuation are tokenised together, as the model met them, and the tokens of the prompt must stay
    what they are alone. So a continuation that is a word begins with its space.

    Args:
        given: n prompts.
        continuations: of each prompt.
        encoder: as for :func:`documents`.
        model: as for :func:`of_tokens`.

    Raises:
        BadInputError: as :func:`documents`; or a continuation is empty or changes the tokens of its prompt, or
            prompts have not as many continuations each.
    """
    if len(given) != len(continuations):
        raise BadInputError(
            f"there are {len(given)} prompts, and continuations of {len(continuations)}, expected as many; pair "
            "them."
        )
    alone = all(isinstance(one, str) for one in continuations)
    if not alone and any(isinstance(one, str) for one in continuations):
        raise BadInputError(
            "some prompts have a text as their continuation and others a list, expected one or the other; write "
            "lists for all."
        )
    several = [[one] if isinstance(one, str) else list(one) for one in continuations]
    for i, some in enumerate(several):
        if len(some) != len(several[0]) or not some:
            raise BadInputError(
                f"prompt {i + 1} has {len(some)} continuations, expected {len(several[0]) or 'some'} as the first "
                "has; give each as many."
            )
    rows: list[list[int]] = []
    starts: list[int] = []
    for i, (prompt, some) in enumerate(zip(given, several, strict=True)):
        before = _encoded(prompt, encoder, f"prompt {i + 1}")
        for one in some:
            rows.append(_continued(prompt, before, one, encoder, f"prompt {i + 1}"))
            starts.append(len(before))
            _check(rows[-1], len(before), f"prompt {i + 1} with {shown(one)}", *bounds(model))
    texts = of_tokens(rows, starts)
    if alone:
        return texts
    each = (len(given), len(several[0]))
    return Texts(texts.tokens.view(*each, -1), texts.starts.view(each), texts.lengths.view(each))


def read(file: str | Path, encoder: Encoder, model: nn.Module | None = None) -> Texts:
    """The texts of a file, one a line, in UTF-8.

    A line without tabs is a document (:func:`documents`); with them it is a prompt and, after each tab, a
    continuation (:func:`prompts`).

    Raises:
        BadInputError: the file cannot be read, lines have not as many tabs each, or as these functions, which
            number texts from 1 on, as lines are.
    """
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except (OSError, ValueError) as error:
        raise BadInputError(
            f"the texts {plain(str(file))} cannot be read ({cause(error)}), expected a file of UTF-8, a text a "
            "line; name another file."
        ) from error
    parts = [line.split("\t") for line in lines]
    for i, part in enumerate(parts):
        if len(part) != len(parts[0]):
            raise BadInputError(
                f"line {i + 1} of {plain(str(file))} has {len(part) - 1} tabs, expected {len(parts[0]) - 1} as "
                "the first has; correct it."
            )
    if len(parts[0]) == 1:
        return documents(lines, encoder, model)
    given, rest = [part[0] for part in parts], [part[1:] for part in parts]
    return prompts(given, [one for (one,) in rest] if len(parts[0]) == 2 else rest, encoder, model)


def bounds(model: nn.Module | None) -> tuple[int, int]:
    """How many tokens a model knows, and how many a text may have; beyond all bounds where it does not say.

    It says so in ``shape`` (:class:`kanlib.networks.llama.Llama`) or, as those of transformers do, in ``config``.
    """
    said = getattr(model, "shape", getattr(model, "config", None))
    names = (("n_tokens", "vocab_size"), ("context", "max_position_embeddings"))
    found = [next((n for name in some if isinstance(n := getattr(said, name, None), int)), None) for some in names]
    vocabulary, context = (_NO_BOUND if n is None else n for n in found)
    return vocabulary, context


def _check(row: Sequence[int], start: int, name: str, vocabulary: int, context: int) -> None:
    if not 0 < start < len(row):
        raise BadInputError(
            f"{name} has {start} tokens that are given and {len(row) - start} to predict, expected one or more of "
            "each; take a longer text."
        )
    if len(row) > context:
        raise BadInputError(
            f"{name} has {len(row)} tokens, expected at most {context}, the context of the model; shorten it."
        )
    for token in row:
        if not 0 <= token < vocabulary:
            known = f"0 to {vocabulary - 1}" if vocabulary < _NO_BOUND else "0 or more"
            raise BadInputError(
                f"{name} holds token {token}, which is outside the vocabulary, expected {known}; take the "
                "tokeniser that belongs to the model."
            )


def _encoded(text: str, encoder: Encoder, name: str) -> list[int]:
    """The tokens of a text that says something."""
    if not isinstance(text, str) or not text:
        raise BadInputError(
            f"{name} is {shown(text)}, expected a text that is not empty; write one, or leave it out."
        )
    return list(encoder.encode(text))


def _continued(prompt: str, before: list[int], continuation: str, encoder: Encoder, name: str) -> list[int]:
    """The tokens of a prompt and its continuation."""
    if not continuation:
        raise BadInputError(f"a continuation of {name} is empty, expected one word or more; write it.")
    whole = _encoded(prompt + continuation, encoder, name)
    if whole[: len(before)] != before:
        raise BadInputError(
            f"{name} ends in other tokens where {shown(continuation)} follows, expected those that it has alone; "
            "begin the continuation with its space, and end the prompt without one."
        )
    return whole
