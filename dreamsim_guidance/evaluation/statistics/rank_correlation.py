"""Correlation of a metric with mean quality scores: of ranks, and of values after a fitted curve.

    Spearman   Pearson's correlation of mid-ranks
    Kendall    tau-b = sum_ij sign(x_i - x_j) sign(y_i - y_j) / sqrt(sum_ij |sign(x_i - x_j)| sum_ij |sign(y_i - y_j)|)
    Pearson    of f(x) with y, after the curve f(x) = b2 + (b1 - b2) / (1 + exp(-(x - b3) / |b4|)), or with five
               parameters f(x) = b1 (1/2 - 1 / (1 + exp(b2 (x - b3)))) + b4 x + b5

Resamples draw whole references. A reference that is drawn twice counts twice with all its pictures. For Kendall, the sums over
pairs of references are computed once, so that a resample costs a product of small matrices. The curve is fitted once, to the
whole set.

VQEG, Final report on the validation of objective models of video quality assessment, 2000 (four parameters); Sheikh,
Sabir, Bovik, A statistical evaluation of recent full reference image quality assessment algorithms, IEEE TIP 2006 (five).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import curve_fit
from scipy.special import expit
from scipy.stats import kendalltau

from dreamsim_guidance.evaluation.statistics.intervals import draws

__all__ = ["fit_logistic", "resample_kendall", "resample_pearson", "resample_spearman"]

_BLOCK = 4_000_000
"""Pairs of pictures at a time, to bound the memory."""
_MOST, _MOST_CLUSTERS = 60_000, 2_000
"""Pictures and references up to which Kendall's coefficient is resampled; at this size it takes a minute and 100 MB."""

Vector = NDArray[np.float64]
Replicates = tuple[float, Vector]
"""The coefficient, and its values in resamples; NaN if x or y is constant."""


def resample_spearman(x: Vector, y: Vector, cluster: NDArray[np.int64], resamples: int, seed: int) -> Replicates:
    """Return Spearman's coefficient of x with y, each `(n,)`; `cluster` numbers the references from 0."""
    ranked = [np.unique(values, return_inverse=True) for values in (x, y)]
    places = [place for _, place in ranked]

    def coefficient(times: NDArray[np.float64]) -> Vector:
        weights = times[:, cluster]
        ranks = [_midranks(weights, place, len(values)) for (values, _), place in zip(ranked, places, strict=True)]
        return _weighted_pearson(ranks[0], ranks[1], weights)

    return _with_resamples(coefficient, cluster, resamples, seed)


