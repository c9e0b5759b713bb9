"""The picture behind a path of an index."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

from dreamsim_guidance.retrieval.sources.piece import Piece, file_of
from dreamsim_guidance.retrieval.sources.remote import is_url, remote_bytes, stamp_of_container
from dreamsim_guidance.retrieval.sources.shards import Shard
from dreamsim_guidance.retrieval.sources.tables import lance_piece, parquet_piece

__all__ = ["column_of", "container_of", "is_gone", "picture_bytes"]

_CONTAINER = re.compile(
    r"(.*?\.(?:tar|tar\.gz|tgz|parquet|pq|lance))(?:(?<!tar|\.gz|tgz)#([\w.~%-]+))?::", re.IGNORECASE | re.DOTALL
)


def container_of(path: str) -> str | None:
    """The URL or path of the shard or table that a picture is in, None for a file."""
    match = _CONTAINER.match(path)
    return None if match is None else match[1]


def column_of(path: str) -> str | None:
    """The column of a table that holds a picture, None for the one that is chosen where none is named."""
    match = _CONTAINER.match(path)
    return None if match is None or match[2] is None else unquote(match[2])


def is_gone(path: str) -> bool:
    """Whether the file, or the container on this machine, that held a picture no longer exists."""
    container = container_of(path)
    if container is None:
        return not is_url(path) and not os.path.lexists(file_of(path))
    return not is_url(container) and not os.path.lexists(file_of(container))


def picture_bytes(path: str) -> bytes:
    """The bytes of the picture file that has this path in an index.

    A file is read at once; of a shard or table everything before the picture is read too.

    Raises FileNotFoundError if the picture is not there, OSError or ValueError for a container that cannot be read.
    """
    container = container_of(path)
    if container is None:
        return remote_bytes(path) if is_url(path) else file_of(path).read_bytes()
    source = container if is_url(container) else str(file_of(container))
    kind = source.rstrip("/").lower()
    piece: Piece
    if kind.endswith((".parquet", ".pq")):
        piece = parquet_piece(source, column_of(path))
    elif kind.endswith(".lance"):
        piece = lance_piece(source, column_of(path))
    else:
        piece = Shard(source, stamp_of_container(source))
    for picture in piece.pictures():
        if picture.path == path and picture.data is not None:
            return picture.data
    raise FileNotFoundError(f"'{path}' is not in '{source}'; run `dreamsim-guidance embed` again.")
