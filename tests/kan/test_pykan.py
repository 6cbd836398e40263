import random
from pathlib import Path

import numpy as np
import pytest
import torch

from kanlib.errors import BadInputError
from kanlib.kan import pykan
from kanlib.masks import Split
from tests.helpers import SHAPES, knobs, randn, some_kan

reference = pytest.importorskip("kan", reason="pykan comes with the extra `paper`")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """No test may write to the project; and none of ours may write at all, or move a global random state."""
    monkeypatch.chdir(tmp_path)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    yield
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert random.getstate() == states[2]
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("order", [3, 5])
def test_pykan_computes_what_we_do_and_back(shape, order):
    net, x = some_kan(shape, n=2, order=order, dtype=torch.float32), randn(50, 3, dtype=torch.float32)
    models = pykan.to_pykan(net)
    with torch.no_grad():
        theirs = torch.stack([model(x)[:, 0] for model in models])
    torch.testing.assert_close(theirs, net(x), atol=1e-5, rtol=1e-5)
    again = pykan.from_pykan(models)
    assert (again.order, again.widths) == (net.order, net.widths)
    torch.testing.assert_close(again(x), net(x), atol=1e-5, rtol=1e-5)


def trained(width=(3, 2, 1), **settings):
    """A pykan model whose grids follow its data, as pykan makes them."""
    with pykan.quietly():
        model = reference.MultKAN(list(width), grid=4, k=3, seed=3, auto_save=False, **settings)
        x = randn(200, 3, dtype=torch.float32)
        y = (x[:, :1] * x[:, 1:2]).tanh()
        model.fit({"train_input": x, "train_label": y, "test_input": x, "test_label": y}, steps=3, log=9)
    return model, x


def test_what_pykan_trained_is_read():
    model, x = trained(affine_trainable=False)
    with torch.no_grad():
        torch.testing.assert_close(pykan.from_pykan([model])(x)[0], model(x)[:, 0], atol=1e-5, rtol=1e-5)


def test_pruned_edges_are_read_as_zero():
    model, x = trained()
    model.act_fun[0].mask.data[1, 0] = 0
    with torch.no_grad():
        torch.testing.assert_close(pykan.from_pykan([model])(x)[0], model(x)[:, 0], atol=1e-5, rtol=1e-5)
    assert (pykan.from_pykan([model]).coefs[0][0, 0, 1] == 0).all()


def test_pykans_tools_work_on_our_fits():
    net, x = some_kan(SHAPES[1], n=1, dtype=torch.float32), randn(50, 3, dtype=torch.float32)
    (model,) = pykan.to_pykan(net)
    with pykan.quietly():
        model(x)
        model.attribute()
        model.suggest_symbolic(0, 0, 0, verbose=False)
        model.fix_symbolic(0, 0, 0, "x^2", verbose=False, log_history=False)
        assert model(x).shape == (50, 1)
    assert model.node_scores[0].shape == (3,)


def test_what_a_kan_has_no_place_for_is_refused():
    def symbolic(model):
        model.symbolic_fun[0].mask.data[0, 0] = 1

    def biased(model):
        model.node_bias[0].data += 1

    def odd(model):
        model.act_fun[0].grid.data[:, 0] -= 1

    for change, words in ((symbolic, "symbolic edges"), (biased, "a bias inside"), (odd, "not evenly extended")):
        model = trained()[0]
        change(model)
        with pytest.raises(BadInputError, match=f"model 2 has .*{words}"):
            pykan.from_pykan([trained()[0], model])
    with pytest.raises(BadInputError, match="base function"):
        pykan.from_pykan([trained(base_fun="identity")[0]])


def test_products_are_refused():
    with pytest.raises(BadInputError, match="model 1 has products"):
        pykan.from_pykan([trained((3, [2, 1], 1))[0]])


def test_a_bias_of_the_output_is_the_kans_own():
    (model,) = pykan.to_pykan(some_kan(SHAPES[1], n=1, dtype=torch.float32))
    x = randn(50, 3, dtype=torch.float32)
    for bias in (model.subnode_bias[-1], model.node_bias[-1]):
        bias.data += 1
        model.node_scale[-1].data *= 2
        with torch.no_grad():
            torch.testing.assert_close(pykan.from_pykan([model])(x)[0], model(x)[:, 0], atol=1e-5, rtol=1e-5)


def test_models_of_different_shapes_are_refused():
    one, other = (pykan.to_pykan(some_kan(shape, n=1))[0] for shape in SHAPES[:2])
    with pytest.raises(BadInputError, match="differ in shape"):
        pykan.from_pykan([one, other])


def test_pykans_own_fit_learns_and_is_in_the_units_of_the_response():
    x = randn(200, 3, dtype=torch.float32)
    y = torch.stack([40 + 30 * (x[:, 0] * x[:, 1]), x[:, 2].tanh()])
    net = pykan.fit(Split(x, y), knobs(hidden=[2], grid=3, pykan_steps=8))
    assert ((net(x) - y).square().mean(1) < 0.3 * y.var(1)).all()
