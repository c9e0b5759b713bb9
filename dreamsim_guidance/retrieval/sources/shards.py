"""Webdataset shards: tar archives of pictures, local or behind any URL, read as a stream.

Members with the ending of a picture are pictures; others, such as labels, are left out. A member is only ever read, never
written to disk, and its name is only a label: it may begin with `/` or contain `..` without effect. Links and devices with
the name of a picture are listed as broken. If names repeat in a shard, the second one gets the ending `#2`.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from dreamsim_guidance.files.names import encoded
from dreamsim_guidance.files.pictures import SUFFIXES
from dreamsim_guidance.retrieval.sources.piece import LARGEST, Picture, PieceError, too_large
from dreamsim_guidance.retrieval.sources.remote import container_name, open_container

__all__ = ["Shard"]

_DAMAGED = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError)


class _Header(tarfile.TarInfo):
    """A member's header that reports damage; tarfile takes whatever is no header for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the block of zeros at the end
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error


@dataclass(frozen=True)
class Shard:
    """A tar archive as a piece of work. source: its path or URL."""

    source: str
    stamp: str
    count: int | None = None

    @property
    def container(self) -> str:
        return container_name(self.source)

    def pictures(self) -> Iterator[Picture]:
        with open_container(self.source) as stream:
            try:
                yield from self._members(stream)
            except _DAMAGED as error:
                raise PieceError(f"the archive is damaged or cut short ({error})") from error

    def _members(self, stream: object) -> Iterator[Picture]:
        repeated: Counter[str] = Counter()
        with tarfile.open(  # type: ignore[call-overload]
            fileobj=stream, mode="r|*", errors="surrogateescape", tarinfo=_Header
        ) as archive:
            for member in archive:
                archive.members.clear()  # a stream needs none of them again, and a shard may have a million
                name = PurePosixPath(member.name)
                if name.suffix.lower() not in SUFFIXES or name.name.startswith(".") or member.isdir():
                    continue
                label = f"{self.container}::{encoded(member.name)}"
                repeated[label] += 1
                label += f"#{repeated[label]}" if repeated[label] > 1 else ""
                if not member.isreg() or member.sparse:  # a sparse member may claim any size
                    yield Picture(label, self.stamp, fault="a link, device or sparse file in the archive, not a file")
                elif member.size > LARGEST:
                    yield Picture(label, self.stamp, fault=too_large(member.size))
                else:
                    content = archive.extractfile(member)
                    assert content is not None  # it is a regular file
                    yield Picture(label, self.stamp, data=content.read())
