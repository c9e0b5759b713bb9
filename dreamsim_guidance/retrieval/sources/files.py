"""Picture files on this machine.

A folder is read with all folders below it, in the order of their names. Files and folders whose name begins with a dot are
left out, and so are files without the ending of a picture. A link to a file is read if the file is inside the folder, and a
link to a folder inside is left out, because that folder is read by its own name. A link that leads out of the folder is
listed as broken, unless `outside` allows it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dreamsim_guidance.files.pictures import SUFFIXES
from dreamsim_guidance.retrieval.sources.piece import LARGEST, Picture, path_of, stamp_of, too_large

__all__ = ["OUTSIDE", "Files", "folder_pictures", "leaves", "pieces_of_files", "single_file"]

OUTSIDE = "--outside allows it"
"""Advice in the reason why a file outside is not read."""

_PIECE = 64
"""Files in a piece: few enough that several processes share a small folder."""


@dataclass(frozen=True)
class Files:
    """A list of files as a piece of work."""

    files: tuple[Picture, ...]
    container: None = None
    stamp: str = ""

    @property
    def count(self) -> int:
        return len(self.files)

    def pictures(self) -> Iterator[Picture]:
        yield from self.files


def pieces_of_files(pictures: Iterable[Picture], size: int = _PIECE) -> Iterator[Files]:
    """Divide pictures into lists of up to `size`."""
    part: list[Picture] = []
    for picture in pictures:
        part.append(picture)
        if len(part) == size:
            yield Files(tuple(part))
            part = []
    if part:
        yield Files(tuple(part))


def folder_pictures(folder: Path, outside: bool = False) -> Iterator[Picture]:
    """Yield the pictures in a folder and below, in the order of their names.

    outside: whether links may lead out of the folder; by default they may not.

    Raises OSError if the folder itself cannot be read; folders below it that cannot be read are yielded as faults.
    """
    root = Path(os.path.abspath(folder))
    os.scandir(root).close()  # raises
    visited = {os.path.realpath(root)}
    yield from _below(root, Path(os.path.realpath(root)), outside, visited)


def _below(folder: Path, root: Path, outside: bool, visited: set[str]) -> Iterator[Picture]:
    try:
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        yield Picture(path_of(folder), fault=f"the folder cannot be read: {error.strerror or error}")
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path, link = Path(entry.path), entry.is_symlink()
        is_picture, is_folder = path.suffix.lower() in SUFFIXES, os.path.isdir(path)
        if link and not outside and (is_picture or is_folder) and leaves(path, root):
            yield Picture(path_of(path), fault=f"a link that leaves the folder; {OUTSIDE}")
        elif is_folder:
            real = os.path.realpath(path)
            if (outside or not link) and real not in visited:
                visited.add(real)
                yield from _below(path, root, outside, visited)
        elif is_picture:
            yield single_file(path)


def leaves(path: Path, root: Path) -> bool:
    """Whether `path` leads out of the folder `root`, which has no links in it itself."""
    return not Path(os.path.realpath(path)).is_relative_to(root)


def single_file(file: Path) -> Picture:
    """A file as a picture, or the reason why it is none, without opening it."""
    path = path_of(file)
    try:
        status = file.stat()
    except FileNotFoundError:
        return Picture(path, fault="missing")
    except (OSError, ValueError) as error:  # a loop of links, a null byte in the name
        return Picture(path, fault=getattr(error, "strerror", None) or str(error))
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
        reason = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device, not a file"
        return Picture(path, fault=reason)
    if status.st_size > LARGEST:
        return Picture(path, stamp_of(status.st_size, status.st_mtime_ns), fault=too_large(status.st_size))
    return Picture(path, stamp_of(status.st_size, status.st_mtime_ns), file=str(file))
