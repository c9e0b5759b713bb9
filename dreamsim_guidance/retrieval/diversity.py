"""How diverse a collection is: the Vendi score and the mean pairwise distance.

The Vendi score is the effective number of different pictures: the exponential of the entropy of the eigenvalues of a similarity
matrix. With K_ij = u_i . u_j, the cosine similarity of the embeddings (one minus the metric's distance), and the eigenvalues
l_i of K / n, which sum to one:

    VS_q = (sum_i l_i^q)^(1 / (1 - q)),   VS_1 = exp(-sum_i l_i log l_i),   VS_inf = 1 / max_i l_i

It is 1 if all pictures are equal and n if all are orthogonal; it cannot exceed the dimension of the embedding. A small q counts
rare pictures more, a large q the common ones. K / n and the d x d matrix U^T U / n have the same positive eigenvalues; the
smaller one is used.

The score grows with n: compare collections only at equal n, by `vendi_of_subsets`. Drawing with replacement repeats pictures
and lowers the score, so that a bootstrap gives no valid interval; subsets are drawn without replacement instead, and their
range says how much the score depends on which pictures are in the sample.

The mean pairwise distance of n pictures with the mean embedding m needs no pairs,

    2 / (n (n - 1)) sum_{i < j} |u_i - u_j|^2 / 2 = sum_i |u_i - m|^2 / (n - 1),

and does not depend on n but for noise. Its bootstrap resamples pictures and leaves out the pairs of a picture with itself.

Friedman and Dieng, The Vendi Score: A Diversity Evaluation Metric for Machine Learning, TMLR 2023; Pasarkar and Dieng, Cousins
of the Vendi Score, AISTATS 2024 (the orders q).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from dreamsim_guidance.evaluation.statistics.intervals import Interval, Resampled, draws
from dreamsim_guidance.retrieval.rows import Rows, unit_rows

__all__ = ["Subsets", "mean_pairwise_distance", "mean_pairwise_interval", "vendi_of_subsets", "vendi_score"]

_ZERO = 1e-10
"""Eigenvalues below this share of their sum are rounding; they would count fully for q = 0."""
_CHUNK = 65_536
"""Rows at a time that are converted to float64."""


@dataclass(frozen=True)
class Subsets:
    """Scores of random subsets: their mean, the range that holds the middle 95 %, the pictures in each, and their number."""

    mean: float
    low: float
    high: float
    size: int
    count: int


def vendi_score(vectors: ArrayLike | Tensor, q: float = 1.0) -> float:
    """Return the Vendi score of order q with the cosine kernel, from 1 to min(n, d).

    vectors: unit rows `(n, d)`.
    q: order, at least 0, or infinity; by default 1. Order 0 is the rank of the similarity matrix.

    Costs O(n d min(n, d)). Raises ValueError as `unit_rows`, and for a q below 0 or NaN.
    """
    if math.isnan(q) or q < 0:
        raise ValueError(f"the order q must be at least 0, or inf, got {q}.")
    return _hill(_spectrum(unit_rows(vectors)), q)


def vendi_of_subsets(vectors: ArrayLike | Tensor, size: int, q: float = 1.0, count: int = 20, seed: int = 0) -> Subsets:
    """Return the Vendi score of random subsets of `size` pictures, for collections of different sizes to be compared.

    vectors, q: as in `vendi_score`. size: from 1 to n. count: subsets, at least 1, by default 20. seed: of the draw.

    The range is that of the subsets, not a confidence interval. Raises ValueError as `vendi_score`, and for a size or count
    outside these ranges.
    """
    rows = unit_rows(vectors)
    if not 1 <= size <= len(rows):
        raise ValueError(f"a subset must have from 1 to {len(rows)} pictures, got {size}.")
    if count < 1:
        raise ValueError(f"at least one subset is needed, got {count}.")
    random = np.random.default_rng(seed)
    scores = [vendi_score(rows[random.choice(len(rows), size, replace=False)], q) for _ in range(count)]
    low, high = np.quantile(scores, [0.025, 0.975])
    return Subsets(float(np.mean(scores)), float(low), float(high), size, count)


def mean_pairwise_distance(vectors: ArrayLike | Tensor) -> float:
    """Return the mean distance over all pairs of different rows, in [0, 2], exactly and in O(n d).

    vectors: unit rows `(n, d)`, n >= 2. Raises ValueError as `unit_rows`.
    """
    rows = unit_rows(vectors, least=2)
    mean = rows.mean(0, dtype=np.float64)
    total = sum(float(np.square(rows[first : first + _CHUNK] - mean).sum()) for first in range(0, len(rows), _CHUNK))
    return total / (len(rows) - 1)


def mean_pairwise_interval(
    vectors: ArrayLike | Tensor, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Return the mean pairwise distance with its bootstrap interval over pictures.

    vectors: unit rows `(n, d)`, n >= 2. level: of the interval. resamples: draws of n pictures with replacement. seed: of them.

    The interval is about the population from which the pictures are a random sample. Pairs of a picture with its own copy are
    left out, because their distance of zero would bias the mean. Raises ValueError as `mean_pairwise_distance`.
    """
    rows = unit_rows(vectors, least=2)
    centred = (rows - rows.mean(0, dtype=np.float64)).astype(np.float32)
    squares = np.einsum("nd,nd->n", centred, centred)
    replicates = []
    for times in draws(len(rows), resamples, seed):
        total = len(rows)
        # sum over i, j of w_i w_j |x_i - x_j|^2 / 2; the pairs i = j add nothing to it
        sums = times.astype(np.float32) @ centred
        pairs = total * (times @ squares) - np.square(sums, dtype=np.float64).sum(1)
        weight = total**2 - np.square(times).sum(1)
        # a draw of one picture alone has no pair and is left out
        replicates.append(np.where(weight > 0, pairs / np.maximum(weight, 1), np.nan))
    values = np.array([mean_pairwise_distance(rows)])
    return Resampled(values, np.concatenate(replicates)[:, None], len(rows), len(rows)).interval(0, level)


def _spectrum(rows: Rows) -> NDArray[np.float64]:
    """The positive eigenvalues of K / n, scaled to sum to one."""
    n, d = rows.shape
    if n <= d:
        exact = rows.astype(np.float64)
        gram = exact @ exact.T
    else:
        gram = np.zeros((d, d))
        for first in range(0, n, _CHUNK):
            part = rows[first : first + _CHUNK].astype(np.float64)
            gram += part.T @ part
    eigenvalues = np.linalg.eigvalsh(gram / n).clip(min=0)
    eigenvalues /= eigenvalues.sum()
    return eigenvalues[eigenvalues > _ZERO]


def _hill(shares: NDArray[np.float64], q: float) -> float:
    """The Hill number of order q: the effective number of equally common kinds."""
    if q == 1:
        return float(np.exp(-(shares * np.log(shares)).sum()))
    if math.isinf(q):
        return float(1 / shares.max())
    return float(np.exp(np.log(np.power(shares, q).sum()) / (1 - q)))
