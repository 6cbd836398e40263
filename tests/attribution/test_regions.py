import pytest
import torch

from kanlib.attribution.games import every_set
from kanlib.attribution.regions import regions
from kanlib.errors import BadInputError
from tests.helpers import randn


def test_regions_are_where_a_player_switches_another_on():
    w = every_set(6).double()
    found = regions(w[:, 0] * w[:, 1:].sum(1), 2)
    assert found.explained > 0.3
    on = w[:, 0] == 1
    assert len(found.region[on].unique()) == len(found.region[~on].unique()) == 1
    strong = found.means[found.region[on][0]]
    assert float(strong[1]) == pytest.approx(1)
    assert float(found.means[found.region[~on][0]][1]) == pytest.approx(0)


def test_what_does_not_interact_has_nothing_left_for_regions():
    w = every_set(5).double()
    values = w @ randn(5) + 1e-3 * randn(32, seed=1)
    assert regions(values, 4).explained < 0.3


def test_one_player_has_no_regions():
    with pytest.raises(BadInputError, match="4 regions of 2 sets were asked for"):
        regions(torch.zeros(2, dtype=torch.float64))
