import numpy as np
import pytest
import torch

from kanlib.attribution.certainty import certainty_table, fidelity, resampled, significance
from kanlib.attribution.coefficients import of_kan
from kanlib.kan import fit
from kanlib.masks import Split, subsets
from tests.helpers import knobs


def test_fidelity_is_one_for_the_reference_itself_and_sees_signs_and_places():
    index = subsets(6, 2)
    true = torch.linspace(-2, 3, len(index), dtype=torch.float64)[None].repeat(2, 1)
    found = torch.stack([5 * true[0], -true[1]])
    table = fidelity(found, true, index).set_index(["example", "order"])
    assert table.loc[1].to_numpy() == pytest.approx(1)
    assert table.loc[2, ["pearson", "spearman", "signs"]].to_numpy() == pytest.approx(np.array([[-1, -1, 0]] * 2))
    shifted = torch.roll(true, 3, 1)
    assert fidelity(shifted, true, index)["overlap"].min() < 1


def test_fidelity_stops_where_the_reference_does():
    index = subsets(4, 3)
    table = fidelity(torch.ones(1, len(index)), torch.arange(4.0)[None], index)
    assert table["order"].tolist() == [1]


def test_what_was_planted_is_significant_and_what_was_not_is_not():
    source = torch.Generator().manual_seed(0)
    x, v = torch.randn(600, 4, generator=source), torch.randn(200, 4, generator=source)

    def true(s):
        return torch.stack([2 * s[:, 0] + 3 * s[:, 1] * s[:, 2], s[:, 3] - 2 * s[:, 0] * s[:, 3]])

    noise = [0.1 * torch.randn(2, len(s), generator=source) for s in (x, v)]
    data, validation = Split(x, true(x) + noise[0]), Split(v, true(v) + noise[1])
    settings = knobs(hidden=[4], grid=3, restarts=1, finalists=1, iterations=30)
    index, values = of_kan(fit(data, validation, settings).kan, 2)
    before = torch.get_rng_state()
    samples, over_masks = resampled(data, validation, settings, 2, n=12)
    assert torch.equal(before, torch.get_rng_state())
    _, doubt = significance(values, samples)
    for e, planted in enumerate([{(0,): 2, (1, 2): 3}, {(3,): 1, (0, 3): -2}]):
        for i, subset in enumerate(index):
            if subset in planted:
                assert doubt[e, i] < 0.05
                assert values[e, i].item() == pytest.approx(planted[subset], rel=0.2)
        others = [i for i, subset in enumerate(index) if subset not in planted]
        assert (doubt[e, others] < 0.05).double().mean() <= 0.25
    table = certainty_table(values, samples, index)
    assert table.index.tolist() == [1, 2]
    assert table["coefficients"].tolist() == [8, 12]
    assert table.loc[2, "significant"] == (doubt[:, 4:] <= 0.05).double().mean().item()
    again = resampled(data, validation, settings.model_copy(update={"restarts": 2, "members": 2}), 2, n=2)
    assert torch.equal(again[0], samples[:2])
    assert torch.equal(again[1], over_masks[:2])
    # Products of two have the same derivatives everywhere.
    average = over_masks.mean(0)
    assert average[0, index.index((1, 2))].item() == pytest.approx(3, rel=0.1)
    assert average[1, index.index((0, 3))].item() == pytest.approx(-2, rel=0.1)


def test_a_coefficient_that_never_moves_is_sure_and_one_that_is_always_zero_is_not():
    values = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    error, doubt = significance(values, values.expand(5, 1, 2))
    assert error.tolist() == [[0, 0]]
    assert doubt[0, 0] == 0
    assert doubt[0, 1] == 1
