import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.metrics import mean_squared_error, r2_score

from kanlib import metrics
from kanlib.machine import generator
from kanlib.metrics import bootstrap_mean, bootstrap_pearson, interval, pearson


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def correlated(rho, *shape, seed=0):
    """Two standard Gaussians of correlation ``rho``."""
    one, other = torch.randn(2, *shape, generator=source(seed), dtype=torch.float64)
    return one, rho * one + (1 - rho**2) ** 0.5 * other


@pytest.fixture
def pair():
    predicted, true = correlated(0.6, 3, 200)
    return predicted.float() + 5, 3 * true.float()


def test_pearson_is_scipys(pair):
    expected = [stats.pearsonr(*rows).statistic for rows in zip(*(v.double().numpy() for v in pair), strict=True)]
    np.testing.assert_allclose(metrics.pearson(*pair), expected, rtol=1e-10)


def test_pearson_survives_a_large_offset(pair):
    predicted, true = (v.double() for v in pair)
    torch.testing.assert_close(
        metrics.pearson(predicted + 1e6, true), metrics.pearson(predicted, true), rtol=1e-6, atol=0
    )


def test_spearman_is_scipys_also_with_ties(pair):
    predicted, true = (v.round() for v in pair)
    expected = [stats.spearmanr(*rows).statistic for rows in zip(predicted.numpy(), true.numpy(), strict=True)]
    np.testing.assert_allclose(metrics.spearman(predicted, true), expected, rtol=1e-10)


def test_mse_is_scikit_learns(pair):
    expected = [mean_squared_error(t, p) for p, t in zip(*(v.double().numpy() for v in pair), strict=True)]
    np.testing.assert_allclose(metrics.mse(*pair), expected, rtol=1e-10)


def test_normalised_mse_is_one_less_r2(pair):
    expected = [1 - r2_score(t, p) for p, t in zip(*(v.double().numpy() for v in pair), strict=True)]
    np.testing.assert_allclose(metrics.normalised_mse(*pair), expected, rtol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, -1e6 / 3])
@pytest.mark.parametrize("score", [metrics.pearson, metrics.spearman])
def test_a_constant_has_no_correlation(score, value, dtype):
    constant, other = (
        torch.full((1, 1000), value, dtype=dtype),
        torch.randn(1, 1000, generator=source(), dtype=dtype),
    )
    assert score(constant, other).isnan().all()
    assert score(other, constant).isnan().all()


def test_a_perfect_prediction_scores_perfectly(pair):
    _, true = pair
    for name, best in {"pearson": 1, "spearman": 1, "mse": 0, "normalised_mse": 0}.items():
        np.testing.assert_allclose(metrics.METRICS[name](true, true), best, atol=1e-12)


def test_scores_have_a_row_for_each_surrogate_and_example(pair):
    predicted, true = pair
    table = metrics.scores({"a": predicted, "b": true}, true)
    assert table[["surrogate", "example"]].to_numpy().tolist() == [[s, e] for s in "ab" for e in (1, 2, 3)]
    for name, score in metrics.METRICS.items():
        together = torch.cat([score(predicted, true), score(true, true)])
        np.testing.assert_allclose(table[name], together, rtol=1e-12, atol=1e-12)


def test_the_summary_is_mean_and_deviation_over_examples():
    columns = {"surrogate": ["kan", "kan", "a", "a"], "example": [1, 2, 1, 2]}
    table = pd.DataFrame(columns | {name: [1500.0, 3004.0, 0.5, 0.5] for name in metrics.METRICS})
    text = metrics.summary(table)
    assert text.index.tolist() == ["KAN", "a"]
    assert text["normalised MSE"].tolist() == ["2250 ± 1100", "0.5 ± 0"]


def test_the_summary_of_one_example_has_no_deviation():
    table = pd.DataFrame({"surrogate": ["a"], "example": [1], **{name: [0.25] for name in metrics.METRICS}})
    assert metrics.summary(table)["Pearson"].tolist() == ["0.25"]


def test_the_bootstrap_resamples_masks_and_examples_as_a_naive_one():
    predicted, true = correlated(0.5, 4, 60)
    predicted[0] = true[0] + 0.1 * predicted[0]
    samples = metrics.bootstrap_pearson(predicted, true, 4000, source()).numpy()
    rng = np.random.default_rng(0)
    naive = []
    for _ in range(2000):
        drawn, examples = rng.integers(60, size=60), rng.integers(4, size=4)
        p, t = predicted.numpy()[:, drawn], true.numpy()[:, drawn]
        naive.append(np.mean([np.corrcoef(p[e], t[e])[0, 1] for e in examples]))
    assert samples.mean() == pytest.approx(np.mean(naive), abs=0.01)
    assert samples.std() == pytest.approx(np.std(naive), rel=0.08)


