"""Logits of a network, output functions: the scalar f that is read from them, and how far it moves."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanlib.errors import BadInputError, cause
from kanlib.machine import enough_memory


def answered(
    model: nn.Module, x: Tensor, batch_size: int, remedy: str = "set image_size, or mend the network"
) -> object:
    """What a network puts out for images ``x`` ``[B, ...]``: the one place where a network is called.

    Args:
        model: that is called. ``x`` stays as it is, also where the model works on it in place.
        x: images.
        batch_size: rows that it works on, to be lowered where memory runs out.
        remedy: what to do where it fails.

    Raises:
        BadInputError: its forward pass fails, or the device runs out of memory.
    """
    try:
        with enough_memory(batch_size):
            return model(x.clone())
    except BadInputError:
        raise
    # A network is anybody's code, which may raise anything, and even exit.
    except (Exception, SystemExit) as error:
        raise BadInputError(
            f"the network fails on images of shape {list(x.shape)} ({cause(error)}), expected logits; {remedy}."
        ) from error


def logits_of(found: object, rows: int, labels: Tensor | None = None, functions: Sequence[str] = ()) -> Tensor:
    """What a network put out, if it is logits ``[rows, classes]`` that the functions can be read from.

    Args:
        found: by :func:`answered`.
        rows: images or masks that were asked about.
        labels: ``[rows]``, which must be among the classes.
        functions: keys of :data:`OUTPUT_FUNCTIONS`; all but ``logit`` compare two classes or more.

    Raises:
        BadInputError: it is something else: no tensor, of another shape, no real floating numbers.
    """
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != rows or not found.is_floating_point():
        what = f"{list(found.shape)} of {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
        raise BadInputError(
            f"the network puts out {what[:60]} for {rows} images, expected floating logits [{rows}, classes]; "
            "let the factory return a module that gives logits [B, n_classes]."
        )
    comparing = [name for name in functions if name != "logit"]
    if found.shape[1] < 2 and comparing:
        raise BadInputError(
            f"{comparing[0]} compares the logits of classes, but the network gives {found.shape[1]} an image, "
            "expected 2 or more; set output_function to logit and choose to any, or take another network."
        )
    if labels is not None and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < found.shape[1]:
        label = int(labels.max()) if int(labels.min()) >= 0 else int(labels.min())
        raise BadInputError(
            f"an image has label {label}, but the network has logits for 0 to {found.shape[1] - 1}; "
            "set n_classes, or correct the labels."
        )
    return found


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The label's logit less the highest other one, above 0 if the class is right: ``[...]``."""
    others = logits.scatter(-1, labels[..., None], -torch.inf)
    return _logit(logits, labels) - others.amax(-1)


def _logit(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.gather(-1, labels[..., None])[..., 0]


#: ``f(logits [..., classes], labels [...]) -> [...]``; the margin is the paper's predecessor's, COAR's equation 5.
OUTPUT_FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "margin": margin,
    "logit": _logit,
    "log_prob": lambda logits, labels: _logit(F.log_softmax(logits, -1), labels),
    "prob": lambda logits, labels: _logit(F.softmax(logits, -1), labels),
    "loss": lambda logits, labels: -_logit(F.log_softmax(logits, -1), labels),
}


def centred(out: Tensor, clean: Tensor) -> Tensor:
    """``f(z, σ) − f(z, 0)``, ``[E, N]`` from ``[E, N]`` and ``[E]``.

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
