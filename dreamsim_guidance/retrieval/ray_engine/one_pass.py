"""One pass of a job on Ray: what is unfinished goes out as pieces, fragments come back and are committed."""

from __future__ import annotations

import pickle
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tqdm import tqdm

from dreamsim_guidance.files.cache import locked
from dreamsim_guidance.retrieval.embedder import Broken, Decoder, Row
from dreamsim_guidance.retrieval.extras import need
from dreamsim_guidance.retrieval.progress import Summary, total_pictures
from dreamsim_guidance.retrieval.ray_engine.claims import claim_tables
from dreamsim_guidance.retrieval.ray_engine.cluster import Sizes
from dreamsim_guidance.retrieval.ray_engine.stages import (
    EmbedPictures,
    Fragments,
    Work,
    read_piece,
    unpacked,
    write_rows,
)
from dreamsim_guidance.retrieval.reading import Bad, Copy, Finished, Present
from dreamsim_guidance.retrieval.sources.files import Files
from dreamsim_guidance.retrieval.sources.piece import Picture, Piece
from dreamsim_guidance.retrieval.tables import IndexFolder, Known

__all__ = ["COMMIT_SECONDS", "Job", "Pass", "commit_fragments"]

COMMIT_SECONDS = 20.0
_TASKS = 4096
"""Reading tasks at most; each reads several pieces if there are more."""


@dataclass(frozen=True)
class Job:
    """What all passes of a job share. batch: pictures that go through the network at once."""

    folder: IndexFolder
    decoder: Decoder
    batch: int
    progress: bool
    summary: Summary = field(default_factory=Summary)