def test_an_interval_covers_the_truth_as_often_as_it_says():
    covered = 0
    for seed in range(100):
        predicted, true = correlated(0.6, 1, 150, seed=seed)
        low, high = metrics.interval(metrics.bootstrap_pearson(predicted, true, 300, source(seed)), level=0.9)
        covered += low <= 0.6 <= high
    assert 80 <= covered <= 98


def test_an_interval_is_the_central_percentiles():
    samples = torch.randn(1001, generator=source())
    expected = np.percentile(samples.numpy(), [10, 90])
    np.testing.assert_allclose(metrics.interval(samples, level=0.8), expected, rtol=1e-5)
    assert metrics.interval(torch.arange(201.0)) == pytest.approx((5, 195))


def test_resampled_means_spread_as_a_mean_does():
    values = torch.randn(60, generator=source(0), dtype=torch.float64)
    draws = metrics.bootstrap_mean(values, 4000, source(1))
    assert draws.shape == (4000,)
    assert draws.mean().item() == pytest.approx(values.mean().item(), abs=0.01)
    assert draws.std().item() == pytest.approx(values.std(correction=0).item() / 60**0.5, rel=0.05)
    assert (metrics.bootstrap_mean(values[:1], 10, source(1)) == values[0]).all()


def test_stacked_surrogates_share_their_draws():
    predicted, true = correlated(0.6, 3, 50)
    stacked = torch.stack([predicted, true + predicted, predicted])
    samples = metrics.bootstrap_pearson(stacked, true, 40, source())
    assert samples.shape == (3, 40)
    torch.testing.assert_close(samples[0], samples[2], rtol=0, atol=1e-13)
    torch.testing.assert_close(samples[0], metrics.bootstrap_pearson(predicted, true, 40, source()))
    assert (samples[0] != samples[1]).all()


def test_the_generator_alone_determines_the_bootstrap(same_global_rng):
    predicted, true = correlated(0.6, 3, 50)
    first, again, other = (metrics.bootstrap_pearson(predicted, true, 40, source(s)) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def some_predictions():
    source = torch.Generator().manual_seed(5)
    true = torch.randn(4, 60, generator=source)
    near, far = (true + s * torch.randn(4, 60, generator=source) for s in (0.3, 1.5))
    return near, far, true


def test_an_estimate_is_the_mean_with_the_interval_of_its_resamples():
    near, _, true = some_predictions()
    found = metrics.pearson_estimate(near, true, 300, seed=2)
    draws = bootstrap_pearson(near, true, 300, generator(2, "bootstrap"))
    assert found == (pearson(near, true).mean().item(), *interval(draws))
    values = torch.tensor([1.0, 4.0, 2.0], dtype=torch.float64)
    found = metrics.mean_estimate(values, 300, seed=2)
    assert found == (values.mean().item(), *interval(bootstrap_mean(values, 300, generator(2, "bootstrap"))))


def test_who_is_ahead_is_a_paired_difference():
    near, far, true = some_predictions()
    lead = metrics.ahead(near, far, true, 300, seed=2)
    one, other = bootstrap_pearson(torch.stack([near, far]), true, 300, generator(2, "bootstrap"))
    assert (lead.low, lead.high) == interval(one - other)
    assert lead.value == pytest.approx((pearson(near, true) - pearson(far, true)).mean().item())
    assert 0 < lead.low < lead.value < lead.high
    assert metrics.ahead(near, near, true) == (0, 0, 0)
    back = metrics.ahead(far, near, true, 300, seed=2)
    assert back == pytest.approx((-lead.value, -lead.high, -lead.low))


def test_of_several_fits_the_mean_pearson_is_ahead():
    near, far, true = some_predictions()
    both = metrics.ahead(torch.stack([near, far]), near, true, 300)
    alone = metrics.ahead(far, near, true, 300)
    assert both == pytest.approx(tuple(v / 2 for v in alone))


def test_a_mean_over_examples_leaves_none_out():
    table = pd.DataFrame(
        {
            "tested": ["b", "b", "b", "b", "a", "a"],
            "method": ["linear", "linear", "kan", "kan", "linear", "linear"],
            "pearson": [0.5, 0.25, 0.75, float("nan"), 0.1, 0.3],
        }
    )
    found = metrics.means(table, "pearson", rows=["tested"])
    assert found.index.tolist() == ["b", "a"]
    assert found["COAR (linear)"].tolist() == ["0.375", "0.2"]
    assert found["KAN"].tolist() == ["failed on 1 of 2", ""]
    two = metrics.means(table.assign(trained="c"), "pearson", rows=["trained", "tested"])
    assert two.index.tolist() == [("c", "b"), ("c", "a")]
    assert metrics.means(table[:0], "pearson", rows=["tested"]).empty
