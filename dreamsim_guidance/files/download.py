"""Download one file: resumable, atomic, checked.

The bytes go to `<file>.part`; `<file>.part.json` beside it records which version of the remote file they belong to.
An interrupted download is continued with an HTTP range request, but only if the server confirms that it still has the same
version (206, the same ETag or Last-Modified, the same total size); otherwise it starts again from the first byte.
The finished file is moved into place in one step, so that only a complete file ever has the file's own name.

RFC 9110, HTTP Semantics, sections 13.1.5 (If-Range) and 14 (Range Requests).
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import logging
import os
import re
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

from dreamsim_guidance.files import checksums
from dreamsim_guidance.files.atomic import write_json
from dreamsim_guidance.files.cache import locked

__all__ = ["DownloadError", "download"]

log = logging.getLogger(__name__)

_CHUNK = 1 << 18
_BACKOFF = 1.0
"""Seconds before the second attempt, doubled for each further attempt up to 30."""


class DownloadError(OSError):
    """The network or the server failed; the next call continues with the bytes that have arrived."""


class _Interrupted(Exception):
    """An attempt failed in a way that may not happen again."""


def download(
    url: str,
    destination: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    progress: bool = True,
    verify: bool = False,
    timeout: float = 30.0,
    attempts: int = 5,
) -> Path:
    """Download `url` to `destination`, if `destination` does not exist, and return its path.

    sha256: expected checksum. Without it, the checksum of the first download is recorded beside the file and compared from
        then on: when the file is used (see `checksums.verify`) and when it is downloaded again.
    progress: show a bar on stderr.
    verify: hash an existing file in any case.
    timeout: seconds for each network operation.
    attempts: failed attempts in a row without a new byte that end the download.

    Two processes that want the same file wait for each other. An interruption, also by Ctrl-C or a full disk, leaves
    `<destination>.part` and `.part.json` and nothing else, and the next call continues from there.

    Raises DownloadError (an OSError) for network and server errors, OSError for the disk, ValueError for another scheme
    than http and https, ChecksumError (a ValueError) for a file that is not the expected one.
    """
    destination = Path(destination)
    if not re.match(r"https?://", url, re.IGNORECASE):
        raise ValueError(f"can only download from http:// and https:// addresses, got {url!r}.")
    if not destination.exists():
        with locked(destination):
            if not destination.exists():  # no other process was faster
                _fetch(url, destination, sha256, progress, timeout, attempts)
                return destination
    checksums.verify(destination, expected=sha256, full=verify)
    return destination


def _fetch(url: str, destination: Path, sha256: str | None, progress: bool, timeout: float, attempts: int) -> None:
    part, note = _part(destination), _note(destination)
    failures = 0
    while True:
        before = _size(part)
        try:
            _attempt(url, part, note, progress, timeout)
            break
        except (_Interrupted, urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            failures = 1 if _size(part) > before else failures + 1
            if _is_final(error) or failures >= attempts:
                raise DownloadError(_explain(error, url, part, destination)) from error
            log.info("%s: %s; trying again", url, error)
            time.sleep(min(_BACKOFF * 2 ** (failures - 1), 30.0))

    digest = checksums.sha256(part)
    entry = checksums.recorded(destination)
    wanted = sha256.lower() if sha256 else str(entry["sha256"]) if entry else digest
    if digest != wanted:
        discard(destination)
        reason = "was asked for" if sha256 else "was recorded for the same file earlier"
        fix = "" if sha256 else f" If the change is meant, delete {destination}.checksum.json and call again."
        raise checksums.ChecksumError(
            f"{url} sent a file with SHA-256 {digest}, but {wanted} {reason}; nothing was kept.{fix}"
        )
    os.replace(part, destination)
    note.unlink(missing_ok=True)
    checksums.record(destination, url, digest)


def discard(destination: Path) -> None:
    """Remove the files that an unfinished download of `destination` has left."""
    _part(destination).unlink(missing_ok=True)
    _note(destination).unlink(missing_ok=True)


def _attempt(url: str, part: Path, note: Path, progress: bool, timeout: float) -> None:
    """One request; returns once the whole file is in `part`, raises otherwise."""
    have, earlier = _size(part), _read(note)
    headers = {"User-Agent": "dreamsim_guidance", "Accept-Encoding": "identity"}
    resume = have > 0 and earlier.get("url") == url and bool(earlier.get("etag") or earlier.get("modified"))
    if resume:
        headers["Range"] = f"bytes={have}-"
        if validator := _strong(earlier.get("etag")) or earlier.get("modified"):
            headers["If-Range"] = str(validator)
    request = urllib.request.Request(url, headers=headers)
    try:
        response = _opener.open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if (
            error.code == 416 and resume
        ):  # no bytes after `have`: the part is complete, or the remote file became shorter
            error.close()
            if have == earlier.get("size"):
                return
            part.unlink(missing_ok=True)
            raise _Interrupted("the remote file changed") from error
        raise
    with response:
        start, total = 0, _number(response.headers.get("Content-Length"))
        if response.status == 206:
            start, total = _content_range(response.headers.get("Content-Range"))
            if start != have or not resume or not _same(earlier, response.headers, total):
                part.unlink(missing_ok=True)  # the next attempt requests the whole file
                raise _Interrupted("the server continued another file")
        elif response.status != 200:
            raise _Interrupted(f"unexpected status {response.status}")
        else:
            part.unlink(missing_ok=True)
            write_json(note, {"url": url, **_version(response.headers), "size": total})
        _check_space(part, start, total)
        with _on_disk(part, total), open(part, "ab") as file, _bar(part, start, total, progress) as bar:
            for chunk in _chunks(response):
                file.write(chunk)
                bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())
    if total is not None and _size(part) != total:
        if _size(part) > total:
            part.unlink()
        raise _Interrupted(f"the connection ended after {_size(part)} of {total} bytes")


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while chunk := response.read(_CHUNK):
        yield chunk


class _SafeRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        """Follow redirects, but never from https to anything else."""
        if req.full_url.lower().startswith("https:") and not newurl.lower().startswith("https:"):
            raise urllib.error.HTTPError(newurl, code, f"refused a redirect from https to {newurl}", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_opener = urllib.request.build_opener(_SafeRedirect)


def _is_final(error: Exception) -> bool:
    """Whether another attempt is pointless: the server refused, or there is no server or no network."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code not in (408, 425, 429) and error.code < 500
    return isinstance(error, urllib.error.URLError) and isinstance(
        error.reason, (ConnectionRefusedError, socket.gaierror)
    )


