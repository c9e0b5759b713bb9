"""How the chance that a person agrees with a metric grows with the gap between the metric's two distances.

    P(agree | gap) = 1/2 + (1 - lapse) (1 / (1 + exp(-slope gap)) - 1/2),   gap = |d_a - d_b|

The chance is one half where the metric is undecided, and 1 - lapse / 2 where its gap is wide. Slope and lapse maximise the
likelihood of the single votes. For a fixed slope the log-likelihood is concave in the lapse, so its maximum over the lapse,
the profile likelihood, is found exactly, and the fit is a search over the slope alone.

Votes may leave the curve open: if they agree everywhere, nowhere, or equally often at every gap, a whole range of slopes
explains them equally well. The interval of a parameter therefore holds every value whose profile likelihood is within the
95 % limit of the likelihood-ratio test, and a curve counts as identified only if the interval of its slope ends on both
sides. These intervals take votes as independent of each other; the bins' intervals are clustered by reference.

Wichmann and Hill, The psychometric function I, Perception and Psychophysics 2001; Venzon and Moolgavkar, A method for
computing profile-likelihood-based confidence intervals, Applied Statistics 1988.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq, minimize_scalar
from scipy.special import expit
from scipy.stats import chi2

from dreamsim_guidance.evaluation.statistics.agreement import credits
from dreamsim_guidance.evaluation.statistics.intervals import Interval, cluster_bootstrap

__all__ = ["Bin", "Curve", "psychometric_curve"]

_SLOPES = np.linspace(-7.0, 7.0, 57)
"""Logarithms of the slopes that are searched, per mean gap. At the ends the curve is a constant and a step."""
_LAPSES = (float(expit(-9.0)), float(expit(9.0)))
"""Smallest and largest lapse; at 0 a single vote against the widest gap would make the likelihood vanish."""
_LINES = 13
"""Slopes inside their interval at which the range of lapses is looked up."""
_LIMIT = float(chi2.ppf(0.95, 1)) / 2
"""How far below the greatest log-likelihood a value inside its 95 % interval may lie."""

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Bin:
    """Triplets of similar gap: their mean gap, and the share of their votes that agree (rule "fraction")."""

    gap: float
    agreement: Interval


@dataclass(frozen=True)
class Curve:
    """Agreement by bins of the gap, and the fitted curve.

    slope: per unit of distance; NaN, like lapse and log_likelihood, where no triplet has a gap.
    lapse: in [0, 1].
    slope_interval, lapse_interval: 95 % intervals; an end that the votes leave open is 0 or infinity, 0 or 1.
    identified: whether the votes determine the slope. If not, `slope` and `lapse` are one choice of many that explain the
        votes as well, and only the curve's values at the observed gaps mean something.
    log_likelihood: mean over votes at the fitted curve; answers at random have -log 2 = -0.693.
    """

    bins: tuple[Bin, ...]
    slope: float
    lapse: float
    slope_interval: tuple[float, float] = (0.0, math.inf)
    lapse_interval: tuple[float, float] = (0.0, 1.0)
    identified: bool = False
    log_likelihood: float = math.nan

    def __call__(self, gap: ArrayLike) -> Vector:
        """Fitted chance of agreement at gaps of any shape."""
        return 0.5 + (1 - self.lapse) * (expit(self.slope * np.asarray(gap, dtype=np.float64)) - 0.5)


def psychometric_curve(
    distance_a: ArrayLike,
    distance_b: ArrayLike,
    votes_a: ArrayLike,
    votes_b: ArrayLike,
    clusters: ArrayLike,
    bins: int = 10,
    resamples: int = 1000,
    seed: int = 0,
) -> Curve:
    """The curve of one metric from its distances and people's votes, each `(n,)`.

    `clusters` are the references' labels, for the intervals of the `bins` (by default 10, of equally many triplets, at
    least 5 each). Triplets whose gap is 0 say nothing about the curve and are left out. Raises the errors of `credits`.
    """
    agreed = credits(distance_a, distance_b, votes_a, votes_b, "fraction")
    gap = np.abs(np.asarray(distance_a, dtype=np.float64) - np.asarray(distance_b, dtype=np.float64))
    votes = np.asarray(votes_a, dtype=np.float64) + np.asarray(votes_b, dtype=np.float64)
    labels = np.asarray(clusters)
    apart = gap > 0
    gap, agreed, votes, labels = gap[apart], agreed[apart], votes[apart], labels[apart]
    if not len(gap):
        return Curve((), math.nan, math.nan)
    parts = np.array_split(np.argsort(gap, kind="stable"), min(bins, max(1, len(gap) // 5)))
    points = tuple(
        Bin(float(gap[part].mean()), cluster_bootstrap(agreed[part], labels[part], resamples=resamples, seed=seed))
        for part in parts
    )
    return _fitted(points, gap, agreed * votes, (1 - agreed) * votes)


class _Profile(NamedTuple):
    """The best lapse of a slope, and the log-likelihood there."""

    lapse: float
    value: float


def _fitted(points: tuple[Bin, ...], gap: Vector, agreeing: Vector, opposing: Vector) -> Curve:
    scale = float(gap.mean())

    def rise(log_slope: float) -> Vector:
        return expit(math.exp(log_slope) * gap / scale) - 0.5

    @cache
    def profile(log_slope: float) -> _Profile:
        return _best_lapse(rise(log_slope), agreeing, opposing)

    slopes = _SLOPES.tolist()
    top = max(range(len(slopes)), key=lambda i: profile(slopes[i]).value)
    around = slopes[max(top - 1, 0)], slopes[min(top + 1, len(slopes) - 1)]
    refined = minimize_scalar(lambda x: -profile(x).value, bounds=around, method="bounded", options={"xatol": 1e-9})
    best = max(slopes[top], float(refined.x), key=lambda x: profile(x).value)
    lapse, greatest = profile(best)
    level = greatest - _LIMIT

    def margin(log_slope: float) -> float:
        return profile(log_slope).value - level

    low = _end(margin, [x for x in slopes if x < best], best)
    high = _end(margin, [x for x in reversed(slopes) if x > best], best)
    inside = np.linspace(slopes[0] if low is None else low, slopes[-1] if high is None else high, _LINES)
    ranges = [_lapses(rise(x), agreeing, opposing, level) for x in (*inside.tolist(), best)]
    return Curve(
        points,
        slope=math.exp(best) / scale,
        lapse=lapse,
        slope_interval=(
            0.0 if low is None else math.exp(low) / scale,
            math.inf if high is None else math.exp(high) / scale,
        ),
        lapse_interval=(min(least for least, _ in ranges), max(most for _, most in ranges)),
        identified=low is not None and high is not None,
        log_likelihood=greatest / float((agreeing + opposing).sum()),
    )


def _end(margin: Callable[[float], float], outside_in: list[float], best: float) -> float | None:
    """The end of the interval around `best` on the side of the values `outside_in`; None if it lies beyond them all."""
    outside = None
    for x in (*outside_in, best):
        if margin(x) >= 0:
            return None if outside is None else float(brentq(margin, outside, x, xtol=1e-10))
        outside = x
    raise AssertionError("the margin at the best slope is positive")


def _log_likelihood(lapse: float, rise: Vector, agreeing: Vector, opposing: Vector) -> float:
    """Of the votes if the chance is 1/2 + (1 - lapse) rise."""
    p = np.clip(0.5 + (1 - lapse) * rise, 1e-300, 1 - 1e-16)
    return float((agreeing * np.log(p) + opposing * np.log1p(-p)).sum())


def _derivative(lapse: float, rise: Vector, agreeing: Vector, opposing: Vector) -> float:
    """Of the log-likelihood with respect to the lapse; it falls as the lapse grows."""
    p = 0.5 + (1 - lapse) * rise
    return float((opposing * rise / (1 - p) - agreeing * rise / p).sum())


def _margin(lapse: float, rise: Vector, agreeing: Vector, opposing: Vector, level: float) -> float:
    return _log_likelihood(lapse, rise, agreeing, opposing) - level


def _best_lapse(rise: Vector, agreeing: Vector, opposing: Vector) -> _Profile:
    least, most = _LAPSES
    votes = (rise, agreeing, opposing)
    if _derivative(least, *votes) <= 0:
        lapse = least
    elif _derivative(most, *votes) >= 0:
        lapse = most
    else:
        lapse = float(brentq(_derivative, least, most, args=votes, xtol=1e-14))
    return _Profile(lapse, _log_likelihood(lapse, *votes))


def _lapses(rise: Vector, agreeing: Vector, opposing: Vector, level: float) -> tuple[float, float]:
    """The lapses whose log-likelihood is at least `level`, for one slope; the best one alone if it has less."""
    best = _best_lapse(rise, agreeing, opposing)
    if best.value < level:
        return best.lapse, best.lapse
    least, most = _LAPSES
    votes = (rise, agreeing, opposing, level)
    low = 0.0 if _margin(least, *votes) >= 0 else float(brentq(_margin, least, best.lapse, args=votes, xtol=1e-8))
    high = 1.0 if _margin(most, *votes) >= 0 else float(brentq(_margin, best.lapse, most, args=votes, xtol=1e-8))
    return low, high
