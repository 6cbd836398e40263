import numpy as np
import pytest
import torch
from torch import nn

from kanlib import store
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
        training.train(
            knobs(epochs=9, learning_rate=1e4).model_copy(update={"learning_rate": 1e20}), model(), *images
        )


def spoilt(file, change):
    """A checkpoint of one epoch, whose content is another one."""
    found = store.load(file, kind="checkpoint")
    content = dict(found.content)
    change(content)
    store.save(file, content, kind="checkpoint", parameters=found.record["parameters"], inputs={})


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda c: c.pop("model.0.weight"), r"it has nothing at model\.0\.weight, expected \[4, 3, 3, 3\]"),
        (lambda c: c.pop("momentum.5.bias"), r"it has nothing at momentum\.5\.bias"),
        (lambda c: c.update(extra=torch.ones(2)), r"it has \[2\] of torch\.float32 at extra, expected nothing"),
        (lambda c: c.update({"model.5.bias": torch.ones(4)}), r"it has \[4\] of torch\.float32 at model\.5\.bias"),
        (
            lambda c: c.update({"model.5.bias": torch.ones(3).half()}),
            r"it has \[3\] of torch\.float16 at model\.5\.bias",
        ),
        (lambda c: c.pop("losses"), "it has no losses"),
        (lambda c: c.update(losses=torch.ones(4)), "it has no losses"),
        (lambda c: c.update(losses=torch.ones(5).double()), "it has 5 losses, expected 4 for each of up to 3"),
        (lambda c: c.update(losses=torch.ones(0).double()), "it has 0 losses"),
        (lambda c: c.update(losses=torch.ones(16).double()), "it has 16 losses"),
    ],
)
def test_a_checkpoint_that_does_not_hold_this_training_is_to_be_deleted(images, tmp_path, change, what):
    file = tmp_path / "checkpoint.safetensors"
    training.train(knobs(), model(), *images, file)
    spoilt(file, change)
    with pytest.raises(BadInputError, match=rf"checkpoint\.safetensors does not .*: {what}.*; delete it to train"):
        training.train(knobs(), model(), *images, file)


def test_a_damaged_checkpoint_is_refused(images, tmp_path):
    file = tmp_path / "checkpoint.safetensors"
    training.train(knobs(), model(), *images, file)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(BadInputError, match="delete it"):
        training.train(knobs(), model(), *images, file)


class WithIdle(nn.Module):
    """A network with a part that never runs, and one that does not learn."""

    def __init__(self):
        super().__init__()
        self.used, self.idle = model(), nn.Linear(2, 2)
        self.used[0].requires_grad_(False)

    def forward(self, x):
        return self.used(x)


def test_a_training_with_idle_weights_goes_on_to_the_same_bits(images, tmp_path, monkeypatch):
    file, p = tmp_path / "checkpoint.safetensors", knobs()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        whole, halted, resumed = WithIdle(), WithIdle(), WithIdle()
    halted.load_state_dict(whole.state_dict())
    losses = training.train(p, whole, *images)
    kept = training._keep

    def interrupted(*arguments):
        kept(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(training, "_keep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            training.train(p, halted, *images, file)
    np.testing.assert_array_equal(training.train(p, resumed, *images, file)["loss"], losses["loss"])
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


class Odd(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.net, self.function = model(), function

    def forward(self, x):
        return self.function(self.net, x)


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda net, x: net(x).detach(), "no parameter of the network gets a gradient"),
        (lambda net, x: x.mean((2, 3)), "no parameter of the network gets a gradient"),
        (lambda net, x: (net(x)[:2], None), "puts out tuple for 16 images"),
        (lambda net, x: net(x)[:, :, None], r"puts out \[16, 3, 1\] of"),
        (lambda net, x: net(x)[:, :2], "has label 2, but the network has logits for 0 to 1"),
        (lambda net, x: net(x)[:, :1], "has label 2, but the network has logits for 0 to 1"),
        (lambda net, x: (s := net(x).sigmoid()) + s.mul_(2), r"cannot be differentiated \(RuntimeError: one of"),
        (lambda net, x: net(x[:, :2]), r"fails on images of shape \[16, 3, 12, 12\] .*; raise image_size"),
    ],
)
def test_a_network_that_cannot_be_trained_is_refused(images, function, sentence):
    with pytest.raises(BadInputError, match=sentence):
        training.train(knobs(), Odd(function), *images)


def test_a_network_without_gradients_is_refused(images):
    with pytest.raises(BadInputError, match="no parameter of the network gets a gradient"):
        training.train(knobs(), model().requires_grad_(False), *images)


def test_a_batch_of_one_image_is_refused_where_it_is_normalised(images):
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 3))
    with pytest.raises(BadInputError, match=r"Expected more than 1 value .* set batch_size so that no batch"):
        training.train(knobs(batch_size=59), net, *images)


def test_a_step_that_runs_out_of_memory_asks_for_smaller_ones(images):
    def full(net, x):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(BadInputError, match="set batch_size to 8"):
        training.train(knobs(), Odd(full), *images)


@pytest.mark.parametrize(("n", "side"), [(0, 12), (60, 4)])
def test_without_images_or_room_for_shifts_nothing_is_trained(images, n, side):
    with pytest.raises(BadInputError, match=rf"there are {n} training images of \[{side}, {side}\] pixels"):
        training.train(knobs(augment=True), model(), images[0][:n, :, :side, :side], images[1][:n])
