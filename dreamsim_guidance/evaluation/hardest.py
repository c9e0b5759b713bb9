"""Where a metric is surest that people are wrong."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

__all__ = ["hardest_disagreements"]

_OF_ONE_REFERENCE = 2


def hardest_disagreements(
    distance_a: ArrayLike,
    distance_b: ArrayLike,
    votes_a: ArrayLike,
    votes_b: ArrayLike,
    reference: ArrayLike,
    count: int = 8,
) -> NDArray[np.int64]:
    """Positions of up to `count` triplets on which the metric is against most votes, the clearest first.

    Clear is a large gap between the distances, as its rank among all triplets, times many votes of one kind,
    |n_a - n_b| / (n_a + n_b + 1). At most two of one reference, so that they differ.
    """
    d_a, d_b, n_a, n_b = (np.asarray(x, dtype=np.float64) for x in (distance_a, distance_b, votes_a, votes_b))
    against = (d_a - d_b) * (n_a - n_b) > 0
    clear = rankdata(np.abs(d_a - d_b)) * np.abs(n_a - n_b) / (n_a + n_b + 1)
    order = np.argsort(-clear, kind="stable")
    positions: list[int] = []
    shown: dict[int, int] = {}
    for i in order[against[order]]:
        label = int(np.asarray(reference)[i])
        if len(positions) < count and shown.get(label, 0) < _OF_ONE_REFERENCE:
            positions.append(int(i))
            shown[label] = shown.get(label, 0) + 1
    return np.array(positions, dtype=np.int64)
