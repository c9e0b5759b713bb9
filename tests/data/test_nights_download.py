"""The downloader against a web server with the layout of the authors'."""

from __future__ import annotations

import errno
import io
import json
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from file_server import FileServer, serve
from PIL import Image as PILImage

from dreamsim_guidance.data import nights_download as module
from dreamsim_guidance.data.nights_download import chunks, download_nights
from dreamsim_guidance.data.readers.nights import read_nights, read_nights_jnd
from dreamsim_guidance.files.archive import ArchiveError
from dreamsim_guidance.files.download import DownloadError
from dreamsim_guidance.files.remote_zip import read_member

HEADER = "id,left_vote,right_vote,votes,ref_path,left_path,right_path,split,is_imagenet,prompt"


def picture(seed: int) -> bytes:
    opened = io.BytesIO()
    PILImage.effect_noise((8, 8), 10 + seed).save(opened, "png")
    return opened.getvalue()


def packed(files: dict[str, bytes]) -> bytes:
    opened = io.BytesIO()
    with zipfile.ZipFile(opened, "w") as z:
        for name, data in files.items():
            z.writestr(name, data)
    return opened.getvalue()


def table(parts: int) -> str:
    rows = [
        f"{p}{i},{i},{1 - i},7,ref/{p:03d}/{i:03d}.png,distort/{p:03d}/{i:03d}_1.png,distort/{p:03d}/{i:03d}_0.png,"
        f'train,False,"An image of a tabby, cat"'
        for p in range(parts)
        for i in (0, 1)
    ]
    return "\n".join([HEADER, *rows]) + "\n"


@pytest.fixture
def server() -> Iterator[FileServer]:
    """A server with three parts of two triplets; nights.zip holds the table between other files."""
    files = {}
    for p in range(3):
        files[f"/nights_chunked/ref/{p:03d}.zip"] = packed({f"{p:03d}/{i:03d}.png": picture(i) for i in (0, 1)})
        files[f"/nights_chunked/distort/{p:03d}.zip"] = packed(
            {f"{p:03d}/{i:03d}_{j}.png": picture(i + j) for i in (0, 1) for j in (0, 1)}
        )
    around = {f"nights/ref/{i}.png": bytes(50_000) for i in range(40)}
    files["/nights.zip"] = packed(
        {**around, "nights/data.csv": table(3).encode(), "nights/README.md": b"x" * 5_000_000}
    )
    files["/jnd_votes.csv"] = b"id,ref_path,distort_path,same,votes\n0,ref/000/000.png,distort/000/000_0.png,1,3\n"
    with serve(files=files) as state:
        yield state


def fetch(server: FileServer, to: Path, parts: set[int], **options: object) -> Path:
    return download_nights(to, parts=parts, base_url=server.url, progress=False, **options)  # type: ignore[arg-type]


def requested_paths(server: FileServer) -> list[str]:
    """The distinct paths requested since the last call."""
    paths = list(dict.fromkeys(path for path, _ in server.requests))
    server.requests.clear()
    return paths


def below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_chunks_are_those_of_the_originals_scripts() -> None:
    addresses = [chunk.address for chunk in chunks("filtered")]
    assert len(addresses) == 200 and addresses[:2] == ["nights_chunked/ref/000.zip", "nights_chunked/distort/000.zip"]
    assert addresses[-1] == "nights_chunked/distort/099.zip"
    addresses = [chunk.address for chunk in chunks("unfiltered")]
    assert addresses[:3] == [f"nights_unfiltered/{name}.zip" for name in ("ref_0_24", "distort_0_24", "ref_25_49")]
    assert len(addresses) == 8 and addresses[-1] == "nights_unfiltered/distort_75_99.zip"
    assert [chunk.name for chunk in chunks("unfiltered", {99})] == ["ref_75_99", "distort_75_99"]
    assert sum(chunk.size for chunk in chunks("unfiltered")) == pytest.approx(289 << 30, rel=1e-6)
    assert chunks("jnd") == []
    with pytest.raises(ValueError, match="parts are numbers from 0 to 99"):
        chunks("filtered", {100})


def test_a_part_of_the_set_can_be_read(server: FileServer, tmp_path: Path) -> None:
    file = fetch(server, tmp_path, {0, 2})
    judgments = read_nights(file)
    assert len(judgments) == 4 and {path.parent.name for path in judgments.images} == {"000", "002"}
    assert judgments.images[1].name == "000_1.png"  # left, as the table has it
    assert (tmp_path / "data_all.csv").read_text() == table(3)
    assert 'An image of a tabby, cat"' in file.read_text()
    assert not list(tmp_path.rglob("*.zip")) and not (tmp_path / ".download").exists()


