import numpy as np
import pytest
import torch

from kanlib.errors import BadInputError
from kanlib.networks.outputs import OUTPUT_FUNCTIONS, centred, margin


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
