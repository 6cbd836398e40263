import json
import math
import re

import pytest
import sympy
import torch

from kanlib import charts, mixer, store
from kanlib.errors import BadInputError
from kanlib.masks import Split, every_removal, pair_grid
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


class Known:
    """Answers as a network does, with a function that is known."""

    components, label_names = ["a", "b", "</script>"], ["cat", "dog"]
    made_from = Artifact({}, {}, "digest of the network")

    def __init__(self, true, images=None, pair=("</script>", "a")):
        self.true, self.images, self.pair = true, images, pair

    def responses(self, split, sigma, examples=slice(None)):
        return self.true(sigma)[examples], torch.zeros(2)[examples]

    def removals(self):
        sigma = every_removal(3)[:7]
        return Split(sigma, self.true(sigma))

    def grid(self):
        sigma = pair_grid(self.components, self.pair) if self.pair else torch.empty(0, 3)
        return Split(sigma, self.true(sigma))


def recording(fitted):
    splits = {"fit": fitted.fit, "test": fitted.test}
    tensors = {f"masks.{name}": split.masks for name, split in splits.items()}
    tensors |= {f"responses.{name}": split.responses for name, split in splits.items()}
    tensors["clean"] = torch.tensor([3.0, 0.5])
    record = {"names": Known.components, "label_names": Known.label_names, "parameters": {"scale": 1.0}}
    record["inputs"] = {"network": Known.made_from.hash}
    return Artifact(tensors, record, "")


def closed(fitted, **changes):
    return replace_edges(fitted.kan, fitted.fit.masks, Symbolic(**changes))


def test_a_page_holds_the_closed_forms_to_the_last_digit(fitted):
    symbolic, masks = closed(fitted, max_degree=5), fitted.test.masks[:20]
    page = content(mixer.panel(symbolic, recording(fitted), Known(fitted.true)))
    for one, example in zip(symbolic, page["examples"], strict=True):
        true = one(masks)
        found = [evaluated(example["layers"], row) for row in masks.double().tolist()]
        torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), true, rtol=1e-12, atol=1e-12)


def test_closed_forms_of_something_else_are_refused(fitted):
    symbolic, recorded = closed(fitted, max_degree=3), recording(fitted)
    for others in (symbolic[:1], [*symbolic, symbolic[0]], [symbolic_kan([[[X]]], 0.0)] * 2, []):
        with pytest.raises(BadInputError, match=r"there are \d closed forms of .* components, expected 2 of 3"):
            mixer.panel(others, recorded, Known(fitted.true))


@pytest.mark.parametrize("split", ["fit", "test"])
def test_a_recording_without_masks_is_refused(fitted, split):
    recorded = recording(fitted)
    for name, n in ((f"masks.{split}", 0), (f"responses.{split}", 1)):
        recorded.content[name] = recorded.content[name].narrow(n, 0, 0)
    with pytest.raises(BadInputError, match="is not what kanlib writes: it holds no fit masks, or no test masks"):
        mixer.panel(closed(fitted, max_degree=3), recorded, Known(fitted.true))


def test_a_closed_form_beyond_fp64_is_refused(fitted):
    endless = symbolic_kan([[[sympy.Float(1e308) * X], [X], [X]], [[sympy.exp(X)]]], 0.0)
    endless.biases[0][0] = 1e308
    large = ClosedForm.of(sympy.exp(X + 600))
    forms = SymbolicKAN([[[large], [large], [large]], [[large]]], [[0.0], [0.0]])
    assert content(mixer.panel([forms, endless], recording(fitted), Known(fitted.true)))
    larger = ClosedForm(sympy.exp(X + constants(1)[0]), (800.0,))
    with pytest.raises(BadInputError, match="a closed form holds "):
        mixer.panel([SymbolicKAN([[[larger]] * 3], [[0.0]])] * 2, recording(fitted), Known(fitted.true))


