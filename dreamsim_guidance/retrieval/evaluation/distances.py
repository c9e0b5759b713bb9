"""Distances from queries to a gallery under any named metric: one product of embeddings, or every pair compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dreamsim_guidance.evaluation.metrics.named_metrics import FileMetric, embedding_metric

__all__ = ["chord_distances", "gallery_distances"]

_CHUNK = 4_000_000
"""Numbers in one block of distances, to bound the memory."""
_DIGITS = 12
"""Distances of unit vectors are rounded to so many digits: far below float32's precision, and far above the rounding of a
product of matrices, so that equal pictures are exactly tied wherever they lie."""
_MOST_PAIRS = 5_000_000


def gallery_distances(
    metric: FileMetric,
    files: Sequence[Path],
    queries: NDArray[np.int64],
    gallery: NDArray[np.int64],
    progress: bool = True,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Yield blocks of queries: their positions in `files`, `(q,)`, and their distances to the gallery, `(q, gallery)`.

    A metric with embeddings embeds each picture once. Any other compares every query with every picture of the gallery but
    itself; the distance of a picture to itself is then NaN.

    Raises ValueError for pictures that cannot be read, distances that are not finite, and more than five million pairs.
    """
    embedding = embedding_metric(metric)
    if embedding is not None:
        used = np.union1d(queries, gallery)
        vectors = embedding.directions([files[i] for i in used], progress).astype(np.float64)
        place = np.empty(len(files), dtype=np.int64)
        place[used] = np.arange(len(used))
        others = vectors[place[gallery]]
        step = max(1, _CHUNK // len(gallery))
        for first in range(0, len(queries), step):
            part = queries[first : first + step]
            yield part, chord_distances(vectors[place[part]], others)
        return
    count = len(queries) * len(gallery)
    if count > _MOST_PAIRS:
        raise ValueError(
            f"{metric.name} compares pairs, and {len(queries)} queries in a gallery of {len(gallery)} are {count:,} pairs; "
            f"at most {_MOST_PAIRS:,} are compared: evaluate fewer queries, or a metric with embeddings."
        )
    table = np.full((len(queries), len(gallery)), np.nan)
    rows, columns = np.nonzero(queries[:, None] != gallery[None])
    pairs = [(files[i], files[j]) for i, j in zip(queries[rows].tolist(), gallery[columns].tolist(), strict=True)]
    table[rows, columns] = metric.distances(pairs, progress)
    yield queries, table


def chord_distances(queries: NDArray[np.float64], gallery: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return half the squared chord between all unit rows `(q, d)` and `(g, d)`: `(q, g)`, rounded to 12 digits.

    Raises ValueError if any is not finite.
    """
    squares = [0.5 * np.square(rows).sum(1) for rows in (queries, gallery)]
    distances = np.round(squares[0][:, None] + squares[1][None] - queries @ gallery.T, _DIGITS)
    if not np.isfinite(distances).all():
        raise ValueError("the embeddings are not finite; look at the metric's weights and for broken pictures.")
    return np.maximum(distances, 0.0)
