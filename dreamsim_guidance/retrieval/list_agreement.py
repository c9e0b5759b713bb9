"""Agreement between lists of nearest pictures: the share that two lists have in common, and what chance would give.

    overlap at k = |A_k ∩ B_k| / k

of the first k pictures A_k and B_k that two metrics find for a query among n pictures. The expected overlap of two random lists
is k / n.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from dreamsim_guidance.evaluation.statistics.intervals import Interval, cluster_bootstrap

__all__ = ["ListAgreement", "list_agreement", "nearest"]


@dataclass(frozen=True)
class ListAgreement:
    """The mean overlap of two metrics' lists over the queries, with its interval.

    first, second: names of the metrics. k: length of the lists. chance: overlap of two random lists, in expectation.
    """

    first: str
    second: str
    k: int
    overlap: Interval
    chance: float


def nearest(distances: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """Return the positions of the k nearest pictures of each query, `(q, k)`, nearest first.

    distances: `(q, n)`; infinite ones, of a query to itself, come last. Equal ones are ordered by position.
    """
    return np.argsort(distances, axis=1, kind="stable")[:, :k]


def list_agreement(
    lists: Mapping[str, NDArray[np.int64]], candidates: Sequence[int], resamples: int = 2000, seed: int = 0
) -> list[ListAgreement]:
    """Return the agreement of every two metrics.

    lists: of each metric, positions of the k nearest pictures of each query, `(q, k)`.
    candidates: number of pictures among which each query's list was chosen, `(q,)`.

    Raises ValueError for lists of different shapes, or without queries.
    """
    shapes = {rows.shape for rows in lists.values()}
    if len(shapes) != 1 or 0 in next(iter(shapes)):
        raise ValueError(f"lists must have one shape (queries, k), got {sorted(shapes)}.")
    ((_, k),) = shapes
    chance = float(np.mean([min(1.0, k / n) for n in candidates]))
    results = []
    for first, second in combinations(lists, 2):
        pairs = zip(lists[first].tolist(), lists[second].tolist(), strict=True)
        shares = [len(set(a) & set(b)) / k for a, b in pairs]
        results.append(
            ListAgreement(first, second, k, cluster_bootstrap(shares, resamples=resamples, seed=seed), chance)
        )
    return results
