"""How well predicted responses match the true ones, and how sure that is."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from torch import Tensor

from kanlib.machine import generator


def _centred(v: Tensor) -> Tensor:
    v = v.double()
    # The mean of equal numbers may differ from them by rounding; less their first one they are exactly 0.
    v = v - v[..., :1]
    return v - v.mean(-1, keepdim=True)


#: What surrogates and metrics are called in tables and charts.
TITLES = {
    "linear": "COAR (linear)",
    "quadratic": "quadratic ridge",
    "cubic": "cubic ridge",
    "trees": "boosted trees",
    "mlp": "MLP",
    "kan": "KAN",
    "pykan": "KAN (pykan)",
    "gaussian_process": "Gaussian process",
    "coar": "COAR",
    "gradient": "gradient × parameter",
    "conductance": "conductance",
    "influence": "influence",
    "leave_one_out": "leave one out",
    "pair_sums": "sums of pairs",
    "fourier": "quadratic Fourier",
    "proxyspex": "ProxySPEX",
    "kernelshapiq": "KernelSHAP-IQ",
    "spex": "SPEX",
    "symbolic": "symbolic",
    "short": "symbolic, short",
    "random": "random",
    "singles": "COAR by the rule of pairs",
    "greedy": "pairs of directions, greedy",
    "exact": "pairs of directions, exact",
    "exact_filters": "pairs of filters, exact",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "mse": "MSE",
    "normalised_mse": "normalised MSE",
}


def pearson(predicted: Tensor, true: Tensor) -> Tensor:
    """Pearson correlation over masks, ``[E]`` from ``[E, N]`` twice; nan where either is constant."""
    p, t = _centred(predicted), _centred(true)
    return (p * t).sum(-1) / (p.square().sum(-1) * t.square().sum(-1)).sqrt()


def spearman(predicted: Tensor, true: Tensor) -> Tensor:
    """Spearman rank correlation over masks, ``[E]``; ties share their mean rank."""
    ranks = [torch.from_numpy(rankdata(v.numpy(), axis=-1)) for v in (predicted, true)]
    return pearson(*ranks)


def mse(predicted: Tensor, true: Tensor) -> Tensor:
    """Mean squared error over masks, ``[E]``, in squared units of the response."""
    return (predicted.double() - true.double()).square().mean(-1)


def normalised_mse(predicted: Tensor, true: Tensor) -> Tensor:
    """Mean squared error over the variance of the true responses, ``[E]``: 1 is as good as their mean."""
    return mse(predicted, true) / true.double().var(-1, correction=0)


#: The four scores of every surrogate, ``(predicted [E, N], true [E, N]) -> [E]``.
METRICS = {"pearson": pearson, "spearman": spearman, "mse": mse, "normalised_mse": normalised_mse}
#: The columns of a table of :func:`scores`, and what they hold.
SCORES = {"surrogate": str, "example": int} | dict.fromkeys(METRICS, float)


def scores(predicted: Mapping[str, Tensor], true: Tensor) -> pd.DataFrame:
    """All metrics of every surrogate: a row for each surrogate and example, whose scores are its alone to the bit.

    Args:
        predicted: surrogate's name → its predictions ``[E, N]``.
        true: responses ``[E, N]``.
    """
    parts = []
    for name, values in predicted.items():
        pairs = list(zip(values.split(1), true.split(1), strict=True))
        columns = {
            metric: torch.cat([score(*pair) for pair in pairs]).numpy() for metric, score in METRICS.items()
        }
        parts.append(pd.DataFrame({"surrogate": name, "example": range(1, len(true) + 1), **columns}))
    return pd.concat(parts, ignore_index=True)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean ± standard deviation over examples of what :func:`scores` returned, as text; no ± for one example."""
    grouped = table.groupby("surrogate", sort=False)[list(METRICS)]
    text = grouped.mean().map(_digits, digits=3)
    if table["example"].nunique() > 1:
        text += " ± " + grouped.std().map(_digits, digits=2)
    return text.rename(columns=TITLES, index=TITLES)


