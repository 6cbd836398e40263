"""Regions of sets: where leave one out says similar things, and what it says there on average.

Source: after Amoukou and Brunel (2025), R-LOCO, arXiv:2604.11223: effects at many points are put into clusters,
and each cluster has an effect of its own. Here the points are sets of players instead of examples.
"""

from dataclasses import dataclass

import torch
from sklearn.cluster import KMeans
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor

from kanlib.attribution.games import every_set, pointwise
from kanlib.errors import BadInputError
from kanlib.machine import generator


@dataclass(frozen=True)
class Regions:
    """Regions of the sets of m players.

    Attributes:
        region: of each set, ``[2^m]``, by a decision tree of its players.
        means: what each player is worth in each region, ``[R, m]``, by the half of the sets that regions are made
        of.
        explained: of what one mean for all sets leaves open on the other half, the share that regions explain.
    """

    region: Tensor
    means: Tensor
    explained: float


def regions(table: Tensor, n: int = 4, seed: int = 0, depth: int = 4) -> Regions:
    """Regions by k-means on the effects of one half of all sets, which a tree tells apart by the sets alone.

    Args:
        table: values of all sets ``[2^m]``.
        n: regions, at most.
        seed: of the halves and of k-means.
        depth: of the tree.

    Raises:
        BadInputError: there are fewer than two players, or no region.
    """
    if len(table) < 4 or n < 1:
        raise BadInputError(
            f"{n} regions of {len(table)} sets were asked for, expected one at least and sets of two players; "
            "change regions, or take more components."
        )
    effects = pointwise(table)
    sets = every_set(effects.shape[1])
    first, other = torch.randperm(len(sets), generator=generator(seed, "regions")).tensor_split(2)
    clusters = KMeans(min(n, len(first)), n_init=10, random_state=seed).fit(effects[first].numpy())
    tree = DecisionTreeClassifier(max_depth=depth, random_state=seed).fit(sets[first].numpy(), clusters.labels_)
    # Numbers of leaves' regions without gaps, as a tree need not use all clusters.
    _, region = torch.from_numpy(tree.predict(sets.numpy())).long().unique(return_inverse=True)
    count = torch.bincount(region[first], minlength=int(region.max()) + 1).clamp_min(1)
    sums = effects.new_zeros(len(count), effects.shape[1]).index_add_(0, region[first], effects[first])
    means = sums / count[:, None]
    left = (effects[other] - means[region[other]]).square().sum()
    total = (effects[other] - effects[first].mean(0)).square().sum()
    return Regions(region, means, float(1 - left / total))
