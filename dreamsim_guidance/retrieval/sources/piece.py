"""Pieces of work: what a source is divided into, and the pictures that a piece yields.

A piece is a small, plain object that can be pickled and sent to another process, which then reads the pictures in it. A
source that is listed twice without a change between gives the same pieces.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from dreamsim_guidance.files.names import decoded, encoded

__all__ = ["LARGEST", "Picture", "Piece", "PieceError", "file_of", "path_of", "stamp_of", "too_large"]

LARGEST = 1 << 30
"""Bytes of the largest picture file that is read."""

_SETTLED = 2.0
"""Age in seconds from which a modification time can be trusted: younger files may change again within its resolution."""


class PieceError(ValueError):
    """A piece cannot be read any further. Its message is the reason without the name of the piece."""


@dataclass(frozen=True)
class Picture:
    """One picture of a source.

    path: its name in the index: the absolute path of a file, or `container::name` for a picture inside a container.
    stamp: text that changes when the content may have changed; "" if nothing of the kind is known.
    data: the bytes of the picture file, or None: then `file` holds them.
    file: the file to read if `data` is None.
    fault: the reason why there is no picture, or None.
    """

    path: str
    stamp: str = ""
    data: bytes | None = None
    file: str | None = None
    fault: str | None = None


@runtime_checkable
class Piece(Protocol):
    """A part of a source that one process reads from the beginning to the end."""

    @property
    def container(self) -> str | None:
        """The name of the container, a shard or a table, before the `::` of its pictures; None for a list of files."""

    @property
    def stamp(self) -> str:
        """The stamp of the container, which all of its pictures share; "" for a list of files."""

    @property
    def count(self) -> int | None:
        """The number of pictures, or None if only reading them tells."""

    def pictures(self) -> Iterator[Picture]:
        """Yield the pictures in order. Raises PieceError or OSError where the rest cannot be read."""


def path_of(file: Path | str) -> str:
    """The name of a file in the index: its path with `/` between folders, as valid Unicode; see `names.encoded`."""
    return encoded(Path(file).as_posix())


def file_of(path: str) -> Path:
    """The file that has the name `path` in the index; the inverse of `path_of`."""
    return Path(decoded(path))


def stamp_of(size: int, modified_ns: int, now: float | None = None) -> str:
    """The stamp of a local file: "" while it is so young that a change might leave its modification time as it is."""
    now = time.time() if now is None else now
    return "" if modified_ns > (now - _SETTLED) * 1e9 else f"{size} {modified_ns}"


def too_large(size: int) -> str:
    """The reason why a file of so many bytes is not read."""
    return f"{size / 1e6:.0f} million bytes, more than the limit of {LARGEST / 1e6:.0f} million"
