import pytest
import sympy
import torch

from kanlib.errors import BadInputError
from kanlib.kan.splines import features
from kanlib.symbolic import tabulated as tabulated_module
from kanlib.symbolic.closed_forms import X
from kanlib.symbolic.tabulated import highest_from_to, highest_of_runs, tabulated
from tests.helpers import randn, some_kan, symbolic_kan


def of_forms():
    f = sympy.Float
    layer = [[sympy.exp(f(0.7) * X), X**3], [sympy.sin(4 * X), f(0.3) * X], [sympy.tanh(X), -X]]
    return [symbolic_kan([layer, [[X**2], [X]]], 0.5)] * 2, lambda x: torch.stack(
        [
            torch.stack([(0.7 * x[:, 0]).exp(), (4 * x[:, 1]).sin(), x[:, 2].tanh()], 1),
            torch.stack([x[:, 0] ** 3, 0.3 * x[:, 1], -x[:, 2]], 1),
        ],
        1,
    )


def of_splines(order):
    kan = some_kan((3, 2, 1), order=order)
    return kan, lambda x: kan.edge_values(0, x).transpose(1, 2)


@pytest.mark.parametrize(("surrogate", "edges"), [of_forms(), of_splines(3), of_splines(5)])
@pytest.mark.parametrize("straight", [True, False])
def test_edges_are_within_the_slack_of_what_was_sampled(surrogate, edges, straight):
    """At many points; a slack of a hundredth would be noticed, as edges do bend."""
    low, high = torch.full((2, 3), -2.5).double(), torch.full((2, 3), 2.0).double()
    table = tabulated(surrogate, 0, torch.arange(2), low, high)
    row = torch.arange(2).repeat(20)
    ends = (-2.5 + 4.5 * torch.rand(40, 3, 2, dtype=torch.float64)).sort(-1).values
    shares = torch.linspace(0, 1, 7, dtype=torch.float64)
    some = table.sample(row, ends[..., 0], ends[..., 1], shares, straight)
    fine = torch.linspace(0, 1, 241, dtype=torch.float64) if straight else shares
    x = (ends[..., :1] + (ends[..., 1:] - ends[..., :1]) * fine).clamp(ends[..., :1], ends[..., 1:])
    # Edges of all rows at all points; each row's own are taken.
    true = torch.stack([edges(x[[b, b]])[row[b]] for b in range(40)])
    place = fine * (len(shares) - 1)
    first = place.long().clamp_max(len(shares) - 2)
    share = place - first
    chord = some.values[..., first] * (1 - share) + some.values[..., first + 1] * share
    away = (true - chord).abs().amax(-1)
    assert (away <= some.slack + 1e-9).all()
    assert (away > 0.01 * some.slack).any()


def test_slopes_hold_on_the_whole_interval():
    kan, edges = of_splines(3)
    low, high = torch.full((2, 3), -2.5).double(), torch.full((2, 3), 2.0).double()
    table = tabulated(kan, 0, torch.arange(2), low, high)
    shares = torch.linspace(0, 1, 5, dtype=torch.float64)
    some = table.sample(torch.arange(2), low + 1, high - 1, shares)
    x = low[..., None] + 1 + 2.5 * torch.linspace(0, 1, 400, dtype=torch.float64)
    steepness = edges(x).diff(dim=-1) / (x[..., 1:] - x[..., :-1])[:, None]
    assert (steepness >= some.slope.low[..., None] - 1e-9).all()
    assert (steepness <= some.slope.high[..., None] + 1e-9).all()
    assert (steepness.amax(-1) > some.slope.high - 0.2).all()


def test_silu_bends_no_faster_than_is_counted_on():
    x = torch.linspace(-30, 30, 100_001, dtype=torch.float64)[None, None]
    grid = torch.linspace(40, 41, 3, dtype=torch.float64)[None, None]
    assert features(x, grid, 3, 3)[0, 0, 0].abs().max() < tabulated_module._THIRD_OF_SILU


def test_any_run_is_two_of_the_known_ones():
    values = randn(3, 5, 2, 13)
    runs = highest_of_runs(values)
    edge = torch.arange(10).view(1, 5, 2)
    for first, last in ((0, 12), (3, 3), (4, 9), (11, 12)):
        cell = torch.tensor([first, last]).expand(1, 2, 2)
        found = highest_from_to(runs[:, None], edge, cell)
        assert torch.equal(found[:, 0], values[..., first : last + 1].amax(-1))


def test_a_pole_where_a_box_may_lead_is_said():
    one = symbolic_kan([[[X]], [[1 / (X - sympy.Float(0.3))]]], 0.0)
    ends = torch.tensor([[-1.0]]).double(), torch.tensor([[1.0]]).double()
    with pytest.raises(BadInputError, match=r"edge of layer 2 of example 1 has a pole.* at h_1 between 0\.29"):
        tabulated([one], 1, torch.tensor([0]), *ends)
