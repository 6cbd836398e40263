"""Logits of a network, output functions: the scalar f that is read from them, and how far it moves."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanlib.errors import BadInputError, cause, shown
from kanlib.machine import enough_memory
from kanlib.networks.patterns import plain

#: A user's own: what the network puts out and labels ``[B]`` → a number for each of the B images, ``[B]``.
OutputFunction = Callable[[Any, Tensor], Tensor]
#: Where a named tuple, a dataclass and any other object have the names of what they hold.
_NAMES = ("_fields", "__dataclass_fields__", "__dict__")


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


def logits_of(found: object, rows: int, labels: Tensor | None = None) -> Tensor:
    """The logits ``[rows, classes]`` in what a network put out: the one place where they are read.

    Of a tuple, a list, a dict or an object they are what is called ``logits``; without that name the first
    floating tensor ``[rows, classes]``, else the first ``[rows]``. One logit z an image, ``[rows]`` or
    ``[rows, 1]``, becomes the logits 0 and z of two classes: the margin is ±z, the softmax the sigmoid of z.

    Args:
        found: by :func:`answered`.
        rows: images or masks that were asked about.
        labels: ``[rows]``, which must be among the classes.

    Raises:
        BadInputError: it holds no such tensor, or a label has no logit.
    """
    place, logits = _taken(found, rows)
    if logits is None or len(logits) != rows:
        tensor = found if isinstance(found, Tensor) else logits
        what = plain(type(found).__name__) if tensor is None else f"{list(tensor.shape)} of {tensor.dtype}"
        raise BadInputError(
            f"the network puts out {what}{place and f' at {place}'} for {rows} images, expected floating logits "
            f"[{rows}, classes]; let the factory return a module that gives logits [B, n_classes], or give an "
            "output_function of your own (Python only)."
        )
    if logits[0].numel() == 1:
        logits = F.pad(logits.reshape(rows, 1), (1, 0))
    if labels is not None and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        label = int(labels.max()) if int(labels.min()) >= 0 else int(labels.min())
        raise BadInputError(
            f"an image has label {label}, but the network has logits for 0 to {logits.shape[1] - 1}; "
            "set n_classes, or correct the labels."
        )
    return logits


def reading(found: object, rows: int) -> list[str]:
    """What one might not expect of how :func:`logits_of` reads an output, a sentence each."""
    place, logits = _taken(found, rows)
    said = []
    if place and logits is not None:
        name, n = plain(type(found).__name__), logits[0].numel()
        said.append(f"Of the {name} that the network puts out, {place} is taken for the logits, {n} an image.")
    if logits is not None and logits[0].numel() == 1:
        said.append("The network gives one logit z an image, which is read as the logits 0 and z of two classes.")
    return said


def _taken(found: object, rows: int) -> tuple[str, Tensor | None]:
    """Where in an output the logits are, and they; a tensor of one row is taken too, for the caller to refuse.

    What no gate reaches has one row for all masks. Were it skipped, gates would have other logits taken.
    """
    held = pieces(found)
    named = [place for place in held if place in ("['logits']", ".logits")]
    fitting = [
        (place, piece)
        for place, piece in held.items()
        if place in (named or held)
        and isinstance(piece, Tensor)
        and piece.is_floating_point()
        and piece.ndim in (1, 2)
        and len(piece) in (1, rows)
        and piece.numel()
    ]
    return max(fitting, key=lambda fit: fit[1].ndim, default=("", None))


def pieces(found: object) -> dict[str, object]:
    """What a network put out, taken apart once: each piece by the place where it stands."""
    if isinstance(found, Tensor):
        return {"": found}
    if isinstance(found, Mapping):
        return {f"[{shown(key)}]": piece for key, piece in found.items()}
    if isinstance(found, tuple | list) and not hasattr(found, "_fields"):
        return {f"[{i}]": piece for i, piece in enumerate(found)}
    names = next((getattr(found, kind) for kind in _NAMES if hasattr(found, kind)), ())
    return {f".{plain(name)}": getattr(found, name, None) for name in names}


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


def values(found: object, labels: Tensor, functions: Sequence[str | OutputFunction]) -> list[Tensor]:
    """Output functions of what a network put out for B images, ``[B]`` each.

    Args:
        found: by :func:`answered`.
        labels: ``[B]``.
        functions: keys of :data:`OUTPUT_FUNCTIONS`, which are given logits, or a user's own, given ``found``.

    Raises:
        BadInputError: as :func:`logits_of`, or a function of the user's fails or gives something else.
    """
    logits: Any = None
    if any(isinstance(function, str) for function in functions):
        logits = logits_of(found, len(labels), labels)
    return [
        OUTPUT_FUNCTIONS[function](logits, labels) if isinstance(function, str) else _own(function, found, labels)
        for function in functions
    ]


def _own(function: OutputFunction, found: object, labels: Tensor) -> Tensor:
    """A user's output function, and what is refused of it."""
    try:
        with enough_memory(len(labels)):
            value = function(found, labels)
    except BadInputError:
        raise
    # It is anybody's code, as the network is.
    except (Exception, SystemExit) as error:
        raise BadInputError(
            f"the output function fails on what the network puts out ({cause(error)}), expected a number for each "
            f"of {len(labels)} images; mend it."
        ) from error
    if not isinstance(value, Tensor) or value.shape != labels.shape or not value.is_floating_point():
        tensor = isinstance(value, Tensor)
        what = f"{list(value.shape)} of {value.dtype}" if tensor else plain(type(value).__name__)
        raise BadInputError(
            f"the output function gives {what} for {len(labels)} images, expected a floating number for each, "
            f"[{len(labels)}]; mend it, or choose other components where these do not reach what it reads."
        )
    return value


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
