"""The Llama in plain torch: the whole network on a page, and checkpoints of llama2.c, which it is read from.

A text is a row of tokens ``t_1 … t_T``. Each becomes a vector, each layer adds to it what attention and a
feed-forward network make of it, and the last vector at a position says which token comes next:

    x ← E[t],   x ← x + attention(norm(x)),   x ← x + feed_forward(norm(x)),   logits = norm(x) Wᵀ

Sources: Touvron et al. (2023), arXiv 2302.13971; rotary positions: Su et al. (2021), arXiv 2104.09864; grouped
keys: Ainslie et al. (2023), arXiv 2305.13245; SwiGLU: Shazeer (2020), arXiv 2002.05202; RMSNorm: Zhang and
Sennrich (2019), arXiv 1910.07467. Names of layers are those of the Llama's authors.
"""

from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanlib.errors import BadInputError, cause
from kanlib.networks.patterns import plain


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama, in the order of llama2.c's header.

    Attributes:
        dim: width d of the vectors.
        hidden_dim: width of the feed-forward networks.
        n_layers: layers.
        n_heads: heads of an attention, which divide ``dim`` into parts of an even width h.
        n_kv_heads: keys and values, each shared by a group of heads; they divide ``n_heads``.
        n_tokens: size V of the vocabulary.
        context: the most tokens of a text.
    """

    dim: int
    hidden_dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    n_tokens: int
    context: int

    def __post_init__(self) -> None:
        sizes = astuple(self)
        if min(sizes) < 1 or self.dim % (2 * self.n_heads) or self.n_heads % self.n_kv_heads:
            raise BadInputError(
                f"a Llama of sizes {', '.join(map(str, sizes))} cannot be, expected each from 1 on, a width that "
                "its heads divide evenly and heads that their keys divide; correct them."
            )


class RMSNorm(nn.Module):
    """``w x / sqrt(mean(x²) + 10⁻⁵)`` along the last axis."""

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """The same shape ``[..., d]``."""
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)


def turned(x: Tensor, turns: Tensor) -> Tensor:
    """Rotary positions: the pairs ``(x_2i, x_2i+1)`` at position t turned by the angle ``t · 10,000^(−2i/h)``.

    The product of a query and a key then depends on how far they are apart, not on where they stand.

    Args:
        x: ``[..., T, h]``.
        turns: cosines and sines of the angles, ``[2, T, h/2]``.
    """
    (cos, sin), (a, b) = turns, x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


class Attention(nn.Module):
    """``W_o [head_1 … head_H]``, ``head = softmax(q kᵀ / √h) v`` over the positions up to its own.

    Heads lie side by side in what ``wo`` is given; so a head is scaled there (``layers.*.attention[*]``). Head i
    has a query of its own, and the key and value ``i // (n_heads / n_kv_heads)``.
    """

    def __init__(self, shape: Shape):
        super().__init__()
        self.n_heads, self.n_kv_heads = shape.n_heads, shape.n_kv_heads
        narrow = shape.dim // shape.n_heads * shape.n_kv_heads
        self.wq, self.wo = (nn.Linear(shape.dim, shape.dim, bias=False) for _ in range(2))
        self.wk, self.wv = (nn.Linear(shape.dim, narrow, bias=False) for _ in range(2))

    def forward(self, x: Tensor, turns: Tensor, before: list[Tensor] | None = None) -> Tensor:
        """What is added to the vectors ``[..., T, d]``.

        Args:
            x: vectors, normalised.
            turns: see :func:`turned`.
            before: keys and values of the positions before these, to which theirs are added; empty at first.
        """
        q = turned(_apart(self.wq(x), self.n_heads), turns)
        k = turned(_apart(self.wk(x), self.n_kv_heads), turns)
        v = _apart(self.wv(x), self.n_kv_heads)
        if before is not None:
            k, v = (torch.cat([*old, new], -2) for old, new in zip((before[:1], before[1:]), (k, v), strict=True))
            before[:] = k, v
        k, v = (part.repeat_interleave(self.n_heads // self.n_kv_heads, -3) for part in (k, v))
        # The one position that comes after all that were before sees them all.
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[-2] == k.shape[-2])
        return self.wo(heads.transpose(-3, -2).flatten(-2))


class FeedForward(nn.Module):
    """SwiGLU: ``W_2 (silu(W_1 x) ⊙ W_3 x)``."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.w1, self.w3 = (nn.Linear(shape.dim, shape.hidden_dim, bias=False) for _ in range(2))
        self.w2 = nn.Linear(shape.hidden_dim, shape.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the vectors ``[..., d]``."""
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Layer(nn.Module):
    """``x + attention(norm(x))``, and to that ``feed_forward(norm(·))``."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.attention_norm, self.ffn_norm = RMSNorm(shape.dim), RMSNorm(shape.dim)
        self.attention, self.feed_forward = Attention(shape), FeedForward(shape)

    def forward(self, x: Tensor, turns: Tensor, before: list[Tensor] | None = None) -> Tensor:
        """The vectors ``[..., T, d]`` after the layer."""
        x = x + self.attention(self.attention_norm(x), turns, before)
        return x + self.feed_forward(self.ffn_norm(x))


class Llama(nn.Module):
    """Tokens ``[..., T]`` → logits ``[..., T, V]`` of the token that comes after each of them.

    Whatever axes come first are rows of their own: ``[B, K, T]`` are K texts for each of B masks, which share the
    mask. A position sees those before it alone, so that what stands after a text, padding, changes nothing.

    Example: ``find(llama, ["layers.*.attention[*]", "layers.*.feed_forward"])`` are its heads and feed-forward
    networks, and ``layers.*.*.*.weight[*]`` all rows of its weights.
    """

    turns: Tensor

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.tok_embeddings = nn.Embedding(shape.n_tokens, shape.dim)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.n_layers))
        self.norm = RMSNorm(shape.dim)
        self.output = nn.Linear(shape.dim, shape.n_tokens, bias=False)
        width = shape.dim // shape.n_heads
        # Angles are rounded to fp32, as they were when Llamas were trained.
        angles = torch.arange(shape.context)[:, None] * (1 / 10000 ** (torch.arange(0, width, 2) / width))
        self.register_buffer("turns", torch.stack([angles.cos(), angles.sin()]), persistent=False)

    def forward(self, tokens: Tensor, before: list[list[Tensor]] | None = None) -> Tensor:
        """Logits, in the precision of the weights.

        Args:
            tokens: int64 ``[..., T]``.
            before: of each layer the keys and values of the positions before (``[]`` at the beginning), which are
                kept there. With them, tokens are given one at a time after the first call.

        Raises:
            BadInputError: there are none, or more than the context; or several after others that were kept.
        """
        done = before[0][0].shape[-2] if before and before[0] else 0
        n = tokens.shape[-1]
        if done and n > 1:
            raise BadInputError(
                f"{n} tokens come after {done} whose keys were kept, expected one; give them one by one."
            )
        if not 1 <= n <= self.shape.context - done:
            raise BadInputError(
                f"a text has {done + n} tokens, expected 1 to {self.shape.context}, the context of the model; "
                "take a shorter text, or one that is not empty."
            )
        x, turns = self.tok_embeddings(tokens), self.turns[:, done : done + n]
        for i, layer in enumerate(self.layers):
            x = layer(x, turns, None if before is None else before[i])
        return self.output(self.norm(x))


