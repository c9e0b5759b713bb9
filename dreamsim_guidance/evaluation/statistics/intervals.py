"""Confidence intervals of a mean over triplets when the triplets that share a reference are correlated.

The bootstrap draws whole clusters (all triplets of a reference) with replacement and takes percentiles of the mean. They lie
a little further out than the nominal ones, because a sample of G clusters varies less than the population:

    alpha' / 2 = Phi(-sqrt(G / (G - 1)) t_{1 - alpha / 2, G - 1})

Drawing single triplets instead gives intervals that are too narrow: with ten triplets for each of 80 references of different
difficulty, nominal 95 % intervals of that kind contained the truth in 74 % of 600 simulations, these in 94 % of 1500.

Field and Welsh, Bootstrapping clustered data, JRSS B 2007; Hesterberg, What teachers should know about the bootstrap,
The American Statistician 2015 (the percentiles).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, t

__all__ = ["Interval", "Resampled", "cluster_bootstrap", "draws", "paired_difference", "resample_means"]

_NUMBERS = 4_000_000
"""Numbers in one chunk of resamples, to bound the memory."""


@dataclass(frozen=True)
class Interval:
    """A mean of `count` values in `clusters` clusters, and its interval from `low` to `high`; NaN for a single cluster."""

    value: float
    low: float
    high: float
    count: int
    clusters: int


@dataclass(frozen=True)
class Resampled:
    """A statistic of k columns, `(k,)`, and its values in resamples, `(resamples, k)`; no resamples for a single cluster."""

    values: NDArray[np.float64]
    replicates: NDArray[np.float64]
    count: int
    clusters: int

    def interval(self, column: int, level: float = 0.95) -> Interval:
        return self._interval(float(self.values[column]), self.replicates[:, column], level)

    def lead(self, column: int, over: int, level: float = 0.95) -> Interval:
        """The interval of the difference between two columns in the same resamples."""
        difference = self.replicates[:, column] - self.replicates[:, over]
        return self._interval(float(self.values[column] - self.values[over]), difference, level)

    def _interval(self, value: float, replicates: NDArray[np.float64], level: float) -> Interval:
        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1, got {level}.")
        finite = replicates[
            np.isfinite(replicates)
        ]  # it is undefined in some resamples, such as those of a single value
        if self.clusters < 2 or not len(finite):
            return Interval(value, float("nan"), float("nan"), self.count, self.clusters)
        tail = norm.cdf(-math.sqrt(self.clusters / (self.clusters - 1)) * t.ppf((1 + level) / 2, self.clusters - 1))
        low, high = np.quantile(finite, [tail, 1 - tail])
        return Interval(value, float(low), float(high), self.count, self.clusters)


def cluster_bootstrap(
    values: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean of `values`, NaN left out, and its interval. `clusters` are labels of any kind, by default one each.

    Where all clusters have one mean, as when a metric is always right, a bootstrap sees no spread: the interval is that
    point, however few there are. Raises ValueError if no value is left, or the level does not lie between 0 and 1.
    """
    x = np.asarray(values, dtype=np.float64)
    labels = np.arange(len(x)) if clusters is None else np.asarray(clusters)
    if x.ndim != 1 or labels.shape != x.shape:
        raise ValueError(f"values and clusters must be two lists of one length, got {x.shape} and {labels.shape}.")
    return resample_means(x[None], labels, resamples=resamples, seed=seed).interval(0, level)


def paired_difference(
    first: ArrayLike,
    second: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean of `first` - `second`, two metrics' credits on the same triplets, with its interval.

    Far sharper than two separate intervals, since what is hard for one metric is hard for the other. Triplets that
    either leaves out (NaN) are left out.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"both metrics must have judged the same triplets, got {a.shape} and {b.shape}.")
    difference: NDArray[np.float64] = a - b
    return cluster_bootstrap(difference, clusters, level=level, resamples=resamples, seed=seed)


def resample_means(
    columns: NDArray[np.float64], clusters: NDArray[np.generic], *, resamples: int = 2000, seed: int = 0
) -> Resampled:
    """Means of k columns `(k, n)` in the same resamples of clusters; rows where a column is NaN are left out for all.

    Clusters that have the same sums are drawn together, which changes nothing but the time: 100,000 triplets of as many
    references take seconds.
    """
    complete = ~np.isnan(columns).any(0)
    if not complete.any():
        raise ValueError("there is no value to average; the rule may have left out every triplet.")
    _, number = np.unique(clusters[complete], return_inverse=True)
    counts = np.bincount(number).astype(np.float64)
    sums = np.stack([np.bincount(number, weights=column[complete]) for column in columns], axis=1)
    values = columns[:, complete].mean(1)
    groups = len(counts)
    if groups == 1:
        return Resampled(values, np.empty((0, len(columns))), int(complete.sum()), 1)
    kinds, alike = np.unique(np.column_stack([counts, sums]), axis=0, return_counts=True)
    means = []
    for times in _multinomial(groups, alike, resamples, seed):
        totals = times @ kinds
        means.append(totals[:, 1:] / totals[:, :1])
    return Resampled(values, np.concatenate(means), int(complete.sum()), groups)


def draws(groups: int, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each cluster is in each resample, `(some, groups)` at a time, `resamples` in all."""
    return _multinomial(groups, np.ones(groups, dtype=np.int64), resamples, seed)


def _multinomial(groups: int, alike: NDArray[np.int64], resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Counts of `len(alike)` kinds among `groups` drawn with replacement, kind i being `alike[i]` of the groups."""
    random = np.random.default_rng(seed)
    kinds = len(alike)
    few = kinds * 4 < groups
    chunk = max(1, min(100, _NUMBERS // (kinds if few else groups)))
    kind = np.repeat(np.arange(kinds), alike)
    for first in range(0, resamples, chunk):
        rows = min(chunk, resamples - first)
        if few:
            times = random.multinomial(groups, alike / groups, size=rows)
        else:  # the same numbers, quicker where kinds are many
            drawn = kind[random.integers(0, groups, (rows, groups), dtype=np.int32)]
            drawn += np.arange(rows)[:, None] * kinds
            times = np.bincount(drawn.ravel(), minlength=rows * kinds).reshape(rows, kinds)
        yield times.astype(np.float64)
