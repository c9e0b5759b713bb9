"""How far a metric's decisions follow simple features: colour, luminance layout, depth, category.

For each triplet with the metric's distances d and a feature's distances f, both of the reference to a and to b:

    agreement     the share of triplets in which both find the same candidate nearer, without those where either finds a tie
    correlation   Spearman's coefficient of d_a - d_b and f_a - f_b
    joint         coefficient of a logistic regression of the metric's decision on all features together

The regression has no intercept, since a and b may be exchanged, and a ridge:

    maximise  sum_i log sigma(y_i x_i . w) - |w|^2 / 2,   y_i = sign(d_b - d_a),   x_i = (f_b - f_a) / rms(f_b - f_a)

so w is in log-odds for a difference of one root mean square: what a feature adds when the others are held. Agreement of a
metric without relation to the feature is 1/2, and correlation and coefficient are 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from dreamsim_guidance.data.judgments import Judgments
from dreamsim_guidance.evaluation.statistics.intervals import Interval, Resampled, draws
from dreamsim_guidance.sensitivity.summaries import Bootstrap, decisions, mean, rank_correlation

__all__ = ["FeatureCorrelation", "correlate"]

Values = NDArray[np.float64]
_JOINT_RESAMPLES = 400


@dataclass(frozen=True)
class FeatureCorrelation:
    """How far a metric's decisions follow one feature."""

    agreement: Interval
    correlation: Interval
    joint: Interval


def correlate(
    distances: Values, vectors: Mapping[str, Values], judgments: Judgments, bootstrap: Bootstrap
) -> dict[str, FeatureCorrelation]:
    """Compare the metric's distances (to all a, then to all b) with each feature; intervals resample references.

    vectors: by feature, a table `(pictures, d)` in the order of `judgments.images`.
    """
    n = len(judgments)
    gap, sides = distances[n:] - distances[:n], decisions(distances, float(np.abs(distances).mean()))
    gaps = {name: _gap(table, judgments) for name, table in vectors.items()}
    joint = _joint(sides, np.stack(list(gaps.values()), axis=1), judgments.reference, bootstrap)
    results = {}
    for i, (name, feature) in enumerate(gaps.items()):
        both = sides * np.sign(feature)
        results[name] = FeatureCorrelation(
            mean(np.where(both == 0, np.nan, (1 + both) / 2), judgments.reference, bootstrap),
            rank_correlation(gap, feature, judgments.reference, bootstrap),
            joint.interval(i, bootstrap.level),
        )
    return results


def _gap(table: Values, judgments: Judgments) -> Values:
    reference = table[judgments.reference]
    d_a, d_b = (np.linalg.norm(table[side] - reference, axis=1) for side in (judgments.a, judgments.b))
    gap = d_b - d_a
    return np.where(np.abs(gap) < 1e-12, 0.0, gap)


def _joint(decisions: Values, features: Values, reference: NDArray[np.int64], bootstrap: Bootstrap) -> Resampled:
    """The coefficients of the regression and their resamples; NaN without any decision, and for a constant feature."""
    decided = decisions != 0
    k = features.shape[1]
    spread = np.sqrt(np.square(features[decided]).mean(0)) if decided.any() else np.zeros(k)
    varies = spread > 0
    if not varies.any():
        return Resampled(np.full(k, np.nan), np.full((1, k), np.nan), 0, 0)
    _, cluster = np.unique(reference[decided], return_inverse=True)
    x, y = features[decided][:, varies] / spread[varies], decisions[decided]
    groups = int(cluster.max()) + 1
    value = np.full(k, np.nan)
    value[varies] = _logistic(x, y, np.ones(len(y)))
    replicates = np.full((_JOINT_RESAMPLES if groups > 1 else 1, k), np.nan)
    if groups > 1:
        times = np.concatenate(list(draws(groups, _JOINT_RESAMPLES, bootstrap.seed)))
        replicates[:, varies] = [_logistic(x, y, row[cluster]) for row in times]
    return Resampled(value, replicates, int(decided.sum()), groups)


def _logistic(x: Values, y: Values, weights: Values) -> Values:
    """The coefficients of greatest penalised likelihood, by Newton's method with shortened steps."""
    w = np.zeros(x.shape[1])
    for _ in range(50):
        p = expit(-y * (x @ w))
        gradient = x.T @ (weights * y * p) - w
        hessian = (x * (weights * p * (1 - p))[:, None]).T @ x + np.eye(len(w))
        step = np.linalg.solve(hessian, gradient)
        step /= max(1.0, float(np.abs(step).max()))
        w = w + step
        if float(np.abs(step).max()) < 1e-8:
            break
    return w
