"""What runs on the workers: reading and decoding pieces, embedding, and writing fragments of the table.

    read_piece      tasks, one processor each: a piece of work to decoded pictures, and what else it holds
    EmbedPictures   actors that load the metric once: decoded pictures to rows
    write_rows      tasks: rows to fragments of the Lance table, which become part of it when the job commits them

Between the stages go rows with one column, a pickled object, so that all have one schema.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dreamsim_guidance.evaluation.metrics.named_metrics import embedding_network
from dreamsim_guidance.retrieval.description import Description
from dreamsim_guidance.retrieval.embedder import Decoder, Embedder, Row
from dreamsim_guidance.retrieval.index import check_fingerprint
from dreamsim_guidance.retrieval.ray_engine.claims import RemoteClaims
from dreamsim_guidance.retrieval.reading import Item, New, Reader
from dreamsim_guidance.retrieval.sources.piece import Piece
from dreamsim_guidance.retrieval.tables import Known, arrow_rows, pictures_schema

__all__ = ["EmbedPictures", "Fragments", "Work", "packed", "piece_name", "read_piece", "unpacked", "write_rows"]

_THREADS = 2
"""Of one reading task: one waits for a disk or network while the other decodes."""

_AHEAD = 16
"""Pictures that a reading task decodes ahead."""

Batch = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """A piece, and what the index holds about its pictures."""

    piece: Piece
    known: Mapping[str, Known]


@dataclass(frozen=True)
class Fragments:
    """Rows that lie in data files of the table and are not part of it yet.

    fragments: their metadata, pickled. rows: path and digest of each.
    """

    fragments: tuple[bytes, ...]
    rows: tuple[tuple[str, str], ...]


def piece_name(piece: Piece) -> str:
    """The name of a piece: that of its container, or of the first file in its list."""
    return piece.container or next(iter(piece.pictures())).path


def read_piece(row: Mapping[str, bytes], decoder: Decoder, claims: Sequence[Any]) -> Iterator[dict[str, bytes]]:
    """Read, hash and decode the pictures of a piece; contents that belong to another piece are not decoded.

    claims: actors of `claims.ClaimTable`.
    """
    work: Work = pickle.loads(row["item"])
    remote = RemoteClaims(claims, piece_name(work.piece))
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="decode") as pool:
        for item in Reader(decoder, work.known, {}, remote, pool, _AHEAD).items([work.piece]):
            yield {"item": pickle.dumps(item, pickle.HIGHEST_PROTOCOL)}


class EmbedPictures:
    """The metric on one worker. Raises ValueError where the metric's name stands for other weights than those of the index.

    folder: of the index, for messages. gpus: of this worker; without any, it computes on the processor.
    """

    def __init__(self, folder: Path, description: Description, batch: int, gpus: float) -> None:
        metric = embedding_network(description.metric, None if gpus else "cpu")
        check_fingerprint(description, metric, folder)
        self._embedder = Embedder(metric, description.reading, batch)

    def __call__(self, batch: Batch) -> Batch:
        items: list[Item | Row] = list(unpacked(batch))
        places = [i for i, item in enumerate(items) if isinstance(item, New)]
        pictures = [item for item in items if isinstance(item, New)]
        if pictures:
            vectors = self._embedder.embed([new.prepared for new in pictures])
            for place, new, vector in zip(places, pictures, vectors, strict=True):
                items[place] = new.row(vector)
        return packed(items)


def write_rows(batch: Batch, table: str, dimension: int, version: str) -> Batch:
    """Write the rows among some items into data files, and pass on the others.

    table: path of the Lance table. version: of its file format.
    """
    from lance_ray import LanceFragmentWriter

    items = list(unpacked(batch))
    rows = [item for item in items if isinstance(item, Row)]
    others: list[Any] = [item for item in items if not isinstance(item, Row)]
    if rows:
        writer = LanceFragmentWriter(table, schema=pictures_schema(dimension), data_storage_version=version)
        written = writer(arrow_rows(rows, dimension)).column("fragment").to_pylist()
        others.append(Fragments(tuple(written), tuple((row.path, row.digest) for row in rows)))
    return packed(others)


def packed(items: Iterable[Any]) -> Batch:
    """Objects as a batch of Ray Data."""
    return {"item": np.array([pickle.dumps(item, pickle.HIGHEST_PROTOCOL) for item in items], dtype=object)}


def unpacked(batch: Batch) -> Iterator[Any]:
    """The objects in a batch, which this job has made."""
    return (pickle.loads(item) for item in batch["item"])
