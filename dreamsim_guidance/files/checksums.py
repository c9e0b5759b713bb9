"""Trust on first use: the SHA-256 of a downloaded file is recorded once and compared from then on.

No checksums are published for the weights that this library downloads, so a first download can only be checked for its
size and its inner structure. What can be noticed is a change: a file that was altered on disk, or a server that sends
another file than last time. `x.checksum.json` beside each downloaded file `x` holds:

    {"sha256": "...", "size": 343242323, "mtime_ns": 1712345678000000000, "url": "https://..."}

Hashing 1 GB takes seconds, so `verify` compares size and modification time first, and hashes only if one of them differs
from the record, or on request.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

from dreamsim_guidance.files.atomic import write_json

__all__ = ["ChecksumError", "forget", "origin", "record", "recorded", "sha256", "verify"]


class ChecksumError(ValueError):
    """A file is not the one that was recorded or requested; the message says which file to delete."""


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def record(path: Path, url: str, digest: str | None = None) -> None:
    """Write `<path>.checksum.json` for the file as it is now.

    url: where the file came from, or "". digest: its SHA-256, if that is known.
    """
    status = path.stat()
    entry = {"sha256": digest or sha256(path), "size": status.st_size, "mtime_ns": status.st_mtime_ns, "url": url}
    write_json(_record_path(path), entry)


def recorded(path: Path) -> dict[str, object] | None:
    """The record of `path`, or None if there is none that can be read."""
    try:
        entry = json.loads(_record_path(path).read_text())
    except (OSError, ValueError):
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("sha256"), str) else None


def origin(path: Path) -> str | None:
    """The recorded address that `path` was downloaded from; None if it was not downloaded."""
    entry = recorded(path)
    return str(entry["url"]) if entry and entry.get("url") else None


def forget(path: Path) -> None:
    """Remove the record of `path`: the next file there is trusted again."""
    _record_path(path).unlink(missing_ok=True)


def verify(path: Path, *, expected: str | None = None, full: bool = False) -> None:
    """Raise ChecksumError if `path` is not the file that was recorded.

    The file is hashed when its size or modification time differs from the record, when `expected` (a SHA-256) differs
    from the recorded one, or with `full=True`; otherwise the record is trusted. A file without a record is hashed, and then
    recorded, only if `expected` is given.
    """
    entry = recorded(path)
    recorded_digest = str(entry["sha256"]) if entry else None
    wanted = expected.lower() if expected else recorded_digest
    if wanted is None:
        return
    status = path.stat()
    untouched = entry is not None and (entry.get("size"), entry.get("mtime_ns")) == (status.st_size, status.st_mtime_ns)
    if untouched and recorded_digest == wanted and not full:
        return
    actual = sha256(path)
    if actual != wanted:
        origin = f" when it was downloaded from {entry['url']}" if entry and not expected and entry.get("url") else ""
        raise ChecksumError(
            f"{path} has SHA-256 {actual}, but {wanted} was {'asked for' if expected else 'recorded'}{origin}: the "
            f"file changed or is damaged. Delete {path} to get it again"
            + (f", or delete {_record_path(path)} if the change is meant." if entry and not expected else ".")
        )
    with contextlib.suppress(OSError):  # a read-only cache: hashed again next time
        record(path, str(entry["url"]) if entry and entry.get("url") else "", actual)


def _record_path(path: Path) -> Path:
    return path.with_name(path.name + ".checksum.json")
