"""What answers to masks: a network, or the recording of one."""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from kanlib import machine, store
from kanlib.errors import BadInputError, shown
from kanlib.masks import Split, pair_grid, removals, subsets
from kanlib.networks import images, models
from kanlib.networks.components import find
from kanlib.networks.earlier import Earlier
from kanlib.networks.examples import choose_examples
from kanlib.networks.outputs import centred
from kanlib.networks.probe import Probe
from kanlib.setup_files import name_of, stem
from kanlib.setups import Perturbation, Recording, Training

#: The outputs that recordings keep; ``prob = exp(log_prob)`` and ``loss = −log_prob`` follow.
KEPT = ("margin", "logit", "log_prob")
_ALL = slice(None)


class Answers(Protocol):
    """What 01_perturbation asks of a network or of its recording.

    Attributes:
        made_from: the artifact that holds the weights, or the recording.
        components: their names.
        positions: of the E examples in the test split.
        labels: ``[E]``.
        label_names: of the examples.
        images: ``[E, 3, H, W]``; ``None``: they are not at hand, since recordings hold none.
        accuracy: of the network on the test split.
        device: that computes or computed, by type.
        adapted: what was adapted of the network and of how it is asked, a sentence each.
        derivatives: whether :meth:`local_derivatives` and :meth:`gradients` are to be had.
    """

    made_from: store.Artifact
    components: list[str]
    positions: Tensor
    labels: Tensor
    label_names: list[str]
    images: Tensor | None
    accuracy: float
    device: str
    adapted: tuple[str, ...]
    derivatives: bool

    @property
    def gate_error(self) -> float:
        """See :meth:`kanlib.networks.probe.Probe.gate_error`."""
        ...

    def responses(self, split: str, sigma: Tensor, examples: slice = _ALL) -> tuple[Tensor, Tensor]:
        """Responses ``[E, N]`` to masks ``[N, m]`` of that name, and clean outputs ``[E]``."""
        ...

    def removals(self) -> Split:
        """Sets of components removed (σ_j = −1 or 0), and the responses to that: those there are, or none."""
        ...

    def grid(self) -> Split:
        """The grid over two components that the setup's section ``recording`` names, or no masks."""
        ...

    def precision_error(self, sigma: Tensor) -> float:
        """What ``precision`` costs in the responses to these masks, as a share of their standard deviation."""
        ...

    def local_derivatives(self) -> Tensor:
        """See :meth:`kanlib.networks.probe.Probe.local_derivatives`."""
        ...

    def gradients(self, sigma: Tensor) -> Tensor:
        """See :meth:`kanlib.networks.probe.Probe.gradients`."""
        ...


def network(p: Perturbation) -> Answers:
    """What ``p.source`` says: the network itself, or its frozen responses."""
    return Live(p) if p.source == "live" else Frozen(p)


def of_chapter(setup: str, section: str, what: str, remedy: str) -> store.Artifact:
    """What was recorded for the chapter of a section.

    Args:
        setup: its name.
        section: which is also the kind of the artifact.
        what: is recorded there, in the plural.
        remedy: what to do where it is not.

    Raises:
        BadInputError: nothing was recorded, or the file is damaged.
    """
    file = store.recording(setup, section)
    if not file.exists():
        raise BadInputError(
            f"data/responses/{file.name} is missing: no {what} of {setup} were recorded; {remedy}."
        )
    return store.load(file, section)


def recorded(setup: str) -> store.Artifact:
    """The frozen responses of a setup.

    Raises:
        BadInputError: nothing was recorded of it, or the file is damaged, is of another setup, or holds parts that
            do not fit each other.
    """
    file = store.recording(setup)
    if not file.exists():
        raise BadInputError(
            f"data/responses/{file.name} is missing: no responses of {setup} were recorded; "
            f"run make record SETUPS={setup}, or set source to live."
        )
    found = store.load(file, kind="responses")
    of = found.record["parameters"].get("setup")
    if stem(of) != name_of(setup):
        raise found.wrong(f"it was recorded of setup {shown(of)}, expected {name_of(setup)}")
    examples, classes = found.said("examples", dict), found.said("classes", dict)
    for name, at in examples.items():
        if not (_EXAMPLE.fullmatch(name) and type(at) is int and at >= 0 and isinstance(classes.get(name), str)):
            raise found.wrong(f"its record says {shown(at)} of example {name[:40]}")
    components = found.said("components", list)
    if not all(isinstance(name, str) for name in components):
        raise found.wrong("its record names components by something else than text")
    m = len(components)
    for key, value in found.content.items():
        _, _, what = key.rpartition("/")
        if key.startswith("masks/"):
            found.tensor(key, (None, m))
        elif what in _FIXED:
            found.tensor(key, *_FIXED[what])
        else:
            split, rows = ("reference", m) if what == "gradient" else (what, len(KEPT))
            n = min(value.shape[-1] if value.ndim else 0, len(found.content.get(f"masks/{split}", ())))
            found.tensor(key, (rows, n))
    return found


