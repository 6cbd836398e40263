"""Algorithm 1: masks, and the responses of a classifier to them."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from kanlib.components import Site, gated
from kanlib.errors import BadInputError
from kanlib.setups import generator

#: The splits of a setup's masks, see :func:`masks`.
SPLITS = ("fit", "validation", "test", "reference")


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    others = logits.scatter(-1, labels[..., None], -torch.inf)
    return logits.gather(-1, labels[..., None])[..., 0] - others.amax(-1)


#: ``f(logits [..., classes], labels [...]) -> [...]``; the margin is the paper's predecessor's, COAR's equation 5.
OUTPUT_FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "margin": _margin,
    "logit": lambda logits, labels: logits.gather(-1, labels[..., None])[..., 0],
    "log_prob": lambda logits, labels: F.log_softmax(logits, -1).gather(-1, labels[..., None])[..., 0],
    "prob": lambda logits, labels: F.softmax(logits, -1).gather(-1, labels[..., None])[..., 0],
    "loss": lambda logits, labels: -F.log_softmax(logits, -1).gather(-1, labels[..., None])[..., 0],
}


def masks(n: int, m: int, scale: float, seed: int, split: str) -> Tensor:
    """``n`` masks ``σ ~ N(0, s² I_m)`` as ``[n, m]`` (fp32); each split has a stream of its own.

    Growing one split therefore leaves the others as they are, and appends to it.
    """
    # In whole blocks of 16, as torch draws Gaussians; it would draw a shorter last block anew.
    flat = torch.randn(-(n * m) // 16 * -16, generator=generator(seed, "masks", split))
    return scale * flat[: n * m].view(n, m)


def choose_examples(correct: Tensor, n: int, seed: int, *, development: bool) -> Tensor:
    """Positions ``[n]`` of ``n`` correctly classified examples, drawn by ``seed``.

    Args:
        correct: whether each example is classified correctly, ``[n_test]`` (bool).
        n: how many.
        seed: of the draw.
        development: the set for design decisions, drawn from one half of the test split; the reported
            examples come from the other half, so the two never meet, whatever ``n``.

    Raises:
        BadInputError: fewer than ``n`` such examples.
    """
    order = torch.randperm(len(correct), generator=generator(seed, "examples"))
    half = len(correct) // 2
    pool = order[:half] if development else order[half:]
    pool = pool[correct[pool]]
    if len(pool) < n:
        raise BadInputError(
            f"n_examples is {n}, but there are {len(pool)} correctly classified ones to draw from."
        )
    return pool[:n]


def named_examples(positions: Sequence[int], n_test: int) -> Tensor:
    """``positions`` in the test split as a tensor.

    Raises:
        BadInputError: one occurs twice or lies beyond the split of ``n_test`` examples.
    """
    if max(positions) >= n_test or len(set(positions)) < len(positions):
        raise BadInputError(f"examples is {list(positions)}, expected different positions from 0 to {n_test - 1}.")
    return torch.tensor(positions)


@torch.inference_mode()
def responses(
    model: nn.Module,
    components: Sequence[str],
    x: Tensor,
    labels: Tensor,
    sigma: Tensor,
    *,
    site: Site = "branch",
    output_function: str = "margin",
    batch_size: int = 25,
) -> tuple[Tensor, Tensor]:
    """Centred responses ``Δf(z, σ) = f(z, σ) − f(z, 0)`` (equation 1) of every example to every mask.

    One forward pass answers ``batch_size`` masks of one example; what comes before the first gate is
    computed once for all of them. Every batch, also the clean one and the last, has the same shape, so a
    response does not depend on which masks it was recorded with, and ``Δf(z, 0) = 0`` exactly.

    Args:
        model: in evaluation mode, fp32.
        x: examples ``[E, ...]``, on the model's device.
        labels: ``[E]``.
        sigma: masks ``[N, m]``.
        components: names of the m modules to gate.
        site: see :func:`kanlib.components.gated`.
        output_function: a key of :data:`OUTPUT_FUNCTIONS`.
        batch_size: masks a forward pass.

    Returns:
        Responses ``[E, N]`` and clean outputs ``f(z, 0)`` ``[E]``, fp32, on the CPU.

    Raises:
        BadInputError: a response is not finite (example and mask are named).
    """
    read = OUTPUT_FUNCTIONS[output_function]
    n, m = sigma.shape
    batches = F.pad(sigma, (0, 0, 0, -n % batch_size)).view(-(-n // batch_size), batch_size, m).to(x.device)
    out = torch.empty(len(x), batches.shape[0] * batch_size)
    clean = torch.empty(len(x))
    bar = tqdm(total=len(x) * n, desc="responses", unit="mask", mininterval=1)
    with gated(model, components, site) as gates, bar:
        for e in range(len(x)):
            example, label = x[e : e + 1], labels[e].expand(batch_size)
            clean[e] = read(gates(example, batches.new_zeros(batch_size, m)), label)[0]
            for b, batch in enumerate(batches):
                out[e, b * batch_size : (b + 1) * batch_size] = read(gates(example, batch), label)
                bar.update(min(batch_size, n - b * batch_size))
    out = out[:, :n] - clean[:, None]
    if not out.isfinite().all():
        e, i = (~out.isfinite()).nonzero()[0].tolist()
        raise BadInputError(
            f"the response of example {e + 1} to mask {i + 1} is {out[e, i]}, expected a finite number; "
            "check the model's weights, or lower scale."
        )
    return out, clean
