"""Distances between all pictures of a collection, from one embedding each.

The order of hierarchical clustering (average linkage) puts similar pictures beside each other, so that groups appear as squares
along the diagonal of a heat map.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from dreamsim_guidance.retrieval.rows import blocks, half_chords, unit_rows

__all__ = ["LARGEST_MATRIX", "distance_matrix", "distance_rows", "hierarchical_order", "nearest_neighbours"]

LARGEST_MATRIX = 20_000
"""The largest number of pictures whose matrix is held in memory: 1.6 GB. `distance_rows` has no limit."""

_OPTIMAL = 1_000
"""Up to so many pictures the branches of the tree are also turned so that neighbours are as alike as possible."""
_NUMBERS = 8_000_000


def distance_matrix(vectors: ArrayLike | Tensor, others: ArrayLike | Tensor | None = None) -> NDArray[np.float32]:
    """Return the distances of all pairs, `(n, n)`, in [0, 2]; or of every row to every row of `others`, `(n, m)`.

    vectors, others: unit rows `(n, d)` and `(m, d)`, as `Index.vectors` returns them.

    The matrix of one collection is symmetric with zeros on its diagonal. Raises ValueError as `unit_rows`, and for a matrix of
    more than `LARGEST_MATRIX` squared numbers.
    """
    rows = unit_rows(vectors)
    columns = rows if others is None else unit_rows(others)
    _check_dimensions(rows, columns)
    if len(rows) * len(columns) > LARGEST_MATRIX**2:
        raise ValueError(
            f"the matrix of {len(rows):,} x {len(columns):,} distances would need {len(rows) * len(columns) * 4 / 1e9:.1f} GB; "
            f"at most {LARGEST_MATRIX:,} squared are held in memory. Write them row by row (distance_rows, or matrix --csv)."
        )
    matrix = np.empty((len(rows), len(columns)), np.float32)
    for i, j, block in blocks(rows, None if others is None else columns):
        matrix[i : i + block.shape[0], j : j + block.shape[1]] = block
        if others is None:
            matrix[j : j + block.shape[1], i : i + block.shape[0]] = block.T
    return matrix


def distance_rows(vectors: ArrayLike | Tensor) -> Iterator[NDArray[np.float32]]:
    """Yield the rows of the matrix some at a time, `(some, n)`, for any number of pictures: to write them to a file.

    At most 32 MB are held beside the vectors. Raises as `distance_matrix`, but without its limit.
    """
    rows = unit_rows(vectors)
    step = max(1, _NUMBERS // len(rows))
    for first in range(0, len(rows), step):
        yield half_chords(rows[first : first + step], rows)


def nearest_neighbours(
    vectors: ArrayLike | Tensor, sample: NDArray[np.integer[Any]] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the nearest other row of each row and its distance, `(n,)` each.

    vectors: unit rows `(n, d)`, n >= 2. sample: the rows `(m,)` whose neighbours are wanted; by default all.

    Raises ValueError as `unit_rows`.
    """
    rows = unit_rows(vectors, least=2)
    chosen = np.arange(len(rows)) if sample is None else np.asarray(sample)
    neighbours, distances = np.empty(len(chosen), np.int64), np.empty(len(chosen), np.float32)
    step = max(1, _NUMBERS // len(rows))
    for first in range(0, len(chosen), step):
        part = slice(first, first + step)
        block = half_chords(rows[chosen[part]], rows)
        block[np.arange(len(block)), chosen[part]] = np.inf
        neighbours[part] = block.argmin(1)
        distances[part] = block.min(1)
    return neighbours, distances


def hierarchical_order(matrix: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the order of the pictures in which average-linkage clustering puts them, `(n,)`.

    matrix: symmetric distances `(n, n)`. Up to 1,000 pictures the branches are also turned so that the sum of the distances
    between neighbours is smallest (Bar-Joseph et al., Fast optimal leaf ordering for hierarchical clustering, Bioinformatics
    2001).

    Raises ValueError for anything but a square matrix.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"the matrix must be square, got {matrix.shape}.")
    if len(matrix) < 3:
        return np.arange(len(matrix))
    condensed = squareform(matrix, checks=False)
    tree = linkage(condensed, "average", optimal_ordering=len(matrix) <= _OPTIMAL)
    return leaves_list(tree).astype(np.int64)


def _check_dimensions(rows: NDArray[np.float32], columns: NDArray[np.float32]) -> None:
    if rows.shape[1] != columns.shape[1]:
        raise ValueError(
            f"both sets of vectors must have one dimension, got {rows.shape[1]} and {columns.shape[1]}; they come from "
            "different metrics."
        )
