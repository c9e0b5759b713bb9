"""Search an index: the pictures nearest to one or several queries.

>>> for match in index.search("query.jpg", k=5):
...     print(match.distance, match.path)

Candidates come from brute force or from an approximate index (`neighbours`); they are ranked by distances computed from the
stored vectors in float64 (`ranking`). Copies, pictures of equal content, are one match.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dreamsim_guidance.retrieval.neighbours import (
    EXACT_UP_TO,
    LEAST_ROWS,
    approximate_rows,
    exact_rows,
    neighbour_index,
    up_to_date,
)
from dreamsim_guidance.retrieval.queries import Query, as_list, query_rows, rows_where
from dreamsim_guidance.retrieval.ranking import Combine, Ranking

if TYPE_CHECKING:
    from dreamsim_guidance.retrieval.index import Index

__all__ = ["Match", "search"]


@dataclass(frozen=True)
class Match:
    """A picture that was found.

    path: in the index, see `Index.paths`. distance: to the queries, their mean or minimum, in [0, 2]. row: in the index.
    copies: paths of further pictures with the same content. score: what the order follows, the distance less half the mean
    distance to the unwanted pictures; without these it is the distance.
    """

    path: str
    distance: float
    row: int
    copies: tuple[str, ...] = ()
    score: float = 0.0


def search(
    index: Index,
    images: Query | Sequence[Query],
    k: int = 24,
    combine: Combine = "mean",
    unlike: Query | Sequence[Query] = (),
    mask: Tensor | None = None,
    exact_up_to: int = EXACT_UP_TO,
    tell: Callable[[str], object] = lambda message: None,
) -> list[Match]:
    """Return the k different pictures with the best scores, the best first; all of them if there are fewer.

    images: one query or several: picture files, their URLs, paths in the index, or tensors `(b, 3, h, w)` in [0, 1]. See
        `queries`; a query whose content is in the index is found at distance 0.
    k: at least 1.
    combine: "mean" (the default) of the distances to the queries, or their "min".
    unlike: pictures that are not wanted; see `ranking` for the score.
    mask: `(1, 1, h, w)` in [0, 1]: the region of the queries that counts; `queries` says what that means.
    exact_up_to: rows up to which all vectors are compared; larger tables use an approximate index, which is built at the first
        search and kept. 0 asks for one at any size from 256 rows on.
    tell: is called with messages while an approximate index is made. Where its folder may not be written, the search uses the
        index that exists, or none.

    Raises ValueError for an empty index, a k below 1 and as `query_rows`.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}.")
    if exact_up_to < 0:
        raise ValueError(f"exact_up_to must be at least 0 rows, got {exact_up_to}.")
    count = len(index)
    if count == 0:
        raise ValueError(f"the index '{index.folder}' is empty; add pictures with `dreamsim-guidance embed`.")
    queries = query_rows(index, images, mask)
    unwanted = query_rows(index, unlike) if as_list(unlike) else None
    ranking = Ranking(queries, unwanted, combine)
    approximate = count > exact_up_to and count >= LEAST_ROWS and _has_approximate_index(index, tell)
    candidates = k
    while True:
        candidates = min(2 * candidates, count)  # copies share one place: more rows are needed where they are many
        choose = approximate_rows if approximate else exact_rows
        rows = choose(index.table, ranking, candidates)
        matches = _matches(index, ranking, rows, k)
        if len(matches) == k or len(rows) == count:
            return matches
        approximate = approximate and len(rows) >= candidates  # the visited cells may hold too few


def _has_approximate_index(index: Index, tell: Callable[[str], object]) -> bool:
    """Build or extend the approximate index; say whether there is one, though it may not be written."""
    try:
        up_to_date(index.table, tell)
    except OSError as error:
        tell(f"{error}; this search goes on without the change")
        return neighbour_index(index.table) is not None
    return True


def _matches(index: Index, ranking: Ranking, rows: NDArray[np.int64], k: int) -> list[Match]:
    """The best of some rows as matches, up to k of different content."""
    rows = np.sort(rows)
    distances, scores = ranking.exact(index.vectors(rows))
    digests = index.table.take_offsets(rows.tolist()).select(["digest"]).to_arrow().column("digest").to_pylist()
    best: dict[str, int] = {}
    for place in np.argsort(scores, kind="stable"):
        best.setdefault(digests[place], int(place))
        if len(best) == k:
            break
    copies = _copies(index, list(best))
    return [
        Match(path, float(distances[place]), row, tuple(path for _, path in others), float(scores[place]))
        for digest, place in best.items()
        for (row, path), *others in [copies[digest]]
    ]


def _copies(index: Index, digests: Sequence[str]) -> dict[str, list[tuple[int, str]]]:
    """All rows and paths of each digest, in increasing order of the rows."""
    rows = rows_where(index, "digest", digests)
    fields = index.table.take_offsets(rows).select(["path", "digest"]).to_arrow().to_pydict()
    copies: dict[str, list[tuple[int, str]]] = {}
    for row, path, digest in zip(rows, fields["path"], fields["digest"], strict=True):
        copies.setdefault(digest, []).append((row, path))
    return copies
