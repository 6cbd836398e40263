"""What flows through a language model: the vectors that a module puts out at each token, read and put back.

The residual stream after layer i is what ``layers.i`` puts out, and what a feed-forward network adds to it is what
``layers.i.feed_forward`` does. Other vectors may be put in their place, those of an autoencoder or zeros, and the
loss of the model says how much of what it needs they hold.

The first token of a text, its beginning, is left alone throughout: its vector is the same in every text.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanlib.errors import BadInputError, unknown
from kanlib.networks.language import token_logits
from kanlib.networks.patterns import plain
from kanlib.networks.texts import Texts

#: ``f(vectors [..., T, d]) → [..., T, d]``.
Replacement = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Stream:
    """The vectors of n tokens, text after text.

    Attributes:
        vectors: what the module put out at each token, ``[n, d]``.
        tokens: ``[n]``, int64.
        texts: number of the text that each stands in, ``[n]``.
    """

    vectors: Tensor
    tokens: Tensor
    texts: Tensor

    def __len__(self) -> int:
        return len(self.tokens)


@torch.inference_mode()
def read(model: nn.Module, texts: Texts, name: str, batch_size: int = 100) -> Stream:
    """The vectors of all tokens but the first of each text.

    Args:
        model: a language model in evaluation mode, on any device.
        texts: one row of tokens each.
        name: of the module, ``layers.3``.
        batch_size: texts a forward pass.

    Returns:
        On the model's device.

    Raises:
        BadInputError: no such module, or one that puts out no vector at each token.
    """
    module, parts = _module(model, name), []
    for some in _batches(model, texts, batch_size):
        kept: list[object] = []
        handle = module.register_forward_hook(lambda _module, _given, out, kept=kept: kept.append(out))
        try:
            model(some.tokens)
        finally:
            handle.remove()
        parts.append(_vectors(kept[-1] if kept else None, some.tokens, name)[_seen(some)])
    row, place = torch.nonzero(_seen(texts), as_tuple=True)
    device = parts[0].device
    return Stream(torch.cat(parts), texts.tokens[row, place].to(device), row.to(device))


@contextmanager
def replaced(model: nn.Module, name: str, by: Replacement) -> Iterator[None]:
    """Within it, the module puts out ``by(vectors)`` at all tokens but the first.

    Raises:
        BadInputError: as :func:`read`.
    """

    def put(_module: nn.Module, given: tuple, out: Tensor) -> Tensor:
        vectors = _vectors(out, None, name)
        return torch.cat([vectors[..., :1, :], by(vectors[..., 1:, :])], -2)

    handle = _module(model, name).register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()


@torch.inference_mode()
def losses(model: nn.Module, texts: Texts, batch_size: int = 100) -> Tensor:
    """The sum of ``−log p`` over the tokens that are predicted in each text, in nats, ``[n]``, fp64, on the CPU.

    Within :func:`replaced` it is the loss with other vectors. The mean over tokens is
    ``losses.sum() / texts.predicted.sum()``.
    """
    found = []
    for some in _batches(model, texts, batch_size):
        logits = token_logits(model(some.tokens), some.tokens)[:, :-1]
        each = F.cross_entropy(logits.transpose(1, 2).float(), some.tokens[:, 1:], reduction="none")
        found.append(each.where(some.predicted[:, 1:], 0).double().sum(-1).cpu())
    return torch.cat(found)


def recovered(loss: Tensor, clean: Tensor, without: Tensor) -> Tensor:
    """Loss recovered, ``(L_zero − L) / (L_zero − L_clean)``: 1 is as good as the network, 0 as bad as zeros.

    Source: SAELens, ``evals.py`` (``ce_loss_score``).
    """
    return (without - loss) / (without - clean)


def _batches(model: nn.Module, texts: Texts, batch_size: int) -> Iterator[Texts]:
    device = next(model.parameters()).device
    for rows in torch.arange(len(texts)).split(batch_size):
        yield texts.of(rows).to(device)


def _seen(texts: Texts) -> Tensor:
    """Which places hold tokens of a text, its first one left out."""
    place = torch.arange(texts.tokens.shape[-1], device=texts.tokens.device)
    return (place >= 1) & (place < texts.lengths[..., None])


def _module(model: nn.Module, name: str) -> nn.Module:
    modules = dict(model.named_modules())
    if not name or name not in modules:
        raise unknown("module", plain(name) or "without a name", [one for one in modules if one], "the network")
    return modules[name]


def _vectors(out: object, tokens: Tensor | None, name: str) -> Tensor:
    vectors = isinstance(out, Tensor) and out.is_floating_point() and out.ndim >= 3
    if isinstance(out, Tensor) and vectors and (tokens is None or out.shape[:-1] == tokens.shape):
        return out
    what = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
    raise BadInputError(
        f"module {plain(name)} puts out {what}, expected a vector at each token; name one that does, a layer."
    )
