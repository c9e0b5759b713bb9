"""A web server on 127.0.0.1 that can do what real ones do to a download: ranges, cut connections, errors, redirects."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class FileServer:
    """What the server holds and how it misbehaves; tests change it between requests."""

    files: dict[str, bytes] = field(default_factory=dict)
    etag: str | None = '"v1"'
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)  # the next answers end after so many bytes of their body
    statuses: list[int] = field(default_factory=list)  # the next answers have these statuses and no file
    redirect: dict[str, str] = field(default_factory=dict)
    pause: float = 0.0  # seconds between pieces of 64 KiB
    send_length: bool = True
    requests: list[tuple[str, str | None]] = field(default_factory=list)  # (path, Range header)
    url: str = ""


@contextmanager
def serve(**options: Any) -> Iterator[FileServer]:
    state = FileServer(**options)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            state.requests.append((self.path, self.headers.get("Range")))
            self.close_connection = True
            if state.statuses:
                return self.fail(state.statuses.pop(0))
            if self.path in state.redirect:
                self.send_response(302)
                self.send_header("Location", state.redirect[self.path])
                self.send_header("Content-Length", "0")
                return self.end_headers()
            if self.path not in state.files:
                return self.fail(404)
            self.answer(state.files[self.path])

        def answer(self, data: bytes) -> None:
            start, end = 0, len(data)
            requested_range = self.headers.get("Range")
            if requested_range and state.ranges and self.headers.get("If-Range", state.etag) == state.etag:
                first, _, last = requested_range.removeprefix("bytes=").partition("-")
                start, end = int(first), min(int(last) + 1, len(data)) if last else len(data)
                if start >= len(data):
                    return self.fail(416)
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
            else:
                self.send_response(200)
            if state.etag:
                self.send_header("ETag", state.etag)
            if state.send_length:
                self.send_header("Content-Length", str(end - start))
            self.send_header("Connection", "close")
            self.end_headers()
            body = data[start:end]
            if state.cuts:
                body = body[: state.cuts.pop(0)]
            for i in range(0, len(body), 65536):
                try:
                    self.wfile.write(body[i : i + 65536])
                except OSError:  # the client went away, as killed ones do
                    return
                if state.pause:
                    time.sleep(state.pause)

        def fail(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.send_header("Connection", "close")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        state.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
