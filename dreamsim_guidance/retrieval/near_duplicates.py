"""Groups of near-duplicates: pictures whose distance is at most a threshold.

"Is a near-duplicate of" is not transitive: a may be near b and b near c, while a and c are far apart. Two rules:

    complete   every two pictures of a group are within the threshold (complete-linkage clustering). This is the default,
               because any one picture may stand for its group. A pair within the threshold can fall into two groups; such pairs
               are counted.
    single     connected components: a chain of near-duplicates is one group, however far apart its ends are. No pair within the
               threshold is separated; but keeping one picture of a group can lose pictures that resemble it little.

Every complete group lies inside one connected component, so that components are found first, over blocks of the matrix and with
bounded memory, and only then divided.

Collections without duplicates and collections full of them need different thresholds for every metric, and no constant serves
all. `suggest_threshold` looks at the distance of each picture to its nearest neighbour: where near-duplicates exist, these
distances have a gap between them and the rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from dreamsim_guidance.retrieval.matrix import distance_matrix
from dreamsim_guidance.retrieval.rows import Rows, blocks, unit_rows

__all__ = ["Duplicates", "Group", "Linkage", "Suggestion", "near_duplicate_groups", "suggest_threshold"]

Linkage = Literal["complete", "single"]
Edges = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Rows of pairs within the threshold, `(e,)` each."""

_LARGEST_COMPONENT = 10_000
"""The largest connected component that complete linkage divides; its distances need 400 MB, and as much again for the tree."""
_GAP = 1.5
"""How many times larger the distance after the gap must be than that before it."""
_SMALLEST = 1e-6
"""Distances below this count as zero: float16 rounds unit vectors to about 1e-7."""


@dataclass(frozen=True)
class Group:
    """Near-duplicates: their rows, at least two in increasing order, and the largest distance between any two of them."""

    rows: tuple[int, ...]
    diameter: float


@dataclass(frozen=True)
class Duplicates:
    """The groups, the largest first.

    pairs: pairs of different vectors within the threshold. separated: those of them whose two pictures are in different groups,
    or of which one is in no group; 0 with linkage "single".
    """

    groups: tuple[Group, ...]
    pairs: int
    separated: int


@dataclass(frozen=True)
class Suggestion:
    """A threshold for near-duplicates, and where it comes from.

    threshold: a distance. gap: whether it lies in a gap of the nearest-neighbour distances; if not, it is their 1 % quantile,
    and says little. quantiles: 1, 5, 25 and 50 % of the nearest-neighbour distances without copies, by percentage.
    """

    threshold: float
    gap: bool
    quantiles: dict[int, float]


