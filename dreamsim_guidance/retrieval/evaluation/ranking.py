"""Quality of one ranking: average precision, recall and hits among the first k, with ties in closed form.

A query ranks a gallery by distance, nearest first. With r relevant pictures, whose ranks are n_1 < ... < n_r,

    average precision = 1/r sum_j j / n_j
    recall at k       = share of the r relevant pictures among the first k
    hit at k          = 1 if at least one of the first k is relevant, else 0

Pictures at exactly the same distance have no order. Every measure is then the mean over all orders of the tied pictures,
computed exactly: for a block of m tied pictures, s of them relevant, behind N nearer pictures, R of them relevant, the block
adds to the sum above

    sum_{i=1..m} s/m (R + 1 + (i - 1) (s - 1) / (m - 1)) / (N + i).

If all distances are equal, this is the expectation of a random ranking, `chance`.

McSherry and Najork, Computing information retrieval performance measures efficiently in the presence of tied scores, ECIR
2008. "Recall at k" in the literature of metric learning (Jegou et al., 2011; Oh Song et al., 2016) is the hit at k here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["MAP", "chance", "measure_names", "ranking_scores", "ties_matter"]

MAP = "mAP"
"""The name of average precision, whose mean over queries is the mean average precision."""


def measure_names(cutoffs: Sequence[int]) -> list[str]:
    """Return the names of the values of `ranking_scores`, in order."""
    return [
        MAP,
        *(f"recall at {k}" for k in cutoffs),
        *(f"hit at {k}" for k in cutoffs),
    ]


def ranking_scores(
    distances: ArrayLike, relevant: ArrayLike, cutoffs: Sequence[int] = (1, 5, 10)
) -> NDArray[np.float64]:
    """Return average precision, recall at each cutoff, and hit at each cutoff, each in [0, 1]; larger is better.

    distances: from the query to each picture of the gallery, `(n,)`; the query itself must not be among them.
    relevant: whether each picture is relevant, `(n,)` bool, at least one of them.
    cutoffs: the k of recall and hits, at least 1; a k beyond the gallery counts the whole gallery.

    Raises ValueError for other shapes, distances that are not finite, cutoffs below 1, and if nothing is relevant.
    """
    d, r = np.asarray(distances, dtype=np.float64), np.asarray(relevant, dtype=bool)
    if d.ndim != 1 or d.shape != r.shape:
        raise ValueError(f"distances and relevant must be two lists of one length, got {d.shape} and {r.shape}.")
    if not np.isfinite(d).all():
        raise ValueError(f"distances must be finite, got {int((~np.isfinite(d)).sum())} that are not.")
    if not r.any():
        raise ValueError("no picture of the gallery is relevant to this query; leave such queries out.")
    if wrong := [k for k in cutoffs if k < 1]:
        raise ValueError(f"cutoffs must be at least 1, got {wrong[0]}.")
    order = np.argsort(d, kind="stable")
    blocks = _Blocks(d[order], r[order])
    return np.array([blocks.average_precision(), *map(blocks.recall, cutoffs), *map(blocks.hit, cutoffs)])


def chance(gallery: int, relevant: int, cutoffs: Sequence[int] = (1, 5, 10)) -> NDArray[np.float64]:
    """Return what a random ranking of `gallery` pictures reaches in expectation, `relevant` of which are relevant."""
    return ranking_scores(np.zeros(gallery), np.arange(gallery) < relevant, cutoffs)


def ties_matter(distances: ArrayLike, relevant: ArrayLike) -> bool:
    """Return whether a relevant picture is exactly as far as one that is not, so that the order is undecided."""
    d, r = np.asarray(distances), np.asarray(relevant, dtype=bool)
    return bool(np.isin(d[r], d[~r]).any())


class _Blocks:
    """Runs of equal distances in a ranking: each of `size` pictures, `hits` of them relevant.

    `before` pictures are nearer, `relevant_before` of them relevant. `total` pictures are relevant in all.
    """

    def __init__(self, distances: NDArray[np.float64], relevant: NDArray[np.bool_]) -> None:
        starts = np.flatnonzero(np.r_[True, distances[1:] != distances[:-1]])
        self.before = starts
        self.size = np.diff(np.r_[starts, len(distances)])
        self.hits = np.add.reduceat(relevant.astype(np.int64), starts)
        self.relevant_before = np.cumsum(self.hits) - self.hits
        self.total = int(relevant.sum())

    def average_precision(self) -> float:
        block = np.repeat(np.arange(len(self.size)), self.size)
        inside = np.arange(len(block)) - self.before[block]  # i - 1 of the equation
        size, hits = self.size[block], self.hits[block]
        others = inside * (hits - 1) / np.maximum(size - 1, 1)
        terms = hits / size * (self.relevant_before[block] + 1 + others) / (self.before[block] + inside + 1)
        return float(terms.sum() / self.total)

    def recall(self, k: int) -> float:
        taken = np.clip(k - self.before, 0, self.size)
        return float((self.hits * taken / self.size).sum() / self.total)

    def hit(self, k: int) -> float:
        """One minus the chance that none of the pictures which are drawn from the undecided block is relevant."""
        first = int((self.hits > 0).argmax())  # the block of the nearest relevant picture
        drawn = int(min(k - self.before[first], self.size[first]))
        if drawn <= 0:
            return 0.0
        size, hits = int(self.size[first]), int(self.hits[first])
        if drawn > size - hits:
            return 1.0
        none = np.arange(drawn)
        return float(1 - np.prod((size - hits - none) / (size - none)))
