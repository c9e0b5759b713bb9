"""Which piece of work embeds a content, decided in one place for all workers of a cluster.

A content belongs to the first piece that claims its digest, or to the index if a row has it already. A worker that is killed
claims again when its piece is read again, and the content is still its own: claims name pieces, not workers, so that nothing
is lost or done twice. The claims last as long as the job; a new job reads the digests from the index.

A claim takes 24 bytes: half of the digest, and a checksum of the piece. They lie in sorted arrays whose sizes double, so that
a billion take 24 GB, divided over several actors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamsim_guidance.retrieval.extras import need

__all__ = ["ClaimTable", "RemoteClaims", "claim_tables", "part_of"]

_KEY = np.dtype("S16")
_IN_INDEX = 0
"""The owner of contents that a row of the index has."""
_WORKERS_PER_TABLE = 16
_RECENT = 1 << 18
"""Claims in a dictionary, before they are sorted into an array."""


class ClaimTable:
    """The claims of a job, or those of one part of the digests. Runs as an actor of Ray."""

    def __init__(self, recent: int = _RECENT) -> None:
        self._limit = recent
        self._recent: dict[bytes, int] = {}
        self._sorted: list[tuple[NDArray[Any], NDArray[np.uint64]]] = []

    def add_rows(self, digests: Iterable[str]) -> None:
        """Record that rows of the index have these digests."""
        for digest in digests:
            self._recent.setdefault(_key(digest), _IN_INDEX)
            self._sort_recent()

    def claim(self, digest: str, piece: str) -> bool:
        """Claim a digest for a piece; return whether it belongs to this piece now."""
        key, owner = _key(digest), _owner(piece)
        before = self._find(key)
        if before is None:
            self._recent[key] = owner
            self._sort_recent()
        return before in (None, owner)

    def __len__(self) -> int:
        return len(self._recent) + sum(len(keys) for keys, _ in self._sorted)

    def _find(self, key: bytes) -> int | None:
        if key in self._recent:
            return self._recent[key]
        for keys, owners in self._sorted:
            place = int(np.searchsorted(keys, np.array(key, _KEY)))
            if place < len(keys) and keys[place] == np.array(key, _KEY):
                return int(owners[place])
        return None

    def _sort_recent(self) -> None:
        if len(self._recent) < self._limit:
            return
        keys = np.array(list(self._recent), _KEY)
        owners = np.array(list(self._recent.values()), np.uint64)
        self._recent = {}
        self._sorted.append(_in_order(keys, owners))
        while len(self._sorted) > 1 and len(self._sorted[-2][0]) <= len(self._sorted[-1][0]):
            last, before = self._sorted.pop(), self._sorted.pop()
            self._sorted.append(_in_order(np.concatenate([before[0], last[0]]), np.concatenate([before[1], last[1]])))


@contextmanager
def claim_tables(digests: Iterable[Sequence[str]], workers: int) -> Iterator[list[Any]]:
    """Actors with the claims of a job for the time of a block.

    digests: of the rows of the index, in batches. workers: of the job, which decide about the number of actors.
    """
    ray = need("ray", "scale")
    parts = 1 + workers // _WORKERS_PER_TABLE
    tables = [ray.remote(ClaimTable).options(num_cpus=0).remote() for _ in range(parts)]
    try:
        for batch in digests:
            divided: list[list[str]] = [[] for _ in tables]
            for digest in batch:
                divided[part_of(digest, parts)].append(digest)
            ray.get([table.add_rows.remote(part) for table, part in zip(tables, divided, strict=True)])
        yield tables
    finally:
        for table in tables:
            ray.kill(table)


class RemoteClaims:
    """The claims as one reading of a piece sees them; in place of `retrieval.claims.Claims`.

    tables: handles of the actors; each has the digests of its own first digits.
    piece: the name of the piece, the same whenever it is read.
    """

    def __init__(self, tables: Sequence[Any], piece: str) -> None:
        self._tables = tables
        self._piece = piece
        self._mine: set[str] = set()

    def mine(self, digest: str) -> bool:
        """Whether this reading has claimed the digest already."""
        return digest in self._mine

    def claim(self, digest: str) -> bool:
        """Claim a digest; return False if another piece or the index has it."""
        import ray

        table = self._tables[part_of(digest, len(self._tables))]
        granted = bool(ray.get(table.claim.remote(digest, self._piece)))
        if granted:
            self._mine.add(digest)
        return granted

    def mark_broken(self, digest: str, reason: str) -> None:
        """Nothing: the job itself hears of broken pictures, and lists their copies."""


def part_of(digest: str, parts: int) -> int:
    """Which of several tables has a digest."""
    return int(digest[:4], 16) % parts


def _key(digest: str) -> bytes:
    return bytes.fromhex(digest[:32]).rstrip(b"\0")  # as numpy gives it back


def _owner(piece: str) -> int:
    return int.from_bytes(hashlib.blake2b(piece.encode(errors="surrogatepass"), digest_size=8).digest(), "little") or 1


def _in_order(keys: NDArray[Any], owners: NDArray[np.uint64]) -> tuple[NDArray[Any], NDArray[np.uint64]]:
    order = np.argsort(keys, kind="stable")
    return keys[order], owners[order]
