"""Output functions: the scalar f that is read from the logits, and how far it moves."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kanlib.errors import BadInputError


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
