"""The triplets on which a metric contradicts people most clearly."""

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
    """Return the positions of up to `count` triplets on which the metric contradicts the majority, the clearest first.

    A contradiction is clear if the metric's gap is wide and the votes are one-sided: triplets are sorted by the rank of the
    gap |d_a - d_b| among all triplets times |n_a - n_b| / (n_a + n_b + 1). For variety, at most two of them have the same
    reference.

    distance_a, distance_b: from the reference to a and b, `(n,)`.
    votes_a, votes_b: how many people found a, b nearer, `(n,)`.
    reference: a label of each triplet's reference, `(n,)`.
    """
    d_a, d_b, n_a, n_b = (np.asarray(x, dtype=np.float64) for x in (distance_a, distance_b, votes_a, votes_b))
    against = (d_a - d_b) * (n_a - n_b) > 0
    clear = rankdata(np.abs(d_a - d_b)) * np.abs(n_a - n_b) / (n_a + n_b + 1)
    order = np.argsort(-clear, kind="stable")
    positions: list[int] = []
    count_of_reference: dict[int, int] = {}
    for i in order[against[order]]:
        label = int(np.asarray(reference)[i])
        if len(positions) < count and count_of_reference.get(label, 0) < _OF_ONE_REFERENCE:
            positions.append(int(i))
            count_of_reference[label] = count_of_reference.get(label, 0) + 1
    return np.array(positions, dtype=np.int64)
