"""Edits of a network by every method, from the same answers of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from kanlib import metrics
from kanlib.attribution.coar import Coar, spanned
from kanlib.attribution.editing import Edit, Objective, edit, edit_by_pairs, scores, screen
from kanlib.attribution.pairs import Pairs
from kanlib.machine import generator
from kanlib.masks import Split
from kanlib.networks.edited import RANDOM
from kanlib.setups import Editing

#: COAR, its baselines, and models of singles and pairs; see :class:`Unit`.
METHODS = ("coar", "leave_one_out", "gradient", "random", "singles", "greedy", "exact", "exact_filters")


@dataclass
class Editor:
    """Every method's attributions of E images of a network.

    Attributes:
        p: the knobs.
        masks: see :func:`kanlib.networks.edited.masks_for`.
        effects: of these, see :func:`kanlib.networks.edited.effects`.
        splits: the random masks and the responses to them.
        weights: ``w`` ``[E, m]`` by method, for :func:`kanlib.attribution.edit`; chance has none.
    """

    p: Editing
    masks: Mapping[str, Tensor]
    effects: Mapping[str, Tensor]
    splits: dict[str, Split] = field(init=False)
    weights: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.splits = {name: Split(self.masks[name], self.effects[name]) for name in RANDOM}
        coar = Coar().fit(self.splits["fit"], self.splits["validation"]).weights
        alone, gradient = -self.effects["alone"], self.effects["gradient"]
        self.weights = {"coar": coar, "leave_one_out": alone, "gradient": gradient}

    def unit(self, targets: Sequence[int], references: Sequence[int], objective: Objective = "raise") -> "Unit":
        """What is to be edited for these targets and references, rows of the images.

        Raises:
            BadInputError: as :func:`kanlib.attribution.scores`; more components are to be screened than there are,
                or more directions taken than images and components span.
        """
        coar, p = self.weights["coar"], self.p
        chosen = screen(scores(coar, targets, references), p.screened, objective)
        fit, validation, test = (self._means(name, targets, references) for name in RANDOM)
        linear = Coar().fit(fit, validation)
        along = Pairs(torch.arange(coar.shape[1]), spanned(coar, p.directions)).fit(fit, validation)
        pairs = Pairs(chosen).fit(fit, validation)
        only = Pairs(chosen)
        only.weights, only.pairs = linear.weights, torch.zeros_like(pairs.pairs)
        moved = -test.responses.diff(dim=0)
        fitted: dict[str, Coar | Pairs] = {"coar": linear, "exact": along, "exact_filters": pairs}
        fits = {
            name: float(metrics.pearson(-model.predict(test.masks).diff(dim=0), moved))
            for name, model in fitted.items()
        }
        chance = torch.randn(coar.shape, generator=generator(p.seed, "random edits", *targets))
        rows = [*targets, *references]
        weights = {name: w[rows] for name, w in (self.weights | {"random": chance}).items()}
        of_directions = along.among(chosen)
        models = {"singles": only, "greedy": of_directions, "exact": of_directions, "exact_filters": pairs}
        return Unit(weights, models, len(targets), objective, fits, p.trade_off, p.seconds)

    def _means(self, name: str, targets: Sequence[int], references: Sequence[int]) -> Split:
        """The split of the mean over targets and that over references."""
        split = self.splits[name]
        of = [split.responses[list(rows)].mean(0) for rows in (targets, references)]
        return Split(split.masks, torch.stack(of))


@dataclass(frozen=True)
class Unit:
    """An error, a class or pairs of images to be edited.

    Attributes:
        weights: by method, of the targets and then of the references, ``[T + R, m]``.
        models: by method, of the mean over targets and that over references: ``singles``, COAR by the rule of
            pairs, with no pair; pairs along the directions of COAR's attributions, ``greedy`` and ``exact``; and
            ``exact_filters``, pairs of the screened components themselves.
        n_targets: T.
        objective: as in :func:`kanlib.attribution.edit`.
        fits: Pearson with ``Δ_T − Δ_R`` over test masks of COAR and of both kinds of pairs.
        trade_off: λ of :func:`kanlib.attribution.edit_by_pairs`.
        seconds: as there.
    """

    weights: Mapping[str, Tensor]
    models: Mapping[str, Pairs]
    n_targets: int
    objective: Objective
    fits: Mapping[str, float]
    trade_off: float
    seconds: float

    def of(self, method: str) -> "Unit":
        """The same with what this method needs alone, which is little to send to another process."""
        weights = {name: w for name, w in self.weights.items() if name == method}
        return replace(
            self, weights=weights, models={name: g for name, g in self.models.items() if name == method}
        )

    def by(self, method: str, k: int) -> Edit:
        """The edit of k components by one of :data:`METHODS`.

        Raises:
            BadInputError: k is above the components, or above those that were screened for pairs.
        """
        if method in self.weights:
            w = self.weights[method]
            targets, references = range(self.n_targets), range(self.n_targets, len(w))
            return edit(w, targets, references, k, self.objective)
        exact, model = method.startswith("exact"), self.models[method]
        return edit_by_pairs(model, k, self.objective, trade_off=self.trade_off, exact=exact, seconds=self.seconds)


def best(gains: Tensor, losses: Tensor, most: float) -> int:
    """Which of n edits gains most among those that lose ``most`` at most; where none does, which loses least.

    Args:
        gains: accuracy that targets gain or lose as asked, ``[n]``.
        losses: accuracy that other images lose, ``[n]``.
        most: how much they may.
    """
    return int(torch.where(losses <= most, gains, -1 - losses).argmax())