def near_duplicate_groups(
    vectors: ArrayLike | Tensor,
    threshold: float,
    linkage: Linkage = "complete",
    pairs: Iterable[Edges] | None = None,
) -> Duplicates:
    """Return the groups of two or more near-duplicates.

    vectors: unit rows `(n, d)`. Equal rows, the copies of a picture, always share a group.
    threshold: largest distance of near-duplicates, in [0, 2].
    linkage: "complete" or "single", see above; by default "complete".
    pairs: pairs of rows that are candidates, such as neighbours from an approximate index; only they are compared. By default
        all pairs are, in blocks, in O(n^2 d).

    Raises ValueError as `unit_rows`, for a threshold outside [0, 2], for another linkage, and with "complete" for a chain of
    more than 10,000 different near-duplicates.
    """
    rows = unit_rows(vectors)
    if not 0 <= threshold <= 2:
        raise ValueError(f"the threshold is a distance and must lie in [0, 2], got {threshold}.")
    if linkage not in ("complete", "single"):
        raise ValueError(f"unknown linkage '{linkage}'; known: complete, single.")
    limit = float(np.float32(threshold))  # distances are float32, and one that equals the threshold counts
    first, place = _distinct(rows)
    distinct = rows[first]
    edges = _all_edges(distinct, limit) if pairs is None else _near_edges(distinct, limit, pairs, place)
    label, near = _components(len(distinct), edges)
    inside = 0
    if linkage == "complete":
        label = _divided(distinct, label, limit)
        sizes = np.bincount(label)
        inside = int((sizes * (sizes - 1) // 2).sum())
    groups = [
        Group(tuple(members.tolist()), _diameter(distinct[np.unique(place[members])]))
        for members in _members(label[place])
    ]
    ordered = sorted(groups, key=lambda group: (-len(group.rows), group.rows))
    # with candidates only, some pairs inside a group may not have been among them
    return Duplicates(tuple(ordered), near, max(near - inside, 0) if linkage == "complete" else 0)


def suggest_threshold(nearest: NDArray[np.float32]) -> Suggestion:
    """Suggest a threshold from the distances of pictures to their nearest neighbours.

    nearest: as `matrix.nearest_neighbours` returns them, `(n,)`. Zeros, which are copies, do not take part.

    The threshold is the geometric middle of the widest gap, by ratio, between consecutive distances up to the median, if the
    ratio is at least 1.5; otherwise the 1 % quantile. A gap is evidence, not proof: look at the groups. Raises ValueError
    without distances.
    """
    if not len(nearest):
        raise ValueError("a threshold needs the distances of at least two pictures.")
    distances = np.sort(np.asarray(nearest, np.float64))
    distances = distances[distances > _SMALLEST] if (distances > _SMALLEST).any() else distances
    quantiles = {percent: float(np.quantile(distances, percent / 100)) for percent in (1, 5, 25, 50)}
    values = np.unique(distances)
    lower = values[: int((values <= quantiles[50]).sum()) + 1]  # up to the first distance above the median
    ratios = lower[1:] / np.maximum(lower[:-1], _SMALLEST)
    if len(ratios) and ratios.max() >= _GAP:
        place = int(ratios.argmax())
        return Suggestion(float(np.sqrt(lower[place] * lower[place + 1])), True, quantiles)
    return Suggestion(quantiles[1], False, quantiles)


def _distinct(rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first of each set of equal rows, `(m,)`, and for every row its place among them, `(n,)`."""
    places: dict[bytes, int] = {}
    first: list[int] = []
    place = np.empty(len(rows), np.int64)
    for i, row in enumerate(rows):
        place[i] = places.setdefault(hashlib.sha256(row.data).digest(), len(first))
        if place[i] == len(first):
            first.append(i)
    return np.array(first), place


def _all_edges(rows: Rows, limit: float) -> Iterator[Edges]:
    for i, j, block in blocks(rows):
        a, b = np.nonzero(block <= limit)
        upper = a + i < b + j
        yield a[upper] + i, b[upper] + j


def _near_edges(rows: Rows, limit: float, pairs: Iterable[Edges], place: NDArray[np.int64]) -> Iterator[Edges]:
    """The candidates that are near; pictures with copies may give the same pair several times, and it counts as often."""
    for left, right in pairs:
        low, high = np.minimum(place[left], place[right]), np.maximum(place[left], place[right])
        low, high = np.divmod(np.unique((low * len(rows) + high)[low < high]), len(rows))
        near = 0.5 * np.square(rows[low] - rows[high]).sum(1) <= limit
        yield low[near], high[near]


def _components(count: int, edges: Iterable[Edges]) -> tuple[NDArray[np.int64], int]:
    """The number of the connected component of each row, and the number of edges; edges are used as they come and not kept."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    everything = np.arange(count)
    label, total = everything, 0
    for a, b in edges:
        if not len(a):
            continue
        total += len(a)
        # an edge of each row to the first row of its component stands for all edges before
        _, first = np.unique(label, return_index=True)
        ends = np.concatenate([a, everything]), np.concatenate([b, first[label]])
        graph = coo_array((np.ones(len(ends[0]), np.int8), ends), shape=(count, count))
        label = connected_components(graph, directed=False)[1].astype(np.int64)
    return label, total


def _members(label: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The rows of each label that occurs more than once."""
    order = np.argsort(label, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(label[order])) + 1)
    return [part for part in parts if len(part) > 1]


def _divided(rows: Rows, label: NDArray[np.int64], limit: float) -> NDArray[np.int64]:
    """The labels after complete linkage has divided every component."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    divided, count = label.copy(), int(label.max()) + 1
    for members in _members(label):
        if len(members) == 2:
            continue
        if len(members) > _LARGEST_COMPONENT:
            raise ValueError(
                f"{len(members):,} pictures form one chain of near-duplicates at the threshold {limit:g}, and complete linkage "
                f"divides at most {_LARGEST_COMPONENT:,}; lower the threshold, or use linkage 'single'."
            )
        condensed = squareform(distance_matrix(rows[members]), checks=False)
        part = fcluster(linkage(condensed, "complete"), limit, "distance")
        divided[members] = count + part
        count += int(part.max()) + 1
    return np.unique(divided, return_inverse=True)[1].astype(np.int64)


def _diameter(rows: Rows) -> float:
    return max(float(block.max()) for _, _, block in blocks(rows))