class Pass:
    """One stream of all pieces through the workers."""

    def __init__(self, job: Job, pieces: Sequence[Piece]) -> None:
        self.job = job
        self.folder = job.folder
        self.summary = job.summary
        finished = self.folder.read_containers()
        self._containers = {piece.container for piece in pieces if piece.container is not None}
        self._finished = {
            piece.container: finished[piece.container][1]
            for piece in pieces
            if piece.container in finished and piece.stamp and finished[piece.container][0] == piece.stamp
        }
        self.known = self._known()
        self.work = list(self._unfinished(pieces))
        self._total = total_pictures(pieces)
        self._fragments: list[bytes] = []
        self._new: list[tuple[str, str]] = []
        self._copies: list[Copy] = []
        self._broken: list[Broken] = []
        self._reasons: dict[str, str] = {}
        self._ends: dict[str, Finished] = {}
        self._counts: Counter[str] = Counter()
        self._last = time.monotonic()

    @property
    def unsettled(self) -> int:
        """Copies whose content has no row."""
        return len(self._copies)

    def run(self, sizes: Sizes, rows: int) -> None:
        with (
            claim_tables(self._digests(), sizes.workers) as claims,
            tqdm(total=self._total, desc="embed", unit="image", disable=not self.job.progress, smoothing=0.1) as bar,
        ):
            bar.update(self.summary.present)
            try:
                for batch in self._stream(sizes, rows, claims).iter_batches(batch_size=None, batch_format="numpy"):
                    for item in unpacked(batch):
                        bar.update(self._take(item))
                    if time.monotonic() - self._last >= COMMIT_SECONDS:
                        self._commit()
            finally:
                self._commit(last=True)

    def _known(self) -> dict[str, Known]:
        """What the tables hold about paths outside of the finished containers, of which there may be a billion."""
        known: dict[str, Known] = {}
        columns = ("path", "stamp", "digest", "reason")
        for table, last in ((self.folder.broken, "reason"), (self.folder.pictures, "digest")):
            for batch in table.to_lance().scanner(columns=["path", "stamp", last]).to_batches():
                for row in batch.to_pylist():
                    path, stamp, digest, reason = (row.get(name, "") for name in columns)
                    if self._container(path) not in self._finished:
                        known[path] = Known(stamp, digest, reason)
                    elif reason:
                        self.summary.broken[path] = reason
                        self.summary.present -= 1  # it is among those that its container holds
        return known

    def _digests(self) -> Iterator[list[str]]:
        for batch in self.folder.pictures.to_lance().scanner(columns=["digest"]).to_batches():
            yield batch.column("digest").to_pylist()

    def _container(self, path: str) -> str:
        """The container of a picture among those of this job; "" for a file, and for pictures of other containers."""
        head, separator, rest = path.partition("::")
        while separator and head not in self._containers:
            more, separator, rest = rest.partition("::")
            head += "::" + more
        return head if separator else ""

    def _unfinished(self, pieces: Sequence[Piece]) -> Iterator[Work]:
        """What is to be read, with what the index holds about it; the rest counts as present."""
        self.summary.present += sum(self._finished.values())
        inside: dict[str, dict[str, Known]] = {}
        for path, entry in self.known.items():
            inside.setdefault(self._container(path), {})[path] = entry
        for piece in pieces:
            if piece.container is None:
                files = [picture for picture in piece.pictures() if not self._present(picture)]
                if files:
                    paths = [picture.path for picture in files]
                    yield Work(Files(tuple(files)), {path: self.known[path] for path in paths if path in self.known})
            elif piece.container not in self._finished:
                itself = {path: self.known[path] for path in [piece.container] if path in self.known}
                yield Work(piece, {**inside.get(piece.container, {}), **itself})

    def _present(self, picture: Picture) -> bool:
        """Whether the index has this state of a file already."""
        entry = self.known.get(picture.path)
        if entry is None or not picture.stamp or entry.stamp != picture.stamp:
            return False
        if entry.reason:
            self.summary.broken[picture.path] = entry.reason
        else:
            self.summary.present += 1
        return True

    def _stream(self, sizes: Sizes, rows: int, claims: Sequence[Any]) -> Any:
        data = need("ray.data", "scale")
        blocks = min(len(self.work), _TASKS)
        items = data.from_items([{"item": pickle.dumps(entry)} for entry in self.work], override_num_blocks=blocks)
        # flat_map, because Ray would join map_batches with the next stage where no GPU is asked for, and bundle `batch` pieces
        # in one task, whose rows come back at its end
        reading = {"decoder": self.job.decoder, "claims": claims}
        read = items.flat_map(read_piece, fn_kwargs=reading, num_cpus=1)
        embedded = read.map_batches(
            EmbedPictures,
            batch_size=self.job.batch,
            batch_format="numpy",
            fn_constructor_args=(self.folder.folder, self.folder.description, self.job.batch, sizes.gpus),
            compute=data.ActorPoolStrategy(size=sizes.workers),
            **({"num_gpus": sizes.gpus} if sizes.gpus else {"num_cpus": 1}),
        )
        dataset = self.folder.pictures.to_lance()
        return embedded.map_batches(
            write_rows,
            batch_size=rows,
            batch_format="numpy",
            fn_kwargs={
                "table": dataset.uri,
                "dimension": self.folder.description.dimension,
                "version": dataset.data_storage_version,
            },
            num_cpus=0,  # never waits for a processor that reading holds
            concurrency=sizes.workers,
        )

    def _take(self, item: Any) -> int:
        """Put an item where it belongs, and return how many pictures it stands for."""
        if isinstance(item, Fragments):
            self._fragments += item.fragments
            self._new += item.rows
            self.summary.embedded += len(item.rows)
            return len(item.rows)
        if isinstance(item, Finished):
            self._ends[item.container] = item
            return 0
        if isinstance(item, Copy):
            self._copies.append(item)
        elif isinstance(item, Present):
            self.summary.present += item.count
            self._count(item.path)
            return item.count
        elif isinstance(item, Bad):
            self._add_broken(item.broken)
            if item.digest:
                self._reasons[item.digest] = item.broken.reason
        return 1

    def _count(self, path: str) -> None:
        container = self._container(path)
        if container:
            self._counts[container] += 1

    def _add_broken(self, broken: Broken) -> None:
        self.summary.broken[broken.path] = broken.reason
        self._count(broken.path)
        known = self.known.get(broken.path)
        if known is None or (known.stamp, known.reason) != (broken.stamp, broken.reason):
            self._broken.append(broken)

    def _commit(self, last: bool = False) -> None:
        """Make the rows that workers have written part of the table, and write what depends on them."""
        self._replace(path for path, _ in self._new)
        if self._fragments:
            commit_fragments(self.folder, self._fragments)
        for path, _ in self._new:
            self._count(path)
        self._fragments, self._new = [], []
        rows = self._settled() if last or len(self._copies) * 1000 >= self.folder.pictures.count_rows() else []
        written = [*(row.path for row in rows), *(broken.path for broken in self._broken)]
        replaced = [path for path in written if path in self.known]
        ends = [end for end in self._ends.values() if self._counts[end.container] >= end.count]
        gone = [path for end in ends for path in end.gone if path in self.known]
        finished = {end.container: (end.stamp, end.count) for end in ends}
        self.folder.write(rows, self._broken, finished, [*replaced, *gone])
        self.summary.removed += len(gone)
        for end in ends:
            del self._ends[end.container], self._counts[end.container]
        self._broken = []
        self._last = time.monotonic()

    def _replace(self, paths: Iterable[str]) -> None:
        replaced = [path for path in paths if path in self.known]
        if replaced:
            with locked(self.folder.folder / ".write"):
                self.folder.remove(replaced)

    def _settled(self) -> list[Row]:
        """Rows for the copies whose content the table has by now; the others go on waiting."""
        copies, self._copies = self._copies, []
        if not copies:
            return []
        sources = self.folder.rows_with({copy.digest for copy in copies})
        rows = []
        for copy in copies:
            path, stamp = copy.picture.path, copy.picture.stamp
            if copy.digest in sources:
                rows.append(replace(sources[copy.digest], path=path, stamp=stamp))
                self._count(path)
                if copy.touched:
                    self.summary.present += 1
                else:
                    self.summary.copies += 1
            elif copy.digest in self._reasons:
                self._add_broken(Broken(path, self._reasons[copy.digest], stamp))
            else:
                self._copies.append(copy)
        return rows


def commit_fragments(folder: IndexFolder, fragments: Sequence[bytes]) -> None:
    """Append data files that workers have written to the table `pictures`, all of them in one version."""
    lance = need("lance", "scale")
    with locked(folder.folder / ".write"):
        dataset = folder.pictures.to_lance()
        operation = lance.LanceOperation.Append([pickle.loads(fragment) for fragment in fragments])
        lance.LanceDataset.commit(dataset.uri, operation, read_version=dataset.latest_version)
        folder.pictures.checkout_latest()
