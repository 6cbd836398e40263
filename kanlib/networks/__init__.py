"""What is asked: classifiers, their components, and how their outputs answer to masks.

Example: the responses of two images to a hundred masks over the residual blocks of the default setup's network::

    model, data = trained(Training.from_setup("digits_resnet18").load("model"))
    names, first = find(model, ["layer*.*"]), torch.arange(2)
    probe = Probe(model, names, data.test.read(first), data.test.labels[first])
    masks = gaussian(100, len(names), scale=1.0, seed=0, split="test")
    responses, clean = probe.responses(masks)       # [2, 100], [2]

``train`` and ``load`` make a network, ``network`` is the one that a setup names or the recording of it, and
``predict``, ``gated`` and ``choose_examples`` are what these are made of.
"""

from kanlib.networks.answers import Answers, Frozen, Live, compared, network
from kanlib.networks.blocks import abnormality, block_outputs, likelihood, strangers
from kanlib.networks.components import find, gated
from kanlib.networks.edited import accuracy, effects, halves, margins, masks_for
from kanlib.networks.examples import choose_examples
from kanlib.networks.models import load, predict, trained
from kanlib.networks.probe import Probe
from kanlib.networks.prompting import Prompted, beyond_the_sum, prompted
from kanlib.networks.removing import Removals, removed
from kanlib.networks.training import train
from kanlib.networks.triggers import misleading, poisoned, with_bands, with_square

__all__ = [
    "Answers",
    "Frozen",
    "Live",
    "Probe",
    "Prompted",
    "Removals",
    "abnormality",
    "accuracy",
    "beyond_the_sum",
    "block_outputs",
    "choose_examples",
    "compared",
    "effects",
    "find",
    "gated",
    "halves",
    "likelihood",
    "load",
    "margins",
    "masks_for",
    "misleading",
    "network",
    "poisoned",
    "predict",
    "prompted",
    "removed",
    "strangers",
    "train",
    "trained",
    "with_bands",
    "with_square",
]
