from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.inception import InceptionOutputs

from kanlib.errors import BadInputError
from kanlib.networks.outputs import OUTPUT_FUNCTIONS, answered, centred, logits_of, margin, reading, values


def test_output_functions_are_what_they_say():
    logits = np.array([[1.0, -2.0, 0.5], [3.0, 3.5, -1.0]])
    labels = [0, 2]
    prob = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    true = {
        "margin": [1.0 - 0.5, -1.0 - 3.5],
        "logit": [1.0, -1.0],
        "prob": [prob[0, 0], prob[1, 2]],
        "log_prob": np.log([prob[0, 0], prob[1, 2]]),
        "loss": -np.log([prob[0, 0], prob[1, 2]]),
    }
    assert OUTPUT_FUNCTIONS.keys() == true.keys()
    for name, f in OUTPUT_FUNCTIONS.items():
        np.testing.assert_allclose(f(torch.tensor(logits), torch.tensor(labels)), true[name], rtol=1e-12)


def test_output_functions_take_any_leading_shape():
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[0, 1, 2], [3, 0, 1]])
    for f in OUTPUT_FUNCTIONS.values():
        whole = f(logits, labels)
        assert whole.shape == (2, 3)
        torch.testing.assert_close(whole[1, 2], f(logits[1, 2], labels[1, 2]))


def test_the_margin_is_positive_where_the_class_is_right():
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 4
    assert torch.equal(margin(logits, labels) > 0, logits.argmax(1) == labels)


def test_outputs_are_centred_by_the_clean_one():
    out = torch.tensor([[1.0, 2.0], [5.0, 7.0]])
    assert centred(out, torch.tensor([1.0, 5.0])).tolist() == [[0, 1], [0, 2]]


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_an_output_that_is_not_finite_is_refused_by_example_and_mask(value):
    out = torch.zeros(2, 3)
    out[1, 2] = value
    with pytest.raises(BadInputError, match=r"response of example 2 to mask 3 is .*, expected a finite number"):
        centred(out, torch.zeros(2))


