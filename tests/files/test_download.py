"""Downloads are whole or absent, continue where they stopped, and are the same file as last time."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from file_server import FileServer, serve

from dreamsim_guidance.files import download as module
from dreamsim_guidance.files.download import DownloadError, download

DATA = np.random.RandomState(0).bytes(1_000_003)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(module, "_BACKOFF", 0.01)
    with serve(files={"/a.bin": DATA}) as running:
        yield running


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_download_is_the_file_and_its_checksum(server: FileServer, tmp_path: Path) -> None:
    path = download(server.url + "/a.bin", tmp_path / "deep" / "a.bin", progress=False)
    assert path.read_bytes() == DATA
    assert names(path.parent) == {"a.bin", "a.bin.checksum.json"}
    entry = json.loads((path.parent / "a.bin.checksum.json").read_text())
    assert entry["sha256"] == hashlib.sha256(DATA).hexdigest()
    assert entry["url"] == server.url + "/a.bin"


def test_a_file_that_is_there_is_not_downloaded(server: FileServer, tmp_path: Path) -> None:
    for _ in range(3):
        download(server.url + "/a.bin", tmp_path / "a.bin", progress=False)
    assert len(server.requests) == 1


def test_the_bar_goes_to_stderr_and_nothing_to_stdout(
    server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    download(server.url + "/a.bin", tmp_path / "a.bin")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "a.bin" in captured.err and "100%" in captured.err


def test_a_cut_connection_is_continued(server: FileServer, tmp_path: Path) -> None:
    server.cuts = [300_000, 0, 200_000]
    path = download(server.url + "/a.bin", tmp_path / "a.bin", progress=False)
    assert path.read_bytes() == DATA
    assert [requested_range for _, requested_range in server.requests] == [
        None,
        "bytes=300000-",
        "bytes=300000-",
        "bytes=500000-",
    ]


def test_a_server_without_ranges_is_started_again(server: FileServer, tmp_path: Path) -> None:
    server.cuts, server.ranges = [300_000], False
    assert download(server.url + "/a.bin", tmp_path / "a.bin", progress=False).read_bytes() == DATA


def test_a_server_without_validators_is_started_again(server: FileServer, tmp_path: Path) -> None:
    server.cuts, server.etag = [300_000], None
    assert download(server.url + "/a.bin", tmp_path / "a.bin", progress=False).read_bytes() == DATA
    assert server.requests[1] == ("/a.bin", None)


@pytest.mark.parametrize("etag", ['"v2"', 'W/"v2"'])
def test_halves_of_two_versions_are_never_joined(server: FileServer, tmp_path: Path, etag: str) -> None:
    server.cuts = [300_000]
    with pytest.raises(DownloadError):
        download(server.url + "/a.bin", tmp_path / "a.bin", progress=False, attempts=1)
    assert names(tmp_path) == {"a.bin.part", "a.bin.part.json"}
    server.files["/a.bin"], server.etag = DATA[::-1], etag
    assert download(server.url + "/a.bin", tmp_path / "a.bin", progress=False).read_bytes() == DATA[::-1]


def test_a_server_that_ignores_if_range_is_noticed(server: FileServer, tmp_path: Path) -> None:
    server.cuts = [300_000]
    with pytest.raises(DownloadError):
        download(server.url + "/a.bin", tmp_path / "a.bin", progress=False, attempts=1)
    note = tmp_path / "a.bin.part.json"
    note.write_text(note.read_text().replace("1000003", "1000004"))  # as if the file had been longer
    assert download(server.url + "/a.bin", tmp_path / "a.bin", progress=False).read_bytes() == DATA
    assert [requested_range for _, requested_range in server.requests] == [None, "bytes=300000-", None]


def test_a_complete_part_is_moved_into_place(server: FileServer, tmp_path: Path) -> None:
    url = server.url + "/a.bin"
    (tmp_path / "a.bin.part").write_bytes(DATA)
    note = {"url": url, "etag": '"v1"', "modified": None, "size": len(DATA)}
    (tmp_path / "a.bin.part.json").write_text(json.dumps(note))
    assert download(url, tmp_path / "a.bin", progress=False).read_bytes() == DATA
    assert names(tmp_path) == {"a.bin", "a.bin.checksum.json"}


def test_a_part_of_unknown_origin_is_not_continued(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(b"from somewhere")
    assert download(server.url + "/a.bin", tmp_path / "a.bin", progress=False).read_bytes() == DATA


def test_a_part_that_is_too_long_is_started_again(server: FileServer, tmp_path: Path) -> None:
    url = server.url + "/a.bin"
    (tmp_path / "a.bin.part").write_bytes(DATA + b"more")
    (tmp_path / "a.bin.part.json").write_text(json.dumps({"url": url, "etag": '"v1"', "size": len(DATA)}))
    assert download(url, tmp_path / "a.bin", progress=False).read_bytes() == DATA


def test_busy_servers_are_asked_again(server: FileServer, tmp_path: Path) -> None:
    server.statuses = [503, 429, 500]
    assert download(server.url + "/a.bin", tmp_path / "a.bin", progress=False).read_bytes() == DATA


def test_a_missing_file_is_reported_at_once_with_its_address(server: FileServer, tmp_path: Path) -> None:
    url = server.url + "/b.bin"
    with pytest.raises(DownloadError, match=rf"could not download {url}: HTTP Error 404.*put it at .*b.bin"):
        download(url, tmp_path / "b.bin", progress=False)
    assert len(server.requests) == 1
    assert names(tmp_path) == set()


def test_no_server_ends_after_the_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BACKOFF", 0.01)
    with serve() as gone:
        url = gone.url
    with pytest.raises(DownloadError, match="Connection refused"):
        download(url + "/a.bin", tmp_path / "a.bin", progress=False, attempts=2)
    assert names(tmp_path) == set()


def test_a_silent_server_times_out(server: FileServer, tmp_path: Path) -> None:
    server.pause = 3.0
    with pytest.raises(DownloadError, match="timed out"):
        download(server.url + "/a.bin", tmp_path / "a.bin", progress=False, timeout=0.2, attempts=1)


def test_redirects_are_followed_with_the_range(server: FileServer, tmp_path: Path) -> None:
    server.redirect = {"/latest": server.url + "/a.bin"}
    server.cuts = [300_000]
    assert download(server.url + "/latest", tmp_path / "a.bin", progress=False).read_bytes() == DATA
    assert server.requests[-1] == ("/a.bin", "bytes=300000-")


def test_a_redirect_out_of_https_is_refused() -> None:
    request = SimpleNamespace(full_url="https://example.org/a")
    with pytest.raises(module.urllib.error.HTTPError, match="refused a redirect from https") as caught:
        module._SafeRedirect().redirect_request(request, None, 302, "Found", {}, "http://example.org/a")
    caught.value.close()


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/a", "/etc/passwd"])
def test_only_web_addresses_are_downloaded(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="http:// and https://"):
        download(url, tmp_path / "a")


KILLED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so would we
from dreamsim_guidance.files.download import download
download(sys.argv[1], sys.argv[2], progress=False)
"""


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_download_is_continued_by_the_next(server: FileServer, tmp_path: Path, kill: signal.Signals) -> None:
    server.pause = 0.1
    target = tmp_path / "a.bin"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, server.url + "/a.bin", str(target)], stderr=subprocess.DEVNULL
    )
    part = tmp_path / "a.bin.part"
    deadline = time.monotonic() + 200
    while not (part.exists() and part.stat().st_size > 0) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(kill)
    process.wait(timeout=30)
    left = {"a.bin.part", "a.bin.part.json"} | ({"a.bin.lock"} if kill == signal.SIGKILL else set())
    assert names(tmp_path) == left  # SIGKILL cannot be cleaned up after; the file is there, its lock is free
    have = part.stat().st_size
    assert 0 < have < len(DATA)

    server.pause = 0.0
    assert download(server.url + "/a.bin", target, progress=False).read_bytes() == DATA
    assert server.requests[-1] == ("/a.bin", f"bytes={have}-")
    assert names(tmp_path) == {"a.bin", "a.bin.checksum.json"}


