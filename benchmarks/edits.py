"""What :mod:`benchmarks.editing` is made of: a network's answers to masks, and every method's edits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kanlib import metrics, store
from kanlib.attribution import Coar, Edit, Pairs, edit, edit_by_pairs, scores, screen, spanned
from kanlib.attribution.editing import Objective
from kanlib.machine import generator
from kanlib.masks import Split, removals
from kanlib.networks import Probe, find
from kanlib.networks.images import Images
from kanlib.networks.removing import designs, responses_of_all
from kanlib.setups import Components

SETUP = "cifar10_miniresnet"
METHODS = ("coar", "leave_one_out", "gradient", "random", "singles", "greedy", "exact", "exact_filters")
SIZES = (1, 2, 3, 4, 6, 8, 11, 15, 20, 30, 40)
SCREENED = 40
#: Chosen on development errors, see ``python -m benchmarks.editing --development``: of pairs, and λ.
DIRECTIONS, TRADE_OFF = 16, 3.0
SECONDS = 2.0  # of integer programming, an edit
_MASKS = {"n_fit": 2000, "n_validation": 300, "n_test": 200, "shares": [0.1]}


@dataclass(frozen=True)
class Halves:
    """A network, how its test images are probed, and which of them are for development and which are reported."""

    probe: Callable[[Tensor], Probe]
    labels: Tensor
    development: Tensor
    reported: Tensor


def halves(model: nn.Module, data: Images, change: Callable[[Tensor], Tensor] = lambda x: x) -> Halves:
    """The halves of the test split; ``change`` is made to its images."""
    p = Components.from_setup(SETUP)
    torch.set_num_threads(p.threads)
    model, labels = model.to(memory_format=torch.channels_last), data.test.labels
    names = find(model, p.components)
    order = torch.randperm(len(labels), generator=generator(0, "editing halves"))

    def probe(positions: Tensor) -> Probe:
        images = change(data.test.read(positions))
        return Probe(model, names, images, labels[positions], batch_size=250, precision="bf16")

    return Halves(probe, labels, *order.chunk(2))


def joined(one: Probe, other: Probe) -> Probe:
    """A probe of the images of both, of the same network."""
    x, labels = torch.cat([one.x, other.x]), torch.cat([one.labels, other.labels])
    return Probe(one.model, one.components, x, labels, batch_size=one.batch_size, precision=one.precision)


def answers(probe: Probe, run: str) -> dict[str, Tensor]:
    """Responses to the masks of each split, to single removals, and gradients; kept, as they take minutes."""
    target, m = store.path(run, "editing"), len(probe.components)
    masks = designs(Components.from_setup(SETUP, _MASKS), m)
    masks["alone"] = removals(m, [(j,) for j in range(m)])
    made_from = {"masks": masks, "images": {"x": probe.x}, "weights": probe.model.state_dict()}
    determined = {name: store.tensors_hash(tensors) for name, tensors in made_from.items()}
    if not target.exists() or store.load(target, "editing").record["inputs"] != determined:
        clean = responses_of_all(probe, torch.zeros(1, m))
        content = {name: responses_of_all(probe, sigma) - clean for name, sigma in masks.items()}
        content["gradient"] = probe.gradients(torch.zeros(1, m), None)[:, 0].contiguous()
        store.save(target, content, kind="editing", parameters={}, inputs=determined)
    return store.load(target, "editing").content


class Editor:
    """Every method's attributions of some images."""

    def __init__(self, probe: Probe, run: str, objective: Objective):
        content = answers(probe, run)
        masks = designs(Components.from_setup(SETUP, _MASKS), len(probe.components))
        self.objective = objective
        self.splits = {name.split()[0]: Split(sigma, content[name]) for name, sigma in masks.items()}
        coar = Coar().fit(self.splits["fit"], self.splits["validation"])
        self.weights = {"coar": coar.weights, "leave_one_out": -content["alone"], "gradient": content["gradient"]}
        self._random = generator(0, "random edits")

    def unit(self, targets: Sequence[int], references: Sequence[int]) -> "Unit":
        """What is to be edited for these targets and references, rows of the images."""
        coar = self.weights["coar"]
        chosen = screen(scores(coar, targets, references), SCREENED, self.objective)
        fit, validation, test = (
            Split(s.masks, torch.stack([s.responses[list(rows)].mean(0) for rows in (targets, references)]))
            for s in (self.splits[name] for name in ("fit", "validation", "test"))
        )
        linear = Coar().fit(fit, validation)
        along = Pairs(torch.arange(coar.shape[1]), spanned(coar, DIRECTIONS)).fit(fit, validation)
        pairs = Pairs(chosen).fit(fit, validation)
        only = Pairs(chosen)
        only.weights, only.pairs = linear.weights, torch.zeros_like(pairs.pairs)
        moved = test.responses[:1] - test.responses[1:]
        fits = {
            name: float(metrics.pearson(-model.predict(test.masks).diff(dim=0), moved))
            for name, model in (("coar", linear), ("pairs of directions", along), ("pairs of filters", pairs))
        }
        weights = self.weights | {"random": torch.randn(coar.shape, generator=self._random)}
        models = {
            "singles": only,
            "greedy": along.among(chosen),
            "exact": along.among(chosen),
            "exact_filters": pairs,
        }
        return Unit(weights, models, targets, references, self.objective, fits)


@dataclass(frozen=True)
class Unit:
    """An error, a class or a draw of pairs to be edited.

    Attributes:
        weights: by method, ``[E, m]``.
        models: by method, of the mean over targets and that over references: ``singles`` of COAR by the rule of
            pairs, with no pair; pairs along the directions of COAR's attributions, ``greedy`` and ``exact``; and
            ``exact_filters``, pairs of the screened filters themselves.
        targets: T, rows.
        references: R, rows.
        objective: as in :func:`kanlib.attribution.edit`.
        fits: Pearson with ``Δ_T − Δ_R`` over test masks of COAR and of both kinds of pairs.
        trade_off: λ.
    """

    weights: Mapping[str, Tensor]
    models: Mapping[str, Pairs]
    targets: Sequence[int]
    references: Sequence[int]
    objective: Objective
    fits: Mapping[str, float]
    trade_off: float = TRADE_OFF

    def by(self, method: str, k: int) -> Edit:
        """The edit of this method and size."""
        if method in self.weights:
            return edit(self.weights[method], self.targets, self.references, k, self.objective)
        exact = method.startswith("exact")
        model, trade_off = self.models[method], self.trade_off
        return edit_by_pairs(model, k, self.objective, trade_off=trade_off, exact=exact, seconds=SECONDS)


def margins(probe: Probe, edits: Sequence[Edit]) -> Tensor:
    """Margins of the images without and with each edit, ``[E, 1 + n]``: above 0 is right."""
    m = len(probe.components)
    return responses_of_all(probe, torch.cat([torch.zeros(1, m), *(e.mask(m) for e in edits)]))
