"""Who embeds a content first: processes on one machine claim digests, so that equal pictures are embedded once.

A single process needs a set in memory; several share an SQLite file in the machine's temporary folder, which lives as long
as the job. What is claimed in a job that is killed is not remembered; only rows in the table are.
"""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

__all__ = ["Claims"]


class Claims:
    """Claimed digests. file: shared by the processes of a job; None for a single process."""

    def __init__(self, file: Path | None = None) -> None:
        self._mine: set[str] = set()
        self._lock = threading.Lock()
        self._database = None
        if file is not None:
            self._database = sqlite3.connect(file, timeout=600, isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA synchronous=OFF")
            self._database.execute("CREATE TABLE IF NOT EXISTS claims (digest TEXT PRIMARY KEY, reason TEXT)")

    def mine(self, digest: str) -> bool:
        """Whether this process has claimed the digest already."""
        return digest in self._mine

    def claim(self, digest: str) -> bool:
        """Claim a digest; return False if another process has claimed it before."""
        with self._lock:
            if self._database is not None:
                done = self._database.execute("INSERT OR IGNORE INTO claims (digest) VALUES (?)", (digest,))
                if done.rowcount == 0:
                    return digest in self._mine
            self._mine.add(digest)
            return True

    def mark_broken(self, digest: str, reason: str) -> None:
        """Record why the content of this digest is not a picture, for the other processes."""
        if self._database is not None:
            with self._lock:
                self._database.execute("UPDATE claims SET reason = ? WHERE digest = ?", (reason, digest))

    def reason(self, digest: str) -> str | None:
        """The reason recorded by `mark_broken` in any process."""
        if self._database is None:
            return None
        with self._lock:
            entry = self._database.execute("SELECT reason FROM claims WHERE digest = ?", (digest,)).fetchone()
        return None if entry is None else entry[0]

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
