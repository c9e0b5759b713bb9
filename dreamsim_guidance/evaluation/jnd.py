"""Just noticeable differences: are the pairs that people took for the same also the nearest ones for the metric?

Pairs are sorted by distance, nearest first. The score is the area under the precision-recall curve of "same", with precision
made monotone from the right, as PASCAL VOC has computed it since 2010.

Everingham et al., The PASCAL visual object classes challenge, IJCV 2010; Zhang et al., CVPR 2018 (for JND).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dreamsim_guidance.data.same_pairs import SamePairs
from dreamsim_guidance.evaluation.report import Part, Report
from dreamsim_guidance.evaluation.score import labelled, report_of
from dreamsim_guidance.evaluation.statistics.intervals import Resampled, draws

__all__ = ["average_precision", "judge_same_pairs", "resample_average_precision"]

_NAME = "average precision"


def average_precision(distances: ArrayLike, same: ArrayLike) -> float:
    """Return the average precision, in [0, 1], of retrieving the pairs that look the same by their distance.

    distances: of the pairs, `(n,)`; pairs at equal distance are retrieved together, so their order does not matter.
    same: the share of people who took each pair for the same, or 0 and 1, `(n,)`.

    Raises ValueError for NaN, for shares outside [0, 1], and if all shares are 0.
    """
    d, s = np.asarray(distances, dtype=np.float64), np.asarray(same, dtype=np.float64)
    if d.shape != s.shape or d.ndim != 1:
        raise ValueError(f"distances and votes must be two lists of one length, got {d.shape} and {s.shape}.")
    if np.isnan(d).any() or not ((s >= 0) & (s <= 1)).all():
        raise ValueError("distances must not be NaN, and votes must lie in [0, 1].")
    if s.sum() == 0:
        raise ValueError(
            f"nobody took one of the {len(s)} pairs for the same, so there is nothing to retrieve by distance; some pair must "
            "be the same to somebody: ask more people, or about pairs that differ less."
        )
    return float(_areas(d, s, np.ones((1, len(d))))[0])


def judge_same_pairs(
    metrics: dict[str, NDArray[np.float64]], pairs: SamePairs, resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> Report:
    """Report the average precision of each metric's distances `(n,)`, with intervals clustered by a pair's first picture.

    Splits and groups in which all shares are 0 are left out. Raises the errors of `average_precision`, and
    ValueError if there is no metric.
    """
    if not metrics:
        raise ValueError("at least one metric is needed, got none.")

    def part(rows: NDArray[np.int64]) -> tuple[dict[str, Resampled], Part]:
        table = np.stack([distances[rows] for distances in metrics.values()])
        precision: dict[str, Resampled] = {}
        if len(rows) == len(pairs) or pairs.share_same[rows].any():
            precision[_NAME] = resample_average_precision(table, pairs.share_same[rows], pairs.a[rows], resamples, seed)
        return precision, Part(len(rows), len(np.unique(pairs.a[rows])), labelled(list(metrics), precision, level))

    return report_of("same pairs", pairs, part, list(metrics), [_NAME], resamples, seed, level)


def resample_average_precision(
    distances: NDArray[np.float64],
    same: NDArray[np.float64],
    clusters: NDArray[np.generic],
    resamples: int = 2000,
    seed: int = 0,
) -> Resampled:
    """Return the average precision of k metrics' distances `(k, n)`, and that of resamples of whole clusters."""
    values = np.array([average_precision(column, same) for column in distances])
    _, number = np.unique(clusters, return_inverse=True)
    groups = int(number.max()) + 1
    replicates = [np.empty((0, len(distances)))]
    if groups > 1:
        for times in draws(groups, resamples, seed):
            replicates.append(np.stack([_areas(column, same, times[:, number]) for column in distances], axis=1))
    return Resampled(values, np.concatenate(replicates), len(same), groups)


def _areas(d: NDArray[np.float64], s: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average precision `(r,)` of resamples that hold pair i `weights[r, i]` times; NaN without a pair that is the same."""
    order = np.argsort(d, kind="stable")
    last = np.append(np.diff(d[order]) != 0, True)
    weights = weights[:, order]
    pairs = np.cumsum(weights, axis=1)[:, last]
    same = np.cumsum(weights * s[order], axis=1)[:, last]
    precision = same / np.maximum(pairs, 1e-300)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    steps = np.diff(same, axis=1, prepend=0.0)
    total = same[:, -1]
    return np.where(total > 0, (steps * precision).sum(1) / np.where(total > 0, total, 1.0), np.nan)
