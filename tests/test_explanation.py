"""``kanlib.explain`` against the steps that it takes, what it gives to a user, and what it refuses."""

import io
import re
import subprocess
import sys
from contextlib import redirect_stdout

import numpy as np
import pytest
import sympy
import torch
from torch import nn

import kanlib
from kanlib import metrics, store
from kanlib.attribution import SURROGATES, bias_corrected, of_symbolic, resampled, smoothed_of_surrogate
from kanlib.attribution.certainty import significance
from kanlib.errors import BadInputError
from kanlib.explaining import KNOBS, _enough, _highest
from kanlib.kan import fit
from kanlib.masks import Split, gaussian, subsets
from kanlib.networks import Probe
from kanlib.setups import Surrogate, Symbolic
from kanlib.symbolic import Batch, latex_one_sum, replace_edges
from tests.helpers import randn

FEW_FITS = {"hidden": [2], "grid": 3, "decays": [0.1], "restarts": 2, "steps": 60}
FEW = FEW_FITS | {"n_fit": 300, "n_validation": 60, "n_test": 70, "max_degree": 4, "refits": 3, "seed": 5}
NAMES = ["1", "2", "3"]
LABELS = [4, 7]


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.Tanh())

    def forward(self, x):
        return x + self.inner(x)


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        blocks = [Block(4) for _ in NAMES]
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), *blocks, nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10)
        ).eval()


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture(scope="module")
def images():
    return randn(2, 1, 8, 8, dtype=torch.float32)


@pytest.fixture(scope="module")
def both(model, images):
    return kanlib.explain(model, images, LABELS, NAMES, progress=False, **FEW)


@pytest.fixture(scope="module")
def one(both):
    return both[0]


def test_it_is_what_the_notebooks_steps_give(both, model, images):
    probe = Probe(model, NAMES, images, torch.tensor(LABELS))
    splits = []
    for name in ("fit", "validation", "test"):
        masks = gaussian(FEW[f"n_{name}"], 3, 1.0, 5, name)
        splits.append(Split(masks, probe.responses(masks, None)[0]))
    data, validation, test = splits
    for ours, true in zip((both.fit, both.validation, both.test), splits, strict=True):
        assert torch.equal(ours.masks, true.masks)
        assert torch.equal(ours.responses, true.responses)
    knobs = Surrogate(seed=5, **FEW_FITS)
    kan = fit(data, validation, knobs, progress=False).kan
    assert torch.equal(both.predict(test.masks), kan(test.masks))
    forms = replace_edges(kan, data.masks, Symbolic(seed=5, max_degree=4))
    at_rest = torch.stack([of_symbolic(form, 3)[1] for form in forms])
    level, _ = smoothed_of_surrogate(kan, 3, 1.0, 3, seed=5)
    averaged = bias_corrected(level, kan, data, 3)
    samples = resampled(data, validation, knobs, 3, n=3, seed=5)
    orders = torch.tensor([len(s) for s in subsets(3, 3)])
    for order, table in ((1, both.effects), (2, both.pairs), (3, both.triples)):
        expected = {"at_rest": at_rest, "averaged": averaged}
        expected |= {"at_rest_error": samples[0].std(0), "averaged_error": samples[1].std(0)}
        expected["p"] = significance(averaged, samples[1])[1]
        assert set(table) == set(expected)
        for name, values in expected.items():
            assert table[name].tolist() == values[:, orders == order].flatten().tolist()
    predicted = {
        "linear": SURROGATES["linear"](knobs).fit(data, validation).predict(test.masks),
        "kan": kan(test.masks),
        "symbolic": Batch(forms)(test.masks),
    }
    scores = metrics.scores(predicted, test.responses)
    for row in scores.itertuples():
        ours = both.quality.loc[row.example, metrics.TITLES[row.surrogate]]
        assert ours["pearson"] == pytest.approx(row.pearson, abs=1e-9)
        assert ours["r2"] == pytest.approx(1 - row.normalised_mse, abs=1e-9)


