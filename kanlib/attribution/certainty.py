"""How right coefficients are, against a reference, and how sure, against chance."""

import warnings
from collections.abc import Sequence

import pandas as pd
import torch
from joblib import Parallel, delayed, parallel_config
from scipy import stats
from torch import Tensor
from tqdm import tqdm

from kanlib import metrics
from kanlib.attribution.averages import bias_corrected
from kanlib.attribution.coefficients import of_kan
from kanlib.kan.fitting import fit
from kanlib.machine import generator
from kanlib.masks import Split, Subset
from kanlib.setups import Surrogate as Knobs

_TOP = 10  # coefficients whose signs and places are compared


def fidelity(found: Tensor, reference: Tensor, index: Sequence[Subset]) -> pd.DataFrame:
    """How close coefficients are to a reference: a row for each example and order.

    Columns: ``example``, ``order``, ``pearson`` and ``spearman`` over the subsets of that order, ``signs``: share
    of the reference's ten largest whose sign is right, ``overlap``: share of them that are among the ten largest.

    Args:
        found: coefficients ``[E, n_S]``.
        reference: ``[E, n]``, of the first n subsets.
        index: the subsets.
    """
    rows = []
    orders = torch.tensor([len(s) for s in index[: reference.shape[1]]])
    for r in orders.unique().tolist():
        f, t = (v[:, : len(orders)][:, orders == r].double() for v in (found, reference))
        top, ours = (v.abs().topk(min(_TOP, v.shape[1])).indices for v in (t, f))
        columns = {
            "pearson": metrics.pearson(f, t),
            "spearman": metrics.spearman(f, t),
            "signs": (f.gather(1, top).sign() == t.gather(1, top).sign()).double().mean(1),
            "overlap": (top[:, :, None] == ours[:, None]).any(2).double().mean(1),
        }
        table = pd.DataFrame({name: values.tolist() for name, values in columns.items()})
        table.insert(0, "example", range(1, len(table) + 1))
        rows.append(table.assign(order=r))
    return pd.concat(rows, ignore_index=True)


def resampled(
    data: Split,
    validation: Split,
    knobs: Knobs,
    max_order: int = 3,
    *,
    n: int = 10,
    seed: int = 0,
    progress: bool = True,
) -> tuple[Tensor, Tensor]:
    """Coefficients of KANs fitted anew to ``n`` resamples of the fit masks: at σ = 0, and over the masks.

    Resamples are drawn with replacement, and each KAN starts elsewhere, too: they differ by all that chance has a
    part in, the masks that were drawn and where the search ended. What every such KAN gets wrong does not show.

    Args:
        data: fit masks and responses of E examples.
        validation: whatever is chosen is chosen on it, and derivatives are averaged over its masks.
        knobs: of the fits, each of which begins from one start a decay or penalty and averages no members.
        max_order: the highest order, at most 3 and at most m.
        n: how many resamples.
        seed: of resamples and starts.
        progress: whether a bar shows it.

    Returns:
        Both ``[n, E, n_S]`` (fp64); the second corrected by what the KAN leaves of its resample, see
        :func:`kanlib.attribution.averages.bias_corrected`.
    """
    knobs = knobs.model_copy(update={"restarts": 1, "finalists": 1, "members": 1})
    # A fit a process: the tensors of a few examples are too small for threads to share.
    with parallel_config("loky", n_jobs=torch.get_num_threads(), inner_max_num_threads=1):
        asked = (delayed(_refitted)(data, validation, knobs, max_order, seed, b) for b in range(n))
        found = Parallel(return_as="generator")(asked)
        bar = tqdm(found, "resamples", n, unit="fit", mininterval=1, disable=not progress)
        at_rest, over_masks = zip(*bar, strict=True)
    return torch.stack(at_rest), torch.stack(over_masks)


def _refitted(
    data: Split, validation: Split, knobs: Knobs, max_order: int, seed: int, b: int
) -> tuple[Tensor, Tensor]:
    """Coefficients of KANs fitted to resample ``b``, at σ = 0 and over the masks, ``[E, n_S]``."""
    source = generator(seed, "resample", b)
    part = data.drawn(torch.randint(len(data.masks), (len(data.masks),), generator=source))
    start = int(torch.randint(2**31, (), generator=source))
    with warnings.catch_warnings():
        # Who fitted the KAN itself has been told.
        warnings.filterwarnings("ignore", message="a KAN of")
        kan = fit(part, validation, knobs, seed=start, progress=False).kan
    level = of_kan(kan, max_order, validation.masks)[1]
    return of_kan(kan, max_order)[1], bias_corrected(level, kan, part, max_order)


def significance(values: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
    """How sure coefficients are: standard errors, and p-values of their being 0, both ``[E, n_S]``.

    Student's t with as many degrees of freedom as there are resamples less one, corrected for how many
    coefficients an example has (Benjamini and Hochberg: of those called significant at p ≤ q, at most a share of q
    is false, on average).

    Args:
        values: coefficients ``[E, n_S]``.
        samples: the same of KANs fitted anew, ``[n, E, n_S]``, see :func:`resampled`.
    """
    error = samples.std(0)
    ratio = (values.double().abs() / error).nan_to_num(0.0)
    p = 2 * stats.t.sf(ratio.numpy(), len(samples) - 1)
    return error, torch.from_numpy(stats.false_discovery_control(p, axis=1))


def certainty_table(values: Tensor, samples: Tensor, index: Sequence[Subset], level: float = 0.05) -> pd.DataFrame:
    """What :func:`significance` finds, a row for each order.

    Columns: ``coefficients`` of all examples, their median ``standard error / mean |L|``, and the share of them
    that are ``significant`` at this level.

    Args:
        values: coefficients ``[E, n_S]``.
        samples: of KANs fitted anew, ``[n, E, n_S']``, of the first subsets.
        index: the subsets.
        level: expected share of false ones among those called significant.
    """
    values = values[:, : samples.shape[2]]
    error, doubt = significance(values, samples)
    orders = torch.tensor([len(s) for s in index[: samples.shape[2]]])
    rows = []
    for r in orders.unique().tolist():
        found, deviation, p = (v[:, orders == r] for v in (values, error, doubt))
        rows.append(
            {
                "order": r,
                "coefficients": found.numel(),
                "standard error / mean |L|": (deviation.median() / found.abs().mean()).item(),
                "significant": (p <= level).double().mean().item(),
            }
        )
    return pd.DataFrame(rows).set_index("order")
