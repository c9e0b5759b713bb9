"""Embeddings on disk, so that each picture is embedded once: also for further sets of triplets, or after an interruption.

    <folder>/files.json           path -> size, modification time, SHA-256, whether the two readings of the picture
                                  differ: pictures that did not change are not read
    <folder>/<key>/<chunk>.npz    digests (n, 32) and rows (n, d) of some pictures

The key identifies the weights and the preprocessing, the digest the content of a picture file; file names do not matter. A
chunk is written whole or not at all and has the checksums of the zip format; a damaged chunk is removed and its pictures are
embedded again. Nothing is ever deleted otherwise: remove the folder to free the space.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dreamsim_guidance.data.pictures import differing, warn_of_reading
from dreamsim_guidance.files.atomic import writing
from dreamsim_guidance.files.cache import cache_folder, locked
from dreamsim_guidance.files.checksums import sha256
from dreamsim_guidance.files.pictures import Reading

__all__ = ["EmbeddingCache"]

log = logging.getLogger(__name__)

_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
_FEW = 100
"""Up to so many pictures are checked without a progress bar."""
_SETTLED = 2.0
"""Age in seconds from which the modification time can be trusted: younger files may change again within its resolution."""

KnownFile = tuple[int, int, str, bool]
"""Size in bytes, modification time in ns, SHA-256 of a file, and whether the two readings of the picture differ."""


class EmbeddingCache:
    """Embeddings below `folder`, by default `~/.cache/dreamsim_guidance/embeddings` (see `cache.cache_folder`)."""

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = cache_folder() / "embeddings" if folder is None else Path(folder).expanduser().absolute()
        self._known: dict[str, KnownFile] | None = None

    def digests(
        self, files: Sequence[Path], workers: int = 0, progress: bool = True, reading: Reading = "upright"
    ) -> list[str]:
        """Return the SHA-256 of each file. New and changed files are also decoded; ValueError names the broken ones.

        One warning names the files whose two readings differ; `reading` is the one that will be used.
        """
        if self._known is None:
            self._known = self._read_index()
        names = [os.path.abspath(file) for file in files]
        status = [_status(file) for file in files]
        new = [i for i, name in enumerate(names) if status[i] is None or self._known.get(name, (0,))[:2] != status[i]]
        differing_files = set(differing([files[i] for i in new], workers or None, progress and len(new) > _FEW))
        with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
            for i, digest in zip(new, pool.map(sha256, [files[i] for i in new]), strict=True):
                self._known[names[i]] = (*(status[i] or (-1, -1)), digest, files[i] in differing_files)
        if new:
            self._write_index({names[i]: self._known[names[i]] for i in new})
        warn_of_reading([file for file, name in zip(files, names, strict=True) if self._known[name][3]], reading)
        return [self._known[name][2] for name in names]

    def read(self, key: str, digests: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        """Return the rows of those pictures that are in the cache. Damaged chunks are removed."""
        requested = set(digests)
        rows_by_digest: dict[str, NDArray[np.float32]] = {}
        for chunk in sorted((self.folder / key).glob("*.npz")):
            try:
                with chunk.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                    names = [bytes(name).hex() for name in stored["digests"]]
                    if requested.isdisjoint(names):
                        continue
                    rows = stored["rows"]
                if rows.ndim != 2 or len(rows) != len(names) or rows.dtype != np.float32:
                    raise ValueError(f"rows of shape {rows.shape}, type {rows.dtype}, for {len(names)} pictures")
            except _DAMAGED as error:
                log.warning("%s is damaged (%s); its pictures are embedded again.", chunk, error)
                chunk.unlink(missing_ok=True)
                continue
            rows_by_digest.update((name, row) for name, row in zip(names, rows, strict=True) if name in requested)
        return rows_by_digest

    def write(self, key: str, digests: Sequence[str], rows: NDArray[np.float32]) -> None:
        """Write rows `(n, d)` as one chunk. If the folder cannot be written, a warning says so and the work goes on."""
        names = np.frombuffer(bytes.fromhex("".join(digests)), np.uint8).reshape(len(digests), 32)
        chunk = self.folder / key / f"{hashlib.sha256(names.tobytes()).hexdigest()[:24]}.npz"
        try:
            with writing(chunk, ".tmp") as temporary, temporary.open("wb") as file:
                np.savez(file, digests=names, rows=np.ascontiguousarray(rows, dtype=np.float32))
        except OSError as error:
            log.warning("the embeddings are not kept: %s; choose another folder with --cache.", error)

    def _read_index(self) -> dict[str, KnownFile]:
        try:
            stored = json.loads((self.folder / "files.json").read_text(encoding="utf-8"))
            entries = {
                name: (int(size), int(time), str(digest), bool(differs))
                for name, (size, time, digest, differs) in stored.items()
            }
            return {name: entry for name, entry in entries.items() if len(bytes.fromhex(entry[2])) == 32}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def _write_index(self, new: dict[str, KnownFile]) -> None:
        limit = time.time_ns() - int(_SETTLED * 1e9)
        settled = {name: entry for name, entry in new.items() if entry[1] < limit}
        file = self.folder / "files.json"
        try:
            with (
                locked(file),
                writing(file, ".tmp") as temporary,
            ):  # keeps what other processes have added in the meantime
                temporary.write_text(json.dumps({**self._read_index(), **settled}), encoding="utf-8")
        except OSError as error:
            log.warning("the list of known pictures is not kept: %s; choose another folder with --cache.", error)


def _status(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
