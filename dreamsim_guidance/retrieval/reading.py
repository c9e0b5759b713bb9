"""The pictures of some pieces, read, hashed and decoded ahead of the network that embeds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dreamsim_guidance.files.pictures import PictureError
from dreamsim_guidance.retrieval.ahead import mapped_ahead
from dreamsim_guidance.retrieval.embedder import Broken, Decoder, Prepared, Row, digest_of, read_bytes
from dreamsim_guidance.retrieval.sources.piece import Picture, Piece, PieceError
from dreamsim_guidance.retrieval.sources.remote import is_url
from dreamsim_guidance.retrieval.tables import Known

__all__ = ["Bad", "Copy", "Finished", "Item", "New", "Present", "Reader", "SharedClaims"]


@dataclass(frozen=True)
class Present:
    """A picture, or a container with `count` of them, that the index has already, unchanged."""

    path: str
    count: int = 1


@dataclass(frozen=True)
class Copy:
    """A picture whose content another one has, in the index or before it in this job. touched: it is in the index itself."""

    picture: Picture
    digest: str
    touched: bool = False


@dataclass(frozen=True)
class New:
    """A picture to be embedded. size: of its file in bytes."""

    picture: Picture
    digest: str
    size: int
    prepared: Prepared

    def row(self, vector: NDArray[np.float16]) -> Row:
        """The row of the index, with the vector of the picture."""
        width, height = self.prepared.width, self.prepared.height
        return Row(self.picture.path, self.digest, width, height, self.size, self.picture.stamp, vector)


@dataclass(frozen=True)
class Bad:
    """A broken picture. digest: of its content, "" if that could not be read."""

    broken: Broken
    digest: str = ""


@dataclass(frozen=True)
class Finished:
    """The end of a container that holds `count` pictures. gone: paths in the index that the container no longer has."""

    container: str
    stamp: str
    count: int
    gone: tuple[str, ...]


@dataclass(frozen=True)
class _Loaded:
    picture: Picture
    data: bytes
    digest: str


Item = Present | Copy | New | Bad | Finished


@runtime_checkable
class SharedClaims(Protocol):
    """Who embeds a content first, as `Reader` asks; see `retrieval.claims.Claims`."""

    def mine(self, digest: str) -> bool:
        """Whether this reader has claimed the digest already."""

    def claim(self, digest: str) -> bool:
        """Claim a digest; return False if another reader has it."""

    def mark_broken(self, digest: str, reason: str) -> None:
        """Record why the content of this digest is not a picture."""


class Reader:
    """Reads pieces of work in order.

    known, containers: what the index holds already; see `tables.IndexFolder`.
    claims: shared by the processes of the job.
    pool: threads in which pictures are read and decoded. depth: decoded pictures that may wait.
    """

    def __init__(
        self,
        decoder: Decoder,
        known: Mapping[str, Known],
        containers: Mapping[str, tuple[str, int]],
        claims: SharedClaims,
        pool: Executor,
        depth: int,
    ) -> None:
        self.decoder = decoder
        self.known = known
        self.containers = containers
        self.claims = claims
        self.pool = pool
        self.depth = depth
        self._digests = {entry.digest for entry in known.values() if entry.digest}

    def items(self, pieces: Iterable[Piece]) -> Iterator[Item]:
        """Yield what is to be done about each picture, in order."""
        loaded = mapped_ahead(self._load, self._entries(pieces), self.pool, self.depth)
        yield from mapped_ahead(self._prepare, map(self._decide, loaded), self.pool, self.depth)

    def _entries(self, pieces: Iterable[Piece]) -> Iterator[Picture | Item]:
        inside = self._paths_by_container(pieces := list(pieces))
        for piece in pieces:
            name = piece.container
            if name is None:
                yield from piece.pictures()
                continue
            stamp, count = self.containers.get(name, ("", 0))
            if piece.stamp and stamp == piece.stamp:
                broken = [path for path in inside.get(name, ()) if self.known[path].reason]
                yield Present(name, count - len(broken))
                yield from (Bad(Broken(path, self.known[path].reason, self.known[path].stamp)) for path in broken)
                continue
            yield from self._container(piece, name, inside.get(name, []))

    def _container(self, piece: Piece, name: str, before: list[str]) -> Iterator[Picture | Item]:
        earlier = self.known.get(name)
        if earlier is not None and piece.stamp and earlier.stamp == piece.stamp:  # damaged, and unchanged since
            yield Present(name, sum(not self.known[path].reason for path in before))
            yield Bad(Broken(name, earlier.reason, earlier.stamp))
            return
        seen: set[str] = set()
        try:
            for picture in piece.pictures():
                seen.add(picture.path)
                yield picture
        except PieceError as error:
            yield Bad(Broken(name, str(error), piece.stamp))
        except Exception as error:  # each file system behind a URL has errors of its own
            if not isinstance(error, OSError) and not is_url(name):
                raise
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            yield Bad(Broken(name, f"cannot be read: {reason}"))  # without a stamp: the next run tries again
        else:
            yield Finished(name, piece.stamp, len(seen), tuple(path for path in [*before, name] if path not in seen))

    def _paths_by_container(self, pieces: Iterable[Piece]) -> dict[str, list[str]]:
        names = {piece.container for piece in pieces if piece.container is not None}
        paths: dict[str, list[str]] = {}
        for path in self.known if names else ():
            head, separator, rest = path.partition("::")
            while separator and head not in names:
                more, separator, rest = rest.partition("::")
                head += "::" + more
            if separator:
                paths.setdefault(head, []).append(path)
        return paths

    def _load(self, entry: Picture | Item) -> _Loaded | Item:
        if not isinstance(entry, Picture):
            return entry
        known = self.known.get(entry.path)
        if known is not None and entry.stamp and known.stamp == entry.stamp:
            return Bad(Broken(entry.path, known.reason, known.stamp)) if known.reason else Present(entry.path)
        try:
            data = read_bytes(entry)
        except PictureError as error:
            return Bad(Broken(entry.path, error.reason, entry.stamp))
        except OSError as error:
            return Bad(Broken(entry.path, error.strerror or str(error)))
        return _Loaded(entry, data, digest_of(data))

    def _decide(self, entry: _Loaded | Item) -> _Loaded | Item:
        if not isinstance(entry, _Loaded):
            return entry
        known = self.known.get(entry.picture.path)
        if known is not None and known.digest == entry.digest:
            touched = known.stamp != entry.picture.stamp
            return Copy(_light(entry.picture), entry.digest, True) if touched else Present(entry.picture.path)
        if entry.digest in self._digests or self.claims.mine(entry.digest) or not self.claims.claim(entry.digest):
            return Copy(_light(entry.picture), entry.digest)
        return entry

    def _prepare(self, entry: _Loaded | Item) -> Item:
        if not isinstance(entry, _Loaded):
            return entry
        picture = _light(entry.picture)
        try:
            prepared = self.decoder.prepare(entry.data, picture.path)
        except PictureError as error:
            self.claims.mark_broken(entry.digest, error.reason)
            return Bad(Broken(picture.path, error.reason, picture.stamp), entry.digest)
        return New(picture, entry.digest, len(entry.data), prepared)


def _light(picture: Picture) -> Picture:
    """The picture without its bytes."""
    return Picture(picture.path, picture.stamp, file=picture.file)