def _explain(error: Exception, url: str, part: Path, destination: Path) -> str:
    progress = f" {_size(part)} bytes are kept in {part}: call again to continue." if _size(part) else ""
    return (
        f"could not download {url}: {error}.{progress} Without a network, get the file by other means and put it "
        f"at {destination}."
    )


@contextlib.contextmanager
def _on_disk(part: Path, total: int | None) -> Iterator[None]:
    """Turn the error of a full disk into one that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(part, _size(part), total) from error
        raise


def _check_space(part: Path, start: int, total: int | None) -> None:
    if total is not None and shutil.disk_usage(part.parent).free < total - start:
        raise _disk_full(part, start, total)


def _disk_full(part: Path, have: int, total: int | None) -> OSError:
    missing = f"{(total - have) / 1e6:.0f} MB more are needed" if total else "more is needed"
    return OSError(
        errno.ENOSPC,
        f"the disk is full: {missing}. {have} bytes are kept; make room and call again to continue, or choose another "
        "folder with cache_dir or DREAMSIM_GUIDANCE_CACHE",
        str(part),
    )


def _bar(part: Path, start: int, total: int | None, progress: bool) -> Any:
    from tqdm import tqdm

    return tqdm(
        total=total, initial=start, unit="B", unit_scale=True, unit_divisor=1024, desc=part.stem, disable=not progress
    )


def _version(headers: Message) -> dict[str, str | None]:
    return {"etag": headers.get("ETag"), "modified": headers.get("Last-Modified")}


def _same(earlier: dict[str, Any], headers: Message, total: int | None) -> bool:
    now = _version(headers)
    agrees = [earlier[key] == now[key] for key in ("etag", "modified") if earlier.get(key) and now[key]]
    return total == earlier.get("size") and bool(agrees) and all(agrees)


def _strong(etag: Any) -> str | None:
    """A weak ETag must not be used in If-Range (RFC 9110, 13.1.5)."""
    return etag if isinstance(etag, str) and not etag.startswith("W/") else None


def _content_range(header: str | None) -> tuple[int, int | None]:
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", (header or "").strip())
    if match is None:
        return -1, None
    return int(match[1]), _number(match[3])


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.strip().isdigit() else None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _read(note: Path) -> dict[str, Any]:
    try:
        content = json.loads(note.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _part(destination: Path) -> Path:
    return destination.with_name(destination.name + ".part")


def _note(destination: Path) -> Path:
    return destination.with_name(destination.name + ".part.json")