def test_further_parts_are_added_and_nothing_is_fetched_twice(server: FileServer, tmp_path: Path) -> None:
    fetch(server, tmp_path, {1})
    requested_paths(server)
    assert len(read_nights(fetch(server, tmp_path, {0, 1}))) == 4
    assert requested_paths(server) == ["/nights_chunked/ref/000.zip", "/nights_chunked/distort/000.zip"]
    file = fetch(server, tmp_path, {0, 1, 2})
    assert file.read_text() == table(3) and not (tmp_path / "data_all.csv").exists()
    requested_paths(server)
    before = below(tmp_path)
    assert fetch(server, tmp_path, {0, 1, 2}).read_text() == table(3)
    assert requested_paths(server) == [] and below(tmp_path) == before


def test_the_table_costs_a_small_part_of_the_whole_zip(server: FileServer) -> None:
    url = server.url + "/nights.zip"
    assert read_member(url, lambda name: name.endswith("data.csv")).decode() == table(3)
    ranges = [
        (int(a), int(b)) for _, ranges in server.requests for a, b in [(ranges or "").removeprefix("bytes=").split("-")]
    ]
    total = sum(b - a + 1 for a, b in ranges)
    assert total < 0.5 * len(server.files["/nights.zip"])
    with pytest.raises(ValueError, match="does not hold the file"):
        read_member(url, lambda name: name == "none")
    with pytest.raises(ValueError, match="more than 10"):
        read_member(url, lambda name: name.endswith("data.csv"), limit=10)


def test_a_server_without_ranges_is_an_error_and_a_local_table_is_used(server: FileServer, tmp_path: Path) -> None:
    server.ranges = False
    with pytest.raises(
        DownloadError, match=r"does not answer requests for a part.* put it at .*data.csv .* call again"
    ):
        fetch(server, tmp_path, {0})
    (tmp_path / "data.csv").write_text(table(3))
    assert len(read_nights(fetch(server, tmp_path, {0}))) == 2


def test_a_file_that_is_no_zip_is_refused(server: FileServer, tmp_path: Path) -> None:
    server.files["/nights.zip"] = b"x" * 1000
    with pytest.raises(DownloadError, match=r"table of votes could not be read: .*not a whole zip file"):
        fetch(server, tmp_path, {0})


def test_a_failed_chunk_leaves_the_finished_ones_usable(server: FileServer, tmp_path: Path) -> None:
    original = server.files.pop("/nights_chunked/ref/001.zip")
    with pytest.raises(DownloadError, match=r"could not download .*ref/001.zip: HTTP Error 404"):
        fetch(server, tmp_path, {0, 1})
    assert len(read_nights(tmp_path)) == 2
    server.files["/nights_chunked/ref/001.zip"] = original
    requested_paths(server)
    fetch(server, tmp_path, {0, 1})
    assert requested_paths(server) == ["/nights_chunked/ref/001.zip", "/nights_chunked/distort/001.zip"]


@pytest.mark.parametrize("entries", [{"../../evil.png": b"x"}, {"/evil.png": b"x"}, None])
def test_an_unsafe_or_damaged_zip_writes_nothing_and_is_fetched_anew(
    server: FileServer, tmp_path: Path, entries: dict[str, bytes] | None
) -> None:
    original = server.files["/nights_chunked/ref/000.zip"]
    server.files["/nights_chunked/ref/000.zip"] = original[:-30] if entries is None else packed(entries)
    (tmp_path / "in").mkdir()
    with pytest.raises(ArchiveError, match=r"ref/000.zip: .*(leads out|is absolute|not a whole zip)"):
        fetch(server, tmp_path / "in", {0})
    assert not [name for name in below(tmp_path) if name.endswith((".png", ".zip"))]
    server.files["/nights_chunked/ref/000.zip"] = original
    assert len(read_nights(fetch(server, tmp_path / "in", {0}))) == 2


def test_deleted_pictures_are_fetched_again(server: FileServer, tmp_path: Path) -> None:
    fetch(server, tmp_path, {0})
    requested_paths(server)
    (tmp_path / "distort" / "000" / "001_0.png").unlink()
    fetch(server, tmp_path, {0})
    assert requested_paths(server) == ["/nights_chunked/distort/000.zip"]