_EXAMPLE = re.compile(r"(reported|development)\.\d{1,6}")
#: Shape and dtype of what a recording keeps of an example whatever its masks.
_FIXED: dict[str, tuple[tuple[int | None], torch.dtype]] = {
    "label": ((1,), torch.int64),
    "clean": ((len(KEPT),), torch.float32),
    "local": ((None,), torch.float64),
}


def compared(p: Perturbation, masks: Mapping[str, Tensor], responses: Mapping[str, Tensor]) -> str:
    """How far live responses are from the recording of the setup, in words."""
    if p.source == "frozen":
        return "These are the recorded responses."
    if not store.recording(p.setup).exists():
        return "Nothing was recorded of this setup, so there is nothing to compare with."
    try:
        frozen = Frozen(p)
        pairs = [(live, frozen.responses(split, masks[split])[0]) for split, live in responses.items()]
    except BadInputError as error:
        return f"The recording cannot be compared with this run: {error}"
    worst = max(float(((live - kept).abs().amax(1) / kept.std(1)).max()) for live, kept in pairs)
    return f"The recording of this setup differs by {worst:.1e} standard deviations of the responses at most."


def _at_hand(setup: str, positions: Tensor) -> Tensor | None:
    """The images ``[E, 3, H, W]`` at these positions of the test split, where every installation has the data."""
    p = Training.from_setup(setup)
    return images.digits(p.image_size, p.seed).test.read(positions) if p.data == "digits" else None


class Live:
    """The classifier of 00_training and the examples that ``p`` asks for; see :class:`Answers`.

    What an earlier run of 01_perturbation left is not asked again, see :class:`kanlib.networks.earlier.Earlier`.

    Attributes:
        probe: what is asked.

    Raises:
        BadInputError: as :func:`kanlib.networks.models.trained`, :func:`kanlib.networks.components.find`,
            :func:`kanlib.networks.examples.choose_examples` and :meth:`kanlib.networks.probe.Probe.check`.
    """

    derivatives: bool = True

    def __init__(self, p: Perturbation):
        self._setup = p.setup
        self.made_from = p.load("model")
        device = machine.device(p.device)
        model, data = models.trained(self.made_from, device, p.setup)
        self.components = find(model, p.components)
        self.positions = choose_examples(model, data, p)[p.rows]
        self.labels = data.test.labels[self.positions]
        self.label_names = [data.classes[k] for k in self.labels.tolist()]
        self.images: Tensor | None = data.test.read(self.positions)
        self.accuracy: float = self.made_from.said("accuracy", float)
        self.device = device.type
        self.probe = Probe(
            model,
            self.components,
            self.images.to(device),
            self.labels.to(device),
            p.gate_site,
            p.output_function,
            p.batch_size,
            p.precision,
        )
        self.adapted = self.probe.check()
        self._earlier = Earlier.of(p, self.made_from, self.components, self.positions)
        self._max_order, self._block = min(p.derivative_order, len(self.components)), p.block

    @cached_property
    def gate_error(self) -> float:
        """The largest difference that gates at σ = 0 make to a logit; 0 if they work."""
        return self.probe.gate_error()

    def responses(self, split: str, sigma: Tensor, examples: slice = _ALL) -> tuple[Tensor, Tensor]:
        """Responses ``[E, N]`` to masks ``[N, m]``, which ``split`` names, and clean outputs ``[E]``."""
        if examples == _ALL:
            return self._earlier.responses(self.probe, split, sigma)
        return self.probe.of(examples).responses(sigma, split)

    def removals(self) -> Split:
        """Each component removed, and each pair, and the responses to that."""
        m = len(self.components)
        masks = removals(m, subsets(m, min(2, m)))
        return Split(masks, self.responses("removal", masks)[0])

    def grid(self) -> Split:
        """The grid over two components that the setup names, where these are among the components."""
        pair = Recording.from_setup(self._setup).grid
        known = bool(pair) and set(pair) <= set(self.components)
        masks = pair_grid(self.components, pair) if known else torch.empty(0, len(self.components))
        return Split(masks, self.responses("grid", masks)[0])

    def precision_error(self, sigma: Tensor) -> float:
        """Root mean square of the first example's responses less those in fp32, over the latter's deviation."""
        one = self.probe.of(slice(1))
        asked, exact = (probe.responses(sigma, "precision")[0] for probe in (one, replace(one, precision="fp32")))
        return float((asked - exact).square().mean().sqrt() / exact.std())

    def local_derivatives(self) -> Tensor:
        """``∂_S f`` at σ = 0 up to the order that the knob says, ``[E, n_S]`` (fp64)."""
        return self._earlier.local(self.probe, self._block, lambda probe: probe.local_derivatives(self._max_order))

    def gradients(self, sigma: Tensor) -> Tensor:
        """``∂f/∂σ`` at masks ``[N, m]``, ``[E, N, m]``."""
        return self._earlier.gradients(self.probe, sigma)


