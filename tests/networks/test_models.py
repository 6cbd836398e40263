import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn

from kanlib import store
from kanlib.errors import BadInputError
from kanlib.networks import images, models
from kanlib.setups import Training


def test_the_trained_classifier_is_rebuilt_from_its_artifact(resnet, tmp_path):
    made = Training.from_setup("digits_resnet18", {"image_size": 8, "seed": 3}).model_dump()
    file = store.save(
        tmp_path / "model.safetensors", resnet.state_dict(), kind="model", parameters=made, inputs={}
    )
    model, data = models.trained(store.load(file))
    x = data.test.read(torch.arange(2))
    assert torch.equal(data.test.labels, images.digits(8, seed=3).test.labels)
    assert torch.equal(model(x), resnet(x))


def test_a_program_that_an_artifact_names_is_not_run(own):
    (own / "evil.py").write_text("import pathlib\npathlib.Path('executed').touch()\n", encoding="utf8")
    made = Training.from_setup("digits_resnet18", {"architecture": "evil.py:made"}).model_dump()
    file = store.save(own / "model.safetensors", {"w": torch.ones(2)}, kind="model", parameters=made, inputs={})
    for setup in (None, "digits_resnet18"):
        with pytest.raises(
            BadInputError, match=r"names the program evil\.py:made, which runs only where the setup"
        ):
            models.trained(store.load(file), setup=setup)
    assert not (own / "executed").exists()


def test_predictions_do_not_depend_on_the_batch_size(resnet):
    x = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    split = images.Labelled(torch.zeros(5, dtype=torch.long), x.__getitem__)
    torch.testing.assert_close(models.predict(resnet, split, batch_size=2), resnet(x))
    torch.testing.assert_close(models.predict(resnet, split, torch.tensor([4, 1])), resnet(x[[4, 1]]))


def test_weights_of_a_users_own_model_come_with_its_transform(own, monkeypatch):
    weights = {"1.weight": torch.randn(10, 192), "1.bias": torch.zeros(10)}
    save_file(weights, own / "mine.safetensors")
    torch.save({"state_dict": weights}, own / "mine.pt")
    digits = load_digits()
    folder = own / "scans"
    folder.mkdir()
    rows = ["file,class_index"]
    for i in range(20):
        image = Image.fromarray((digits.images[i] * 15).astype("uint8"))
        image.save(folder / f"{i}.png")
        rows.append(f"{i}.png,{digits.target[i]}")
    (folder / "labels.csv").write_text("\n".join(rows), encoding="utf8")
    for file in ("mine.safetensors", "mine.pt"):
        p = Training.from_setup(
            "digits_resnet18",
            {"architecture": "mine.py:with_transform", "weights": file, "data": "scans", "small_images": False},
        )
        model, data, _ = models.load(p)
        x = data.test.read(torch.tensor([4]))
        assert (x.min(), x.shape) == (0, (1, 3, 8, 8))
        torch.testing.assert_close(model(x), x.flatten(1) @ weights["1.weight"].T)


def test_labels_beyond_the_logits_are_refused():
    p = Training.from_setup("digits_resnet18", {"n_classes": 5})
    with pytest.raises(BadInputError, match=r"data digits has label 9, expected 0 to 4; set n_classes"):
        models.load(p)


def folder(tmp_path, splits, rows):
    """A folder of images with these classes in these splits."""
    lines = ["file,class_index,split"]
    for i, (split, label) in enumerate(zip(splits, rows, strict=True)):
        image = Image.new("RGB", (8, 8), (20 * i, 5, 9))
        image.putpixel((0, 0), (255, 255, 255))
        image.save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{label},{split}")
    (tmp_path / "labels.csv").write_text("\n".join(lines), encoding="utf8")
    return str(tmp_path)


def untrained(data, **knobs):
    return models.load(Training.from_setup("digits_resnet18", {"data": data, "image_size": 8} | knobs))


