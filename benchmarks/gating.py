"""Responses a second against plain inference of the same network, at the same batch size and precision.

Alternating rounds of the same number of forward passes; the ratio of each pair of rounds, their median and range.
Weights do not matter for the time, so the networks are untrained.
"""

import statistics
import time
from collections.abc import Callable

import torch

from kanlib import claims, metrics
from kanlib.masks import gaussian
from kanlib.networks.branches import branches
from kanlib.networks.components import find, gated
from kanlib.networks.models import classifier

BATCH, ROUNDS, PASSES = 25, 7, 4
NETWORKS = {
    "ResNet-18, 32×32": ("torchvision/resnet18", 10, 32, "layer*.*"),
    "DeiT-tiny, 224×224": ("timm/deit_tiny_patch16_224", 1000, 224, "blocks.*"),
    "MobileNetV2, 96×96": ("torchvision/mobilenet_v2", 1000, 96, "features.*"),
    "ConvNeXt-atto, 96×96": ("timm/convnext_atto", 1000, 96, "stages.*.blocks.*"),
    "RegNetY-200MF, 96×96": ("timm/regnety_002", 1000, 96, "s*.*"),
}
COMMAND = claims.Command("python -m benchmarks.gating", "fast", "2 CPU cores")


def seconds(function: Callable[[], object], passes: int = PASSES) -> float:
    start = time.perf_counter()
    for _ in range(passes):
        function()
    return time.perf_counter() - start


def ratios(architecture: str, n_classes: int, size: int, pattern: str) -> tuple[list[float], list[float]]:
    """Throughput of gated passes over plain ones, and over one mask a pass, round by round."""
    model, _ = classifier(architecture, n_classes, small_images=size == 32)
    model = model.eval()
    x = torch.randn(BATCH, 3, size, size, generator=torch.Generator().manual_seed(0))
    # A block that changes the shape without a skip has no branch.
    names = [name for name, branch in branches(model, find(model, [pattern]), x[:2]).items() if branch]
    sigma = gaussian(BATCH, len(names), 1.0, 0, "timing")
    against_plain, against_single = [], []
    with torch.inference_mode(), gated(model, names) as gates:
        functions = (
            lambda: model(x),
            lambda: gates(x[:1], sigma),
            lambda: [gates(x[:1], row) for row in sigma.split(1)],
        )
        for function in functions:
            function()
        for _ in range(ROUNDS):
            plain, ours, single = seconds(functions[0]), seconds(functions[1]), seconds(functions[2], 1) * PASSES
            against_plain.append(plain / ours)
            against_single.append(single / ours)
    return against_plain, against_single


def main() -> None:
    torch.set_num_threads(2)
    found = {name: ratios(*network) for name, network in NETWORKS.items()}
    worst = min(found, key=lambda name: statistics.median(found[name][0]))
    said = "; ".join(
        f"{name}: {statistics.median(plain):.2f} of plain inference, {statistics.median(single):.1f} times "
        "one mask a pass"
        for name, (plain, single) in found.items()
    )
    print(said)
    plain = found[worst][0]
    words = f"Responses a second over images a second of plain inference, batches of {BATCH}, fp32, range over "
    words += f"{ROUNDS} rounds; the lowest of five networks ({said})"
    estimate = metrics.Estimate(statistics.median(plain), min(plain), max(plain))
    claims.record([COMMAND.claim("gating.relative_throughput.cpu", words, estimate, ">= 0.95")])


if __name__ == "__main__":
    main()
