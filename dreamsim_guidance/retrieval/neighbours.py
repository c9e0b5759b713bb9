"""Candidates for a search: the rows of an index with the best scores, by brute force or by LanceDB's approximate index.

Brute force reads all vectors in chunks and computes in float32. It is exact, and used for up to `EXACT_UP_TO` rows. For more,
LanceDB builds an index of the vectors, which is kept in the table's folder: "ivf-pq" divides the vectors into about sqrt(n)
cells and encodes each in one byte for 16 entries (the default), "ivf-hnsw" searches graphs in larger cells with one byte for
each entry, which takes more disk and finds more. A query visits some cells, and the best candidates are compared again by their
stored vectors.

Rows that were added after the index was built are not lost: LanceDB compares them one by one, and a search adds them to the
index once they are more than a tenth of it. The cells stay those of the first build; `build` makes them anew.

Jegou et al., Product quantization for nearest neighbor search, TPAMI 2011; Malkov and Yashunin, Efficient and robust
approximate nearest neighbor search using hierarchical navigable small world graphs, TPAMI 2020.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from dreamsim_guidance.retrieval.extras import need
from dreamsim_guidance.retrieval.ranking import Ranking

__all__ = [
    "EXACT_UP_TO",
    "Kind",
    "NeighbourIndex",
    "approximate_rows",
    "build",
    "exact_rows",
    "neighbour_index",
    "neighbours_of_rows",
    "up_to_date",
]

Kind = Literal["ivf-pq", "ivf-hnsw"]

EXACT_UP_TO = 200_000
"""Rows up to which a search is exact unless it is told otherwise."""

LEAST_ROWS = 256
"""Rows that LanceDB needs for its code books."""

CELLS, REFINED = 40, 1000
"""Cells that a query visits, and the least number of candidates that are compared by their stored vectors."""

_STALE = 0.1
"""Share of rows outside the approximate index from which a search adds them."""
_CHUNK = 8_000_000
"""Numbers that are converted to float32 at a time."""
_SAMPLES, _ROUNDS = 64, 15
"""Vectors for each cell, and rounds, of the k-means that places the cells. LanceDB's own are 256 and 50, for which training
took four times as long on 20,000 vectors."""
_QUERIES = 256
"""Queries in one call."""
_NAME = "vector_idx"
"""Of LanceDB's index of the column `vector`."""


@dataclass(frozen=True)
class NeighbourIndex:
    """The approximate index of a table. kind: as LanceDB calls it. rows: those in it. missing: rows that were added later."""

    kind: str
    rows: int
    missing: int


def exact_rows(table: Any, ranking: Ranking, count: int) -> NDArray[np.int64]:
    """Return the `count` rows of the best scores by brute force, in no particular order; all rows if there are fewer.

    table: the LanceDB table `pictures`. Memory: 32 MB, and 4 bytes for each row.
    """
    scores = np.concatenate([ranking.approximate(part) for part in vector_chunks(table)])
    if count >= len(scores):
        return np.arange(len(scores))
    return np.argpartition(scores, count)[:count].astype(np.int64)