def test_training_labels_beyond_the_logits_are_refused(tmp_path):
    data = folder(tmp_path, ["train"] * 3 + ["test"] * 2, [0, 1, 2, 0, 1])
    with pytest.raises(BadInputError, match=r"has label 2, expected 0 to 1; set n_classes"):
        untrained(data, n_classes=2)
    assert untrained(data)[0].fc.out_features == 3


@pytest.mark.parametrize(
    ("labels", "missing"),
    [([1, 2, 1, 2], "class 0, expected"), ([0, 9, 0, 9], r"class 1, 2, 3, 4, 5 and 3 more, expected")],
)
def test_a_class_that_nobody_has_is_refused_where_a_classifier_is_trained(tmp_path, labels, missing):
    data = folder(tmp_path, ["train", "train", "test", "test"], labels)
    with pytest.raises(
        BadInputError, match=rf"has no picture of {missing}.*number classes from 0, or set n_classes"
    ):
        untrained(data)
    assert untrained(data, n_classes=max(labels) + 1)[0].fc.out_features == max(labels) + 1


def test_a_class_may_be_in_one_split_only(tmp_path):
    assert untrained(folder(tmp_path, ["train", "test"], [0, 1]))[0].fc.out_features == 2


def test_data_of_one_class_trains_nothing(tmp_path):
    with pytest.raises(BadInputError, match="has one class, expected two"):
        untrained(folder(tmp_path, ["train", "test"], [0, 0]))


def test_classes_may_have_gaps_where_weights_are_given(own):
    save_file({"1.weight": torch.randn(10, 192), "1.bias": torch.zeros(10)}, own / "mine.safetensors")
    data = folder(own, ["test", "test"], [3, 9])
    knobs = {"architecture": "mine.py:plain", "weights": "mine.safetensors", "small_images": False}
    assert untrained(data, **knobs)[0][1].out_features == 10


def own_weights(folder, text, weights, **knobs):
    """Loads weights into the network that a user's file makes; the data are digits."""
    (folder / "net.py").write_text(f"import torch\nfrom torch import nn\n\n\n{text}", encoding="utf8")
    torch.save(weights, folder / "net.pt")
    asked = {"architecture": "net.py:made", "weights": "net.pt", "small_images": False, "image_size": 8}
    return models.load(Training.from_setup("digits_resnet18", asked | knobs))


PLAIN = "def made(n):\n    return nn.Sequential(nn.Flatten(), nn.Linear(192, n))\n"


def test_what_was_adapted_is_said_in_a_line(own):
    weights = {"1.weight": torch.randn(10, 192), "1.bias": torch.zeros(10)}
    assert own_weights(own, PLAIN, weights)[2] == []
    half = {f"module.{key}": value.half() for key, value in weights.items()}
    model, _, adapted = own_weights(own, PLAIN, {"model": weights, "model_ema": half})
    assert adapted == [
        "The weights were adapted: model_ema was taken, not model; module. was taken off every key; numbers of "
        "torch.float16 became torch.float32."
    ]
    assert torch.equal(model[1].weight, half["module.1.weight"].float())


def test_a_factory_may_return_half_precision_and_logits_that_are_held_by_something(own):
    text = (
        "class Held(nn.Linear):\n    def forward(self, x):\n        return {'logits': super().forward(x)}\n\n\n"
        "def made(n):\n    return nn.Sequential(nn.Flatten(), Held(192, n)).half()\n"
    )
    weights = {"1.weight": torch.randn(10, 192).half(), "1.bias": torch.zeros(10).half()}
    model, data, adapted = own_weights(own, text, weights)
    assert adapted == [
        "The weights were adapted: numbers of torch.float16 became torch.float32.",
        "The network came in torch.float16 and is computed in torch.float32.",
        "Of the dict that the network puts out, ['logits'] is taken for the logits, 10 an image.",
    ]
    x = data.test.read(torch.arange(3)).flatten(1)
    torch.testing.assert_close(
        models.predict(model, data.test, torch.arange(3)), x @ weights["1.weight"].float().T
    )


