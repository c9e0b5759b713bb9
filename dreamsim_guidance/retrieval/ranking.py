"""What a search minimises: distances to several queries, combined, less those to pictures that are not wanted.

With queries q_i, unwanted pictures u_j, and the metric's distance d(x, y) = 1 - x . y of unit vectors,

    score(x) = combine_i d(x, q_i) - 1/2 mean_j d(x, u_j)

where combine is the mean or the minimum. The weight 1/2 keeps the queries in charge: a step away from the unwanted
pictures improves the score by half of what a step away from the queries costs. Rocchio, Relevance feedback in information
retrieval, 1971, moves a query in the same way.

For every query the score is linear in x, a constant less x . w_i with w_i = q_i - 1/2 mean_j u_j; for the mean it is linear as
a whole, with the mean of the w_i. So the nearest pictures by score are the nearest to the directions w, and an index for
nearest neighbours finds their candidates.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dreamsim_guidance.retrieval.rows import Rows

__all__ = ["UNLIKE_WEIGHT", "Combine", "Ranking"]

Combine = Literal["mean", "min"]

UNLIKE_WEIGHT = 0.5
"""How much the distance to the unwanted pictures counts."""

_ROUNDING = 1e-12
"""Distances that scaling one stored vector to length one in float32 can make, depending on the rows beside it."""


class Ranking:
    """The score of pictures for given queries; lower is better.

    queries: unit rows `(q, d)`, q >= 1. unlike: unit rows `(u, d)` of unwanted pictures, possibly none.
    combine: "mean" or "min" of the distances to the queries.

    Raises ValueError for another way to combine, and for dimensions that do not agree.
    """

    def __init__(self, queries: Rows, unlike: Rows | None = None, combine: Combine = "mean") -> None:
        if combine not in ("mean", "min"):
            raise ValueError(f"unknown way to combine distances '{combine}'; known: mean, min.")
        self.queries = queries
        self.unlike = queries[:0] if unlike is None else unlike
        if self.unlike.shape[1] != queries.shape[1]:
            raise ValueError(
                f"queries and unwanted pictures must have one dimension, got {queries.shape[1]} and {self.unlike.shape[1]}."
            )
        self.combine = combine
        directions = queries - (UNLIKE_WEIGHT * self.unlike.mean(0) if len(self.unlike) else 0)
        self.directions: Rows = directions.mean(0, keepdims=True) if combine == "mean" else directions
        """The directions `(1, d)` or `(q, d)` whose nearest neighbours have the best scores; not of length one."""

    def approximate(self, rows: Rows) -> NDArray[np.float32]:
        """Scores of `rows`, `(n,)`, but for a constant and for rounding (about 1e-7): to choose candidates among many.

        rows: `(n, d)`, of length one up to the rounding of float16.
        """
        lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))
        products = rows @ self.directions.T
        return -products.max(1) / np.maximum(lengths, 1e-12)

    def exact(self, rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Combined distances to the queries and scores of unit rows `(n, d)`: two arrays `(n,)`, computed from differences."""
        distances = _distances(rows, self.queries)
        combined = distances.mean(1) if self.combine == "mean" else distances.min(1)
        if not len(self.unlike):
            return combined, combined
        return combined, combined - UNLIKE_WEIGHT * _distances(rows, self.unlike).mean(1)


def _distances(rows: Rows, others: Rows) -> NDArray[np.float64]:
    """Half squared chords `(n, m)` without the cancellation near zero; for a few rows."""
    columns = [0.5 * np.square(rows.astype(np.float64) - other).sum(1) for other in others]
    distances = np.stack(columns, axis=1)
    distances[distances < _ROUNDING] = 0  # the same stored vector
    return distances
