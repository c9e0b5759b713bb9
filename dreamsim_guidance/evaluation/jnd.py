"""Just noticeable differences: does the metric put pairs that people took for the same before the others?

Pairs are sorted by distance, nearest first, and the area under precision over recall of "same" is taken, precision made
monotone from the right, as PASCAL VOC has done since 2010.

Everingham et al., The PASCAL visual object classes challenge, IJCV 2010; Zhang et al., CVPR 2018 (for JND).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["average_precision"]


def average_precision(distances: ArrayLike, same: ArrayLike) -> float:
    """Average precision in [0, 1] of `same` (the share of people, or 0 and 1, shape `(n,)`) under growing distance.

    Pairs at equal distance are taken in one step, so that their order in the list does not matter. Raises ValueError
    if nobody took any pair for the same, or for NaN.
    """
    d, s = np.asarray(distances, dtype=np.float64), np.asarray(same, dtype=np.float64)
    if d.shape != s.shape or d.ndim != 1:
        raise ValueError(f"distances and votes must be two lists of one length, got {d.shape} and {s.shape}.")
    if np.isnan(d).any() or not ((s >= 0) & (s <= 1)).all() or s.sum() == 0:
        raise ValueError("distances must not be NaN, votes must lie in [0, 1], and some pair must be the same.")
    order = np.argsort(d, kind="stable")
    d, s = d[order], s[order]
    last = np.append(d[1:] != d[:-1], True)
    found = np.cumsum(s)[last]
    precision = found / (np.flatnonzero(last) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    recall = np.concatenate([[0.0], found / s.sum()])
    return float((np.diff(recall) * precision).sum())