def test_two_downloads_of_one_file_wait_for_each_other(server: FileServer, tmp_path: Path) -> None:
    server.pause = 0.02
    results: list[Path] = []

    def job() -> None:
        results.append(download(server.url + "/a.bin", tmp_path / "a.bin", progress=False))

    jobs = [threading.Thread(target=job) for _ in range(4)]
    for thread in jobs:
        thread.start()
    for thread in jobs:
        thread.join()
    assert len(results) == 4 and len(server.requests) == 1
    assert names(tmp_path) == {"a.bin", "a.bin.checksum.json"}


def test_a_full_disk_is_seen_before_the_download(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match=r"the disk is full: 1 MB more are needed.*cache_dir") as caught:
        download(server.url + "/a.bin", tmp_path / "a.bin", progress=False)
    assert caught.value.errno == errno.ENOSPC


def test_a_disk_that_fills_up_keeps_the_part(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = module._chunks

    def failing(response: object) -> Iterator[bytes]:
        for i, chunk in enumerate(chunks(response)):  # type: ignore[arg-type]
            if i == 2:
                raise OSError(errno.ENOSPC, "No space left on device")
            yield chunk

    monkeypatch.setattr(module, "_chunks", failing)
    with pytest.raises(OSError, match="the disk is full"):
        download(server.url + "/a.bin", tmp_path / "a.bin", progress=False)
    assert (tmp_path / "a.bin.part").stat().st_size > 0
    monkeypatch.setattr(module, "_chunks", chunks)
    assert download(server.url + "/a.bin", tmp_path / "a.bin", progress=False).read_bytes() == DATA
    assert server.requests[-1][1] is not None
