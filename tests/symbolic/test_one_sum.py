import pytest
import sympy
import torch

from kanlib.kan import fit
from kanlib.masks import Split, gaussian
from kanlib.metrics import pearson
from kanlib.setups import Surrogate
from kanlib.symbolic import latex_one_sum
from kanlib.symbolic.closed_forms import ClosedForm, X, length
from kanlib.symbolic.one_sum import OUTER, OneSum, _groupings, shortest_of_all

C0, C1 = sympy.symbols("c_0 c_1", real=True)
FORMULA = OneSum(ClosedForm(C0 * sympy.exp(X), (13.0,)), ((0, 2), (1,)), (0.5, -0.25))
#: Each truth, and the form of Φ that is it.
TRUTHS = {
    "exponential": (lambda s: 4 * torch.expm1(0.6 * (s[:, 0] + s[:, 2]) + 0.3 * s[:, 1]), OUTER[2]),
    "parabola": (
        lambda s: (s[:, 0] + s[:, 1] - 0.5 * s[:, 2]) * (s[:, 0] + s[:, 1] - 0.5 * s[:, 2] - 2),
        OUTER[1],
    ),
    "line": (lambda s: 3 * s[:, 0] - 2 * s[:, 1], OUTER[0]),
}


def split_of(truth, n, seed):
    masks = gaussian(n, 3, 1.0, seed, "test")
    return Split(masks, torch.stack([truth(masks.double())]).float())


def one_sum_of(data, validation):
    return fit(data, validation, Surrogate(hidden=[1], grid=3, restarts=1, decays=[0.1], steps=200)).kan


def written(formula, m):
    """The formula as sympy writes it, the sum in the place of u."""
    sigma = sympy.symbols(f"sigma_1:{m + 1}", real=True)
    u = sum(w * sum(sigma[i] for i in group) for w, group in zip(formula.weights, formula.groups, strict=True))
    (symbol,) = formula.of_sum.free_symbols
    return sympy.lambdify([sigma], formula.of_sum.xreplace({symbol: u}))


def test_it_is_what_it_writes_and_zero_at_rest():
    masks = gaussian(50, 4, 1.0, 0, "test")
    values = [float(written(FORMULA, 4)(row)) for row in masks.double().tolist()]
    torch.testing.assert_close(FORMULA(masks), torch.tensor(values, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    assert float(FORMULA(torch.zeros(1, 4))) == 0
    spelled = sympy.lambdify([sympy.symbols("sigma_1:4", real=True)], FORMULA.expression)
    assert [float(spelled(row[:3])) for row in masks.double().tolist()] == pytest.approx(values)


def test_its_length_is_that_of_what_is_read():
    # Sympy would multiply the sums out; a symbol for each weight keeps them together.
    a, b = sympy.symbols("a b")
    s1, s2, s3 = sympy.symbols("s_1 s_2 s_3")
    assert FORMULA.length == length(13 * sympy.exp(a * (s1 + s3) + b * s2) - 13)


@pytest.mark.parametrize("name", TRUTHS)
def test_a_formula_of_the_kind_is_found(name):
    truth, template = TRUTHS[name]
    data, validation, test = (split_of(truth, n, seed) for n, seed in ((400, 1), (100, 2), (200, 3)))
    example, formula = shortest_of_all(one_sum_of(data, validation), data, validation, 40)
    assert example == 0
    assert pearson(formula(test.masks)[None], test.responses) > 0.99999
    assert formula.outer.template == template or name == "line"
    assert formula.length <= 40


def test_of_several_examples_it_is_the_one_that_it_fits_best():
    data, validation = (
        Split(split.masks, torch.cat([torch.sin(9 * split.masks[:, :1]).T, split.responses]))
        for split in (split_of(TRUTHS["exponential"][0], n, seed) for n, seed in ((300, 1), (100, 2)))
    )
    example, formula = shortest_of_all(one_sum_of(data, validation), data, validation, 30)
    assert example == 1
    assert formula.groups == ((0, 2), (1,))


def test_shorter_than_the_shortest_is_the_shortest():
    data, validation = (split_of(TRUTHS["exponential"][0], n, seed) for n, seed in ((200, 1), (50, 2)))
    kan = one_sum_of(data, validation)
    shortest = shortest_of_all(kan, data, validation, 1)[1]
    assert shortest.outer.template == X
    assert len(shortest.groups) == 1


def test_weights_that_are_alike_are_shared():
    found = list(_groupings(torch.tensor([0.5, 0.1, 0.52, -0.4])))
    assert found[0] == ((0, 1, 2, 3),)
    assert found[1] == ((0, 1, 2), (3,))
    assert found[2] == ((0, 2), (1,), (3,))
    # Without the lightest.
    assert found[3:5] == [((0, 2, 3),), ((0, 2), (3,))]


def test_it_is_written_in_lines_that_a_phone_has_room_for():
    assert latex_one_sum(FORMULA) == (
        r"\begin{aligned}\hat g(\sigma) &= 13 e^{u} - 13 \\ "
        r"u &= 0.5 \left(\sigma_{1} + \sigma_{3}\right) \\ &\quad - 0.25 \sigma_{2}\end{aligned}"
    )