def vector_chunks(table: Any) -> Iterator[NDArray[np.float32]]:
    """Yield the stored vectors in order, `(some, d)` float32, as they are: of length one but for the rounding of float16."""
    dimension = table.schema.field("vector").type.list_size
    rows = max(1, _CHUNK // dimension)
    for batch in table.search().select(["vector"]).limit(None).to_batches(rows):
        if batch.num_rows:
            stored = batch.column("vector").flatten().to_numpy(zero_copy_only=False)
            # PyTorch converts float16 in a seventh of numpy's time; the copy is writable, as it demands
            yield torch.from_numpy(stored.reshape(-1, dimension).copy()).float().numpy()


def approximate_rows(
    table: Any, ranking: Ranking, count: int, cells: int = CELLS, refined: int = REFINED
) -> NDArray[np.int64]:
    """Return about the `count` rows of the best scores for each direction of the ranking, found by the approximate index.

    cells: that are visited, of about sqrt(n). refined: candidates that are compared by their stored vectors, at least 2
    `count`. Fewer than `count` rows come back if the visited cells hold no more.

    The best rows under the minimum over queries are among the best rows of each query, so that nothing is lost by asking for
    one direction at a time.
    """
    rows = [_nearest(table, direction, count, cells, refined) for direction in ranking.directions]
    return np.unique(np.concatenate(rows))


def _nearest(table: Any, direction: NDArray[np.float32], count: int, cells: int, refined: int) -> NDArray[np.int64]:
    unit = direction / max(float(np.linalg.norm(direction)), 1e-12)
    query = table.search(unit, vector_column_name="vector").distance_type("l2").nprobes(cells)
    query = query.refine_factor(max(2, -(-refined // count)))
    result = query.select(["_rowoffset", "_distance"]).limit(count).to_arrow()
    return result.column("_rowoffset").to_numpy().astype(np.int64)


def neighbours_of_rows(
    table: Any, vectors: NDArray[np.float32], count: int, tell: Callable[[str], object] = lambda message: None
) -> Iterator[tuple[int, list[NDArray[np.int64]]]]:
    """Yield the rows that the approximate index finds nearest to each row, itself included, for some rows at a time.

    vectors: of all rows, `(n, d)`. count: of neighbours. tell: is called with messages on the progress.

    Each item is the number of its first row and the neighbours of that row and those after it.
    """
    reported = 0
    for first in range(0, len(vectors), _QUERIES):
        part = vectors[first : first + _QUERIES]
        query = table.search(list(part), vector_column_name="vector").distance_type("l2").nprobes(CELLS)
        query = query.refine_factor(2).select(["_rowoffset", "_distance"]).limit(count)
        result = query.to_arrow()
        query_of = result.column("query_index").to_numpy() if len(part) > 1 else np.zeros(result.num_rows, np.int64)
        rows = result.column("_rowoffset").to_numpy().astype(np.int64)
        order = np.argsort(query_of, kind="stable")
        yield first, np.split(rows[order], np.searchsorted(query_of[order], np.arange(1, len(part))))
        if 10 * first // len(vectors) > reported:
            reported = 10 * first // len(vectors)
            tell(f"looked up the neighbours of {first:,} of {len(vectors):,} pictures")


def neighbour_index(table: Any) -> NeighbourIndex | None:
    """The approximate index of the table, or None if it has none."""
    if not any(index.name == _NAME for index in table.list_indices()):
        return None
    statistics = table.index_stats(_NAME)
    return NeighbourIndex(statistics.index_type, statistics.num_indexed_rows, statistics.num_unindexed_rows)


def build(table: Any, kind: Kind = "ivf-pq", tell: Callable[[str], object] = lambda message: None) -> NeighbourIndex:
    """Build the approximate index of a table, in place of an earlier one, and return it.

    table: the LanceDB table `pictures`. kind: "ivf-pq" (the default) or "ivf-hnsw", see above. tell: is called with messages on
        the progress.

    Raises ValueError for another kind and for a table of fewer than 256 rows, OSError if the folder cannot be written.
    """
    count, dimension = table.count_rows(), table.schema.field("vector").type.list_size
    if count < LEAST_ROWS:
        raise ValueError(f"an approximate index needs at least {LEAST_ROWS} rows, got {count}; search them exactly.")
    settings = need("lancedb.index")
    shared = {"distance_type": "l2", "sample_rate": _SAMPLES, "max_iterations": _ROUNDS}
    if kind == "ivf-pq":
        config = settings.IvfPq(num_partitions=_cells(count), num_sub_vectors=sub_vectors(dimension), **shared)
    elif kind == "ivf-hnsw":
        config = settings.IvfHnswSq(num_partitions=max(1, count // 100_000), **shared)
    else:
        raise ValueError(f"unknown kind of approximate index '{kind}'; known: ivf-pq, ivf-hnsw.")
    tell(f"building the approximate index ({kind}) of {count:,} pictures; it is kept for later searches")
    _writing(table, lambda: table.create_index("vector", config=config, replace=True, wait_timeout=timedelta(days=7)))
    result = neighbour_index(table)
    assert result is not None  # it was waited for
    return result


def up_to_date(table: Any, tell: Callable[[str], object] = lambda message: None) -> NeighbourIndex:
    """Return the approximate index, built if there is none, and extended if many rows were added since. Errors as `build`."""
    index = neighbour_index(table)
    if index is None:
        return build(table, tell=tell)
    if index.missing > _STALE * index.rows:
        tell(f"adding {index.missing:,} pictures to the approximate index of {index.rows:,}")
        _writing(table, table.optimize)
        index = neighbour_index(table)
        assert index is not None
    return index


def sub_vectors(dimension: int) -> int:
    """The number of parts in which "ivf-pq" encodes a vector, one byte each: about one for 16 entries, a divisor of them."""
    return next(parts for parts in range(max(1, dimension // 16), 0, -1) if dimension % parts == 0)


def _cells(count: int) -> int:
    return max(1, round(math.sqrt(count)))


def _writing(table: Any, write: Callable[[], object]) -> None:
    try:
        write()
    except RuntimeError as error:  # lancedb's for a full disk, a folder that may only be read, and the like
        raise OSError(f"the approximate index of '{table.name}' cannot be written: {error}") from error
