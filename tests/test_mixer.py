import json
import math
import re

import pytest
import sympy
import torch

from kanlib import mixer, store
from kanlib.errors import BadInputError
from kanlib.setups import Symbolic
from kanlib.store import Artifact
from kanlib.symbolic import SymbolicKAN, replace_edges
from kanlib.symbolic.closed_forms import ClosedForm, X, constants
from tests.helpers import symbolic_kan


def content(panel):
    return json.loads(re.search(r"<script[^>]*>(.*)</script>", panel.data, re.DOTALL).group(1))


def evaluated(layers, sigma):
    """The page's expressions, with Python in the place of JavaScript: they share operators and names."""
    functions = {name: getattr(math, name) for name in ("exp", "log", "pow", "sin", "cos")}
    values, letter = sigma, "sigma"
    for outputs in layers:
        inside = {f"{letter}_{i}": value for i, value in enumerate(values, start=1)}
        values, letter = [eval(text, functions | inside) for text in outputs], "h"  # noqa: S307 (our own text)
    return values[0]


def recording(fitted):
    splits = {"fit": fitted.fit, "test": fitted.test}
    tensors = {f"masks.{name}": split.masks for name, split in splits.items()}
    tensors |= {f"responses.{name}": split.responses for name, split in splits.items()}
    record = {"names": ["a", "b", "</script>"], "label_names": ["cat", "dog"], "parameters": {"scale": 1.0}}
    return Artifact(tensors, record, "")


def closed(fitted, **changes):
    return replace_edges(fitted.kan, fitted.fit.masks, Symbolic(**changes))


def test_a_page_holds_the_closed_forms_to_the_last_digit(fitted):
    symbolic, masks = closed(fitted, max_degree=5), fitted.test.masks[:20]
    page = content(mixer.panel(symbolic, recording(fitted)))
    for one, example in zip(symbolic, page["examples"], strict=True):
        true = one(masks)
        found = [evaluated(example["layers"], row) for row in masks.double().tolist()]
        torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), true, rtol=1e-12, atol=1e-12)


def test_closed_forms_of_something_else_are_refused(fitted):
    symbolic, recorded = closed(fitted, max_degree=3), recording(fitted)
    for others in (symbolic[:1], [*symbolic, symbolic[0]], [symbolic_kan([[[X]]], 0.0)] * 2, []):
        with pytest.raises(BadInputError, match=r"there are \d closed forms of .* components, expected 2 of 3"):
            mixer.panel(others, recorded)


@pytest.mark.parametrize("split", ["fit", "test"])
def test_a_recording_without_masks_is_refused(fitted, split):
    recorded = recording(fitted)
    for name, n in ((f"masks.{split}", 0), (f"responses.{split}", 1)):
        recorded.content[name] = recorded.content[name].narrow(n, 0, 0)
    with pytest.raises(BadInputError, match="is not what kanlib writes: it holds no fit masks, or no test masks"):
        mixer.panel(closed(fitted, max_degree=3), recorded)


def test_a_closed_form_beyond_fp64_is_refused(fitted):
    endless = symbolic_kan([[[sympy.Float(1e308) * X], [X], [X]], [[sympy.exp(X)]]], 0.0)
    endless.biases[0][0] = 1e308
    large = ClosedForm.of(sympy.exp(X + 600))
    forms = SymbolicKAN([[[large], [large], [large]], [[large]]], [[0.0], [0.0]])
    assert content(mixer.panel([forms, endless], recording(fitted)))
    larger = ClosedForm(sympy.exp(X + constants(1)[0]), (800.0,))
    with pytest.raises(BadInputError, match="a closed form holds "):
        mixer.panel([SymbolicKAN([[[larger]] * 3], [[0.0]])] * 2, recording(fitted))


def test_a_browser_evaluates_nothing_but_expressions(fitted):
    script = (store.ROOT / "book/_ext/mixer.js").read_text(encoding="utf8")
    tokens = re.compile(re.search(r"const TOKENS = /(.*)/g;", script)[1].replace(r"\/", "/"))
    page = content(mixer.panel(closed(fitted, max_degree=5), recording(fitted)))
    ours = [text for example in page["examples"] for layer in example["layers"] for text in layer]
    assert [tokens.sub("", text) for text in ours] == [""] * len(ours)
    for text in (
        "alert(1)",
        "sigma_1;x",
        "[]",
        "a",
        "sigma_1.constructor",
        "`x`",
        "eval(",
        "// sigma_1",
        "/* sigma_1",
        "sigma_1\n",
        "\N{FULLWIDTH DIGIT ONE}",
        "exp (",
        "Math.exp(",
        "==",
        "'a'",
        "exp",
        "=>",
        "\\u0061",
    ):
        assert tokens.sub("", f"(1.5 * {text})")


def test_the_linear_model_is_least_squares(fitted):
    page = content(mixer.panel(closed(fitted), recording(fitted)))
    fit = fitted.fit
    x = torch.cat([fit.masks, torch.ones(len(fit.masks), 1)], 1).double()
    solution = torch.linalg.lstsq(x, fit.responses.double().T).solution
    for weights, example in zip(solution.T, page["examples"], strict=True):
        found = torch.tensor([*example["weights"], example["intercept"]], dtype=torch.float64)
        torch.testing.assert_close(found, weights, rtol=1e-5, atol=1e-5)


def test_recorded_responses_belong_to_their_masks(fitted):
    page = content(mixer.panel(closed(fitted), recording(fitted)))
    masks = torch.tensor(page["masks"])
    for true, example in zip(fitted.true(masks), page["examples"], strict=True):
        torch.testing.assert_close(torch.tensor(example["responses"]), true, rtol=0, atol=0.01)


def test_no_name_can_close_the_script(fitted):
    panel = mixer.panel(closed(fitted), recording(fitted))
    assert panel.data.count("</script>") == 1
    assert content(panel)["components"][2] == "</script>"


class Known:
    """Answers as a network does, with a function that is known."""

    components, label_names = ["a", "b", "c"], ["cat", "dog"]

    def __init__(self, true):
        self.true = true

    def responses(self, split, sigma, examples=slice(None)):
        return self.true(sigma)[examples], torch.zeros(2)[examples]


def test_in_a_notebook_form_and_network_answer_to_every_move(fitted):
    symbolic = closed(fitted)
    box = mixer.live(symbolic, Known(fitted.true))
    example, *sliders, answer = box.children
    assert [slider.description for slider in sliders] == ["a", "b", "c"]

    def shown():
        return [float(number) for number in re.findall(r"-?\d+\.\d+", answer.value)]

    for e, sigma in ((0, [0.0, 0.0, 0.0]), (0, [0.5, -1.0, 0.25]), (1, [0.5, -1.0, 1.5])):
        example.value = e
        for slider, value in zip(sliders, sigma, strict=True):
            slider.value = value
        at = torch.tensor([sigma])
        assert shown() == pytest.approx([symbolic[e](at).item(), fitted.true(at)[e].item()], abs=1e-3)