def resample_kendall(x: Vector, y: Vector, cluster: NDArray[np.int64], resamples: int, seed: int) -> Replicates:
    """As `resample_spearman`, for Kendall's coefficient, with n^2 comparisons; without resamples for very large sets."""
    if len(x) > _MOST or int(cluster.max()) >= _MOST_CLUSTERS:
        return float(kendalltau(x, y).statistic), np.empty(0)
    order = np.argsort(cluster, kind="stable")
    x, y, cluster = x[order], y[order], cluster[order]
    starts = np.flatnonzero(np.diff(cluster, prepend=-1))
    groups = len(starts)
    sums = np.zeros((3, groups, groups))  # agreement, untied in x, untied in y
    rows = max(1, _BLOCK // len(x))
    for first in range(0, len(x), rows):
        part = slice(first, first + rows)
        signs = [np.sign(values[part, None] - values[None, :]).astype(np.int8) for values in (x, y)]
        for i, product in enumerate((signs[0] * signs[1], np.abs(signs[0]), np.abs(signs[1]))):
            np.add.at(sums[i], cluster[part], np.add.reduceat(product, starts, axis=1, dtype=np.int32))

    def coefficient(times: NDArray[np.float64]) -> Vector:
        agreement, in_x, in_y = (np.einsum("rg,gh,rh->r", times, s, times, optimize=True) for s in sums)
        return _ratio(agreement, np.sqrt(in_x * in_y))

    return _with_resamples(coefficient, cluster, resamples, seed)


def resample_pearson(x: Vector, y: Vector, cluster: NDArray[np.int64], resamples: int, seed: int) -> Replicates:
    """As `resample_spearman`, for Pearson's coefficient of the values."""
    x, y = x - x.mean(), y - y.mean()
    moments = np.stack([np.bincount(cluster, weights=v) for v in (np.ones_like(x), x, y, x * x, y * y, x * y)], axis=1)

    def coefficient(times: NDArray[np.float64]) -> Vector:
        n, sx, sy, sxx, syy, sxy = (times @ moments).T
        spread = np.maximum(sxx - sx * sx / n, 0) * np.maximum(syy - sy * sy / n, 0)
        return _ratio(sxy - sx * sy / n, np.sqrt(spread))

    return _with_resamples(coefficient, cluster, resamples, seed)


def fit_logistic(x: Vector, y: Vector, parameters: Literal[4, 5] = 4) -> Vector:
    """Return f(x) of the best curve, `(n,)`, or x itself if no curve can be fitted, as for fewer than six points."""
    if parameters not in (4, 5):
        raise ValueError(f"the logistic curve has 4 or 5 parameters, got {parameters}.")
    spread = float(x.std())
    if len(x) < 6 or spread == 0 or float(y.std()) == 0:
        return x
    z = (x - x.mean()) / spread
    sign = 1.0 if np.corrcoef(z, y)[0, 1] >= 0 else -1.0
    low, high = (float(y.min()), float(y.max()))[:: int(sign)]
    # several starts: if distances crowd at one end, a single one may lead to a local optimum
    starts: list[tuple[float, ...]] = []
    for centre in np.quantile(z, [0.15, 0.5, 0.85]).tolist():
        for width in (1.0, 0.3, 0.1):
            if parameters == 4:
                starts.append((high, low, centre, width))
            else:
                starts.append((high - low, 1 / width, centre, 0.0, float(y.mean())))
    best, least = x, np.inf
    for start in starts:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about covariances, which are not used
                fit, _ = curve_fit(_CURVES[parameters], z, y, p0=start, maxfev=5000)
        except RuntimeError:  # no convergence from here
            continue
        fitted = _CURVES[parameters](z, *fit)
        error = float(np.square(fitted - y).sum())
        if np.isfinite(fitted).all() and float(fitted.std()) > 0 and error < least:
            best, least = fitted, error
    return best


def _four(x: Vector, b1: float, b2: float, b3: float, b4: float) -> Vector:
    return b2 + (b1 - b2) * expit((x - b3) / (abs(b4) + 1e-9))


def _five(x: Vector, b1: float, b2: float, b3: float, b4: float, b5: float) -> Vector:
    return b1 * (0.5 - expit(-b2 * (x - b3))) + b4 * x + b5


_CURVES: Mapping[int, Callable[..., Any]] = {4: _four, 5: _five}


def _with_resamples(
    coefficient: Callable[[NDArray[np.float64]], Vector], cluster: NDArray[np.int64], resamples: int, seed: int
) -> Replicates:
    groups = int(cluster.max()) + 1
    value = float(coefficient(np.ones((1, groups)))[0])
    if groups < 2:
        return value, np.empty(0)
    return value, np.concatenate([coefficient(times) for times in draws(groups, resamples, seed)])


def _midranks(weights: NDArray[np.float64], place: NDArray[np.int64], distinct: int) -> NDArray[np.float64]:
    """Ranks `(r, n)` if item i occurs `weights[r, i]` times; equal values share their mean rank."""
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    total = np.add.reduceat(weights[:, order], starts, axis=1)
    until = np.cumsum(total, axis=1)
    assert total.shape[1] == distinct
    return (until - (total - 1) / 2)[:, place]


def _weighted_pearson(
    x: NDArray[np.float64], y: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    total = weights.sum(1, keepdims=True)
    dx, dy = (v - (weights * v).sum(1, keepdims=True) / total for v in (x, y))
    return _ratio((weights * dx * dy).sum(1), np.sqrt((weights * dx * dx).sum(1) * (weights * dy * dy).sum(1)))


def _ratio(above: Vector, below: Vector) -> Vector:
    defined = below > 1e-12 * max(1.0, float(np.abs(above).max(initial=0)))
    return np.where(defined, above / np.where(defined, below, 1.0), np.nan)
