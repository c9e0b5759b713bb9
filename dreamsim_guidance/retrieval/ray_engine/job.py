"""The job on Ray, as the process that started it sees it: pieces go out, fragments come back and are committed.

Workers write data files of the Lance table; nothing reads these before the job commits them, all files since the last commit
at once. So a worker that is killed loses and doubles nothing: its task runs again, writes other files, and only files of
tasks that have returned are committed. If the job itself is killed, the rows since the last commit are embedded again by the
next one.

A container is recorded as finished when the rows of all its pictures are committed. Copies wait until the row with their
content is in the table. `retrieval.embedding` is the same job on one machine; the index is the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from dreamsim_guidance.files.pictures import Reading
from dreamsim_guidance.retrieval.description import check_place
from dreamsim_guidance.retrieval.embedder import Decoder, Embedder
from dreamsim_guidance.retrieval.embedding import open_for_writing, remove_missing
from dreamsim_guidance.retrieval.progress import Summary
from dreamsim_guidance.retrieval.ray_engine.cluster import Sizes, connected, need_ray
from dreamsim_guidance.retrieval.ray_engine.one_pass import Job, Pass
from dreamsim_guidance.retrieval.sharing import only_job
from dreamsim_guidance.retrieval.sources.listing import list_pieces
from dreamsim_guidance.retrieval.sources.piece import Piece

__all__ = ["embed_on_ray"]

_ROWS, _ROWS_WITH_GPUS = 1024, 16384
_FURTHER_PASSES = 2


def embed_on_ray(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    to: str | os.PathLike[str],
    metric: str | os.PathLike[str] | None = None,
    *,
    address: str | None = None,
    workers: int | None = None,
    gpus: float | int | None = None,
    batch: int = 32,
    rows: int | None = None,
    reading: Reading | None = None,
    column: str | None = None,
    outside: bool = False,
    prune: bool = False,
    progress: bool = True,
) -> Summary:
    """Embed the pictures of all sources into the index `to` on the workers of a Ray cluster, and return what was done.

    The index is the same as that of `embed`, but for the order of its rows, and either of them resumes the other's job. All
    machines must see the sources, the folder of the index and the weights of the metric under the same names, and have this
    library with the extra "scale".

    sources, to, metric, reading, column, outside, prune, progress: as for `embed`; the metric by name.
    address: of a running cluster, such as "auto"; by default RAY_ADDRESS, or without it Ray on this machine.
    workers: actors that embed, each with the metric in memory; by default as many as the GPUs of the cluster allow, or one
        less than its processors if it has none.
    gpus: of each worker, may be a fraction; by default 1 if the cluster has any.
    batch: pictures that go through the network at once; by default 32.
    rows: in one data file of the table; by default 16384 with GPUs and 1024 without. A file is committed when it is full.

    Raises as `embed`; ModuleNotFoundError without Ray, ConnectionError if no cluster answers, ValueError for more workers than
    the cluster can hold.
    """
    if batch < 1 or (rows is not None and rows < 1):
        raise ValueError(f"batch and rows must be at least 1, got {batch} and {rows}.")
    need_ray()
    names = [os.fspath(source) for source in ([sources] if isinstance(sources, str | os.PathLike) else sources)]
    check_place(Path(to))
    pieces = list_pieces(names, column, outside)
    with only_job(Path(to)):
        folder, network = open_for_writing(to, metric, "cpu", reading, names)
        decoder = Decoder(Embedder(network).sides, folder.description.reading)
        del network  # workers load it for themselves
        start = time.perf_counter()
        job = Job(folder, decoder, batch, progress)
        _run(job, pieces, lambda: connected(address, workers, gpus), rows)
        if prune:
            job.summary.removed += remove_missing(folder)
        folder.compact()
        job.summary.seconds = time.perf_counter() - start
        return job.summary


def _run(
    job: Job, pieces: Sequence[Piece], connect: Callable[[], AbstractContextManager[Sizes]], rows: int | None
) -> None:
    """Embed what the index does not have: in one pass, and in further ones for copies of a row that was replaced."""
    first = Pass(job, pieces)
    if not first.work:
        return
    with connect() as sizes:
        rows = rows or (_ROWS_WITH_GPUS if sizes.gpus else _ROWS)
        first.run(sizes, rows)
        unsettled = first.unsettled
        for _ in range(_FURTHER_PASSES):
            if not unsettled:
                return
            job.summary.present = 0  # counted again
            further = Pass(job, pieces)
            further.run(sizes, rows)
            unsettled = further.unsettled
    if unsettled:
        raise RuntimeError(f"{unsettled} pictures keep changing while they are read; run the job again later.")
