"""What an earlier run left of the answers that are asked for again, so that only new ones are computed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kanlib import store
from kanlib.errors import BadInputError
from kanlib.networks.probe import Probe
from kanlib.setups import Perturbation

#: Knobs that only say how much is asked.
_SIZES = {"n_examples", "n_fit", "n_validation", "n_test", "n_reference"}


@dataclass(frozen=True)
class Earlier:
    """Answers of the first examples to the first masks of some splits, as 01_perturbation wrote them.

    Masks of a split, and examples, grow at their end alone, and an answer depends on its own mask and example; so
    what is completed has the bytes of what is computed at once.

    Attributes:
        content: see 01_perturbation; nothing, where no run fits.
        n: how many examples it is of.
    """

    content: Mapping[str, Tensor]
    n: int = 0

    @classmethod
    def of(cls, p: Perturbation, network: store.Artifact, components: list[str], positions: Tensor) -> "Earlier":
        """What the last run of ``p`` left: of this network, these components and examples, by the same code."""
        file = store.path(p.folder, "responses")
        try:
            found = store.load(file) if file.exists() else None
        except BadInputError:  # Damaged; it is about to be written anew.
            found = None
        if found is None or "examples" not in found.content:
            return cls({})
        same = {
            "parameters": {k: v for k, v in p.recorded().items() if k not in _SIZES},
            "inputs": {"network": network.hash},
            "code": store.code_hash(),
            "torch": torch.__version__,
            "names": components,
        }
        record = found.record | {
            "parameters": {k: v for k, v in found.record["parameters"].items() if k not in _SIZES}
        }
        if any(record.get(key) != value for key, value in same.items()):
            return cls({})
        n = min(len(positions), len(found["examples"]))
        return cls(found.content, n) if torch.equal(found["examples"][:n], positions[:n]) else cls({})

    def responses(self, probe: Probe, split: str, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`kanlib.networks.probe.Probe.responses`; asked are new masks, and all masks of new examples."""
        n = self._masks(split, sigma)
        if not n:
            return probe.responses(sigma, split)
        known, clean = self.content[f"responses.{split}"][: self.n, :n], self.content["clean"][: self.n]
        if n < len(sigma):
            more, _ = probe.of(slice(self.n)).responses(sigma[n:], split)
            known = torch.cat([known, more], 1)
        if self.n == len(probe.x):
            return known, clean
        others = probe.of(slice(self.n, None)).responses(sigma, split)
        return torch.cat([known, others[0]]), torch.cat([clean, others[1]])

    def local(self, probe: Probe, block: int, compute: Callable[[Probe], Tensor]) -> Tensor:
        """``compute`` of each block of examples that is not known whole."""
        known = self.content.get("local", torch.empty(0))
        n = self.n if self.n == len(probe.x) else self.n // block * block
        n = min(n, len(known))
        rest = [compute(probe.of(at)) for at in torch.arange(n, len(probe.x)).split(block) if len(at)]
        return torch.cat([known[:n], *rest] if n else rest)

    def gradients(self, probe: Probe, sigma: Tensor) -> Tensor:
        """As :meth:`kanlib.networks.probe.Probe.gradients`; asked are new examples, or all about other masks."""
        known = self.content.get("gradient.reference")
        if known is None or known.shape[1] != len(sigma) or self._masks("reference", sigma) < len(sigma):
            return probe.gradients(sigma)
        if self.n == len(probe.x):
            return known[: self.n]
        return torch.cat([known[: self.n], probe.of(slice(self.n, None)).gradients(sigma)])

    def _masks(self, split: str, sigma: Tensor) -> int:
        """How many of these masks are the first of those that were asked."""
        before = self.content.get(f"masks.{split}", torch.empty(0, sigma.shape[1]))
        n = min(len(before), len(sigma))
        return n if self.n and torch.equal(before[:n], sigma[:n]) else 0
