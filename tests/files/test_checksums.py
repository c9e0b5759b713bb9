"""A downloaded file is the one that was asked for, and the same one as last time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from file_server import FileServer, serve

from dreamsim_guidance.files import checksums
from dreamsim_guidance.files.checksums import ChecksumError
from dreamsim_guidance.files.download import download

DATA = np.random.RandomState(0).bytes(100_003)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serve(files={"/a.bin": DATA}) as running:
        yield running


def test_a_wrong_checksum_keeps_nothing(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(ChecksumError, match="was asked for; nothing was kept"):
        download(server.url + "/a.bin", tmp_path / "a.bin", sha256="0" * 64, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_given_checksum_is_compared_with_a_file_that_is_there(server: FileServer, tmp_path: Path) -> None:
    checksum = hashlib.sha256(DATA).hexdigest().upper()
    path = download(server.url + "/a.bin", tmp_path / "a.bin", sha256=checksum, progress=False)
    assert download(server.url + "/a.bin", path, sha256=checksum, progress=False) == path
    with pytest.raises(ChecksumError, match=f"Delete {path}"):
        download(server.url + "/a.bin", path, sha256="0" * 64, progress=False)


def test_a_changed_file_is_noticed_and_named(server: FileServer, tmp_path: Path) -> None:
    path = download(server.url + "/a.bin", tmp_path / "a.bin", progress=False)
    path.write_bytes(DATA[:-1] + b"x")
    with pytest.raises(ChecksumError, match=rf"changed or is damaged. Delete {path} to get it again"):
        download(server.url + "/a.bin", path, progress=False)
    path.unlink()
    assert download(server.url + "/a.bin", path, progress=False).read_bytes() == DATA


def test_a_change_that_keeps_size_and_time_is_found_by_a_full_check(server: FileServer, tmp_path: Path) -> None:
    path = download(server.url + "/a.bin", tmp_path / "a.bin", progress=False)
    times = path.stat()
    path.write_bytes(DATA[:-1] + b"x")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    download(server.url + "/a.bin", path, progress=False)  # the documented limit of the quick check
    with pytest.raises(ChecksumError):
        download(server.url + "/a.bin", path, progress=False, verify=True)


def test_a_touched_file_is_hashed_once(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = download(server.url + "/a.bin", tmp_path / "a.bin", progress=False)
    os.utime(path, (1, 1))
    hashed: list[Path] = []
    original = checksums.sha256
    monkeypatch.setattr(checksums, "sha256", lambda p: hashed.append(p) or original(p))
    for _ in range(3):
        download(server.url + "/a.bin", path, progress=False)
    assert hashed == [path]


def test_a_server_with_another_file_than_last_time_is_noticed(server: FileServer, tmp_path: Path) -> None:
    path = download(server.url + "/a.bin", tmp_path / "a.bin", progress=False)
    path.unlink()
    server.files["/a.bin"] = b"something else"
    with pytest.raises(ChecksumError, match=r"recorded for the same file earlier.*delete .*a.bin.checksum.json"):
        download(server.url + "/a.bin", path, progress=False)
    (tmp_path / "a.bin.checksum.json").unlink()
    assert download(server.url + "/a.bin", path, progress=False).read_bytes() == b"something else"
