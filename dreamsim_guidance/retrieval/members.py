"""The picture files behind many paths of an index at once; what has moved or cannot be read is left out.

A shard or table is opened once for all pictures that are wanted from it, and read up to the last of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from dreamsim_guidance.files.pictures import PictureError
from dreamsim_guidance.retrieval.embedder import read_bytes
from dreamsim_guidance.retrieval.sources.files import single_file
from dreamsim_guidance.retrieval.sources.listing import list_pieces
from dreamsim_guidance.retrieval.sources.piece import file_of
from dreamsim_guidance.retrieval.sources.remote import is_url
from dreamsim_guidance.retrieval.sources.stored import column_of, container_of

__all__ = ["readable_contents"]


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
            contents[path] = read_bytes(single_file(file_of(path)))
    for (container, column), members in inside.items():
        with contextlib.suppress(Exception):  # file systems behind URLs raise errors of their own
            _read_members(container, column, members, contents)
    return contents


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