@pytest.mark.parametrize("layout", ["{p:03d}/{i:03d}.png", "{i:03d}.png"])
def test_files_lie_where_upstreams_script_unpacks_them(server: FileServer, tmp_path: Path, layout: str) -> None:
    """What `unzip 000.zip -d ref` does: the zip's own folders are kept."""
    names = [layout.format(p=0, i=i) for i in (0, 1)]
    server.files["/nights_chunked/ref/000.zip"] = packed(dict.fromkeys(names, picture(0)))
    fetch(server, tmp_path, {0})
    assert {f"ref/{name}" for name in names} <= below(tmp_path)


KILLED = """
import sys
from dreamsim_guidance.data.nights_download import download_nights
download_nights(sys.argv[1], parts={0, 1}, base_url=sys.argv[2], progress=False)
"""


def test_a_killed_download_goes_on_in_the_middle_of_a_chunk(server: FileServer, tmp_path: Path) -> None:
    big = {f"001/{i:03d}.png": picture(i) for i in (0, 1)} | {"001/large.png": bytes(4 << 20)}
    server.files["/nights_chunked/ref/001.zip"] = packed(big)
    server.pause = 0.05
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), server.url], stderr=subprocess.DEVNULL)
    part = tmp_path / ".download" / "ref-001.zip.part"
    deadline = time.monotonic() + 120
    while not (part.exists() and part.stat().st_size > 0) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    have = part.stat().st_size
    assert 0 < have < 4 << 20
    assert set(json.loads((tmp_path / ".filtered.json").read_text())) == {"ref/000", "distort/000"}

    server.pause = 0.0
    server.requests.clear()
    assert len(read_nights(fetch(server, tmp_path, {0, 1}))) == 4
    assert server.requests[0] == ("/nights_chunked/ref/001.zip", f"bytes={have}-")
    assert requested_paths(server) == ["/nights_chunked/ref/001.zip", "/nights_chunked/distort/001.zip"]


def test_a_chunk_that_was_unpacked_but_not_written_down_is_unpacked_again_not_fetched(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module._Record, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch(server, tmp_path, {0})
    requested_paths(server)
    assert len(read_nights(fetch(server, tmp_path, {0}))) == 2
    assert requested_paths(server) == ["/nights_chunked/distort/000.zip"]
    assert below(tmp_path) == {
        ".filtered.json", "data.csv", "data_all.csv", "ref/000/000.png", "ref/000/001.png",
        *(f"distort/000/{name}.png" for name in ("000_0", "000_1", "001_0", "001_1")),
    }  # fmt: skip


def test_a_full_disk_is_seen_before_the_first_byte(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
    with pytest.raises(OSError, match=r"about 1.7 GB are needed, 1.0 GB are free; make room, .* fewer parts") as caught:
        fetch(server, tmp_path, {0, 1})
    assert caught.value.errno == errno.ENOSPC and requested_paths(server) == []


def test_jnd_votes_are_one_file(server: FileServer, tmp_path: Path) -> None:
    fetch(server, tmp_path, {0})
    file = download_nights(tmp_path, "jnd", base_url=server.url, progress=False)
    assert read_nights_jnd(file).share_same.tolist() == [1]
    file.write_text(file.read_text().replace("same", "renamed"))  # as the reader's error may ask for
    assert "renamed" in download_nights(tmp_path, "jnd", base_url=server.url, progress=False).read_text()


def test_the_unfiltered_set_comes_in_quarters(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**12))
    for name, suffix in (("ref", ""), ("distort", "_0")):
        files = {f"{p:03d}/000{suffix}.png": picture(p) for p in (25, 49)}
        server.files[f"/nights_unfiltered/{name}_25_49.zip"] = packed(files)
    server.files["/nights_unfiltered/nights_raw.csv"] = b"columns,of,another,name\n1,2,3,4\n"
    file = download_nights(tmp_path, "unfiltered", {30}, base_url=server.url + "/", progress=False)
    assert {"ref/025/000.png", "ref/049/000.png", "distort/025/000_0.png"} <= below(tmp_path)
    # a table with columns that are not known is left as it is
    assert file == tmp_path / "nights_raw.csv" and file.read_text().startswith("columns,of,another")
    assert requested_paths(server) == [
        "/nights_unfiltered/nights_raw.csv",
        "/nights_unfiltered/ref_25_49.zip",
        "/nights_unfiltered/distort_25_49.zip",
    ]


def test_an_unknown_set_is_an_error(tmp_path: Path, unchecked: None) -> None:
    with pytest.raises(ValueError, match="unknown set 'all'; known: filtered, unfiltered, jnd"):
        module.download_nights(tmp_path, "all")  # type: ignore[arg-type]
