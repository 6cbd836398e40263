"""Algorithm 1, the asking: a network with its components and examples, and how its output answers to masks."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from kanlib.machine import Precision, enough_memory, in_precision
from kanlib.masks import subsets
from kanlib.networks.components import Site, gated
from kanlib.networks.derivatives import partials
from kanlib.networks.outputs import OUTPUT_FUNCTIONS, centred


@dataclass(frozen=True)
class Probe:
    """E examples of a network that is asked how its output moves when its m components are scaled.

    Attributes:
        model: in evaluation mode, its parameters not asking for gradients.
        components: names of the m modules to gate, see :func:`kanlib.networks.components.find`.
        x: examples ``[E, ...]``, on the model's device and in its precision.
        labels: ``[E]``, on that device.
        site: see :func:`kanlib.networks.components.gated`.
        output_function: a key of :data:`kanlib.networks.outputs.OUTPUT_FUNCTIONS`.
        batch_size: masks a forward pass.
        precision: of the forward passes; below fp32 only where asked for.
    """

    model: nn.Module
    components: Sequence[str]
    x: Tensor
    labels: Tensor
    site: Site = "branch"
    output_function: str = "margin"
    batch_size: int = 25
    precision: Precision = "fp32"

    def of(self, examples: slice) -> "Probe":
        """The same of some of its examples."""
        return replace(self, x=self.x[examples], labels=self.labels[examples])

    def double(self) -> "Probe":
        """The same in float64, of a copy of the model."""
        return replace(self, model=deepcopy(self.model).double(), x=self.x.double())

    def gate_error(self) -> float:
        """The largest difference that gates at σ = 0 make to a logit of the first example; 0 if they work."""
        x = self.x[:1].expand(self.batch_size, *self.x.shape[1:])
        with gated(self.model, self.components, self.site) as gates, torch.inference_mode():
            gated_logits, logits = gates(x, x.new_zeros(self.batch_size, len(self.components))), self.model(x)
        # Equal infinities are equal, though their difference is no number.
        return 0.0 if torch.equal(gated_logits, logits) else float((gated_logits - logits).abs().max())

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
        self, sigma: Tensor, functions: Sequence[str], progress: str | None = "responses"
    ) -> tuple[Tensor, Tensor]:
        """Outputs ``f(z, σ)`` of every example under every mask, and ``f(z, 0)``, of F output functions at once.

        One forward pass answers ``batch_size`` masks of one example; what comes before the first gate is
        computed once for all of them. Every batch, also the clean one and the last, has the same shape, so an
        output does not depend on which masks it was recorded with, and ``f(z, 0)`` is the same to the bit
        under a mask of zeros.

        Args:
            sigma: masks ``[N, m]``.
            functions: F keys of :data:`kanlib.networks.outputs.OUTPUT_FUNCTIONS`.
            progress: what the bar is called; ``None``: there is none.

        Returns:
            ``[F, E, N]`` and ``[F, E]``, fp32, on the CPU.

        Raises:
            BadInputError: the device runs out of memory.
        """
        n, m = sigma.shape
        x, size = self.x, self.batch_size
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
                    logits = gates(example, batch)
                    read = torch.stack([OUTPUT_FUNCTIONS[name](logits, label) for name in functions])
                    if b == 0:
                        clean[:, e] = read[:, 0]
                    else:
                        out[:, e, (b - 1) * size : b * size] = read
                        bar.update(min(size, n - (b - 1) * size))
        return out[..., :n], clean

    def gradients(self, sigma: Tensor, progress: str | None = "gradients") -> Tensor:
        """``∂f(z, σ)/∂σ`` of every example at every mask, ``[E, N, m]``, by one backward pass a batch.

        In the precision of the examples, on the CPU.

        Args:
            sigma: masks ``[N, m]``.
            progress: what the bar is called; ``None``: there is none.
        """
        read = OUTPUT_FUNCTIONS[self.output_function]
        out = self.x.new_empty(len(self.x), *sigma.shape, device="cpu")
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
                for batch in sigma.to(self.x).split(self.batch_size):
                    at = batch.clone().requires_grad_(True)
                    value = read(gates(self.x[e : e + 1], at), self.labels[e].expand(len(at))).sum()
                    rows.append(torch.autograd.grad(value, at)[0].cpu())
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
        index, double = subsets(len(self.components), max_order), self.double()
        read = OUTPUT_FUNCTIONS[self.output_function]
        rows = []
        batches = list(zip(double.x.split(examples_at_once), self.labels.split(examples_at_once), strict=True))
        with (
            gated(double.model, self.components, self.site) as gates,
            sdpa_kernel(SDPBackend.MATH),
        ):
            for examples, label in tqdm(batches, progress, unit="batch", mininterval=1, disable=progress is None):
                # A tensor for each component: a backward pass then ends at the first gate that it is asked about.
                sigma = [examples.new_zeros(len(examples), requires_grad=True) for _ in self.components]
                with enough_memory(examples_at_once):
                    found = dict(partials(read(gates(examples, sigma), label), sigma, max_order))
                rows.append(torch.stack([found[subset] for subset in index], 1).cpu())
        return torch.cat(rows)
