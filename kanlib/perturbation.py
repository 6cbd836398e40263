"""Algorithm 1: masks, and the responses of a classifier to them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from kanlib import models
from kanlib.components import Site, gated
from kanlib.errors import BadInputError, nearest
from kanlib.images import Images
from kanlib.setups import Perturbation, generator

Precision = Literal["fp32", "tf32", "bf16"]

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


def one_at_a_time(m: int, reach: float = 3.0, points: int = 61) -> Tensor:
    """Masks ``[m · points, m]`` that scale one component at a time, from ``−reach`` to ``reach``."""
    sweep = torch.linspace(-reach, reach, points)
    return torch.cat([sweep[:, None] * row for row in torch.eye(m)])


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
        BadInputError: fewer such examples than asked for, a position named twice or beyond the split, or a
            class that the data does not have.
    """
    labels = data.test.labels
    if p.examples is not None:
        if max(p.examples) >= len(labels) or len(set(p.examples)) < len(p.examples):
            raise BadInputError(
                f"examples is {p.examples}, expected different positions from 0 to {len(labels) - 1}."
            )
        return torch.tensor(p.examples)
    order = torch.randperm(len(labels), generator=generator(p.seed, "examples"))
    half = len(labels) // 2
    if development is None:
        development = p.example_set == "development"
    pool = order[:half] if development else order[half:]
    if p.only_class is not None:
        if p.only_class not in data.classes:
            raise BadInputError(
                f"only_class {p.only_class} is unknown to {len(data.classes)} classes; "
                f"did you mean {nearest(p.only_class, data.classes)}?"
            )
        pool = pool[labels[pool] == data.classes.index(p.only_class)]
    pool = pool[: p.n_candidates]
    margin = _margin(models.predict(model, data.test, pool), labels[pool])
    if p.choose in ("correct", "smallest_margin"):
        pool, margin = pool[margin > 0], margin[margin > 0]
    elif p.choose == "misclassified":
        pool = pool[margin < 0]
    if p.choose == "smallest_margin":
        pool = pool[margin.argsort(stable=True)]
    if len(pool) < p.n_examples:
        raise BadInputError(
            f"n_examples is {p.n_examples}, but there are {len(pool)} to draw from ({p.choose}"
            f"{f', class {p.only_class}' if p.only_class else ''}); lower n_examples or raise n_candidates."
        )
    return pool[: p.n_examples]


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
    precision: Precision = "fp32",
    progress: str | None = "responses",
) -> tuple[Tensor, Tensor]:
    """Centred responses ``Δf(z, σ) = f(z, σ) − f(z, 0)`` (equation 1) of every example to every mask.

    Args:
        model: as for :func:`outputs`.
        components: names of the m modules to gate.
        x: examples ``[E, ...]``.
        labels: ``[E]``.
        sigma: masks ``[N, m]``.
        site: see :func:`kanlib.components.gated`.
        output_function: a key of :data:`OUTPUT_FUNCTIONS`.
        batch_size: masks a forward pass.
        precision: of the forward passes; below fp32 only where asked for.
        progress: what the bar is called; ``None``: there is none.

    Returns:
        Responses ``[E, N]`` and clean outputs ``f(z, 0)`` ``[E]``, fp32, on the CPU.

    Raises:
        BadInputError: a response is not finite (example and mask are named).
    """
    out, clean = outputs(
        model,
        components,
        x,
        labels,
        sigma,
        site=site,
        output_functions=[output_function],
        batch_size=batch_size,
        precision=precision,
        progress=progress,
    )
    return centred(out[0], clean[0]), clean[0]


def centred(out: Tensor, clean: Tensor) -> Tensor:
    """``f(z, σ) − f(z, 0)``, ``[E, N]``.

    Raises:
        BadInputError: one is not finite (example and mask are named).
    """
    difference = out - clean[:, None]
    if not difference.isfinite().all():
        e, i = (~difference.isfinite()).nonzero()[0].tolist()
        raise BadInputError(
            f"the response of example {e + 1} to mask {i + 1} is {difference[e, i]}, expected a finite number; "
            "check the model's weights, or lower scale."
        )
    return difference


@torch.inference_mode()
def outputs(
    model: nn.Module,
    components: Sequence[str],
    x: Tensor,
    labels: Tensor,
    sigma: Tensor,
    *,
    site: Site = "branch",
    output_functions: Sequence[str] = ("margin",),
    batch_size: int = 25,
    precision: Precision = "fp32",
    progress: str | None = "responses",
) -> tuple[Tensor, Tensor]:
    """Outputs ``f(z, σ)`` of every example under every mask, and ``f(z, 0)``.

    One forward pass answers ``batch_size`` masks of one example; what comes before the first gate is
    computed once for all of them. Every batch, also the clean one and the last, has the same shape, so an
    output does not depend on which masks it was recorded with, and ``f(z, 0)`` is the same to the bit
    under a mask of zeros.

    Args:
        model: in evaluation mode, fp32.
        x: examples ``[E, ...]``, on the model's device.
        labels: ``[E]``.
        sigma: masks ``[N, m]``.
        components: names of the m modules to gate.
        site: see :func:`kanlib.components.gated`.
        output_functions: F keys of :data:`OUTPUT_FUNCTIONS`.
        batch_size: masks a forward pass.
        precision: of the forward passes; below fp32 only where asked for.
        progress: what the bar is called; ``None``: there is none.

    Returns:
        ``[F, E, N]`` and ``[F, E]``, fp32, on the CPU.

    Raises:
        BadInputError: the device runs out of memory.
    """
    n, m = sigma.shape
    batches = F.pad(sigma, (0, 0, 0, -n % batch_size)).view(-(-n // batch_size), batch_size, m).to(x.device)
    out = torch.empty(len(output_functions), len(x), batches.shape[0] * batch_size)
    clean = torch.empty(len(output_functions), len(x))
    bar = tqdm(total=len(x) * n, desc=progress, unit="mask", mininterval=1, disable=progress is None)
    with (
        gated(model, components, site) as gates,
        bar,
        enough_memory(batch_size),
        in_precision(precision, x.device),
    ):
        for e in range(len(x)):
            example, label = x[e : e + 1], labels[e].expand(batch_size)
            for b, batch in enumerate([batches.new_zeros(batch_size, m), *batches]):
                logits = gates(example, batch)
                read = torch.stack([OUTPUT_FUNCTIONS[name](logits, label) for name in output_functions])
                if b == 0:
                    clean[:, e] = read[:, 0]
                else:
                    out[:, e, (b - 1) * batch_size : b * batch_size] = read
                    bar.update(min(batch_size, n - (b - 1) * batch_size))
    return out[..., :n], clean


@contextmanager
def in_precision(precision: Precision, device: torch.device) -> Iterator[None]:
    """Forward passes in ``fp32``, in ``tf32`` (matrix products on CUDA) or in ``bf16`` (autocast)."""
    if precision == "tf32" and device.type != "cuda":
        raise BadInputError(f"precision tf32 is CUDA's, but the device is {device.type}; set precision to fp32.")
    switches = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = precision == "tf32"
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        for switch, allowed in zip(switches, before, strict=True):
            switch.allow_tf32 = allowed


@contextmanager
def enough_memory(batch_size: int) -> Iterator[None]:
    """Turn a device's running out of memory into a sentence that says what to set."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise BadInputError(
            f"the device ran out of memory with batch_size {batch_size}; set batch_size to {batch_size // 2 or 1}."
        ) from error