class Frozen:
    """The same from ``data/responses``: it answers to the masks that were recorded, and to no others.

    See :class:`Answers`. Derivatives were recorded of the margin at the gate site ``branch``.

    Raises:
        BadInputError: nothing was recorded of the setup, or not what ``p`` asks for.
    """

    def __init__(self, p: Perturbation):
        self._p = p
        self.made_from = recorded(p.setup)
        have = self.made_from.record
        kept = [name for name in have["examples"] if name.startswith(f"{p.example_set}.")]
        kept.sort(key=lambda name: int(name.rpartition(".")[2]))
        if p.examples is not None or p.n_examples > len(kept):
            asked = f"examples is {p.examples}" if p.examples is not None else f"n_examples is {p.n_examples}"
            raise BadInputError(
                f"{asked}, but {len(kept)} were recorded; lower n_examples, or set source to live."
            )
        self._examples = kept[: p.n_examples][p.rows]
        self.components: list[str] = have["components"]
        self.positions = torch.tensor([have["examples"][name] for name in self._examples])
        self.labels = self._stacked("label")[:, 0]
        self.images: Tensor | None = _at_hand(p.setup, self.positions)
        self.label_names = [have["classes"][name] for name in self._examples]
        self.gate_error: float = self.made_from.said("gate_error", float)
        self.accuracy: float = self.made_from.said("accuracy", float)
        self.device: str = self.made_from.said("device", str)
        self.adapted: tuple[str, ...] = ()
        recorded_of = (p.gate_site, p.output_function) == ("branch", "margin")
        self.derivatives = recorded_of and f"{kept[0]}/branch/local" in self.made_from.content

    def responses(self, split: str, sigma: Tensor, examples: slice = _ALL) -> tuple[Tensor, Tensor]:
        """The recorded responses ``[E, N]`` to masks ``[N, m]`` of a split, and clean outputs ``[E]``.

        Raises:
            BadInputError: these masks were not recorded.
        """
        clean = self._read(self._stacked("clean"))[examples]
        if not len(sigma):
            return clean.new_empty(len(clean), 0), clean
        key = f"{self._p.gate_site}/{split}"
        if f"{self._examples[0]}/{key}" not in self.made_from.content:
            raise self._not_recorded(split, 0)
        out = self._read(self._stacked(key))
        self._check(split, sigma, out.shape[-1])
        return centred(out[examples, : len(sigma)], clean), clean

    def removals(self) -> Split:
        """All sets of components removed, or else those of ``ablation``, with the responses that were recorded."""
        every = self._known("removal")
        return every if len(every.masks) else self._known("ablation")

    def grid(self) -> Split:
        """The grid over two components that was recorded, or no masks."""
        return self._known("grid")

    def precision_error(self, sigma: Tensor) -> float:
        """Recordings are made in fp32."""
        return 0.0

    def local_derivatives(self) -> Tensor:
        """The network's own derivatives at σ = 0, as recorded."""
        return self._stacked("branch/local")

    def gradients(self, sigma: Tensor) -> Tensor:
        """The network's gradients ``[E, N, m]`` at the reference masks."""
        if not len(sigma):
            return torch.empty(len(self._examples), 0, len(self.components))
        gradients = self._stacked("branch/gradient")
        self._check("reference", sigma, gradients.shape[-1])
        return gradients[..., : len(sigma)].mT

    def _known(self, split: str) -> Split:
        """What was recorded of that name at this gate site, of all examples; no masks where nothing was."""
        content = self.made_from.content
        own = [content.get(f"{name}/{self._p.gate_site}/{split}", torch.empty(0)) for name in self._examples]
        masks = content.get(f"masks/{split}", torch.empty(0, len(self.components)))
        masks = masks[: min(one.shape[-1] for one in own)]
        return Split(masks, self.responses(split, masks)[0])

    def _stacked(self, key: str) -> Tensor:
        found = [self.made_from.content.get(f"{name}/{key}") for name in self._examples]
        if any(one is None or one.shape != found[0].shape for one in found):
            raise BadInputError(
                f"{key} is not recorded of all examples of {self._p.setup}, expected a finished recording; "
                f"run make record SETUPS={self._p.setup} again, or set source to live."
            )
        return torch.stack(found)

    def _read(self, kept: Tensor) -> Tensor:
        """The output function asked for ``[E, …]`` from those that were kept ``[E, 3, …]``."""
        function = self._p.output_function
        if function in KEPT:
            return kept[:, KEPT.index(function)]
        log_prob = kept[:, KEPT.index("log_prob")]
        return log_prob.exp() if function == "prob" else -log_prob

    def _check(self, split: str, sigma: Tensor, n: int) -> None:
        if len(sigma) > n:
            raise self._not_recorded(split, n)
        if not torch.equal(self.made_from[f"masks/{split}"][: len(sigma)], sigma):
            raise BadInputError(
                f"the masks of split {split} are not those that were recorded; correct seed or scale, "
                "or set source to live."
            )

    def _not_recorded(self, split: str, n: int) -> BadInputError:
        knob = f"n_{split}"
        lower = f"lower {knob}, or " if knob in Perturbation.model_fields else ""
        return BadInputError(
            f"{n} {split} masks were recorded at gate site {self._p.gate_site}, fewer than asked for; "
            f"{lower}set source to live."
        )
