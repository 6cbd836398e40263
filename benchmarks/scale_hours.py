"""What many images of the recorded setups would take: seconds of a few, on a GPU where there is one, multiplied.

Nothing else should be at work on the machine meanwhile.
"""

import time
from collections.abc import Callable

import torch

from benchmarks.runs import hardware, recorded
from kanlib import claims, machine
from kanlib.attribution import bias_corrected, fitted, of_symbolic, smoothed_of_surrogate
from kanlib.claims import Command
from kanlib.masks import gaussian
from kanlib.networks import models
from kanlib.networks.components import find
from kanlib.networks.probe import Probe
from kanlib.setups import Interactions, Perturbation, Surrogate, Symbolic, Training
from kanlib.symbolic import replace_edges, shorten

RECORDED = ("digits_resnet18", "cifar10_resnet18", "imagenet_deit_tiny")
MANY = 50_000


def main() -> None:
    torch.set_num_threads(2)
    seconds = {setup: seconds_an_image(setup) for setup in RECORDED}
    print(seconds)
    command = Command("python -m benchmarks.scale_hours", device=hardware())
    kind = machine.device("auto").type
    said = (
        f"Hours that {MANY:,} images of each of {', '.join(RECORDED)} would take on so many of these, from the "
        "seconds of a few: responses, gradients, KANs, closed forms and coefficients, without peers and pages"
    )
    hours = MANY * sum(seconds.values()) / 3600
    claims.record([command.claim(f"scale.hours.{kind}.{n}", said, hours / n) for n in (1, 8, 64)])


def seconds_an_image(setup: str, n: int = 4) -> float:
    """Of all stages, of the setup's knobs; the network has random weights, whose passes take as long."""
    device = machine.device("auto")
    training, p = Training.from_setup(setup), Perturbation.from_setup(setup)
    torch.manual_seed(0)
    size = 224 if training.data.endswith("ImageNet") else training.image_size
    n_classes = training.n_classes or 10
    model = models.classifier(training.architecture, n_classes, small_images=training.small_images)[0]
    model = model.eval().requires_grad_(False).to(device)
    x, label = torch.randn(1, 3, size, size, device=device), torch.zeros(1, dtype=torch.long, device=device)
    probe = Probe(model, find(model, p.components), x, label, batch_size=p.batch_size)
    few = gaussian(4 * p.batch_size, len(probe.components), p.scale, 0, "fit")
    probe.responses(few[: p.batch_size], None)
    a_response = timed(lambda: probe.responses(few, None)) / len(few)
    a_gradient = timed(lambda: probe.gradients(few[: p.batch_size], None)) / p.batch_size
    exact = timed(lambda: probe.local_derivatives(min(2, p.derivative_order), progress=None))
    asked = (p.n_fit + p.n_validation + p.n_test) * a_response + p.n_reference * a_gradient + exact
    data, validation, _ = (split.of(slice(n)) for split in recorded(setup, n_examples=n))
    knobs, forms = Surrogate.from_setup(setup, {"device": device.type}), Symbolic.from_setup(setup)
    kan = fitted("kan", knobs, data, validation).kan

    def said() -> None:
        closed = replace_edges(kan, data.masks, forms, False)
        shorten(kan, data, validation, forms)
        order = Interactions.from_setup(setup).max_order
        level = smoothed_of_surrogate(kan, len(probe.components), p.scale, order)[0]
        bias_corrected(level, kan, data, order)
        for one in closed:
            of_symbolic(one, order)

    fits, read = timed(lambda: fitted("kan", knobs, data, validation)), timed(said)
    print(setup, asked, fits / n, read / n, flush=True)
    return asked + (fits + read) / n


def timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
