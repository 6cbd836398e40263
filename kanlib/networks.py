"""What answers to masks: a network, or the recording of one."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from kanlib import models, perturbation, references, store
from kanlib.components import Site, find, gated
from kanlib.errors import BadInputError
from kanlib.perturbation import Precision
from kanlib.setups import Perturbation

FOLDER = store.ROOT / "data" / "responses"
#: The outputs that recordings keep; ``prob = exp(log_prob)`` and ``loss = −log_prob`` follow.
KEPT = ("margin", "logit", "log_prob")


def path(setup: str) -> Path:
    """Where the frozen responses of a setup lie."""
    return FOLDER / f"{Path(setup).stem}.safetensors"


def network(p: Perturbation) -> "Live | Frozen":
    """What ``p.source`` says: the network itself, or its frozen responses."""
    return Live(p) if p.source == "live" else Frozen(p)


def gate_error(model: nn.Module, names: Sequence[str], x: Tensor, batch_size: int, site: Site = "branch") -> float:
    """The largest difference that gates at σ = 0 make to a logit of example ``x`` ``[1, …]``; 0 if they work."""
    x = x.expand(batch_size, *x.shape[1:])
    with gated(model, names, site) as gates, torch.inference_mode():
        gated_logits, logits = gates(x, torch.zeros(batch_size, len(names), device=x.device)), model(x)
    # Equal infinities are equal, though their difference is no number.
    return 0.0 if torch.equal(gated_logits, logits) else float((gated_logits - logits).abs().max())


def compared(p: Perturbation, masks: Mapping[str, Tensor], responses: Mapping[str, Tensor]) -> str:
    """How far live responses are from the recording of the setup, in words."""
    if p.source == "frozen":
        return "These are the recorded responses."
    if not path(p.setup).exists():
        return "Nothing was recorded of this setup, so there is nothing to compare with."
    try:
        frozen = Frozen(p)
        pairs = [(live, frozen.responses(split, masks[split])[0]) for split, live in responses.items()]
    except BadInputError as error:
        return f"The recording cannot be compared with this run: {error}"
    worst = max(float(((live - kept).abs().amax(1) / kept.std(1)).max()) for live, kept in pairs)
    return f"The recording of this setup differs by {worst:.1e} standard deviations of the responses at most."


class Live:
    """The classifier of 00_training and the examples that ``p`` asks for.

    Attributes:
        made_from: the artifact that holds its weights.
        names: of the components.
        positions: of the examples in the test split, ``[E]``.
        labels: ``[E]``.
        label_names: of the examples.
        images: ``[E, 3, H, W]``.
        accuracy: on the test split.
        device: that computes, by type.
        derivatives: whether :meth:`local` and :meth:`gradients` are to be had.
    """

    derivatives = True

    def __init__(self, p: Perturbation):
        self._p = p
        self.made_from = p.load("model")
        self._model, data = models.trained(self.made_from)
        self._where = models.device(p.device)
        self._model = self._model.to(self._where).requires_grad_(False)
        self.names = find(self._model, p.components)
        self.positions = perturbation.choose_examples(self._model, data, p)
        self.labels = data.test.labels[self.positions]
        self.label_names = [data.classes[k] for k in self.labels.tolist()]
        self.images = data.test.read(self.positions)
        self.accuracy = self.made_from.record["accuracy"]
        self.device = self._where.type

    @cached_property
    def gate_error(self) -> float:
        """See :func:`gate_error`."""
        x = self.images[:1].to(self._where)
        return gate_error(self._model, self.names, x, self._p.batch_size, self._p.gate_site)

    def responses(
        self, split: str, sigma: Tensor, first: int | None = None, precision: Precision | None = None
    ) -> tuple[Tensor, Tensor]:
        """Responses ``[E, N]`` to masks ``[N, m]`` and clean outputs ``[E]``.

        Args:
            split: what to call these masks.
            sigma: the masks.
            first: of the first so many examples only.
            precision: ``None``: as the knob says.
        """
        return perturbation.responses(
            self._model,
            self.names,
            self.images[:first].to(self._where),
            self.labels[:first].to(self._where),
            sigma,
            site=self._p.gate_site,
            output_function=self._p.output_function,
            batch_size=self._p.batch_size,
            precision=precision or self._p.precision,
            progress=split,
        )

    def precision_error(self, sigma: Tensor) -> float:
        """What ``precision`` costs, as a share of the standard deviation of the responses.

        The root mean square of the first example's responses to these masks less those in fp32.
        """
        asked, exact = (self.responses("precision", sigma, 1, precision)[0] for precision in (None, "fp32"))
        return float((asked - exact).square().mean().sqrt() / exact.std())

    def local(self) -> Tensor:
        """See :func:`kanlib.references.local_derivatives`."""
        return references.local_derivatives(
            self._model,
            self.names,
            self.images.to(self._where),
            self.labels.to(self._where),
            max_order=min(self._p.derivative_order, len(self.names)),
            site=self._p.gate_site,
            output_function=self._p.output_function,
        )

    def gradients(self, sigma: Tensor) -> Tensor:
        """See :func:`kanlib.references.gradients`."""
        return references.gradients(
            self._model,
            self.names,
            self.images.to(self._where),
            self.labels.to(self._where),
            sigma,
            site=self._p.gate_site,
            output_function=self._p.output_function,
            batch_size=self._p.batch_size,
        )


class Frozen:
    """The same from ``data/responses``: it answers to the masks that were recorded, and to no others.

    Attributes and methods are those of :class:`Live`; ``images`` is ``None``. Derivatives were recorded of the
    margin at the gate site ``branch``.

    Raises:
        BadInputError: nothing was recorded of the setup, or not what ``p`` asks for.
    """

    images = None

    def __init__(self, p: Perturbation):
        self._p = p
        if not path(p.setup).exists():
            raise BadInputError(
                f"data/responses/{path(p.setup).name} is missing: no responses of {p.setup} were recorded; "
                f"run make record SETUPS={p.setup}, or set source to live."
            )
        self.made_from = store.load(path(p.setup), kind="responses")
        have = self.made_from.record
        kept = [name for name in have["examples"] if name.startswith(f"{p.example_set}.")]
        kept.sort(key=lambda name: int(name.rpartition(".")[2]))
        if p.examples is not None or p.n_examples > len(kept):
            asked = f"examples is {p.examples}" if p.examples is not None else f"n_examples is {p.n_examples}"
            raise BadInputError(
                f"{asked}, but {len(kept)} were recorded; lower n_examples, or set source to live."
            )
        self._examples = kept[: p.n_examples]
        self.names = have["components"]
        self.positions = torch.tensor([have["examples"][name] for name in self._examples])
        self.labels = self._stacked("label")[:, 0]
        self.label_names = [have["classes"][name] for name in self._examples]
        self.gate_error, self.accuracy, self.device = have["gate_error"], have["accuracy"], have["device"]
        asked = (p.gate_site, p.output_function)
        self.derivatives = asked == ("branch", "margin") and f"{kept[0]}/branch/local" in self.made_from.content

    def responses(self, split: str, sigma: Tensor, first: int | None = None) -> tuple[Tensor, Tensor]:
        """The recorded responses ``[E, N]`` to masks ``[N, m]`` of a split, and clean outputs ``[E]``.

        Raises:
            BadInputError: these masks were not recorded.
        """
        clean = self._read(self._stacked("clean"))[:first]
        if not len(sigma):
            return clean.new_empty(len(clean), 0), clean
        key = f"{self._p.gate_site}/{split}"
        if f"{self._examples[0]}/{key}" not in self.made_from.content:
            raise self._not_recorded(split, 0)
        out = self._read(self._stacked(key))
        self._check(split, sigma, out.shape[-1])
        return perturbation.centred(out[:first, : len(sigma)], clean), clean

    def precision_error(self, sigma: Tensor) -> float:
        """Recordings are made in fp32."""
        return 0.0

    def local(self) -> Tensor:
        """The network's own derivatives at σ = 0, as recorded."""
        return self._stacked("branch/local")

    def gradients(self, sigma: Tensor) -> Tensor:
        """The network's gradients ``[E, N, m]`` at the reference masks."""
        if not len(sigma):
            return torch.empty(len(self._examples), 0, len(self.names))
        gradients = self._stacked("branch/gradient")
        self._check("reference", sigma, gradients.shape[-1])
        return gradients[..., : len(sigma)].mT

    def _stacked(self, key: str) -> Tensor:
        return torch.stack([self.made_from[f"{name}/{key}"] for name in self._examples])

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
        return BadInputError(
            f"{n} {split} masks were recorded at gate site {self._p.gate_site}, fewer than asked for; "
            f"lower n_{split}, or set source to live."
        )
