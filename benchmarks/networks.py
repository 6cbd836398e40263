"""The headline over networks: the digits' ResNet-18 trained anew from four other seeds, beside the recorded one.

Everything that a seed decides is drawn anew with it: the order and the start of the training, examples, masks and
the starts of the fits. The KAN and its peers have the knobs that the chapters have, and as many members.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from benchmarks.runs import PEERS, execute, made, responses, splits
from kanlib import claims, metrics, store
from kanlib.attribution import SURROGATES
from kanlib.machine import generator
from kanlib.setups import Surrogate

SETUP = "digits_resnet18"
SEEDS = range(5)
RESAMPLES = 2000
COMMAND = claims.Command("python -m benchmarks.networks", device="2 CPU cores")


def recorded(seed: int) -> store.Artifact:
    """Responses of the network of that seed; that of seed 0 is the recorded one."""
    if not seed:
        made(SETUP, "responses")
        return Surrogate.from_setup(SETUP).load("responses")
    run = f"{SETUP}_seed{seed}"
    if not store.path(run, "model").exists():
        execute("00_training", SETUP, run, seed=seed)
    return responses(SETUP, run, source="live", seed=seed, n_examples=4, n_reference=0, derivative_order=1)


def predictions(seed: int) -> tuple[dict[str, Tensor], Tensor, float]:
    """Test predictions ``[E, N]`` of every surrogate of one network, the true responses, and its accuracy."""
    found = recorded(seed)
    data, validation, test = splits(found, "fit", "validation", "test")
    knobs = Surrogate.from_setup(SETUP, {"seed": seed})
    fitted = {name: SURROGATES[name](knobs).fit(data, validation) for name in (*PEERS, "kan")}
    out = {name: model.predict(test.masks).double() for name, model in fitted.items()}
    print(
        f"seed {seed}:",
        {name: round(metrics.pearson(v, test.responses).mean().item(), 4) for name, v in out.items()},
    )
    return out, test.responses, found.record["accuracy"]


def over_networks(values: Tensor, draws: Tensor) -> metrics.Estimate:
    """The mean over K networks, ``values`` ``[K]``, and its interval from resamples ``[K, n]`` of each of them."""
    chosen = torch.randint(len(draws), draws.shape, generator=generator(0, "networks"))
    return metrics.Estimate(values.mean().item(), *metrics.interval(draws.gather(0, chosen).mean(0)))


def main() -> None:
    torch.set_num_threads(2)
    networks = [predictions(seed) for seed in SEEDS]
    names = list(networks[0][0])

    def measured(predicted: Mapping[str, Tensor], true: Tensor) -> tuple[Tensor, Tensor]:
        stacked = torch.stack([predicted[name] for name in names])
        draws = metrics.bootstrap_pearson(stacked, true, RESAMPLES, generator(0, "bootstrap"))
        return metrics.pearson(stacked, true).mean(1), draws

    values, draws = (
        torch.stack(part, 1)
        for part in zip(*(measured(predicted, true) for predicted, true, _ in networks), strict=True)
    )
    of = dict(zip(names, zip(values, draws, strict=True), strict=True))
    accuracies = [accuracy for *_, accuracy in networks]
    words = (
        f"over {len(networks)} trainings of {SETUP} (accuracy {min(accuracies):.3f} to {max(accuracies):.3f}), "
        f"{len(networks[1][1])} examples each, of the recorded one {len(networks[0][1])}; interval over networks, "
        "examples and masks"
    )
    claims.record(
        [
            COMMAND.claim(
                f"{SETUP}.networks.kan.pearson",
                f"Test Pearson of the KAN {words}",
                over_networks(*of["kan"]),
                ">= 0.96",
            ),
            *(
                COMMAND.claim(
                    f"{SETUP}.networks.kan_minus_{name}",
                    f"Test Pearson of the KAN less that of {metrics.TITLES[name]} {words}",
                    over_networks(*(kan - peer for kan, peer in zip(of["kan"], of[name], strict=True))),
                    "low > 0" if name == "linear" else "",
                )
                for name in PEERS
            ),
        ]
    )


if __name__ == "__main__":
    main()
