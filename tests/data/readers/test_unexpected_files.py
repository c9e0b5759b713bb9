"""Files of any kind, in a folder or in place of a set, cause no crash, no wait and no high memory use."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamsim_guidance.cli import main
from dreamsim_guidance.data import read_judgments, recognise
from dreamsim_guidance.data.readers.sets import KINDS
from dreamsim_guidance.data.readers.table import first_records, read_header
from dreamsim_guidance.preprocess import save_image

pytestmark = pytest.mark.timeout(60)


def _huge(place: Path) -> None:
    with place.open("wb") as file:
        file.truncate(4 << 30)  # sparse: takes no room


def _unix_socket(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(os.path.relpath(place))


def _compressed(place: Path) -> None:
    with place.open("wb") as file:
        np.savez(file, votes=np.zeros(3))


UNEXPECTED_FILES: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "a dangling link": lambda place: place.symlink_to("nothing here"),
    "a link to itself": lambda place: place.symlink_to(place.name),
    "a pipe": os.mkfifo,
    "a socket": _unix_socket,
    "a device": lambda place: place.symlink_to("/dev/zero"),
    "an endless terminal": lambda place: place.symlink_to("/dev/tty"),
    "nothing in it": Path.touch,
    "zeros, 4 GB": _huge,
    "one line, 8 MB": lambda place: place.write_bytes(b"x" * (8 << 20)),
    "one quoted cell, 8 MB": lambda place: place.write_bytes(b'"' + b"x" * (8 << 20)),
    "binary": lambda place: place.write_bytes(bytes(range(256)) * 99),
    "a compressed table": _compressed,
    "UTF-16": lambda place: place.write_bytes("name,votes_a\nx,1\n".encode("utf-16")),
    "Latin-1": lambda place: place.write_bytes("Größe,Länge\n1,2\n".encode("latin-1")),
    "another table": lambda place: place.write_text("date,amount\n2020-01-01,3\n"),
    "a stray quote": lambda place: place.write_text('a,"b\n' * 1000),
}
NAMES = ("x.csv", "caf\udce9.csv", "labels.txt", "x.npy")


@pytest.fixture
def own_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with judgments of one triplet, in the format for users' sets."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "votes.csv").write_text("name,votes_a,votes_b\ncat.png,3,1\n")
    for folder in ("ref", "a", "b"):
        save_image(torch.zeros(1, 3, 4, 4), tmp_path / folder / "cat.png")
    return tmp_path


@pytest.mark.parametrize("unexpected", UNEXPECTED_FILES)
def test_a_set_is_recognised_and_read_whatever_other_files_its_folder_has(
    unexpected: str, own_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own_set / "train_label").mkdir()
    for place in (*(own_set / name for name in NAMES), own_set / "train_label" / "labels.csv"):
        UNEXPECTED_FILES[unexpected](place)
    assert recognise(own_set) == "folder"
    assert len(read_judgments(own_set)) == 1
    assert main(["data", "check", str(own_set)]) == 0
    assert "triplets    1" in capsys.readouterr().out


@pytest.mark.parametrize("unexpected", UNEXPECTED_FILES)
@pytest.mark.parametrize(
    "name",
    ["data.csv", "nights_raw.csv", "jnd_votes.csv", "votes.csv", "dmos.csv", "mos_with_names.txt", "things_valset.txt",
     "answers.csv", "train_label/a.txt", "val_label.txt", "labels/train/ref_1_pairwise_labels.csv", "val/cnn/judge/0.npy",
     "val/cnn/same/0.npy"],
)  # fmt: skip
def test_an_unexpected_file_in_place_of_the_judgments_is_an_error_of_one_line(
    unexpected: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "4 GB" in unexpected and name.endswith(".txt"):
        pytest.skip("a list with the name of a set's file is read whole")
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    UNEXPECTED_FILES[unexpected](tmp_path / name)
    for path in (tmp_path, tmp_path / name):
        assert main(["data", "check", str(path)]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("error: ") and err.count("\n") == 1, err
        assert "Error" not in err.removeprefix("error: ").split(":")[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unexpected", ["a pipe", "a device", "a dangling link", "binary"])
def test_an_unexpected_file_is_refused_by_every_reader(
    unexpected: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    UNEXPECTED_FILES[unexpected](tmp_path / "x.csv")
    with pytest.raises((ValueError, OSError)):
        read_judgments(tmp_path / "x.csv", kind)


def test_only_the_beginning_of_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "long.csv"
    with file.open("wb") as opened:
        opened.write(b"\xef\xbb\xbf name , Votes_A,votes_b\ncat.png,1,0\n")
        opened.truncate(1 << 40)
    assert read_header(file) == ()  # zeros follow: not text
    file.write_text("name , Votes_A,votes_b\n" + "cat.png,1,0\n" * 100_000, encoding="utf-8-sig")
    assert read_header(file) == ("name", "votes_a", "votes_b")
    assert first_records(file, 2)[1] == ["cat.png", "1", "0"]


def test_a_file_without_read_permission_is_skipped(own_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own_set / "secret.csv").write_text("a.png,b.png,c.png,1\n")
    opened = Path.open

    def refuse(self: Path, *arguments: object, **options: object) -> object:
        if self.name == "secret.csv":
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "open", refuse)  # the tests may run as root, who may read everything
    assert recognise(own_set) == "folder" and first_records(own_set / "secret.csv") == []
    with pytest.raises(PermissionError, match="Permission denied"):
        recognise(own_set / "secret.csv")


def test_folders_whose_names_are_not_utf_8_can_be_checked(own_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = own_set.with_name("caf\udce9 " + own_set.name)
    own_set.rename(other)
    os.chdir(other)
    assert main(["data", "check", str(other)]) == 0
    assert "triplets    1" in capsys.readouterr().out
