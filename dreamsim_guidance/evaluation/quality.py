"""Correlation of a metric with mean quality scores (TID2013, KADID-10k, PIPAL, ...), over all pictures and per reference.

The two differ a lot: over all pictures, a metric has to put distortions of different photographs on one scale; among the
pictures of one reference it does not. All coefficients use similarity, the negative distance, so that higher is better.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr

from dreamsim_guidance.data.ratings import Ratings
from dreamsim_guidance.evaluation.report import Part, Report
from dreamsim_guidance.evaluation.score import labelled, report_of
from dreamsim_guidance.evaluation.statistics.intervals import Resampled, draws
from dreamsim_guidance.evaluation.statistics.rank_correlation import (
    Replicates,
    fit_logistic,
    resample_kendall,
    resample_pearson,
    resample_spearman,
)

__all__ = ["judge_ratings"]

_FEWEST = 3
"""Different scores that the pictures of a reference need for a correlation among them to mean anything."""

_WITHIN = ("spearman within", "kendall within", "pearson within")


def judge_ratings(
    metrics: dict[str, NDArray[np.float64]], ratings: Ratings, resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> Report:
    """Report the correlations of each metric's distances `(n,)` with the scores, with intervals clustered by reference.

    If a metric gives all pictures of a reference the same distance, its correlation there counts as 0. Measures that are
    undefined, because references have one picture each or all scores are equal, are left out. Raises ValueError if there is
    no metric.
    """
    if not metrics:
        raise ValueError("at least one metric is needed, got none.")

    def part(rows: NDArray[np.int64]) -> tuple[dict[str, Resampled], Part]:
        _, cluster = np.unique(ratings.reference[rows], return_inverse=True)
        columns = [
            _measures(-distances[rows], ratings.score[rows], cluster, resamples, seed) for distances in metrics.values()
        ]
        groups = int(cluster.max()) + 1
        measures = {
            name: Resampled(
                np.array([column[name][0] for column in columns]),
                np.stack([column[name][1] for column in columns], axis=1),
                len(rows),
                groups,
            )
            for name in columns[0]
            if all(np.isfinite(column[name][0]) for column in columns)
        }
        return measures, Part(len(rows), groups, labelled(list(metrics), measures, level))

    return report_of("ratings", ratings, part, list(metrics), None, resamples, seed, level)


def _measures(
    x: NDArray[np.float64], y: NDArray[np.float64], cluster: NDArray[np.int64], resamples: int, seed: int
) -> dict[str, Replicates]:
    fitted = fit_logistic(x, y)
    within = np.full((int(cluster.max()) + 1, 5), np.nan)
    for i in range(len(within)):
        rows = cluster == i
        within[i] = _within(x[rows], y[rows], fitted[rows])
    return {
        "spearman": resample_spearman(x, y, cluster, resamples, seed),
        "kendall": resample_kendall(x, y, cluster, resamples, seed),
        "pearson": resample_pearson(fitted, y, cluster, resamples, seed),
        **{
            name: _means(within[:, i], np.isfinite(within[:, i]).astype(np.float64), resamples, seed)
            for i, name in enumerate(_WITHIN)
        },
        "pairs within": _means(within[:, 3], within[:, 4], resamples, seed),
    }


def _within(x: NDArray[np.float64], y: NDArray[np.float64], fitted: NDArray[np.float64]) -> list[float]:
    """Spearman, Kendall and Pearson of one reference, the credit of its pairs, and how many of these have different scores."""
    i, j = np.triu_indices(len(x), 1)
    order = np.sign(y[i] - y[j])
    credit = (1 + np.sign(x[i] - x[j]) * order)[order != 0] / 2
    right, pairs = float(credit.sum()), float(len(credit))
    if len(np.unique(y)) < _FEWEST:
        return [float("nan")] * 3 + [right, pairs]
    if len(np.unique(x)) < 2:
        return [0.0, 0.0, 0.0, right, pairs]
    return [float(spearmanr(x, y).statistic), float(kendalltau(x, y).statistic), _linear(fitted, y), right, pairs]


def _linear(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Pearson's correlation; 0 if x is constant up to rounding."""
    spread = float(x.std())
    if spread <= 1e-9 * max(1.0, float(np.abs(x).max())):
        return 0.0
    return float(np.mean((x - x.mean()) * (y - y.mean())) / (spread * y.std()))


def _means(sums: NDArray[np.float64], counts: NDArray[np.float64], resamples: int, seed: int) -> Replicates:
    """The sum divided by the sum of counts, for all references and for resamples of them; NaN if the counts are 0."""
    sums = np.nan_to_num(sums)
    if counts.sum() == 0:
        return float("nan"), np.empty(0)
    value = float(sums.sum() / counts.sum())
    if len(sums) < 2:
        return value, np.empty(0)
    totals = [(times @ sums, times @ counts) for times in draws(len(sums), resamples, seed)]
    above, below = (np.concatenate([total[i] for total in totals]) for i in (0, 1))
    return value, np.where(below > 0, above / np.where(below > 0, below, 1.0), np.nan)
