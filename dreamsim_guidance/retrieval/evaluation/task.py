"""A retrieval task: queries, a gallery, and labels that say which pictures are relevant to each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

__all__ = ["RetrievalTask", "by_label"]

_CHUNK = 4_000_000
"""Numbers in one block of the table of relevance, to bound the memory."""


@dataclass(frozen=True)
class RetrievalTask:
    """Which pictures are searched for which.

    name: under which the task is reported.
    files: the pictures, each once.
    labels: the set of labels of each picture. A picture of the gallery is relevant to a query if they have a label in common
        and it is not the query's own file. A picture without labels is relevant to nothing.
    queries, gallery: positions in `files`, by default all of them; a picture may be both.
    groups: the cluster of each picture for the bootstrap: queries of one group are drawn together. By default each picture is
        a group of its own; queries of one class, or of one scene, should share a group, since their results are correlated.
    rule: what makes a picture relevant, in words.

    Raises ValueError for a file that occurs twice, lists of different lengths, positions that do not exist or occur twice, and
    an empty list of queries or gallery.
    """

    name: str
    files: tuple[Path, ...]
    labels: tuple[frozenset[str], ...]
    queries: tuple[int, ...] | None = None
    gallery: tuple[int, ...] | None = None
    groups: tuple[str, ...] | None = None
    rule: str = field(default="pictures with the same label")

    def __post_init__(self) -> None:
        count = len(self.files)
        if len(self.labels) != count or (self.groups is not None and len(self.groups) != count):
            raise ValueError(f"task {self.name}: files, labels and groups must have the same length.")
        if len(set(self.files)) != count:
            seen: set[Path] = set()
            repeated = next(file for file in self.files if file in seen or seen.add(file))  # type: ignore[func-returns-value]
            raise ValueError(f"task {self.name}: '{repeated}' is listed twice; list every picture once.")
        for title in ("queries", "gallery"):
            places = getattr(self, title)
            if not (count if places is None else len(places)):
                raise ValueError(f"task {self.name}: the list '{title}' is empty.")
            if places is not None and not all(0 <= place < count for place in places):
                raise ValueError(f"task {self.name}: '{title}' holds positions outside of the {count} pictures.")
            if places is not None and len(set(places)) != len(places):
                raise ValueError(f"task {self.name}: '{title}' holds a position twice.")

    @property
    def query_places(self) -> NDArray[np.int64]:
        return np.arange(len(self.files)) if self.queries is None else np.array(self.queries)

    @property
    def gallery_places(self) -> NDArray[np.int64]:
        return np.arange(len(self.files)) if self.gallery is None else np.array(self.gallery)

    def sample(self, queries: int, seed: int = 0) -> RetrievalTask:
        """Return the task with at most so many queries that have something relevant, drawn at random; the gallery stays."""
        answerable = self.answerable().query_places
        if len(answerable) <= queries:
            return replace(self, queries=tuple(answerable.tolist()))
        chosen = np.random.default_rng(seed).choice(answerable, queries, replace=False)
        return replace(self, queries=tuple(np.sort(chosen).tolist()))

    def answerable(self) -> RetrievalTask:
        """Return the task with those queries for which the gallery holds something relevant.

        Raises ValueError if there is no such query.
        """
        places = self.query_places
        has_answer = np.concatenate([rows.any(1) for _, rows in self.relevance()])
        if not has_answer.any():
            raise ValueError(
                f"task {self.name}: the gallery holds no relevant picture for any query; leave it out, or take more pictures."
            )
        return self if has_answer.all() else replace(self, queries=tuple(places[has_answer].tolist()))

    def relevance(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        """Yield blocks of queries: their positions in `files`, `(q,)`, and what is relevant to them, `(q, gallery)` bool."""
        names = {label: i for i, label in enumerate(sorted({label for labels in self.labels for label in labels}))}
        rows = np.repeat(np.arange(len(self.files)), [len(labels) for labels in self.labels])
        columns = np.array([names[label] for labels in self.labels for label in labels], dtype=np.int64)
        shape = (len(self.files), max(len(names), 1))
        table = csr_array((np.ones(len(rows), dtype=np.int32), (rows, columns)), shape=shape)
        gallery, places = self.gallery_places, self.query_places
        others = table[gallery].T.tocsr()
        step = max(1, _CHUNK // len(gallery))
        for first in range(0, len(places), step):
            part = places[first : first + step]
            common = (table[part] @ others).toarray() > 0
            yield part, common & (part[:, None] != gallery[None])


def by_label(
    name: str, files: Sequence[Path], labels: Sequence[str], rule: str = "pictures with the same label"
) -> RetrievalTask:
    """Return the task in which every picture is a query, and all others with its label are relevant; grouped by label."""
    return RetrievalTask(
        name, tuple(files), tuple(frozenset({label}) for label in labels), groups=tuple(labels), rule=rule
    )
