"""An index of embedded pictures, as a reader sees it.

>>> index = Index.open("photos.index")
>>> index.paths[0], index.vectors([0]).shape
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamsim_guidance.evaluation.metrics.named_metrics import embedding_network
from dreamsim_guidance.files.names import printable
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.retrieval.description import Description
from dreamsim_guidance.retrieval.embedder import Embedder, index_fingerprint, same_but_for_rounding
from dreamsim_guidance.retrieval.neighbours import Kind, NeighbourIndex, build
from dreamsim_guidance.retrieval.search import search as search_index
from dreamsim_guidance.retrieval.tables import IndexFolder, readable, vectors_of

__all__ = ["Index", "check_fingerprint"]


class Index:
    """The embedded pictures of a folder that `embed` wrote. Rows count from 0, in the order of the table.

    Rows that are added later are seen by an index that is opened later.
    """

    def __init__(self, folder: IndexFolder, metric: DreamSim | None = None, device: str | None = None) -> None:
        self.folder = folder.folder
        self.description = folder.description
        self.table = folder.pictures
        """The LanceDB table `pictures`."""
        self.broken_table = folder.broken
        self._metric = metric
        self._device = device
        self._columns: dict[str, list[Any]] = {}

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        metric: DreamSim | str | os.PathLike[str] | None = None,
        device: str | None = None,
    ) -> Index:
        """Open the index in a folder.

        metric: the metric that made the index, or its name; by default the recorded name, which is loaded when a query needs
            it.
        device: of a metric that is loaded; by default an accelerator if there is one.

        Raises FileNotFoundError for a folder without an index, ValueError for a damaged one and for a metric other than the
        one that made it.
        """
        opened = IndexFolder(folder)
        if isinstance(metric, str | os.PathLike):
            metric = embedding_network(metric, device)
        if metric is not None:
            check_fingerprint(opened.description, metric, opened.folder)
        return cls(opened, metric, device)

    def __len__(self) -> int:
        return int(self.table.count_rows())

    @property
    def paths(self) -> list[str]:
        """The path of every row; see `sources.piece.Picture`."""
        return self.column("path")

    @property
    def digests(self) -> list[str]:
        """The SHA-256 of every row's picture file, in hexadecimal digits; equal ones are copies."""
        return self.column("digest")

    @property
    def broken(self) -> dict[str, str]:
        """The reasons why pictures cannot be read, by their paths."""
        table = self.broken_table.to_arrow()
        return dict(zip(table.column("path").to_pylist(), table.column("reason").to_pylist(), strict=True))

    @property
    def metric(self) -> DreamSim:
        """The metric that made the index; the first access loads it.

        Raises ValueError if the recorded name stands for other weights by now, and as `named_metrics.file_metric`.
        """
        if self._metric is None:
            metric = embedding_network(self.description.metric, self._device)
            check_fingerprint(self.description, metric, self.folder)
            self._metric = metric
        return self._metric

    @property
    def embedder(self) -> Embedder:
        """The metric with the index's reading of files, for queries."""
        return Embedder(self.metric, self.description.reading)

    def column(self, name: str) -> list[Any]:
        """One column of all rows, in order: "path", "digest", "width", "height" or "bytes"."""
        if name not in self._columns:
            self._columns[name] = self._scan([name]).column(name).to_pylist()
        return self._columns[name]

    def vectors(self, rows: Sequence[int] | NDArray[np.integer[Any]] | None = None) -> NDArray[np.float32]:
        """The unit vectors of some rows, by default of all, `(n, d)` float32.

        They are stored in float16 and scaled to length one again. All rows of a large index may not fit into memory.

        Raises IndexError for a row that the index does not have.
        """
        if rows is None:
            stored = vectors_of(self._scan(["vector"]))
        else:
            positions = np.asarray(rows, dtype=np.int64).reshape(-1)
            if len(positions) and not (positions.min() >= 0 and positions.max() < len(self)):
                raise IndexError(
                    f"rows must lie in 0 ... {len(self) - 1}, got {positions.min()} ... {positions.max()}."
                )
            distinct, inverse = np.unique(positions, return_inverse=True)
            stored = self._take(distinct)[inverse]
        vectors = stored.astype(np.float32)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    search = search_index

    def build(self, kind: Kind = "ivf-pq", tell: Callable[[str], object] = lambda message: None) -> NeighbourIndex:
        """Build the approximate index for searches among many pictures anew. Arguments and errors as `neighbours.build`."""
        return build(self.table, kind, tell)

    def _take(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        if not len(rows):
            return np.empty((0, self.description.dimension), np.float16)
        with readable(self.folder):
            return vectors_of(self.table.take_offsets(rows.tolist()).select(["vector"]).to_arrow())

    def _scan(self, columns: list[str]) -> Any:
        with readable(self.folder):
            return self.table.search().select(columns).limit(None).to_arrow()


def check_fingerprint(description: Description, metric: DreamSim, folder: Path) -> None:
    """Raise ValueError unless `metric` is the one that made the index: by its fingerprint, or its probe up to rounding."""
    present = index_fingerprint(metric, description.reading)
    if present == description.fingerprint:
        return
    if not same_but_for_rounding(description.probe, Embedder(metric, description.reading).probe()):
        raise ValueError(
            f"the index '{printable(folder)}' was made by '{description.metric}' with other weights or preprocessing "
            f"(fingerprint {description.fingerprint[:8]}, the metric has {present[:8]}); give that metric, or make another "
            "index."
        )
