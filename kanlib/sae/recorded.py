"""What the chapter on sparse autoencoders needs of a network: recorded once, so that it needs no weights.

``python -m benchmarks.sparse_autoencoders --record`` writes it: vectors of some thousand tokens in half precision,
and what gates over the active features of a few tokens do.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kanlib import store
from kanlib.masks import Split, gaussian
from kanlib.networks import answers
from kanlib.networks.streams import Stream
from kanlib.setups import SparseAutoencoder

KIND = "sparse_autoencoder"
#: Splits of the masks over features, as many of each as there are responses.
SPLITS = ("fit", "validation", "test")
#: Of the masks: narrow enough for derivatives at rest to be read off the responses.
SCALE = 0.5


@dataclass(frozen=True)
class Bridge:
    """E tokens, of each of which k active features were gated; see :mod:`kanlib.sae.gates`.

    Attributes:
        contexts: the end of the text up to each token.
        following: what comes next, and the network rightly predicts.
        features: numbers of the features, ``[E, k]``, of the autoencoder that was recorded with.
        activations: how active they are, ``[E, k]``.
        clean: log-probability of what follows at rest, ``[E]``.
        splits: masks and responses.
        gradients: ``[E, k]``; exact.
        hessians: ``[E, k, k]``; exact.
    """

    contexts: list[str]
    following: list[str]
    features: Tensor
    activations: Tensor
    clean: Tensor
    splits: dict[str, Split]
    gradients: Tensor
    hessians: Tensor

    @property
    def k(self) -> int:
        """Features of a token."""
        return self.features.shape[1]


@dataclass(frozen=True)
class Recorded:
    """A recording.

    Attributes:
        fit: vectors that autoencoders are trained on.
        test: those of other texts.
        pieces: what each token says.
        clean: loss of the network in nats a token.
        zero: the same with zeros in place of the stream.
        bridge: gates over features.
    """

    fit: Stream
    test: Stream
    pieces: list[str]
    clean: float
    zero: float
    bridge: Bridge


def recorded(p: SparseAutoencoder) -> tuple[Recorded, store.Artifact]:
    """The recording of the setup, and the artifact that it is.

    Raises:
        BadInputError: there is none, or a damaged one.
    """
    remedy = "run python -m benchmarks.sparse_autoencoders --record"
    kept = answers.of_chapter(p.setup, KIND, "vectors", remedy)
    vectors = kept.tensor("vectors", (None, None), torch.float16).float()
    tokens, texts = (kept.tensor(name, (len(vectors),), torch.int16).long() for name in ("tokens", "texts"))
    pieces, n_fit = kept.said("pieces", list), kept.said("n_fit", int)
    if not 0 < n_fit < len(vectors) or int(tokens.max()) >= len(pieces):
        raise kept.wrong("its vectors, tokens and pieces do not fit each other")
    fit, test = (Stream(vectors[part], tokens[part], texts[part]) for part in (slice(n_fit), slice(n_fit, None)))
    losses = [kept.said(name, float) for name in ("clean", "zero")]
    return Recorded(fit, test, pieces, losses[0], losses[1], _bridge(kept)), kept


def masks(n: int, k: int, split: str) -> Tensor:
    """Masks over k features ``[n, k]``, drawn again by every reader."""
    return gaussian(n, k, SCALE, 0, f"features {split}")


def _bridge(kept: store.Artifact) -> Bridge:
    features = kept.tensor("features", (None, None), torch.int16).long()
    e, k = features.shape
    contexts, following = kept.said("contexts", list), kept.said("following", list)
    if len(contexts) != e or len(following) != e:
        raise kept.wrong("its contexts and features do not fit each other")
    splits = {}
    for split in SPLITS:
        responses = kept.tensor(split, (e, None), torch.float16).float()
        splits[split] = Split(masks(responses.shape[1], k, split), responses, SCALE)
    return Bridge(
        contexts,
        following,
        features,
        kept.tensor("activations", (e, k)),
        kept.tensor("clean", (e,)),
        splits,
        kept.tensor("gradients", (e, k)),
        kept.tensor("hessians", (e, k, k)),
    )
