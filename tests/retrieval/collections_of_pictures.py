"""Folders, shards and tables of small pictures for the tests of retrieval."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image as PILImage

from dreamsim_guidance.retrieval import Index
from dreamsim_guidance.retrieval.sources.listing import list_pieces
from dreamsim_guidance.retrieval.sources.piece import Picture

__all__ = [
    "age",
    "as_nobody",
    "content",
    "faults",
    "names",
    "open_to_all",
    "picture_bytes",
    "pictures",
    "table_of",
    "write_pictures",
    "write_shard",
]


def picture_bytes(seed: int, kind: str = "PNG") -> bytes:
    """A picture file of coloured blocks, its size and content decided by the seed."""
    blocks = np.random.default_rng(seed).integers(0, 256, (5, 6, 3)).repeat(6 + seed % 4, 0).repeat(7, 1)
    stream = io.BytesIO()
    PILImage.fromarray(blocks.astype(np.uint8)).save(stream, kind)
    return stream.getvalue()


def write_pictures(folder: Path, seeds: Sequence[int], kind: str = "png") -> Path:
    """A folder with one picture for each seed, written long ago."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        (folder / f"{seed:03d}.{kind}").write_bytes(picture_bytes(seed, kind.upper()))
    age(folder)
    return folder


def age(path: Path, seconds: float = 3600.0) -> None:
    """Let the files at `path` look as if they had been written earlier, so that size and time stand for the content."""
    for file in [path, *path.rglob("*")]:
        if not file.is_symlink():
            os.utime(file, (file.stat().st_atime, file.stat().st_mtime - seconds))


def write_shard(file: Path, members: Mapping[str, bytes | tarfile.TarInfo], mode: str = "w") -> Path:
    """A tar archive; a member given as a TarInfo is written as it is, without content."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, mode) as archive:  # type: ignore[call-overload]
        for name, member in members.items():
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(member, bytes):
                info.size = len(member)
                archive.addfile(info, io.BytesIO(member))
            else:
                archive.addfile(info)
    age(file)
    return file


def table_of(folder: Path) -> dict[str, tuple[object, ...]]:
    """All rows of an index by path, with the vector as bytes; a path must occur once."""
    index = Index.open(folder)
    columns = [index.column(name) for name in ("path", "digest", "width", "height", "bytes")]
    vectors = [vector.tobytes() for vector in index.vectors()] if len(index) else []
    assert len(set(index.paths)) == len(index)
    return {row[0]: row[1:] for row in zip(*columns, vectors, strict=True)}


def content(folder: Path) -> dict[str, tuple[object, ...]]:
    """The rows of an index by the name of the picture alone, without its folder or container."""
    return {path.replace("::", "/").rpartition("/")[2]: row for path, row in table_of(folder).items()}


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, who may read and write everything; other users stay who they are."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@contextmanager
def open_to_all(folder: Path) -> Iterator[None]:
    """Let every user read what is below `folder` and reach it, and nobody but root write."""
    parents = [
        parent for parent in folder.parents if parent.stat().st_mode & 0o005 != 0o005
    ]  # more of them under xdist
    changed = [*folder.rglob("*"), folder, *parents]
    modes = [path.stat().st_mode for path in changed]
    for path in changed:
        path.chmod(0o755 if path in parents else 0o555 if path.is_dir() else 0o444)
    try:
        yield
    finally:
        for path, mode in zip(changed, modes, strict=True):
            path.chmod(mode)


def pictures(*sources: object, column: str | None = None, outside: bool = False) -> list[Picture]:
    """The pictures of sources, whose pieces have been sent through pickle."""
    pieces = list_pieces([str(source) for source in sources], column, outside)
    return [picture for piece in pickle.loads(pickle.dumps(pieces)) for picture in piece.pictures()]


def names(listed: list[Picture]) -> list[str]:
    """The names of pictures without folder or container."""
    return [picture.path.replace("::", "/").rpartition("/")[2] for picture in listed]


def faults(listed: list[Picture]) -> dict[str, str]:
    """The reasons of faults by the names of the pictures."""
    return {names([picture])[0]: picture.fault for picture in listed if picture.fault is not None}