def test_a_network_of_one_logit_takes_data_of_two_classes(own):
    data = folder(own, ["train", "train", "test", "test"], [0, 1, 0, 1])
    weights = {"1.weight": torch.randn(1, 192), "1.bias": torch.zeros(1)}
    model, read, adapted = own_weights(own, PLAIN, weights, data=data, n_classes=1)
    z = model(read.test.read(torch.arange(2)))
    assert torch.equal(models.predict(model, read.test), torch.cat([torch.zeros(2, 1), z], 1))
    assert adapted == [
        "The network gives one logit z an image, which is read as the logits 0 and z of two classes."
    ]
    three = folder(own, ["train", "train", "test", "test"], [0, 1, 2, 1])
    with pytest.raises(BadInputError, match=r"has label 2, expected 0 to 1; set n_classes"):
        own_weights(own, PLAIN, weights, data=three, n_classes=1)


@pytest.mark.parametrize(
    ("end", "size", "sentence"),
    [
        ("super().forward(x.flatten(1))", 9, r"fails on images of shape \[2, 3, 9, 9\] .*; set image_size"),
        ("(x, None)", 8, "puts out tuple for 2 images, expected floating logits"),
        (
            "super().forward(x.flatten(1))[:, :9]",
            8,
            "has label 9, but the network has logits for 0 to 8; set n_classes",
        ),
    ],
)
def test_a_network_that_cannot_answer_to_its_data_is_refused_before_it_is_trained(own, end, size, sentence):
    (own / "net.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Linear):\n    def __init__(self, n):\n"
        f"        super().__init__(192, n)\n\n    def forward(self, x):\n        return {end}\n",
        encoding="utf8",
    )
    knobs = {"architecture": "net.py:Net", "small_images": False, "image_size": size}
    with pytest.raises(BadInputError, match=sentence):
        models.load(Training.from_setup("digits_resnet18", knobs))


class Odd(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda x: (x, None), "puts out tuple for 2 images"),
        (lambda x: x, r"puts out \[2, 3, 4, 4\] of torch\.float32 for 2 images"),
        (lambda x: x.flatten(1)[:1], r"puts out \[1, 48\] of"),
        (lambda x: x.flatten(1) @ torch.ones(3, 3), r"fails on images of shape \[2, 3, 4, 4\] \(RuntimeError"),
        (lambda x: x.flatten(1).log(), r"logits of the image at position 3 are no numbers \(nan\)"),
    ],
)
def test_a_network_that_predicts_nothing_is_refused(function, sentence):
    x = torch.ones(5, 3, 4, 4)
    x[3] = -1
    split = images.Labelled(torch.zeros(5, dtype=torch.long), x.__getitem__)
    with pytest.raises(BadInputError, match=sentence):
        models.predict(Odd(function), split, batch_size=2)


def test_infinite_logits_are_logits():
    split = images.Labelled(torch.zeros(2, dtype=torch.long), torch.zeros(2, 3).__getitem__)
    assert (models.predict(Odd(torch.log), split) == -torch.inf).all()


def test_predictions_that_memory_cannot_hold_are_refused(monkeypatch):
    split = images.Labelled(torch.zeros(5, dtype=torch.long), torch.zeros(5, 3).__getitem__)
    monkeypatch.setattr("kanlib.memory.memory", lambda: 50)
    with pytest.raises(BadInputError, match="logits of 5 images take 60 bytes"):
        models.predict(Odd(torch.exp), split, batch_size=2)


def test_predictions_that_run_out_of_memory_ask_for_a_smaller_batch():
    def full(x):
        raise torch.OutOfMemoryError("CUDA out of memory")

    split = images.Labelled(torch.zeros(5, dtype=torch.long), torch.zeros(5, 3).__getitem__)
    with pytest.raises(BadInputError, match="set batch_size to 50"):
        models.predict(Odd(full), split)
