"""One scale of quality from pairwise preferences.

    P(i beats j) = 1 / (1 + exp(s_j - s_i))

The strengths s maximise the log-likelihood of the observed wins minus a ridge penalty r |s|^2 / 2, which keeps the strength of
a method that always won finite; Newton's method converges in a few steps. Only differences are meaningful: the mean is zero.

Bradley and Terry, Rank analysis of incomplete block designs, Biometrika 1952.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["bradley_terry"]


def bradley_terry(wins: ArrayLike, ridge: float = 0.01) -> NDArray[np.float64]:
    """Return strengths `(m,)` in log-odds.

    wins: `(m, m)`, how often method i was preferred to method j; halves (ties) are allowed, the diagonal is ignored.
    ridge: weight of the penalty, above 0; by default 0.01.

    Raises ValueError if `wins` is not a square of finite numbers of at least 0.
    """
    w = np.array(wins, dtype=np.float64)
    if w.ndim != 2 or w.shape[0] != w.shape[1] or len(w) < 2:
        raise ValueError(f"wins must be a square of at least 2 x 2, got {w.shape}.")
    if not np.isfinite(w).all() or (w < 0).any() or ridge <= 0:
        raise ValueError("wins must be finite and at least 0, and the ridge above 0.")
    np.fill_diagonal(w, 0.0)
    games = w + w.T
    s = np.zeros(len(w))
    for _ in range(100):
        p = 1 / (1 + np.exp(s[None, :] - s[:, None]))
        gradient = w.sum(1) - (games * p).sum(1) - ridge * s
        curvature = games * p * (1 - p)
        hessian = np.diag(curvature.sum(1) + ridge) - curvature
        step = np.linalg.solve(hessian, gradient)
        s = s + step / max(1.0, float(np.abs(step).max()))  # far from the optimum, full Newton steps overshoot
        if float(np.abs(step).max()) < 1e-10:
            break
    return s - s.mean()
