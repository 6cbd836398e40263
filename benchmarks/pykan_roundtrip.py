"""Claim: our KANs handed to pykan, and pykan's models taken over, compute the same on random inputs."""

from itertools import pairwise
from typing import Any

import torch

from kanlib import claims, metrics
from kanlib.kan import KAN, from_pykan, to_pykan
from kanlib.kan.pykan import quietly
from kanlib.machine import generator

WIDTHS = ([8, 5, 1], [8, 6, 1], [12, 8, 4, 1])
COMMAND = claims.Command("python -m benchmarks.pykan_roundtrip", "fast", "cpu")


def ours(width: list[int], order: int) -> KAN:
    """Random KANs with uneven grids."""
    source = generator(0, "roundtrip", str(width), order)
    layers = list(pairwise(width))
    grids = tuple((torch.rand(4, i, 6, generator=source) + 0.3).cumsum(-1) - 2.5 for i, _ in layers)
    coefs = tuple(0.3 * torch.randn(4, o, i, 6 + order, generator=source) for i, o in layers)
    return KAN(grids, coefs, torch.randn(4, generator=source), order)


def theirs(width: list[int], order: int) -> Any:
    """A pykan model as pykan starts it, its grids laid over data."""
    from kan import MultKAN  # slow to import

    with quietly():
        model = MultKAN(list(width), grid=5, k=order, auto_save=False)
        model.update_grid_from_samples(torch.randn(500, width[0]))
    return model


@torch.no_grad()
def errors(width: list[int], order: int) -> list[float]:
    """Largest difference of each network from its counterpart, in standard deviations of the output."""
    x = torch.randn(2000, width[0], generator=generator(0, "inputs", width[0]))
    kan, model = ours(width, order), theirs(width, order)
    pairs = [(here, there(x)[:, 0]) for here, there in zip(kan(x), to_pykan(kan), strict=True)]
    pairs.append((from_pykan([model])(x)[0], model(x)[:, 0]))
    return [float((here - there).abs().max() / there.std()) for here, there in pairs]


def main() -> None:
    found = [error for width in WIDTHS for order in (3, 5) for error in errors(width, order)]
    words = (
        "Largest difference between a KAN and its pykan counterpart, either way, over the standard deviation of "
    )
    words += f"the output ({len(found)} networks, 2000 random inputs each, fp32)"
    estimate = metrics.Estimate(max(found), min(found), max(found))
    claims.record([COMMAND.claim("kan.pykan_roundtrip_error", words, estimate, "<= 1e-5")])


if __name__ == "__main__":
    main()
