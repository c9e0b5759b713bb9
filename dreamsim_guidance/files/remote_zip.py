"""Read one small file of a large zip on a web server, without downloading the zip.

HTTP range requests read the table of contents at the end of the zip, then the bytes of the one member: of NIGHTS' 58 GB a
few MB. RFC 9110, HTTP Semantics, section 14 (Range Requests).
"""

from __future__ import annotations

import io
import re
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from http.client import HTTPException

from dreamsim_guidance.files.download import DownloadError

__all__ = ["read_member"]

_BUFFER = 1 << 20


def read_member(url: str, wanted: Callable[[str], bool], limit: int = 1 << 28) -> bytes:
    """The content of the first member of the zip at `url` for whose path `wanted` is true, checked against its CRC-32.

    limit: largest size that is read, in bytes.

    Raises DownloadError (an OSError) for network and server errors and for a server without range requests, ValueError
    if there is no such member, if it is larger than `limit`, or if the file is not a zip.
    """
    try:
        with zipfile.ZipFile(io.BufferedReader(_RemoteFile(url), _BUFFER)) as opened:
            member = next((info for info in opened.infolist() if wanted(info.filename)), None)
            if member is None:
                raise ValueError(f"{url} does not hold the file that was asked for.")
            if member.file_size > limit:
                raise ValueError(f"{url}: {member.filename} has {member.file_size} bytes, more than {limit}.")
            return opened.read(member)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{url} is not a whole zip file ({error}).") from error


class _RemoteFile(io.RawIOBase):
    """A remote file of known size, read with one request for each piece; it must not change meanwhile."""

    def __init__(self, url: str, timeout: float = 30.0) -> None:
        self.url, self.timeout, self.place = url, timeout, 0
        self.version: str | None = None
        self.size = 0
        self._request(0, 1)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}[whence]
        return self.place

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        count = min(len(buffer), self.size - self.place)
        if count <= 0:
            return 0
        piece = self._request(self.place, count)
        buffer[: len(piece)] = piece
        self.place += len(piece)
        return len(piece)

    def _request(self, start: int, count: int) -> bytes:
        headers = {"User-Agent": "dreamsim_guidance", "Range": f"bytes={start}-{start + count - 1}"}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(self.url, headers=headers), timeout=self.timeout
            ) as response:
                if self.url.lower().startswith("https:") and not response.url.lower().startswith("https:"):
                    raise DownloadError(f"refused a redirect from https to {response.url}.")
                content = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range") or "")
                if response.status != 206 or content is None or int(content[1]) != start:
                    raise DownloadError(f"the server of {self.url} does not answer requests for a part of a file.")
                version = f"{content[2]} {response.headers.get('ETag') or response.headers.get('Last-Modified')}"
                if self.version not in (None, version):
                    raise DownloadError(f"{self.url} changed while it was read; try again.")
                self.version, self.size = version, int(content[2])
                piece = response.read(count)
        except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
            raise DownloadError(f"could not read {self.url}: {error}.") from error
        if not piece:
            raise DownloadError(f"the server of {self.url} sent nothing.")
        return piece