def test_a_browser_evaluates_nothing_but_expressions(fitted):
    script = (store.ROOT / "book/_ext/mixing.js").read_text(encoding="utf8")
    tokens = re.compile(re.search(r"const TOKENS = /(.*)/g;", script)[1].replace(r"\/", "/"))
    page = content(mixer.panel(closed(fitted, max_degree=5), recording(fitted), Known(fitted.true)))
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
    page = content(mixer.panel(closed(fitted), recording(fitted), Known(fitted.true)))
    fit = fitted.fit
    solution = torch.linalg.lstsq(fit.masks.double(), fit.responses.double().T).solution
    for weights, example in zip(solution.T, page["examples"], strict=True):
        found = torch.tensor(example["weights"], dtype=torch.float64)
        torch.testing.assert_close(found, weights, rtol=1e-5, atol=1e-5)


def test_recorded_responses_belong_to_their_masks(fitted):
    page = content(mixer.panel(closed(fitted), recording(fitted), Known(fitted.true)))
    masks = torch.tensor(page["masks"])
    for true, example in zip(fitted.true(masks), page["examples"], strict=True):
        torch.testing.assert_close(torch.tensor(example["responses"]), true, rtol=0, atol=0.01)


def test_true_answers_are_those_of_the_network_to_the_bit(fitted):
    page = content(mixer.panel(closed(fitted), recording(fitted), Known(fitted.true)))
    assert page["removed"] == ["000", "100", "010", "110", "001", "101", "011"]
    removed = -torch.tensor([[float(bit) for bit in one] for one in page["removed"]])
    found = torch.tensor([example["removed"] for example in page["examples"]])
    assert torch.equal(found, fitted.true(removed))
    assert [example["clean"] for example in page["examples"]] == [3.0, 0.5]
    assert page["output"] == "margin"


def test_the_story_has_the_grid_by_components_whichever_was_named_first(fitted):
    for pair in (("</script>", "a"), ("a", "</script>")):
        page = content(mixer.story(closed(fitted), recording(fitted), Known(fitted.true, pair=pair)))
        assert page["pair"] == [0, 2]
        steps = torch.tensor(page["steps"])
        assert steps.tolist() == [-2 + k / 4 for k in range(17)]
        sigma = torch.zeros(17, 17, 3)
        sigma[..., 0], sigma[..., 2] = steps[:, None], steps
        found = torch.tensor([example["grid"] for example in page["examples"]])
        assert torch.equal(found, fitted.true(sigma.view(-1, 3)))


def test_a_network_that_was_not_asked_on_a_grid_has_no_story(fitted):
    told = mixer.story(closed(fitted), recording(fitted), Known(fitted.true, pair=None))
    assert "was not asked on a grid" in told.data
    assert "<script" not in told.data


def test_images_are_shown_where_they_are_at_hand(fitted):
    images = torch.rand(2, 3, 4, 4)
    page = content(mixer.panel(closed(fitted), recording(fitted), Known(fitted.true, images)))
    assert [example["image"] for example in page["examples"]] == [charts.data_url(image) for image in images]
    page = content(mixer.panel(closed(fitted), recording(fitted), Known(fitted.true)))
    assert [example["image"] for example in page["examples"]] == [None, None]


@pytest.mark.parametrize("page", [mixer.panel, mixer.story])
def test_answers_of_another_network_are_refused(fitted, page):
    recorded = recording(fitted)
    recorded.record["inputs"]["network"] = "digest of another"
    with pytest.raises(
        BadInputError, match="not those of the network that is there now; run 01_perturbation again"
    ):
        page(closed(fitted), recorded, Known(fitted.true))


def test_no_name_can_close_the_script(fitted):
    panel = mixer.panel(closed(fitted), recording(fitted), Known(fitted.true))
    assert panel.data.count("</script>") == 1
    assert content(panel)["components"][2] == "</script>"


def test_in_a_notebook_form_and_network_answer_to_every_move(fitted):
    symbolic = closed(fitted)
    box = mixer.live(symbolic, Known(fitted.true))
    example, *sliders, answer = box.children
    assert [slider.description for slider in sliders] == Known.components

    def shown():
        return [float(number) for number in re.findall(r"-?\d+\.\d+", answer.value)]

    for e, sigma in ((0, [0.0, 0.0, 0.0]), (0, [0.5, -1.0, 0.25]), (1, [0.5, -1.0, 1.5])):
        example.value = e
        for slider, value in zip(sliders, sigma, strict=True):
            slider.value = value
        at = torch.tensor([sigma])
        assert shown() == pytest.approx([symbolic[e](at).item(), fitted.true(at)[e].item()], abs=1e-3)
