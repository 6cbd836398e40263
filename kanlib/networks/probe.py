"""Algorithm 1, the asking: a network with its components and examples, and how its output answers to masks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from kanlib.errors import BadInputError
from kanlib.machine import Precision, enough_memory, generator, in_precision
from kanlib.masks import subsets
from kanlib.memory import room_for
from kanlib.networks.architectures import cast, copied, like_masks, single
from kanlib.networks.components import Site, gated
from kanlib.networks.derivatives import partials, slopes
from kanlib.networks.outputs import OutputFunction, answered, centred, logits_of, reading, values
from kanlib.networks.soundness import apart, mixing, random_layers, tolerance

_APIECE = (
    "Each mask is given an image of its own, as the network answers otherwise to one that masks share; what comes "
    "before the first component is computed for each."
)


@dataclass(frozen=True)
class Probe:
    """E examples of a network that is asked how its output moves when its m components are scaled.

    Attributes:
        model: in evaluation mode, its parameters not asking for gradients; one of half precision is copied to
            fp32, and so is ``x``; one that was made in inference mode is copied.
        components: names of the m modules to gate, see :func:`kanlib.networks.components.find`.
        x: examples ``[E, ...]``, on the model's device and in its precision; or tokens, whole numbers.
        labels: ``[E]``, on that device.
        site: see :func:`kanlib.networks.components.gated`.
        output_function: a key of :data:`kanlib.networks.outputs.OUTPUT_FUNCTIONS`; or ``f(output, labels) → [B]``
            of all that the network puts out for B images, logits or not.
        batch_size: masks a forward pass.
        precision: of the forward passes; below fp32 only where asked for.
        adapted: what was adapted of the network, a sentence each.
    """

    model: nn.Module
    components: Sequence[str]
    x: Tensor
    labels: Tensor
    site: Site = "branch"
    output_function: str | OutputFunction = "margin"
    batch_size: int = 25
    precision: Precision = "fp32"
    adapted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        model, said = single(self.model)
        # The fields of a frozen class are set once more, here, where it is made.
        for name, value in {"model": model, "adapted": (*self.adapted, *said)}.items():
            object.__setattr__(self, name, value)
        if said:
            object.__setattr__(self, "x", cast(self.x, torch.float32))

    def of(self, examples: slice | Tensor) -> "Probe":
        """The same of some of its examples."""
        return replace(self, x=self.x[examples], labels=self.labels[examples])

    def double(self) -> "Probe":
        """The same in float64, of a copy of the model.

        Raises:
            BadInputError: the model cannot be copied.
        """
        model = copied(self.model, "float64, which exact derivatives need").double()
        return replace(self, model=model, x=cast(self.x, torch.float64))

    def gate_error(self) -> float:
        """The largest difference that gates at σ = 0 make to a logit of the first example; 0 if they work."""
        x = self._batch(self.batch_size)
        with gated(self.model, self.components, self.site) as gates, torch.inference_mode():
            found = gates(x, x.new_zeros(len(x), len(self.components))), answered(self.model, x, len(x))
        return apart(*(self._told(output, len(x)) for output in found))

    def check(self) -> tuple[str, ...]:
        """Refuse a network whose responses would not be its own, by a few forward passes of the first example.

        Returns:
            What was adapted of the network, of how it is asked and of what it puts out, a sentence each.

        Raises:
            BadInputError: the same input gives other logits each time; or a mask's logits depend on the other
                masks of its batch; or gates at σ = 0 change the logits; or they are no logits ``[B, classes]``
                that the output function can be read from.
        """
        size = max(2, self.batch_size)
        with torch.inference_mode(), in_precision(self.precision, self.x.device):
            self._check_repeated(size)
            shares = self._check_alone(size)
        if error := self.gate_error():
            raise BadInputError(
                f"gates at σ = 0 change a logit by {error:.2g}, expected 0 to the bit; look for values that are "
                "not finite inside the network, or choose other components."
            )
        said = self.adapted if shares else (*self.adapted, _APIECE)
        if callable(self.output_function):
            return said
        with torch.inference_mode():
            return (*said, *reading(answered(self.model, self._batch(size), size), size))

    def _told(self, output: object, rows: int) -> Tensor:
        """By what two answers to the first example are told apart: the logits, or a user's own output function."""
        labels, function = self.labels[:1].expand(rows), self.output_function
        return values(output, labels, [function])[0] if callable(function) else logits_of(output, rows, labels)

    def _check_repeated(self, size: int) -> None:
        x = self._batch(size)
        once, again = (self._told(answered(self.model, x, size), size) for _ in range(2))
        if (moved := apart(once, again)) > tolerance(once):
            raise BadInputError(
                f"the network gives logits that differ by {moved:.2g} when it is asked the same twice"
                f"{random_layers(self.model)}; switch off what is random, and let no module override train or "
                "eval."
            )

    def _check_alone(self, size: int) -> bool:
        """Whether one image serves all masks, see :class:`kanlib.networks.components.Gates`."""
        drawn = torch.randn(size, len(self.components), generator=generator(0, "check")).to(
            like_masks(self.model, self.x)
        )
        odd = torch.arange(size, device=self.x.device) % 2 == 1
        with gated(self.model, self.components, self.site) as gates:
            # The rows of one parity keep a mask of zeros while those of the other are given masks.
            masks = [torch.zeros_like(drawn), *(drawn.masked_fill(kept[:, None], 0) for kept in (odd, ~odd))]
            rest, even_moved, odd_moved = (self._told(gates(self.x[:1], some), size) for some in masks)
        moved = max(apart(rest[odd], even_moved[odd]), apart(rest[~odd], odd_moved[~odd]))
        if moved > tolerance(rest):
            raise BadInputError(
                f"the logits of a mask differ by {moved:.2g} with the other masks of its batch"
                f"{mixing(self.model)}; let the network treat each image alone, as in evaluation mode."
            )
        return bool(gates.shares)

    def responses(self, sigma: Tensor, progress: str | None = "responses") -> tuple[Tensor, Tensor]:
        """Centred responses ``Δf(z, σ) = f(z, σ) − f(z, 0)`` (equation 1) of every example to every mask.

        Args:
            sigma: masks ``[N, m]``.
            progress: what the bar is called; ``None``: there is none.

        Returns:
            Responses ``[E, N]`` and clean outputs ``f(z, 0)`` ``[E]``, fp32, on the CPU.

        Raises:
            BadInputError: a response is not finite (example and mask are named).
        """
        out, clean = self.outputs(sigma, [self.output_function], progress)
        return centred(out[0], clean[0]), clean[0]

    @torch.inference_mode()
    def outputs(
        self, sigma: Tensor, functions: Sequence[str | OutputFunction], progress: str | None = "responses"
    ) -> tuple[Tensor, Tensor]:
        """Outputs ``f(z, σ)`` of every example under every mask, and ``f(z, 0)``, of F output functions at once.

        One forward pass answers ``batch_size`` masks of one example; what comes before the first gate is
        computed once for all of them. Every batch, also the clean one and the last, has the same shape, so an
        output does not depend on which masks it was recorded with, and ``f(z, 0)`` is the same to the bit
        under a mask of zeros.

        Args:
            sigma: masks ``[N, m]``.
            functions: F of them, each as ``output_function``.
            progress: what the bar is called; ``None``: there is none.

        Returns:
            ``[F, E, N]`` and ``[F, E]``, fp32, on the CPU.

        Raises:
            BadInputError: memory does not suffice, the forward pass fails or gives no logits that the functions
                can be read from.
        """
        n, m = sigma.shape
        x, size = self.x, self.batch_size
        self._room((len(functions) * len(x) + m) * (n + size), f"responses to {n} masks in batches of {size}")
        batches = F.pad(sigma, (0, 0, 0, -n % size)).view(-(-n // size), size, m).to(x.device)
        out = torch.empty(len(functions), len(x), batches.shape[0] * size)
        clean = torch.empty(len(functions), len(x))
        bar = tqdm(total=len(x) * n, desc=progress, unit="mask", mininterval=1, disable=progress is None)
        with (
            gated(self.model, self.components, self.site) as gates,
            bar,
            enough_memory(size),
            in_precision(self.precision, x.device),
        ):
            for e in range(len(x)):
                example, label = x[e : e + 1], self.labels[e].expand(size)
                for b, batch in enumerate([batches.new_zeros(size, m), *batches]):
                    read = torch.stack(values(gates(example, batch), label, functions))
                    if b == 0:
                        clean[:, e] = read[:, 0]
                    else:
                        out[:, e, (b - 1) * size : b * size] = read
                        bar.update(min(size, n - (b - 1) * size))
        return out[..., :n], clean

    def gradients(self, sigma: Tensor, progress: str | None = "gradients") -> Tensor:
        """``∂f(z, σ)/∂σ`` of every example at every mask, ``[E, N, m]``, by one backward pass a batch.

        In the precision of the examples, or of the weights where these are tokens, on the CPU.

        Args:
            sigma: masks ``[N, m]``.
            progress: what the bar is called; ``None``: there is none.

        Raises:
            BadInputError: as :meth:`outputs`, or the network cannot be differentiated in its masks.
        """
        self._room(len(self.x) * sigma.numel(), f"gradients at {len(sigma)} masks")
        out = like_masks(self.model, self.x).new_empty(len(self.x), *sigma.shape, device="cpu")
        bar = tqdm(
            total=len(self.x) * len(sigma), desc=progress, unit="mask", mininterval=1, disable=progress is None
        )
        with (
            gated(self.model, self.components, self.site) as gates,
            bar,
            enough_memory(self.batch_size),
        ):
            for e in range(len(self.x)):
                rows = []
                for batch in sigma.to(like_masks(self.model, self.x)).split(self.batch_size):
                    at = batch.clone().requires_grad_(True)
                    value = self._value(gates(self.x[e : e + 1], at), self.labels[e].expand(len(at)))
                    (slope,) = slopes(value, [at], 1, "set n_reference to 0, or mend the network")
                    rows.append((torch.zeros_like(at) if slope is None else slope).cpu())
                    bar.update(len(at))
                out[e] = torch.cat(rows)
        return out

    def local_derivatives(
        self, max_order: int = 2, *, examples_at_once: int = 4, progress: str | None = "exact derivatives"
    ) -> Tensor:
        """The network's own ``∂_S f(z, σ)`` at ``σ = 0``, in float64.

        By :func:`kanlib.networks.derivatives.partials`. Attention runs on its mathematical backend:
        the fused ones cannot be differentiated twice.

        Args:
            max_order: the highest order, 1 to 4 and at most m.
            examples_at_once: in one pass.
            progress: what the bar is called; ``None``: there is none.

        Returns:
            ``[E, n_S]`` in the order of :func:`kanlib.masks.subsets`, in units of the output function (fp64), on
            the CPU.

        Raises:
            BadInputError: ``max_order`` out of range, the network cannot be differentiated, or memory runs out.
        """
        m = len(self.components)
        n_subsets = sum(math.comb(m, r) for r in range(1, min(max_order, m, 4) + 1))
        # Of each subset there is a tensor of its own, half a kilobyte, before there is one of all.
        self._room(2 * (len(self.x) + 64) * n_subsets, f"derivatives up to order {max_order}")
        index, double = subsets(m, max_order), self.double()
        like = like_masks(double.model, double.x)
        rows = []
        batches = list(zip(double.x.split(examples_at_once), self.labels.split(examples_at_once), strict=True))
        with (
            gated(double.model, self.components, self.site) as gates,
            sdpa_kernel(SDPBackend.MATH),
        ):
            for examples, label in tqdm(batches, progress, unit="batch", mininterval=1, disable=progress is None):
                # A tensor for each component: a backward pass then ends at the first gate that it is asked about.
                sigma = [like.new_zeros(len(examples), requires_grad=True) for _ in self.components]
                with enough_memory(examples_at_once):
                    value = self._value(gates(examples, sigma), label)
                    found = dict(partials(value, sigma, max_order))
                rows.append(torch.stack([found[subset] for subset in index], 1).cpu())
        return torch.cat(rows)

    def _value(self, output: object, labels: Tensor) -> Tensor:
        """The output function, to be differentiated in the masks."""
        (value,) = values(output, labels, [self.output_function])
        if not value.requires_grad:
            raise BadInputError(
                "the network cuts the gradient between its components and its logits (no_grad, detach), expected "
                "one that can be differentiated; mend its forward pass."
            )
        return value

    def _batch(self, size: int) -> Tensor:
        """The first example ``size`` times."""
        self._room(size * self.x[0].numel(), f"batches of {size} images")
        return self.x[:1].expand(size, *self.x.shape[1:])

    def _room(self, n_numbers: int, what: str) -> None:
        room_for(
            n_numbers * self.x.element_size(),
            f"{what} ({len(self.x)} examples, {len(self.components)} components)",
            "lower the number of masks (n_fit and the like), n_examples, batch_size or the order of derivatives",
        )
