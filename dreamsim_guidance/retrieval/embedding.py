"""The job that embeds sources of pictures into an index.

Threads read, hash, decode and resize pictures ahead; the network takes them in batches; rows are written every few seconds,
so that a kill loses no more than that, and the next run goes on from there. Equal contents are embedded once. Several
processes on one machine, started by `accelerate launch` or `torchrun`, share the pieces of work.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from dreamsim_guidance.evaluation.metrics.named_metrics import embedding_network
from dreamsim_guidance.files.names import printable
from dreamsim_guidance.files.pictures import Reading
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.metric.photographs import default_metric
from dreamsim_guidance.processes import agreed, is_main, launched, process_state
from dreamsim_guidance.retrieval.ahead import in_background
from dreamsim_guidance.retrieval.claims import Claims
from dreamsim_guidance.retrieval.description import Description, check_place
from dreamsim_guidance.retrieval.embedder import Broken, Embedder, Row, index_fingerprint
from dreamsim_guidance.retrieval.index import check_fingerprint
from dreamsim_guidance.retrieval.progress import Estimate, Summary, joined, total_pictures
from dreamsim_guidance.retrieval.reading import Bad, Copy, Finished, Item, New, Present, Reader
from dreamsim_guidance.retrieval.sharing import from_main, need_one_machine, only_job, shared_claims
from dreamsim_guidance.retrieval.sources.listing import list_pieces
from dreamsim_guidance.retrieval.sources.piece import Piece
from dreamsim_guidance.retrieval.tables import IndexFolder

__all__ = ["embed", "open_for_writing", "remove_missing"]

_CHUNK_ROWS, _CHUNK_SECONDS = 4096, 20.0
"""Rows are written after so many of them, or after so many seconds; a kill loses no more than that."""


def embed(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    to: str | os.PathLike[str],
    metric: str | os.PathLike[str] | DreamSim | None = None,
    *,
    device: str | None = None,
    reading: Reading | None = None,
    column: str | None = None,
    outside: bool = False,
    prune: bool = False,
    workers: int | None = None,
    batch: int = 32,
    progress: bool = True,
) -> Summary:
    """Embed the pictures of all sources into the index `to`, which is made if it does not exist, and return what was done.

    sources: folders, files, patterns, shards, tables, lists; see `sources.listing`.
    metric: a `DreamSim` or the name of a metric with embeddings; by default that of the index, and for a new index
        "photographs", or "pocket" where its extra is not installed.
    device: of a metric given by name; by default an accelerator if there is one.
    reading: how picture files are read, "upright" (for a new index the default) or "original"; see `files.pictures`.
    column: of Parquet files, Lance tables and lists; by default chosen.
    outside: whether links in a folder and paths in a list may lead out of it; by default they count as broken.
    prune: whether to remove rows whose picture file, shard or table on this machine no longer exists.
    workers: threads that read and decode; by default one for each of up to 16 processors.
    batch: pictures that go through the network at once; by default 32.
    progress: whether to show a bar on stderr.

    Raises ValueError for a source of unknown kind or without pictures, for an index that another metric made, and while
    another job writes the index; FileNotFoundError for a missing source; OSError if the index cannot be written.
    """
    names = [os.fspath(source) for source in ([sources] if isinstance(sources, str | os.PathLike) else sources)]
    folder = Path(to)
    if batch < 1 or (workers is not None and workers < 1):
        raise ValueError(f"batch and workers must be at least 1, got {batch} and {workers}.")
    need_one_machine()
    check_place(folder)
    pieces = from_main(lambda: list_pieces(names, column, outside))
    with only_job(folder):
        opened = open_for_writing(folder, metric, device, reading, names)
        job = _Job(*opened, workers, batch, progress and is_main())
        return job.run(pieces, prune)


def open_for_writing(
    to: str | os.PathLike[str],
    metric: str | os.PathLike[str] | DreamSim | None = None,
    device: str | None = None,
    reading: Reading | None = None,
    sources: Sequence[str] = (),
) -> tuple[IndexFolder, DreamSim]:
    """Open or make the index in the folder `to`, record the sources, and load the metric. Arguments and errors as `embed`."""
    folder = Path(to)
    recorded = Description.read(folder) if (folder / "index.json").exists() else None
    if recorded is not None and reading not in (None, recorded.reading):
        raise ValueError(
            f"the index '{printable(folder)}' reads pictures '{recorded.reading}', not '{reading}'; leave the reading out, or "
            "make another index."
        )
    if metric is None:
        metric = default_metric() if recorded is None else recorded.metric
    network = metric if isinstance(metric, DreamSim) else embedding_network(metric, device)
    if recorded is not None:
        check_fingerprint(recorded, network, folder)

    def prepare() -> None:
        if recorded is not None:
            recorded.with_sources(sources).write(folder)
            IndexFolder(folder)
            return
        reads = reading or "upright"
        probe = tuple(float(value) for value in Embedder(network, reads).probe())
        made = Description(
            _recorded_name(metric),
            index_fingerprint(network, reads),
            len(probe),
            reads,
            tuple(dict.fromkeys(sources)),
            probe=probe,
        )
        IndexFolder.create(folder, made)

    agreed(lambda: prepare() if is_main() else None)
    return IndexFolder(folder), network


def _recorded_name(metric: str | os.PathLike[str] | DreamSim) -> str:
    if isinstance(metric, DreamSim):
        return metric.variant or "dreamsim"
    return os.path.abspath(metric) if os.path.exists(metric) else os.fspath(metric)


class _Job:
    """One process's share of a job."""

    def __init__(self, folder: IndexFolder, metric: DreamSim, workers: int | None, batch: int, progress: bool) -> None:
        self.folder = folder
        self.embedder = Embedder(metric, folder.description.reading, batch)
        self.index, self.count = 0, 1
        if launched():
            state = process_state()
            self.index, self.count = int(state.process_index), int(state.num_processes)
        self.workers = workers or max(1, min(16, (os.cpu_count() or 1) // self.count))
        self.batch = batch
        self.progress = progress
        self.known = folder.known()
        self.summary = Summary()
        self._waiting: list[New] = []
        self._rows: list[Row] = []
        self._copies: list[Copy] = []
        self._deferred: list[Copy] = []
        self._broken: list[Broken] = []
        self._finished: dict[str, tuple[str, int]] = {}
        self._gone: list[str] = []
        self._broken_digests: dict[str, str] = {}
        self._last = time.monotonic()

    def run(self, pieces: Sequence[Piece], prune: bool) -> Summary:
        start = time.perf_counter()
        with shared_claims() as claims:
            agreed(lambda: self._share(pieces[self.index :: self.count], claims))
            agreed(lambda: self._resolve(claims))
        if prune:
            self.summary.removed += agreed(lambda: remove_missing(self.folder) if is_main() else 0)
        agreed(lambda: self.folder.compact() if is_main() else None)
        self.summary.seconds = time.perf_counter() - start
        return joined(self.summary)

    def _share(self, pieces: Sequence[Piece], claims: Claims) -> None:
        with (
            ThreadPoolExecutor(self.workers, "decode", torch.set_num_threads, (1,)) as pool,  # one thread in each
            tqdm(
                total=total_pictures(pieces), desc="embed", unit="image", disable=not self.progress, smoothing=0.1
            ) as bar,
        ):
            depth = 2 * self.batch
            estimate = Estimate(pieces)
            reader = Reader(self.embedder, self.known, self.folder.read_containers(), claims, pool, depth)
            try:
                with in_background(reader.items(pieces), depth) as items:
                    for item in items:
                        bar.update(self._take(item))
                        estimate.take(item)
                        if bar.total != (total := estimate.total):
                            bar.total = total
                        full = len(self._rows) + len(self._copies) + len(self._broken) >= _CHUNK_ROWS
                        if full or time.monotonic() - self._last >= _CHUNK_SECONDS:
                            self._write()
            finally:
                self._write()

    def _take(self, item: Item) -> int:
        """Put an item where it belongs, and return how many pictures it stands for."""
        if isinstance(item, Present):
            self.summary.present += item.count
            return item.count
        if isinstance(item, Finished):
            self._finished[item.container] = (item.stamp, item.count)
            self._gone += [path for path in item.gone if path in self.known]
            return 0
        if isinstance(item, Bad):
            self._add_broken(item.broken)
            if item.digest:
                self._broken_digests[item.digest] = item.broken.reason
        elif isinstance(item, Copy):
            self._copies.append(item)
        else:
            self._waiting.append(item)
            if len(self._waiting) >= self.batch:
                self._embed()
        return 1

    def _embed(self) -> None:
        batch, self._waiting = self._waiting, []
        if batch:
            vectors = self.embedder.embed([new.prepared for new in batch])
            self._rows += [new.row(vector) for new, vector in zip(batch, vectors, strict=True)]
            self.summary.embedded += len(batch)

    def _add_broken(self, broken: Broken) -> None:
        self.summary.broken[broken.path] = broken.reason
        known = self.known.get(broken.path)
        if known is None or (known.stamp, known.reason) != (broken.stamp, broken.reason):
            self._broken.append(broken)

    def _write(self) -> None:
        """Write what is complete; the pictures that wait for a batch first go through the network."""
        self._embed()
        self._settle_copies()
        paths = [row.path for row in self._rows] + [row.path for row in self._broken]
        replaced = [path for path in paths if path in self.known] + self._gone
        self.folder.write(self._rows, self._broken, self._finished, replaced)
        self.summary.removed += len(self._gone)
        self._rows, self._broken, self._finished, self._gone = [], [], {}, []
        self._last = time.monotonic()

    def _settle_copies(self) -> None:
        """Turn copies into rows; those of pictures that other processes embed are deferred."""
        copies, self._copies = self._copies, []
        if not copies:
            return
        sources = {row.digest: row for row in self._rows}
        sources.update(self.folder.rows_with({copy.digest for copy in copies} - set(sources)))
        for copy in copies:
            if copy.digest in sources:
                row = replace(sources[copy.digest], path=copy.picture.path, stamp=copy.picture.stamp)
                self._rows.append(row)
                if copy.touched:
                    self.summary.present += 1
                else:
                    self.summary.copies += 1
            elif copy.digest in self._broken_digests:
                self._add_broken(Broken(copy.picture.path, self._broken_digests[copy.digest], copy.picture.stamp))
            else:
                self._deferred.append(copy)

    def _resolve(self, claims: Claims) -> None:
        """Write the copies of pictures that other processes have embedded in the meantime."""
        for copy in self._deferred:
            reason = claims.reason(copy.digest)
            if reason is not None:
                self._broken_digests[copy.digest] = reason
        self._copies, self._deferred = self._deferred, []
        self._write()
        if self._deferred:  # cannot be: every claim ends as a row or as a reason, or else the job fails
            raise RuntimeError(f"{len(self._deferred)} pictures were claimed and not embedded; run the job again.")


def remove_missing(folder: IndexFolder) -> int:
    """Remove the rows of pictures on this machine that no longer exist, and return how many."""
    from dreamsim_guidance.retrieval.sources.stored import is_gone

    gone = [path for path in folder.known() if is_gone(path)]
    folder.write(replaced=gone)
    return len(gone)
