"""Texts that a language model writes itself, where no corpus is at hand."""

import torch
from torch import nn

from kanlib.errors import BadInputError
from kanlib.machine import generator
from kanlib.networks.language import token_logits
from kanlib.networks.llama import Llama
from kanlib.networks.texts import bounds
from kanlib.networks.tokens import BEGINNING


@torch.inference_mode()
def sampled(
    model: nn.Module,
    n: int,
    *,
    seed: int = 0,
    most: int | None = None,
    temperature: float = 1.0,
    batch_size: int = 100,
    beginning: int = BEGINNING,
) -> list[list[int]]:
    """Stories: from the beginning on, each token is drawn from ``softmax(logits / temperature)``.

    Each story has a random stream of its own, so that more of them begin with the same ones, and a story does not
    depend on its batch (but for rounding). They are easier to the model than what it was trained on, as they hold
    nothing that it does not expect.

    Args:
        model: in evaluation mode. A :class:`kanlib.networks.llama.Llama` keeps the keys of what it wrote;
            another is given the whole text for each token.
        n: how many.
        seed: of their streams.
        most: tokens of a story at most, the beginning among them; ``None``: the model's context.
        temperature: 1: as the model sees it; 0: always the likeliest token.
        batch_size: stories that are written at a time.
        beginning: the token before a story, and after it.

    Returns:
        The tokens of each: the beginning, and all up to where the next story would begin or ``most`` are reached.

    Raises:
        BadInputError: no such number, length or temperature.
    """
    context = bounds(model)[1]
    most = context if most is None else most
    if n < 1 or batch_size < 1 or not 2 <= most <= context or not 0 <= temperature < float("inf"):
        raise BadInputError(
            f"{n} stories of {most} tokens at temperature {temperature:g} were asked for, {batch_size} at a time, "
            f"expected 1 or more of 2 to {context} at 0 or above; correct that."
        )
    rows: list[list[int]] = []
    for first in range(0, n, batch_size):
        streams = [generator(seed, "stories", i) for i in range(first, min(n, first + batch_size))]
        # In float64, as a token may be rarer than fp32 counts.
        draws = torch.stack([torch.rand(most, generator=stream, dtype=torch.float64) for stream in streams], 1)
        rows += _written(model, draws.to(next(model.parameters()).device), temperature, beginning)
    return rows


def _written(model: nn.Module, draws: torch.Tensor, temperature: float, beginning: int) -> list[list[int]]:
    """The stories that numbers between 0 and 1 stand for, ``[most, B]``: token t where the sum of p passes t's."""
    tokens = torch.full_like(draws, beginning, dtype=torch.long)
    ended = torch.zeros_like(draws[0], dtype=torch.bool)
    before: list[list[torch.Tensor]] = [[] for _ in model.layers] if isinstance(model, Llama) else []
    for t in range(1, len(draws)):
        # A Llama is given the last token alone, as it keeps what came before.
        given = tokens[t - 1 if before else 0 : t].T
        found = model(given, before) if before else model(given)
        logits = token_logits(found, given)[:, -1].double()
        if temperature:
            passed = (logits / temperature).softmax(-1).cumsum(-1)
            tokens[t] = torch.searchsorted(passed, (draws[t] * passed[:, -1])[:, None], right=True)[:, 0]
        else:
            tokens[t] = logits.argmax(-1)
        ended |= tokens[t] == beginning
        if ended.all():
            break
    whole = tokens.T.tolist()
    return [row[: row.index(beginning, 1) if beginning in row[1:] else len(row)] for row in whole]
