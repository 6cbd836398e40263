"""Our TopK against that of SAELens, on the same vectors in the same order.

SAELens is no dependency of this project; where it is not installed, this says so. Both have the same features, L0,
steps, minibatches, rates and way of standardising vectors, three seeds each, and what they explain of held-out
vectors is compared. Stories and vectors are those of ``python -m benchmarks.sparse_autoencoders --record``; other
weights than in ``../shared/weights/stories260K`` are taken from the folder that is named.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.sparse_autoencoders import RECORDING, WEIGHTS, setting
from kanlib import claims, machine, store
from kanlib.errors import BadInputError, cause, spoken
from kanlib.machine import generator
from kanlib.metrics import Estimate, mean_estimate
from kanlib.sae import Run, measured, train
from kanlib.sae.training import share_of_rate

L0, SEEDS, STEPS, MINIBATCH = 16, 3, 400, 1024
WINDOW = 300  # steps without activity after which SAELens' auxiliary loss takes a feature for dead


def saelens() -> Any:
    """The library.

    Raises:
        BadInputError: it is not there.
    """
    try:
        return import_module("sae_lens")
    except ImportError as error:
        raise BadInputError(
            f"SAELens is not there ({cause(error)}), expected sae-lens; install it to compare."
        ) from error


def theirs(library: Any, vectors: Tensor, held: Tensor, m: int, rate: float, seed: int) -> float:
    """Explained variance of a TopK of SAELens, trained here as its own loop trains it."""
    step_input = import_module("sae_lens.saes.sae").TrainStepInput
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = library.TopKTrainingSAEConfig(d_in=vectors.shape[1], d_sae=m, k=L0, device=str(vectors.device))
        model = library.TopKTrainingSAE(config)
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    mean = vectors.mean(0)
    spread = (vectors - mean).square().mean().sqrt()
    source, order, at = generator(0, "minibatches"), torch.empty(0, dtype=torch.long), 0
    silent = torch.zeros(m, device=vectors.device)
    for step in range(STEPS):
        if at + MINIBATCH > len(order):
            order, at = torch.randperm(len(vectors), generator=source), 0
        x = (vectors[order[at : at + MINIBATCH]] - mean) / spread
        at += MINIBATCH
        for group in optimiser.param_groups:
            group["lr"] = rate * share_of_rate(step, STEPS)
        found = model.training_forward_pass(step_input(x, {}, silent > WINDOW, step, False))
        optimiser.zero_grad()
        found.loss.backward()
        optimiser.step()
        silent = torch.where((found.feature_acts.to_dense() > 0).any(0), 0.0, silent + 1)
    with torch.inference_mode():
        x = (held - mean) / spread
        return 1 - ((model(x) - x).square().sum() / (x - x.mean(0)).square().sum()).item()


def main(arguments: Sequence[str]) -> None:
    torch.set_num_threads(2)
    library = saelens()
    device = machine.device("cpu")
    weights = Path(arguments[0]) if arguments else WEIGHTS
    here = setting(weights, RECORDING, store.ARTIFACTS / "sae_recording", device)
    knobs = RECORDING.knobs.model_copy(update={"steps": STEPS, "minibatch": MINIBATCH})
    x, held = here.training.vectors, here.held.vectors
    ours = measured(train("topk", x, [Run(L0, seed) for seed in range(SEEDS)], knobs), held).explained
    others = torch.tensor(
        [theirs(library, x, held, knobs.features, knobs.rate, seed) for seed in range(SEEDS)]
    ).double()
    print("ours", ours.tolist(), "SAELens", others.tolist(), flush=True)
    pairs = (ours[:, None] - others[None]).flatten()
    found: Estimate = mean_estimate(pairs)
    command = claims.Command("python -m benchmarks.saelens", device="2 CPU cores")
    row = command.claim(
        "sae.saelens_difference",
        f"Variance explained by our TopK less that by SAELens', {SEEDS} seeds each, L0 of {L0}, "
        f"{knobs.features} features, {STEPS} steps, {len(held):,} held-out tokens",
        found,
        "value >= -0.005",
    )
    print(row)
    claims.record([row])


if __name__ == "__main__":
    with spoken():
        main(sys.argv[1:])
