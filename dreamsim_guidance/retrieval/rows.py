"""Rows of embeddings: checked, scaled to length one, and compared block by block with bounded memory.

A row is the metric's direction of a picture, a unit vector u; half the squared chord between two rows is the metric's distance:

    d(x, y) = |u(x) - u(y)|^2 / 2 = 1 - u(x) . u(y)

The right form is one matrix product, which is fast, but near zero its result in float32 is all rounding. Distances below
`EXACT_BELOW` are therefore computed again from the left form. Rows that were stored as float16 are scaled to length one again,
so that the rounding of their lengths does not enter.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

__all__ = ["EXACT_BELOW", "Rows", "blocks", "half_chords", "unit_rows"]

Rows = NDArray[np.float32]
"""Unit vectors, `(n, d)`."""

EXACT_BELOW = 1e-3
"""Distances below this are computed from differences; the matrix product is wrong by about 1e-7."""

_LENGTH_SLACK = 0.02
"""How far the length of a row may be from one: float16 rounds to about 0.001."""
_NUMBERS = 8_000_000
"""Numbers in one temporary array of differences or block of distances, to bound the memory: 32 MB."""


def unit_rows(vectors: ArrayLike | Tensor, least: int = 1) -> Rows:
    """Return `vectors` as float32 rows of length one.

    vectors: `(n, d)`, an array or tensor of any floating type, with rows of length one up to rounding.
    least: the smallest number of rows that is accepted; by default 1.

    Raises ValueError for another shape, too few rows, values that are not finite, and rows of another length.
    """
    if isinstance(vectors, Tensor):
        vectors = vectors.detach().to("cpu", torch.float32).numpy()
    rows = np.asarray(vectors, dtype=np.float32)
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ValueError(f"vectors must have shape (n, d), one row for each picture, got {rows.shape}.")
    if len(rows) < least:
        raise ValueError(f"at least {least} {'picture is' if least == 1 else 'pictures are'} needed, got {len(rows)}.")
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    if not np.isfinite(lengths).all():
        raise ValueError(f"vectors must be finite, and row {int((~np.isfinite(lengths)).argmax())} is not.")
    wrong = np.abs(lengths - 1) > _LENGTH_SLACK
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"vectors must be rows of length 1, and row {row} has length {lengths[row]:.3g}; pass directions of the metric, as "
            "DreamSim.directions or Index.vectors return them."
        )
    return rows / lengths[:, None]


def half_chords(a: Rows, b: Rows) -> NDArray[np.float32]:
    """Return the distance of every row of `a`, `(n, d)`, to every row of `b`, `(m, d)`: `(n, m)`, in [0, 2]."""
    distances = np.maximum(1 - a @ b.T, 0)
    near_a, near_b = np.nonzero(distances < EXACT_BELOW)
    step = max(1, _NUMBERS // a.shape[1])
    for first in range(0, len(near_a), step):
        i, j = near_a[first : first + step], near_b[first : first + step]
        distances[i, j] = 0.5 * np.square(a[i] - b[j]).sum(1)
    return distances


def blocks(rows: Rows, others: Rows | None = None) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
    """Yield `(i, j, distances)`: the distances of `rows[i:i + a]` to `others[j:j + b]`, `(a, b)`.

    Without `others` the rows are compared with each other, and each pair of blocks occurs once, with j >= i: the distances of
    the other half are the same. Memory: 32 MB for a block, whatever the number of rows.
    """
    columns = rows if others is None else others
    side = int(_NUMBERS**0.5)
    for i in range(0, len(rows), side):
        for j in range(i if others is None else 0, len(columns), side):
            yield i, j, half_chords(rows[i : i + side], columns[j : j + side])
