"""What a stream holds: sparse autoencoders of a language model's vectors, many at once, with KANs for encoders.

Example: eight autoencoders of 512 features of the vectors ``[n, d]`` after a layer, and what one of them found::

    stream = streams.read(llama, texts, "layers.3")
    runs = [Run(l0, seed) for l0 in (4, 8, 16, 32) for seed in (0, 1)]
    model = train("k1", stream.vectors, runs, SparseAutoencoder())
    measured(model, held_out.vectors).explained          # [8]
    shapes(model, 0, held_out.vectors).simple            # which splines are but a shifted ReLU
    text_losses(model, llama, texts, "layers.3")         # the network's loss with reconstructions, [8, n]

``profiles`` are the cards of features, from their ``activations`` and ``logit_weights``; an ``Explainer`` is a
language model that puts them into words. ``gates`` makes components of features that are active on one token.
``recorded`` is what the chapter has in place of a network.
"""

from kanlib.sae.autoencoder import ARMS, TITLES, Autoencoder, Run
from kanlib.sae.explainers import Explained, Explainer, in_words
from kanlib.sae.gates import Gates, gates
from kanlib.sae.measures import Measures, measured, stability, text_losses
from kanlib.sae.profiles import activations, contexts, logit_weights, moments, profiles, rule_scores
from kanlib.sae.recorded import Recorded, recorded
from kanlib.sae.shapes import Shapes, shapes
from kanlib.sae.training import train

__all__ = [
    "ARMS",
    "TITLES",
    "Autoencoder",
    "Explained",
    "Explainer",
    "Gates",
    "Measures",
    "Recorded",
    "Run",
    "Shapes",
    "activations",
    "contexts",
    "gates",
    "in_words",
    "logit_weights",
    "measured",
    "moments",
    "profiles",
    "recorded",
    "rule_scores",
    "shapes",
    "stability",
    "text_losses",
    "train",
]