def test_tables_of_one_example_are_looked_up_by_components(both, one):
    assert one.effects.index.tolist() == NAMES
    assert one.pairs.loc[("1", "3"), "averaged"] == both.pairs.loc[(1, "1", "3"), "averaged"]
    assert one.triples.index.tolist() == [("1", "2", "3")]
    assert one.quality.index.tolist() == ["COAR (linear)", "KAN", "symbolic", "formula"]
    assert both[-1].effects["at_rest"].tolist() == both.effects.loc[2, "at_rest"].tolist()
    assert [len(found) for found in both] == [1, 1]


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 1, 8, 8)])
def test_an_example_may_come_without_its_batch(model, images, one, shape):
    alone = kanlib.explain(model, images[0].view(shape), 4, NAMES, progress=False, **FEW | {"refits": 0})
    assert torch.equal(alone.fit.responses, one.fit.responses)
    assert list(alone.effects) == ["at_rest", "averaged"]
    np.testing.assert_allclose(alone.effects["averaged"], one.effects["averaged"], rtol=0.02)


def test_a_removal_is_asked_of_the_network_too(one, model, images):
    with torch.no_grad():
        hidden = model[0](images[:1])
        without = model[4:](model[2](hidden))[0]
        intact = model(images[:1])[0]

    def margin(logits):
        return float(logits[4] - torch.cat([logits[:4], logits[5:]]).max())

    (row,) = one.what_if(["1", 2]).to_dict("records")
    assert row["at rest"] == pytest.approx(margin(intact), abs=1e-5)
    assert row["network"] == pytest.approx(margin(without) - margin(intact), abs=1e-5)
    assert row["KAN"] == pytest.approx(float(one.predict([-1, 0, -1])), abs=1e-6)
    assert row["COAR (linear)"] == pytest.approx(-float(one.linear[0, 0] + one.linear[0, 2]), abs=1e-6)
    assert one.what_if("2").equals(one.what_if([1]))


def test_the_formula_is_what_sympy_and_latex_say(one):
    masks = one.test.masks
    symbols = sympy.symbols("sigma_1:4", real=True)
    written = sympy.lambdify([symbols], one.formula.expression)
    np.testing.assert_allclose([written(row) for row in masks.double().tolist()], one.formula(masks), atol=1e-9)
    assert one.latex == latex_one_sum(one.formula)
    scored = metrics.pearson(one.formula(masks)[None], one.test.responses)
    assert one.quality.loc["formula", "pearson"] == pytest.approx(float(scored))


def test_it_is_asked_about_masks_of_any_kind(both, one):
    masks = one.test.masks[:5]
    assert both.predict(masks).shape == (2, 5)
    assert both.predict(masks[0]).shape == (2,)
    assert torch.equal(one.predict(masks.double().numpy()), one.predict(masks.tolist()))
    assert torch.equal(one.predict(masks[0]), one.predict(masks[:1])[0])
    assert one.predict([0.0, 0.0, 0.0]).abs() < 1e-5


