"""Means, ratios and rank correlations with intervals that resample whole references, scenes or pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dreamsim_guidance.evaluation.statistics.intervals import Interval, Resampled, resample_means
from dreamsim_guidance.evaluation.statistics.rank_correlation import resample_spearman

__all__ = ["Bootstrap", "decisions", "mean", "rank_correlation", "ratios", "same_order"]

Values = NDArray[np.float64]
_TIE = 1e-6
_NOTHING = 1e-12
"""A mean distance up to which a metric counts as one that never changes."""


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made: number of resamples, seed, and level of confidence."""

    resamples: int = 2000
    seed: int = 0
    level: float = 0.95


def decisions(distances: Values, scale: float) -> Values:
    """1 where a is nearer, -1 where b is, 0 for a tie; from the distances to all a and then to all b.

    scale: a typical distance; differences below a millionth of it are rounding and count as ties.
    """
    half = len(distances) // 2
    gap = distances[half:] - distances[:half]
    return np.where(np.abs(gap) <= _TIE * scale, 0.0, np.sign(gap))


def mean(values: Values, clusters: NDArray[np.int64], bootstrap: Bootstrap) -> Interval:
    """The mean of the values `(n,)` that are not NaN, with its interval; NaN, with a count of 0, if there are none."""
    if np.isnan(values).all():
        return Interval(float("nan"), float("nan"), float("nan"), 0, 0)
    resampled = resample_means(values[None], clusters, resamples=bootstrap.resamples, seed=bootstrap.seed)
    return resampled.interval(0, bootstrap.level)


def ratios(above: Values, below: Values, bootstrap: Bootstrap) -> Resampled:
    """Ratios of means over n clusters: of each column of `above`, `(k, n)`, and the same column of `below`, `(k, n)`.

    A ratio is NaN where the mean below is zero.
    """
    columns = np.concatenate([above, below])
    means = resample_means(columns, np.arange(columns.shape[1]), resamples=bootstrap.resamples, seed=bootstrap.seed)
    k = len(above)
    return Resampled(
        _divide(means.values[:k], means.values[k:]),
        _divide(means.replicates[:, :k], means.replicates[:, k:]),
        means.count,
        means.clusters,
    )


def rank_correlation(x: Values, y: Values, clusters: NDArray[np.int64], bootstrap: Bootstrap) -> Interval:
    """Spearman's coefficient of x and y, each `(n,)`, with its interval; NaN if one of them is constant."""
    _, number = np.unique(clusters, return_inverse=True)
    value, replicates = resample_spearman(x, y, number, bootstrap.resamples, bootstrap.seed)
    resampled = Resampled(np.array([value]), replicates[:, None], len(x), int(number.max()) + 1)
    if np.isnan(value):
        return Interval(value, value, value, len(x), resampled.clusters)
    return resampled.interval(0, bootstrap.level)


def same_order(values: Values) -> Values:
    """How far each row of `(n, k)` rises from left to right: pairs that rise less pairs that fall, as a share of all pairs.

    Kendall's tau-a with the order of the columns: 1 if every value exceeds those before it, 0 for a constant row.
    """
    k = values.shape[1]
    signs = [np.sign(values[:, j] - values[:, i]) for i in range(k) for j in range(i + 1, k)]
    return np.mean(signs, axis=0)


def _divide(above: Values, below: Values) -> Values:
    defined = below > _NOTHING
    return np.where(defined, above / np.where(defined, below, 1.0), np.nan)
