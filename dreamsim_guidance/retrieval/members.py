"""The picture files behind many paths of an index at once: their bytes, or the files themselves.

A shard or table is opened once for all pictures that are wanted from it, and read up to the last of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from dreamsim_guidance.files.atomic import writing
from dreamsim_guidance.files.pictures import SUFFIXES, PictureError
from dreamsim_guidance.retrieval.embedder import read_bytes
from dreamsim_guidance.retrieval.sources.files import single_file
from dreamsim_guidance.retrieval.sources.listing import list_pieces
from dreamsim_guidance.retrieval.sources.piece import file_of
from dreamsim_guidance.retrieval.sources.remote import is_url, remote_bytes
from dreamsim_guidance.retrieval.sources.stored import column_of, container_of

__all__ = ["files_of", "readable_contents"]

_CHUNK = 1000
"""Pictures in memory at a time."""


def readable_contents(paths: Iterable[str]) -> dict[str, bytes]:
    """Return the bytes of picture files by their paths in an index; what has moved or cannot be read is left out.

    paths: as `Index.paths` has them.
    """
    contents: dict[str, bytes] = {}
    inside: dict[tuple[str, str | None], set[str]] = {}
    for path in dict.fromkeys(paths):
        container = container_of(path)
        if container is not None:
            inside.setdefault((container, column_of(path)), set()).add(path)
            continue
        with contextlib.suppress(OSError, PictureError):
            contents[path] = remote_bytes(path) if is_url(path) else read_bytes(single_file(file_of(path)))
    for (container, column), members in inside.items():
        with contextlib.suppress(Exception):  # file systems behind URLs raise errors of their own
            _read_members(container, column, members, contents)
    return contents


def files_of(paths: Sequence[str], digests: Sequence[str], folder: Path | None) -> list[Path | None]:
    """Return the file of each picture of an index; those inside shards and tables and behind URLs are written into `folder`.

    paths, digests: as `Index.paths` and `Index.digests`. folder: None leaves them out; it is made if it does not exist.

    None stands for a picture that has no file, or whose shard, table or URL cannot be read.
    """
    files: list[Path | None] = [
        file_of(path) if container_of(path) is None and not is_url(path) else None for path in paths
    ]
    if folder is None:
        return files
    inside = [i for i, file in enumerate(files) if file is None]
    for first in range(0, len(inside), _CHUNK):
        part = inside[first : first + _CHUNK]
        contents = readable_contents([paths[i] for i in part])
        for i in part:
            if paths[i] in contents:
                files[i] = _written(folder, paths[i], digests[i], contents[paths[i]])
    return files


def _written(folder: Path, path: str, digest: str, data: bytes) -> Path:
    suffix = Path(path.rpartition("::")[2]).suffix.lower()
    file = folder.absolute() / f"{digest}{suffix if suffix in SUFFIXES else '.png'}"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        with writing(file, file.suffix) as temporary:
            temporary.write_bytes(data)
    return file


def _read_members(container: str, column: str | None, members: set[str], contents: dict[str, bytes]) -> None:
    source = container if is_url(container) else str(file_of(container))
    remaining = set(members)
    for piece in list_pieces([source], column):
        for picture in piece.pictures():
            if picture.path in remaining:
                contents[picture.path] = read_bytes(picture)
                remaining.discard(picture.path)
                if not remaining:
                    return
