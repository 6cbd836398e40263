"""One prediction as three games: its patches, the training images behind it, and the network's components."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import torch
from torch import Tensor, nn

from kanlib.attribution.data import Retrained, grouped
from kanlib.attribution.games import Game
from kanlib.errors import BadInputError
from kanlib.networks.components import find
from kanlib.networks.images import Images
from kanlib.networks.players import Lead, before_last, of_gates, of_patches, probe_of, smooth
from kanlib.networks.probe import Probe
from kanlib.setups import Views


@dataclass(frozen=True)
class Remembered:
    """The training images behind a prediction.

    Attributes:
        layer: the last layer, to be trained anew.
        query: what it is given for the image that is explained, ``[d]``.
        errors: the class less the network's own probabilities, of each training image, ``[n, K]``.
        slope: of the output in the logits, ``[K]``.
    """

    layer: Retrained
    query: Tensor
    errors: Tensor
    slope: Tensor


@dataclass(frozen=True)
class Prediction:
    """One image, and what its output is explained by.

    Attributes:
        probe: the image in the network.
        lead: its output function.
        games: view → game, of ``features``, ``data`` and ``components`` those that there are.
        smooth: view → the same of a network that can be differentiated twice, where it is another one.
        remembered: what the view of data is made of, if there is one.
        missing: view → the sentence that says why it is not there.
    """

    probe: Probe
    lead: Lead
    games: Mapping[str, Game]
    smooth: Mapping[str, Game]
    remembered: Remembered | None
    missing: Mapping[str, str]


def prediction(p: Views, model: nn.Module, data: Images, n_train: int | None = None) -> Prediction:
    """The prediction of image ``p.image`` of the test split, as games of its three kinds of players.

    A patch that is gone is as dark as the darkest pixel of the image, in each channel. A component that is gone
    adds nothing. A group of training images that is gone was never seen by the last layer.

    Args:
        p: the knobs.
        model: in evaluation mode.
        data: that it was trained on.
        n_train: how many of the training images it saw, the first ones; ``None``: all.

    Raises:
        BadInputError: there is no such image, component or patch.
    """
    probe, lead = probe_of(model, find(model, p.components), data.test, p.image, p.batch_size)
    dark = probe.x[0].amin((1, 2), keepdim=True)
    patches = [f"{row + 1}·{column + 1}" for row, column in product(range(p.side), repeat=2)]

    def of_network(probe: Probe) -> dict[str, Game]:
        asked = partial(Game, batch_size=p.batch_size, most=p.most_players)
        return {
            "features": asked(of_patches(probe, p.side, dark), patches),
            "components": asked(of_gates(probe), probe.components),
        }

    games = of_network(probe)
    try:
        twice = of_network(replace(probe, model=smooth(model)))
    except BadInputError:
        twice = {}
    try:
        remembered = _remembered(p, model, lead, data, n_train)
    except BadInputError as error:
        return Prediction(probe, lead, games, twice, None, {"data": str(error)})
    layer, query, slope = remembered.layer, remembered.query, remembered.slope
    of_data = Game(
        lambda weights: layer.logits(query, weights) @ slope,
        [f"group {g + 1}" for g in range(len(layer.gram))],
        256,
        dtype=torch.float64,
        most=p.most_players,
        second=lambda weights: layer.second(query, slope, weights),
    )
    ordered = {"features": games["features"], "data": of_data, "components": games["components"]}
    return Prediction(probe, lead, ordered, twice, remembered, {})


def _remembered(p: Views, model: nn.Module, lead: Lead, data: Images, n_train: int | None) -> Remembered:
    if data.train is None:
        raise BadInputError(
            "the data have no training images, expected some for the view of data, which is left out; take data "
            "that have them."
        )
    n = len(data.train) if n_train is None else min(n_train, len(data.train))
    features, logits = before_last(model, data.train, torch.arange(n))
    query, _ = before_last(model, data.test, torch.tensor([p.image]))
    labels, n_classes = data.train.labels[:n], logits.shape[1]
    layer = Retrained.of(features, labels, grouped(n, min(p.groups, n), p.seed), n_classes, p.ridge)
    errors = torch.nn.functional.one_hot(labels, n_classes) - logits.softmax(1)
    return Remembered(layer, query[0], errors, lead.slope(n_classes))
