"""How the chance that a person agrees with a metric grows with the gap between its two distances.

    P(agree | gap) = 1/2 + (1 - lapse) (1 / (1 + exp(-slope gap)) - 1/2),   gap = |d_a - d_b|

One half where the metric is undecided, and 1 - lapse / 2 where it is sure. Slope and lapse maximise the likelihood of the
single votes; beside the curve stand means over bins of equally many triplets.

Wichmann and Hill, The psychometric function I, Perception and Psychophysics 2001.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit

from dreamsim_guidance.evaluation.statistics.agreement import credits
from dreamsim_guidance.evaluation.statistics.intervals import Interval, cluster_bootstrap

__all__ = ["Bin", "Curve", "psychometric_curve"]


@dataclass(frozen=True)
class Bin:
    """Triplets of similar gap: its mean, and the share of their votes that agree (rule "fraction")."""

    gap: float
    agreement: Interval


@dataclass(frozen=True)
class Curve:
    """Means over bins, and the fitted curve; `slope` is per unit of distance, `lapse` in [0, 1], NaN if not fitted."""

    bins: tuple[Bin, ...]
    slope: float
    lapse: float

    def __call__(self, gap: ArrayLike) -> NDArray[np.float64]:
        """Fitted chance of agreement at gaps."""
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
    """The curve of one metric; triplets at gap 0 say nothing and are left out. Errors as `credits`."""
    agreed = credits(distance_a, distance_b, votes_a, votes_b, "fraction")
    gap = np.abs(np.asarray(distance_a, dtype=np.float64) - np.asarray(distance_b, dtype=np.float64))
    votes = np.asarray(votes_a, dtype=np.float64) + np.asarray(votes_b, dtype=np.float64)
    labels = np.asarray(clusters)
    kept = gap > 0
    gap, agreed, votes, labels = gap[kept], agreed[kept], votes[kept], labels[kept]
    if not len(gap):
        return Curve((), float("nan"), float("nan"))
    parts = np.array_split(np.argsort(gap, kind="stable"), min(bins, max(1, len(gap) // 5)))
    found = tuple(
        Bin(float(gap[part].mean()), cluster_bootstrap(agreed[part], labels[part], resamples=resamples, seed=seed))
        for part in parts
    )
    return Curve(found, *_fit(gap, agreed, votes))


def _fit(gap: NDArray[np.float64], agreed: NDArray[np.float64], votes: NDArray[np.float64]) -> tuple[float, float]:
    """Slope and lapse of the greatest likelihood; votes weigh as single answers."""
    scale = float(gap.mean())

    def loss(x: NDArray[np.float64]) -> float:
        slope, lapse = np.exp(x[0]), expit(x[1])
        p = np.clip(0.5 + (1 - lapse) * (expit(slope * gap / scale) - 0.5), 1e-9, 1 - 1e-9)
        return float(-(votes * (agreed * np.log(p) + (1 - agreed) * np.log(1 - p))).sum() / votes.sum())

    # kept away from where the likelihood is flat: an infinite slope, no lapse at all
    best = min(
        (minimize(loss, [start, -3.0], bounds=[(-7, 7), (-9, 9)], method="L-BFGS-B") for start in (-1.0, 0.0, 1.5)),
        key=lambda result: result.fun,
    )
    return float(np.exp(best.x[0]) / scale), float(expit(best.x[1]))
