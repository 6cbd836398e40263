"""Parts of a module, that is filters, output features, rows of weights or heads, and how they are scaled."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.hooks import RemovableHandle

from kanlib.errors import BadInputError

#: What torch, timm, transformers and well-known small implementations call the number of heads.
_N_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "n_local_heads", "heads")
#: And what they call the linear layer that the heads are given to, side by side.
_PROJECTIONS = ("proj", "out_proj", "o_proj", "c_proj", "wo", "o", "to_out", "to_out.0", "out_lin", "dense")


def n_parts(module: nn.Module, name: str, rows: bool = False) -> int:
    """How many heads, filters or output features a module has, or ``rows`` of its weights.

    Args:
        module: of the network.
        name: its own, for the sentence.
        rows: ask for these. Row j gives feature j, before its bias; so it is filter j in a convolution.

    Raises:
        BadInputError: it has none.
    """
    if rows:
        if isinstance(module, nn.Linear) or (isinstance(module, _ConvNd) and not module.transposed):
            return len(module.weight)
        raise BadInputError(
            f"component {name} is a {type(module).__name__}, which has no rows of weights that give its features; "
            "expected a linear layer or a convolution."
        )
    n = n_heads(module)
    if n is None:
        # The last is that of transformers' Conv1D, which is a linear layer.
        n = getattr(
            module, "out_channels" if isinstance(module, _ConvNd) else "out_features", getattr(module, "nf", None)
        )
    if not isinstance(n, int):
        raise BadInputError(
            f"component {name} is a {type(module).__name__}, which has neither filters nor heads; "
            "expected a convolution, a linear layer or an attention."
        )
    return n


def n_heads(module: nn.Module) -> int | None:
    """How many heads an attention has that can be scaled one by one; ``None`` for all else."""
    if isinstance(module, nn.MultiheadAttention):
        return module.num_heads
    return _said_heads(module) if projection(module) is not None else None


def projection(module: nn.Module) -> nn.Module | None:
    """The linear layer that is given the heads of an attention side by side; ``None`` for all else.

    An attention is what says how many heads it has and holds one layer that bears the name of a projection. What
    its keys and values are does not matter: they may be shared by heads.
    """
    # That of torch is given as weights, and never runs as a layer.
    if isinstance(module, nn.MultiheadAttention) or _said_heads(module) is None:
        return None
    # BERT and its kin keep the heads in one module and their projection in the one beside it.
    names = ("output.dense",) if _is_pair(module) else _PROJECTIONS
    found = [layer for name in names if (layer := _linear(module, name)) is not None]
    return found[0] if len(found) == 1 else None


def _is_pair(module: nn.Module) -> bool:
    names = {name for name, _ in module.named_children()}
    return names in ({"self", "output"}, {"attention", "output"})


def _said_heads(module: nn.Module) -> int | None:
    children = dict(module.named_children())
    holders: list[object] = list(children.values()) if _is_pair(module) else [module]
    if any(name.startswith("q") for name in children):
        # A configuration is that of the whole network: only what has queries is its attention.
        holders.append(getattr(module, "config", None))
    found = (getattr(holder, name, None) for holder in holders for name in _N_HEADS)
    return next((n for n in found if isinstance(n, int) and n > 0), None)


def _linear(module: nn.Module, name: str) -> nn.Module | None:
    try:
        found = module.get_submodule(name)
    except AttributeError:
        return None
    weight = getattr(found, "weight", None)
    return found if isinstance(weight, Tensor) and weight.ndim == 2 else None


@dataclass(frozen=True)
class Parts:
    """Some parts of one module.

    Attributes:
        name: of the module, as a sentence can bear it.
        numbers: of k of its parts.
        rows: whether they are rows of its weights.
    """

    name: str
    numbers: Sequence[int]
    rows: bool = False

    def gate(self, module: nn.Module, sigma: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        """Scale them by ``1 + σ``; at σ = 0 that is the identity, to the bit.

        A feature or filter is scaled in what its module puts out. A row of weights is scaled there before its
        bias, ``b + (1 + σ) (y − b)``. A head is scaled in what the projection of its attention is given.

        Args:
            module: the one of this name.
            sigma: asked at each run with the tensor that is about to be scaled; gives σ ``[B, k]`` in its
                precision, or ``None`` while nothing is to be scaled.

        Raises:
            BadInputError: a part does not exist; when the module runs, its parts cannot be told apart there.
        """
        n = n_parts(module, self.name, self.rows)
        if max(self.numbers) >= n:
            raise absent(self.name, self.rows, str(max(self.numbers)), n)

        def along(like: Tensor, axis: int = -1) -> Tensor | None:
            return None if (given := sigma(like)) is None else self._along(given, n, like, axis)

        if self.rows or n_heads(module) is None:
            axis = 1 if isinstance(module, _ConvNd) else -1
            scaled = _scaled_rows if self.rows else _scaled_features
            return module.register_forward_hook(
                lambda module, args, y: y if (s := along(y, axis)) is None else scaled(module, y, s)
            )
        if (inner := projection(module)) is not None:
            return inner.register_forward_pre_hook(
                lambda _, args: args if (s := along(args[0])) is None else (args[0] * (1 + s), *args[1:])
            )
        return module.register_forward_hook(
            lambda attention, args, kwargs, y: _scaled_heads(attention, args, kwargs, y, along), with_kwargs=True
        )

    def _along(self, sigma: Tensor, n: int, like: Tensor, axis: int) -> Tensor:
        """σ along ``axis`` of ``like``, where its ``n`` parts lie side by side; 0 for those not gated."""
        if like.shape[axis] % n:
            raise BadInputError(
                f"component {self.name}[{self.numbers[0]}] works on {like.shape[axis]} channels, expected a "
                f"multiple of its {n} parts; gate the module as a whole."
            )
        where = torch.tensor(self.numbers, device=like.device)
        spread = like.new_zeros(len(sigma), n).index_add(1, where, sigma)
        spread = spread.repeat_interleave(like.shape[axis] // n, 1)
        shape = [1] * like.ndim
        shape[0], shape[axis] = spread.shape
        return spread.view(shape)


def absent(name: str, rows: bool, number: str, n: int) -> BadInputError:
    """That a module, which has ``n`` parts, has none of this number."""
    whole = name + ".weight" * rows
    return BadInputError(f"component {whole}[{number[:20]}] does not exist, expected 0 to {n - 1}.")


def _scaled_features(module: nn.Module, y: Tensor, sigma: Tensor) -> Tensor:
    return y * (1 + sigma)


def _scaled_rows(module: nn.Linear | _ConvNd, y: Tensor, sigma: Tensor) -> Tensor:
    if module.bias is None:
        return y * (1 + sigma)
    bias = module.bias.to(y.dtype)
    # Exact to the bit at both ends: y at σ = 0 and the bias alone at σ = −1.
    return torch.lerp(y, bias.view(-1, *[1] * (y.ndim - 2)) if isinstance(module, _ConvNd) else bias, -sigma)


def _scaled_heads(attention: nn.MultiheadAttention, args: tuple, kwargs: dict, output: tuple, along) -> tuple:
    """``y + Σ_h σ_h W_h head_h``: torch's attention never shows its heads, so they are computed again."""
    given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
    x = given["query"]
    # The heads side by side are as many, as wide and as precise as what they are computed from.
    if (sigma := along(x)) is None:
        return output
    masked = any(given.get(name) is not None for name in ("attn_mask", "key_padding_mask"))
    more_keys = attention.bias_k is not None or attention.add_zero_attn
    if masked or more_keys or not (given["key"] is x and given["value"] is x and attention.batch_first):
        raise BadInputError(
            "the heads of this attention cannot be gated: expected self-attention, batch first and unmasked; "
            "gate the module as a whole."
        )
    q, k, v = (
        part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for part in F.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
    )
    heads = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return (output[0] + F.linear(sigma * heads, attention.out_proj.weight), *output[1:])