def test_the_chart_shows_the_largest(one):
    pytest.importorskip("altair", reason="needs the extra book")
    drawn = one.plot().to_dict()
    (rows,) = drawn["datasets"].values()
    assert len(rows) == 7
    sizes = [abs(row["L"]) for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    of = {row["components"]: row["L"] for row in rows}
    assert of["1 · 3"] == pytest.approx(one.pairs.loc[("1", "3"), "averaged"], abs=1e-4)


def test_a_notebook_shows_it(both, one):
    shown = one._repr_html_()
    assert shown.count("<table") == 3
    assert r"\hat g" in shown
    assert both._repr_html_().count("<table") == 2
    assert repr(both) == "<Explanation: examples 2, components 3, masks 430>"


@pytest.mark.usefixtures("same_global_rng")
def test_the_network_and_the_world_stay_as_they_were(images, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    model = network()
    model[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    asking = [weight.requires_grad for weight in model.parameters()]
    x = images[0].clone()
    found = kanlib.explain(model, x, 4, NAMES, progress=False, **FEW)
    found.what_if(["1"])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert [weight.requires_grad for weight in model.parameters()] == asking
    assert not any(
        module.training or module._forward_hooks or module._forward_pre_hooks for module in model.modules()
    )
    assert torch.equal(x, images[0])
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().err == ""


def test_bars_show_how_far_it_is(model, images, capfd):
    kanlib.explain(model, images[0], 4, NAMES, **FEW | {"refits": 2})
    said = capfd.readouterr().err
    assert all(name in said for name in ("fit", "validation", "test", "KAN fits", "closed forms", "resamples"))


def test_without_a_number_of_masks_there_are_as_many_as_parameters(model, images):
    few = {name: value for name, value in FEW.items() if name != "n_fit"} | {"refits": 0}
    found = kanlib.explain(model, images[0], 4, NAMES, progress=False, **few)
    parameters = sum(coef[0].numel() for coef in found.kan.coefs) + 1
    assert 0 <= len(found.fit.masks) - parameters < 100
    assert _enough(8, Surrogate()) == 1700


@pytest.mark.parametrize(("m", "order"), [(1, 1), (2, 2), (8, 3), (31, 3), (32, 2), (99, 2), (100, 1)])
def test_the_order_falls_where_there_would_be_too_many_coefficients(m, order):
    assert _highest(m, 3) == order
    assert order == 1 or len(subsets(m, order)) <= 5000


def test_every_knob_that_it_takes_is_one_of_its_stage():
    assert {
        name for kind, names in KNOBS.items() for name in names.split() if name not in kind.model_fields
    } == set()


class Segmenting(nn.Module):
    """Dense outputs, in a dict."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return {"dense": self.inner(x)}


def test_outputs_of_any_kind_are_read_by_a_function_of_ones_own(model, images):
    def largest(output, labels):
        return output["dense"].flatten(1).amax(1) + labels

    body = model[:4]
    names = [f"inner.{name}" for name in NAMES]
    few = FEW | {"refits": 0}
    found = kanlib.explain(
        Segmenting(body).eval(), images[0], 2, names, output_function=largest, progress=False, **few
    )
    with torch.no_grad():
        intact, without = body(images[:1]).max(), body[:3](images[:1]).max()
    assert float(found.clean) == pytest.approx(float(intact) + 2, abs=1e-5)
    moved = without - intact
    assert found.what_if("inner.3")["network"].item() == pytest.approx(float(moved), abs=1e-5)


def test_what_was_adapted_of_a_network_is_said(images):
    class Pair(nn.Sequential):
        def forward(self, x):
            return super().forward(x), x

    given = {"x": images[0].half(), "label": 4, "components": NAMES, "progress": False}
    found = kanlib.explain(Pair(*network()).half().eval(), **given, **FEW | {"refits": 0})
    assert len(found.probe.adapted) == 2
    assert all(sentence.split()[0] in found._repr_html_() for sentence in found.probe.adapted)


def broken(model):
    model[6].weight.data[0, 0] = torch.nan
    return model


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": lambda m: m.train()}, "the network is in training mode, expected evaluation mode"),
        ({"model": lambda m: (m[4].train(), m)[1]}, "module 4 is in training mode"),
        ({"model": broken}, "expected a finite number; check the model's weights"),
        ({"model": lambda m: m.forward}, "expected a torch.nn.Module"),
        ({"x": np.zeros((1, 8, 8))}, "x is a ndarray, expected a floating tensor"),
        ({"x": torch.zeros(1, 8, 8, dtype=torch.uint8)}, "x is a tensor of torch.uint8"),
        ({"x": torch.zeros(1, 9, 9)}, "the network fails on images of shape [1, 1, 9, 9]"),
        ({"x": torch.zeros(2, 1, 8, 8)}, "expected the number of a class for each example"),
        ({"label": [4, 4]}, "expected the number of a class for each example"),
        ({"label": "seven"}, "label is 'seven' for x of shape [1, 8, 8]"),
        ({"label": 1.5}, "label is 1.5"),
        ({"label": 10}, "label 10, but the network has logits for 0 to 9"),
        ({"components": "layer*"}, "components pattern layer* matches no module"),
        ({"components": ["1", "1.inner.0", "9"]}, "components pattern 9 matches no module"),
        ({"output_function": "margins"}, "output_function is 'margins' in explain"),
        ({"gird": 3}, "knob gird is unknown to explain; did you mean grid?"),
        ({"setup": "digits_resnet18"}, "knob setup is unknown to explain"),
        ({"n_fit": 0}, "n_fit is 0 in explain"),
        ({"max_order": 4}, "max_order is 4, expected 1 to 3 for 3 components"),
        ({"components": ["0"], "gate_site": "branch"}, "set gate_site to output"),
    ],
)
def test_what_it_cannot_explain_is_refused_in_one_sentence(images, change, sentence):
    given = {"x": images[0], "label": 4, "components": NAMES} | {k: v for k, v in change.items() if k != "model"}
    model = change.get("model", lambda m: m)(network())
    with pytest.raises(BadInputError, match=re.escape(sentence)):
        kanlib.explain(model, progress=False, **FEW | given)


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda e: e[0].what_if(["4"]), "component 4 is unknown to this explanation"),
        (lambda e: e[0].what_if(3), "component 3 does not exist, expected a name or a number from 0 to 2"),
        (lambda e: e[0].predict([0.0, 1.0]), "sigma is [0.0, 1.0], expected numbers [N, 3] or [3]"),
        (lambda e: e[0].predict("all"), "sigma is 'all'"),
        (lambda e: e.coefficients(4), "there are no coefficients of order 4, expected 1 to 3"),
        (lambda e: e.formula, "formula is of one example, and here are 2"),
        (lambda e: e.latex, "latex is of one example"),
        (lambda e: e.plot(), "plot is of one example"),
    ],
)
def test_what_it_has_no_answer_to_is_one_sentence(both, ask, sentence):
    with pytest.raises(BadInputError, match=re.escape(sentence)):
        ask(both)


def test_without_altair_there_is_no_chart(one, monkeypatch):
    monkeypatch.setitem(sys.modules, "kanlib.coefficient_charts", None)
    with pytest.raises(BadInputError, match="is not installed, which plot needs; run pip install"):
        one.plot()


def test_the_library_is_loaded_when_it_is_asked_for():
    code = "import sys, kanlib; assert 'torch' not in sys.modules; kanlib.explain; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="explane"):
        kanlib.explane  # noqa: B018


def blocks_of(page):
    """Code of the page, each with the output that stands below it."""
    return re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", page, re.DOTALL)


NUMBER = re.compile(r"-?\d+\.\d+")


@pytest.mark.slow
def test_the_page_of_the_book_shows_what_its_code_prints():
    """To what rounding makes of training and fits elsewhere."""
    page = (store.ROOT / "book" / "explain.md").read_text(encoding="utf8")
    namespace: dict = {}
    found = blocks_of(page)
    assert len(found) == page.count("```python") >= 6
    for code, shown in found:
        with redirect_stdout(io.StringIO()) as printed:
            exec(code, namespace)  # noqa: S102
        ours, theirs = (re.sub(r"\s+", " ", NUMBER.sub("#", text)) for text in (printed.getvalue(), shown))
        assert ours == theirs
        numbers = [[float(n) for n in NUMBER.findall(text)] for text in (printed.getvalue(), shown)]
        assert numbers[0] == pytest.approx(numbers[1], rel=0.1, abs=0.15)