def means(table: pd.DataFrame, metric: str, *, rows: Sequence[str], columns: str = "method") -> pd.DataFrame:
    """Mean of ``metric`` over examples as text, for all values of ``rows`` and of ``columns``.

    Where a score is nan, which is what a method that failed has, it says on how many examples instead: a mean of
    the others would be a mean of the easy ones. Where nothing was asked it says nothing.
    """

    def said(values: pd.Series) -> str:
        failed = int(values.isna().sum())
        return f"failed on {failed} of {len(values)}" if failed else _digits(values.mean(), 3)

    if table.empty:
        return pd.DataFrame()
    across = table.groupby([*rows, columns], sort=False)[metric].agg(said).unstack(columns, fill_value="")
    # In the order of the table, which unstacking loses.
    order = list(table[[*rows]].drop_duplicates().itertuples(index=False, name=None))
    across = across[table[columns].unique()].loc[order if len(rows) > 1 else [first for (first,) in order]]
    return across.rename(columns=TITLES, index=TITLES)


def _digits(value: float, digits: int) -> str:
    return np.format_float_positional(value, digits, unique=False, fractional=False, trim="-")


def bootstrap_pearson(predicted: Tensor, true: Tensor, n: int, source: torch.Generator) -> Tensor:
    """Mean Pearson over examples in ``n`` resamples of masks *and* examples, ``[..., n]``.

    Masks are shared by all examples, so one draw of masks serves them all; then examples are drawn.
    Surrogates stacked in front, ``predicted [K, E, N]`` with ``true [E, N]``, get the same draws, so that
    differences of their results are paired.
    """
    n_examples, n_masks = true.shape
    draws = torch.randint(n_masks, (n, n_masks), generator=source)
    weight = torch.zeros(n, n_masks, dtype=torch.float64)
    weight.scatter_add_(1, draws, torch.ones_like(weight)).div_(n_masks)

    def mean(values: Tensor) -> Tensor:
        return values @ weight.T

    # Centred first: the weighted moments below would cancel otherwise.
    p, t = _centred(predicted), _centred(true)
    covariance = mean(p * t) - mean(p) * mean(t)
    variances = (mean(p * p) - mean(p) ** 2) * (mean(t * t) - mean(t) ** 2)
    r = covariance / variances.sqrt()
    chosen = torch.randint(n_examples, (n_examples, n), generator=source)
    return r.gather(-2, chosen.expand_as(r)).mean(-2)


def bootstrap_mean(values: Tensor, n: int, source: torch.Generator) -> Tensor:
    """Mean of ``values`` ``[E]`` in ``n`` resamples of the examples, ``[n]``."""
    return values[torch.randint(len(values), (n, len(values)), generator=source)].mean(1)


class Estimate(NamedTuple):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


def mean_estimate(values: Tensor, n: int = 2000, seed: int = 0) -> Estimate:
    """Mean of ``values`` ``[E]``; the interval is over ``n`` resamples of the examples."""
    return Estimate(values.mean().item(), *interval(bootstrap_mean(values, n, generator(seed, "bootstrap"))))


def pearson_estimate(predicted: Tensor, true: Tensor, n: int = 2000, seed: int = 0) -> Estimate:
    """Mean Pearson over examples, ``[E, N]`` twice; the interval is over examples and masks."""
    draws = bootstrap_pearson(predicted.double(), true, n, generator(seed, "bootstrap"))
    return Estimate(pearson(predicted, true).mean().item(), *interval(draws))


def ahead(one: Tensor, other: Tensor, true: Tensor, n: int = 2000, seed: int = 0) -> Estimate:
    """Mean Pearson of one surrogate less another's; the interval is over examples and masks, paired.

    Args:
        one: predictions ``[E, N]``, or ``[S, E, N]`` of several fits, whose mean Pearson is taken.
        other: the same of the other one.
        true: responses ``[E, N]``.
        n: resamples.
        seed: of the resamples.
    """
    mine, theirs = (v.double().reshape(-1, *true.shape) for v in (one, other))
    draws = bootstrap_pearson(torch.cat([mine, theirs]), true, n, generator(seed, "bootstrap"))
    difference = draws[: len(mine)].mean(0) - draws[len(mine) :].mean(0)
    value = pearson(mine, true).mean() - pearson(theirs, true).mean()
    return Estimate(value.item(), *interval(difference))


def interval(samples: Tensor, level: float = 0.95) -> tuple[float, float]:
    """Central percentile interval of bootstrap ``samples`` ``[n]``."""
    tail = (1 - level) / 2
    low, high = torch.quantile(samples, torch.tensor([tail, 1 - tail], dtype=samples.dtype)).tolist()
    return low, high
