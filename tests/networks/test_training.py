import numpy as np
import pytest
import torch
from torch import nn

from kanlib.errors import BadInputError
from kanlib.networks import training
from kanlib.setups import Training


def knobs(**changes):
    settings = {"epochs": 3, "batch_size": 16, "precision": "fp32", "learning_rate": 0.05}
    return Training.from_setup("digits_resnet18", settings | changes)


def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 3),
        )


@pytest.fixture
def images():
    """Sixty noisy images of three colours, which say their class."""
    source = torch.Generator().manual_seed(1)
    y = torch.arange(60) % 3
    return torch.eye(3)[y][:, :, None, None] + 0.1 * torch.randn(60, 3, 12, 12, generator=source), y


def test_training_learns_and_leaves_the_global_rng(images, same_global_rng):
    net = model()
    losses = training.train(knobs(epochs=20, augment=True), net, *images)
    assert list(losses) == ["step", "epoch", "loss"]
    assert losses["step"].tolist() == list(range(1, 81))
    assert losses["epoch"].tolist() == [e for e in range(1, 21) for _ in range(4)]
    assert losses["loss"].iloc[-4:].mean() < 0.5 * losses["loss"].iloc[:4].mean()
    assert (net.eval()(images[0]).argmax(1) == images[1]).all()


def test_one_step_is_the_textbooks(images):
    net, same = model(), model()
    p = knobs(epochs=10, batch_size=60, label_smoothing=0.2, weight_decay=0.1)
    seen = []
    net.register_forward_pre_hook(lambda *_: seen.append([weight.detach().clone() for weight in net.parameters()]))
    losses = training.train(p, net, *images)
    value = nn.functional.cross_entropy(same(images[0]), images[1], label_smoothing=0.2)
    value.backward()
    assert losses["loss"][0] == pytest.approx(value.item(), rel=1e-5)
    # At the first of its steps the cycle stands at a 25th of the peak; Nesterov's first move is (1 + momentum) g.
    rate, momentum = p.learning_rate / 25, 0.95
    with torch.no_grad():
        for weight in same.parameters():
            weight -= rate * (1 + momentum) * (weight.grad + 0.1 * weight)
    for found, start, expected in zip(seen[1], seen[0], same.parameters(), strict=True):
        assert not torch.equal(found, start)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("stopped", [1, 2])
def test_an_interrupted_training_goes_on_to_the_same_bits(images, tmp_path, monkeypatch, stopped):
    p = knobs(augment=True, training_sizes=[8, 10])
    whole, halted = model(), model()
    losses = training.train(p, whole, *images)
    kept = training._keep
    saved = []

    def interrupted(*arguments):
        kept(*arguments)
        saved.append(None)
        if len(saved) == stopped:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "_keep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        training.train(p, halted, *images, tmp_path / "checkpoint.safetensors")
    monkeypatch.setattr(training, "_keep", kept)
    resumed = model()
    again = training.train(p, resumed, *images, tmp_path / "checkpoint.safetensors")
    np.testing.assert_array_equal(again["loss"], losses["loss"])
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_other_parameters_start_anew(images, tmp_path):
    file = tmp_path / "checkpoint.safetensors"
    training.train(knobs(seed=1), model(), *images, file)
    fresh = training.train(knobs(), model(), *images)
    np.testing.assert_array_equal(training.train(knobs(), model(), *images, file)["loss"], fresh["loss"])


def test_augmented_images_are_shifts_and_mirrors(images):
    x = images[0][:8]
    found = training._augmented(x, torch.Generator().manual_seed(5))
    padded = nn.functional.pad(x, [4] * 4, mode="reflect")
    seen = set()
    for image, candidate in zip(found, padded, strict=True):
        crops = {
            (r, c, flip): candidate[:, r : r + 12, c : c + 12].flip([-1] * flip)
            for r in range(9)
            for c in range(9)
            for flip in (0, 1)
        }
        matches = [key for key, crop in crops.items() if torch.equal(crop, image)]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len({key[2] for key in seen}) == 2
    assert len({key[:2] for key in seen}) > 4


def test_the_first_epochs_see_smaller_images(images):
    sides = []
    net = model()
    net[0].register_forward_hook(lambda _, args, y: sides.append(args[0].shape[-1]))
    training.train(knobs(batch_size=60, training_sizes=[6, 9]), net, *images)
    assert sides == [6, 9, 12]


def test_a_loss_that_is_not_finite_is_refused(images):
    with pytest.raises(BadInputError, match=r"loss of epoch \d is (nan|inf); lower learning_rate"):
        training.train(knobs(learning_rate=1e20), model(), *images)
