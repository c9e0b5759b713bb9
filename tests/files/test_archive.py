"""A zip is checked first; then the requested members are extracted into the folder, and nothing else, or nothing at all."""

from __future__ import annotations

import errno
import io
import shutil
import stat
import struct
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from dreamsim_guidance.files import archive
from dreamsim_guidance.files.archive import ArchiveError, extract, members

GOOD = {"weights.pth": b"w" * 5000, "x_lora/adapter_config.json": b"{}", "student.pth": b"not asked for"}
WANTED = ("weights.pth", "x_lora/adapter_config.json")


def make(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as z:
        for name, data in files.items():
            z.writestr(name, data)
    return path


def below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def refuse(path: Path, folder: Path, match: str) -> None:
    """Check that the archive is refused and that no file is written, neither in the folder nor next to it."""
    before = below(folder.parent)
    with pytest.raises(ArchiveError, match=match):
        extract(path, folder, WANTED)
    assert below(folder.parent) == before


def test_only_what_was_asked_for_is_extracted(tmp_path: Path) -> None:
    files = {**GOOD, "__MACOSX/._weights.pth": b"litter", "x_lora/README.md": b"text"}
    extracted = extract(make(tmp_path / "a.zip", files), tmp_path / "out", WANTED)
    assert below(tmp_path / "out") == set(WANTED) == set(extracted)
    assert extracted["weights.pth"].read_bytes() == GOOD["weights.pth"]


def test_a_single_top_folder_is_removed(tmp_path: Path) -> None:
    files = {"models/" + name: data for name, data in GOOD.items()} | {"__MACOSX/models/._x": b""}
    path = make(tmp_path / "a.zip", files)
    assert set(members(path)) == set(GOOD)
    extract(path, tmp_path / "out", WANTED)
    assert below(tmp_path / "out") == set(WANTED)


def test_files_of_the_same_name_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "weights.pth").write_bytes(b"old")
    extract(make(tmp_path / "a.zip", GOOD), tmp_path / "out", WANTED)
    assert (tmp_path / "out" / "weights.pth").read_bytes() == GOOD["weights.pth"]


def test_what_a_killed_extraction_left_is_removed(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zip", GOOD)
    left = tmp_path / "out" / ".a.zip.extracting"
    left.mkdir(parents=True)
    (left / "half.pth").write_bytes(b"half")
    extract(path, tmp_path / "out", WANTED)
    assert below(tmp_path / "out") == set(WANTED)


@pytest.mark.parametrize("size", [0, 10, 200, -1])
def test_a_truncated_zip_is_refused(tmp_path: Path, size: int) -> None:
    path = make(tmp_path / "a.zip", GOOD)
    path.write_bytes(path.read_bytes()[:size])
    refuse(path, tmp_path / "out", "a.zip is not a whole zip file.*download it again")


def test_flipped_bits_are_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zip", GOOD, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    refuse(path, tmp_path / "out", "Bad CRC-32")


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"<!DOCTYPE html><html>404</html>" * 100)
    refuse(path, tmp_path / "out", "not a whole zip file")


def test_a_missing_zip_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        members(tmp_path / "none.zip")


def test_a_missing_member_is_named_with_what_is_there(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zip", {"weights.pth": b"w", "other.txt": b"o"})
    refuse(path, tmp_path / "out", "has no x_lora/adapter_config.json; it has other.txt, weights.pth")


@pytest.mark.parametrize(
    "name",
    ["../evil", "x/../../evil", "..", "/etc/evil", "C:/evil", "C:evil", "..\\evil", "\\\\host\\share\\evil", "x\\.."],
)
def test_paths_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    refuse(make(tmp_path / "a.zip", {**GOOD, name: b"evil"}), tmp_path / "out", "absolute|leads out|backslashes")


def test_links_are_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zip", GOOD)
    link = zipfile.ZipInfo("x_lora/adapter_model.safetensors")
    link.create_system = 3
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as z:
        z.writestr(link, "/etc/passwd")
    refuse(path, tmp_path / "out", "a link or a device")


def test_control_characters_in_a_name_are_refused(tmp_path: Path) -> None:
    refuse(make(tmp_path / "a.zip", {**GOOD, "evil\x01.pth": b""}), tmp_path / "out", "control characters")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["weights.pth", "WEIGHTS.PTH", "./weights.pth"])
def test_a_name_that_occurs_twice_is_refused(tmp_path: Path, name: str) -> None:
    path = make(tmp_path / "a.zip", GOOD)
    with zipfile.ZipFile(path, "a") as z:
        z.writestr(name, b"the other one")
    refuse(path, tmp_path / "out", "occurs twice")


def test_an_encrypted_entry_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zip", GOOD)
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 8] |= 1  # the flag in the central directory
    path.write_bytes(data)
    refuse(path, tmp_path / "out", "is encrypted")


def test_a_zip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_RATIO_FROM", 1 << 20)
    path = make(tmp_path / "a.zip", {**GOOD, "weights.pth": bytes(4 << 20)})
    refuse(path, tmp_path / "out", r"bytes would become 4194304")


def test_more_than_any_release_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_BYTES", 4096)
    refuse(make(tmp_path / "a.zip", GOOD), tmp_path / "out", "would take more than")


def test_a_wrong_size_in_the_header_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zip", GOOD, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = struct.pack("<I", 100)  # the uncompressed size of weights.pth
    path.write_bytes(data)
    refuse(path, tmp_path / "out", "not a whole zip file")


def test_an_unknown_compression_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zip", GOOD)
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 10] = 97
    data[8] = 97
    path.write_bytes(data)
    refuse(path, tmp_path / "out", "not a whole zip file")


def test_a_full_disk_is_seen_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "a.zip", GOOD)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
    with pytest.raises(OSError, match=r"the disk is full: a\.zip needs") as caught:
        extract(path, tmp_path / "out", WANTED)
    assert caught.value.errno == errno.ENOSPC
    assert below(tmp_path / "out") == set()


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "a.zip", GOOD)

    def interrupted(source: io.BytesIO, target: io.BytesIO, length: int) -> None:
        target.write(source.read(10))
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfileobj", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract(path, tmp_path / "out", WANTED)
    assert not (tmp_path / "out").exists()