class Answer(nn.Module):
    """Answers to anything with what it was given, or raises it."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def forward(self, x):
        if isinstance(self.found, BaseException):
            raise self.found
        return self.found


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (AssertionError("Input height (32) doesn't match model (224)."), r"\(AssertionError: Input height \(32\)"),
        (ValueError("Expected more than 1 value per channel"), r"\(ValueError: Expected more than 1 value"),
        (KeyError("x" * 5000), r"\(KeyError: 'xxx.*…\)"),
        (SystemExit(3), r"\(SystemExit: 3\)"),
    ],
)
def test_a_network_that_fails_is_said_with_its_cause_and_what_to_set(error, sentence):
    with pytest.raises(
        BadInputError, match=rf"fails on images of shape \[2, 3\] {sentence}.*; set image_size"
    ) as caught:
        answered(Answer(error), torch.zeros(2, 3), 2)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_a_network_that_runs_out_of_memory_asks_for_a_smaller_batch(error):
    with pytest.raises(BadInputError, match="ran out of memory with batch_size 8; set batch_size to 4"):
        answered(Answer(error), torch.zeros(8, 3), 8)


def test_a_sentence_of_ours_comes_through_a_network_as_it_is():
    with pytest.raises(BadInputError, match=r"^mine$"):
        answered(Answer(BadInputError("mine")), torch.zeros(2, 3), 2)


def test_images_stay_as_they_are_where_a_network_works_on_them():
    x = torch.ones(2, 3)
    assert torch.equal(answered(nn.ReLU(inplace=True), -x, 2), torch.zeros(2, 3))
    assert torch.equal(answered(nn.Hardtanh(2, 3, inplace=True), x, 2), 2 * x)
    assert torch.equal(x, torch.ones(2, 3))


@pytest.mark.parametrize(
    ("found", "what"),
    [
        ((torch.zeros(3, 5), None), "tuple"),
        ({"logits": torch.zeros(4, 3, 8, 8), "other": torch.zeros(4, 3)}, "dict"),
        ([], "list"),
        (None, "NoneType"),
        (range(2), "range"),
        (torch.zeros(4, 0), r"\[4, 0\] of torch\.float32"),
        # Rows that no gate reached are one for all masks, and stand before those that one did.
        ((torch.zeros(1, 3), torch.zeros(4, 3)), r"\[1, 3\] of torch\.float32 at \[0\]"),
        (torch.zeros(4, 3, 8, 8), r"\[4, 3, 8, 8\] of torch\.float32"),
        (torch.zeros(3), r"\[3\] of torch\.float32"),
        (torch.zeros(()), r"\[\] of torch\.float32"),
        (torch.zeros(5, 3), r"\[5, 3\] of torch\.float32"),
        (torch.zeros(4, 3).long(), r"\[4, 3\] of torch\.int64"),
        (torch.zeros(4, 3).cfloat(), r"\[4, 3\] of torch\.complex64"),
    ],
)
def test_what_is_no_logits_is_refused(found, what):
    sentence = rf"puts out {what} for 4 images, expected floating logits \[4, classes\]; let the factory return"
    with pytest.raises(BadInputError, match=sentence):
        logits_of(found, 4)


def test_logits_come_through_as_they_are():
    found = torch.zeros(4, 3, dtype=torch.bfloat16)
    assert logits_of(found, 4, torch.tensor([0, 2, 1, 0])) is found
    assert reading(found, 4) == []


LOGITS = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
MAP, FEATURES = torch.zeros(4, 3, 8, 8), torch.ones(4, 7)


class Bag:
    def __init__(self, **held):
        self.__dict__.update(held)


@dataclass(slots=True)
class Output:
    hidden: torch.Tensor
    logits: torch.Tensor


@pytest.mark.parametrize(
    ("found", "place"),
    [
        ((LOGITS, None), "[0]"),
        ([MAP, LOGITS, FEATURES], "[1]"),
        ((torch.tensor(0.5), LOGITS), "[1]"),
        ((torch.ones(4), LOGITS), "[1]"),
        ((torch.ones(4, 2).long(), LOGITS), "[1]"),
        ({"loss": None, "features": FEATURES, "logits": LOGITS}, "['logits']"),
        (OrderedDict(aux=MAP, out=LOGITS), "['out']"),
        (InceptionOutputs(LOGITS, FEATURES), ".logits"),
        (Output(FEATURES, LOGITS), ".logits"),
        (Bag(hidden=FEATURES, logits=LOGITS), ".logits"),
        (Bag(scores=LOGITS, hidden=FEATURES), ".scores"),
    ],
)
def test_logits_are_found_in_what_holds_them_and_it_is_said_where(found, place):
    assert logits_of(found, 4) is LOGITS
    name = type(found).__name__
    assert reading(found, 4) == [
        f"Of the {name} that the network puts out, {place} is taken for the logits, 3 an image."
    ]


def test_one_logit_tells_two_classes_apart_by_its_sign():
    z, labels = torch.tensor([-2.0, 0.5, 3.0, -0.1]), torch.tensor([0, 1, 0, 1])
    sign = torch.tensor([-1.0, 1, -1, 1])
    loss = nn.functional.binary_cross_entropy_with_logits(z, labels.float(), reduction="none")
    true = {
        "margin": sign * z,
        "logit": z * labels,
        "prob": (sign * z).sigmoid(),
        "log_prob": -loss,
        "loss": loss,
    }
    for found in (z, z[:, None], (z, None), {"logits": z[:, None], "hidden": FEATURES}):
        for name, value in zip(true, values(found, labels, list(true)), strict=True):
            torch.testing.assert_close(value, true[name])
        assert "one logit z an image, which is read as the logits 0 and z" in reading(found, 4)[-1]
    with pytest.raises(BadInputError, match="has label 2, but the network has logits for 0 to 1"):
        logits_of(z, 4, torch.tensor([0, 1, 2, 0]))


def test_an_output_function_of_the_users_own_is_given_all_that_the_network_puts_out():
    labels = torch.tensor([0, 2, 1, 0])
    found = {"logits": LOGITS, "map": MAP + LOGITS[:, :, None, None]}

    def at_the_centre(output, labels):
        return output["map"][torch.arange(len(labels)), labels, 4, 4]

    own, logit = values(found, labels, [at_the_centre, "logit"])
    assert torch.equal(own, logit)
    assert torch.equal(values({"map": found["map"]}, labels, [at_the_centre])[0], own)


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (
            lambda output, labels: output.no,
            r"fails on what the network puts out \(.*expected a number for each of 4",
        ),
        (lambda output: output, r"fails on what the network puts out \(TypeError"),
        (lambda output, labels: exit(), r"fails on what the network puts out \(SystemExit"),
        (lambda output, labels: output, r"gives \[4, 3\] of torch\.float32 for 4 images, expected .* \[4\]"),
        (lambda output, labels: output.sum(), r"gives \[\] of torch\.float32 for 4 images"),
        (lambda output, labels: output.argmax(1), r"gives \[4\] of torch\.int64 for 4 images"),
        (lambda output, labels: 3.0, "gives float for 4 images"),
    ],
)
def test_an_output_function_that_gives_no_numbers_is_refused(function, sentence):
    with pytest.raises(BadInputError, match=sentence):
        values(LOGITS, torch.zeros(4).long(), [function])


@pytest.mark.parametrize(("label", "classes"), [(3, 3), (-1, 3)])
def test_a_label_without_a_logit_is_refused(label, classes):
    with pytest.raises(
        BadInputError, match=rf"has label {label}, but the network has logits for 0 to {classes - 1}"
    ):
        logits_of(torch.zeros(2, classes), 2, torch.tensor([0, label]))