def _apart(x: Tensor, n: int) -> Tensor:
    """Heads that lie side by side ``[..., T, n h]``, apart ``[..., n, T, h]``."""
    return x.unflatten(-1, (n, -1)).transpose(-3, -2)


def read(file: str | Path) -> Llama:
    """The Llama of a checkpoint of llama2.c, in evaluation mode, fp32; its weights do not ask for gradients.

    A header of seven int32 (:class:`Shape`; a vocabulary below 0 is one whose output has weights of its own), then
    weights in fp32, those of one name for all layers together, and the angles' tables, which are computed here.
    Source: llama2.c, ``export.py``, version 0.

    Raises:
        BadInputError: no such file, a header of no Llama, another number of weights, or some that are not finite.
    """
    try:
        raw = np.fromfile(file, np.uint8)
    except (OSError, ValueError) as error:
        raise BadInputError(
            f"the checkpoint {plain(str(file))} cannot be read ({cause(error)}), expected one of llama2.c; name "
            "another file."
        ) from error
    if len(raw) < 28 or len(raw) % 4:
        raise _damaged(file, f"it has {len(raw):,} bytes")
    header = raw[:28].view("<i4").tolist()
    dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocabulary, context = header
    try:
        shape = Shape(dim, hidden_dim, n_layers, n_heads, n_kv_heads, abs(vocabulary), context)
    except BadInputError as error:
        raise _damaged(file, f"its header says {', '.join(map(str, header))}") from error
    weights = torch.from_numpy(raw[28:].view("<f4").astype(np.float32))
    # Before anything is made, as a header may say what it likes.
    if len(weights) != (expected := _n_weights(shape, own_output=vocabulary < 0)):
        raise _damaged(file, f"it has {len(weights):,} weights, not the {expected:,} of its header")
    if not weights.isfinite().all():
        raise _damaged(file, "its weights are not all finite")
    model = Llama(shape)
    if vocabulary > 0:
        model.output.weight = model.tok_embeddings.weight
    places = model.state_dict() | {"angles": model.turns}
    order = [
        "tok_embeddings.weight",
        *(f"layers.{i}.{name}.weight" for name in _IN_LAYERS for i in range(shape.n_layers)),
        *("norm.weight", "angles", "output.weight")[: 2 if vocabulary > 0 else 3],
    ]
    parts = weights.split([places[name].numel() for name in order])
    for name, part in zip(order, parts, strict=True):
        if name != "angles":
            places[name].copy_(part.view(places[name].shape))
    return model.eval().requires_grad_(False)


#: The weights of a layer in the order of a checkpoint, which holds those of one name of all layers together.
_IN_LAYERS = (
    "attention_norm",
    *(f"attention.{name}" for name in ("wq", "wk", "wv", "wo")),
    "ffn_norm",
    *(f"feed_forward.{name}" for name in ("w1", "w2", "w3")),
)


def _n_weights(shape: Shape, *, own_output: bool) -> int:
    """How many numbers a checkpoint holds after its header, with the tables of angles."""
    d, h = shape.dim, shape.dim // shape.n_heads
    layer = 2 * d + 2 * d * d + 2 * d * h * shape.n_kv_heads + 3 * d * shape.hidden_dim
    return (1 + own_output) * shape.n_tokens * d + shape.n_layers * layer + d + shape.context * h


def _damaged(file: str | Path, why: str) -> BadInputError:
    return BadInputError(
        f"{plain(str(file))} is no checkpoint of a Llama as llama2.c writes it: {why}; take it from its source "
        "again."
    )
