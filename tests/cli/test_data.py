import io
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from file_server import FileServer, serve
from PIL import Image as PILImage

from dreamsim_guidance.cli import main
from dreamsim_guidance.cli.data import _numbers
from dreamsim_guidance.data.readers.sets import KINDS


def read(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
    assert main(["data", *words]) == code
    out, err = capsys.readouterr()
    return out, err


def draw(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        PILImage.new("RGB", (4, 4)).save(root / name)


@pytest.fixture
def own_set(tmp_path: Path) -> Path:
    lines = ["name,votes_a,votes_b,group,split", "cat.png,3,1,pets,val", "dog.png,2,2,pets,train", "cup.png,0,1,,train"]
    (tmp_path / "votes.csv").write_text("\n".join(lines) + "\n")
    draw(tmp_path, *(f"{folder}/{name}.png" for folder in ("ref", "a", "b") for name in ("cat", "dog", "cup")))
    return tmp_path


def test_check_says_what_a_set_holds(capsys: pytest.CaptureFixture[str], own_set: Path) -> None:
    out, err = read(capsys, "check", str(own_set))
    assert out.splitlines() == [
        "kind        folder",
        "triplets    3, 1 of them with equal votes",
        "references  3",
        "pictures    9",
        "votes       9; for each 1 to 4, 3.00 on average",
        "groups      none 1, pets 2",
        "splits      train 2, val 1",
    ]
    assert "9/9" in err
    out, _ = read(capsys, "check", str(own_set / "votes.csv"), "--split", "val", "--kind", "folder", "--workers", "1")
    assert "triplets    1, 0 of them" in out and "splits      val 1\n" in out


def test_check_describes_scores_and_same_pairs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = [f"I01_01_0{i}.png,I01.png,{i},0.1" for i in (1, 2, 3)]
    (tmp_path / "dmos.csv").write_text("\n".join(["dist_img,ref_img,dmos,var", *rows]) + "\n")
    draw(tmp_path / "images", "I01.png", *(f"I01_01_0{i}.png" for i in (1, 2, 3)))
    out, _ = read(capsys, "check", str(tmp_path))
    assert "kind        kadid10k\nscores      3, from 1 to 3, higher is better\ntriplets    3, the pairs of" in out
    place = tmp_path / "jnd" / "val" / "cnn"
    draw(place, "p0/0.png", "p1/0.png")
    (place / "same").mkdir()
    np.save(place / "same" / "0.npy", np.array([0.25]))
    out, _ = read(capsys, "check", str(tmp_path / "jnd"))
    assert "pairs       1, taken for the same by 25.0% of people" in out and "groups      cnn 1" in out


def test_the_help_of_check_names_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    out = " ".join(read(capsys, "check", "--help")[0].replace("│", " ").split())
    assert ", ".join(KINDS) + "." in out


def test_a_broken_picture_is_one_line(capsys: pytest.CaptureFixture[str], own_set: Path) -> None:
    (own_set / "b" / "dog.png").write_text("no picture")
    _, err = read(capsys, "check", str(own_set), code=2)
    assert err.splitlines()[-1].startswith("error: 1 of 9 pictures cannot be read: ")
    assert "dog.png' (not a picture)" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("check", "none"), "error: judgments not found: 'none'"),
        (("check", "{own}", "--kind", "photos"), "error: unknown kind 'photos'; known: nights, nights-unfiltered"),
        (("check", "{own}", "--split", "test"), "no judgments of split 'test', of 3; its splits: train, val."),
        (("check", "{own}/ref"), "looks like none of them; say which kind it is"),
        (("check", "{own}", "--workers", "0"), "--workers must be at least 1, got 0"),
        (("check", "{own}", "--wrkers", "1"), "unknown options: --wrkers 1"),
        (("nights", "--to", "{own}", "--parts", "3-1"), "--parts needs numbers and ranges such as 0-4,17, got '3-1'"),
        (("nights", "--to", "{own}", "--parts", "all"), "--parts needs numbers and ranges"),
        (("nights", "--to", "{own}", "--parts", "99-100"), "parts are numbers from 0 to 99"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], own_set: Path, words: tuple[str, ...], message: str
) -> None:
    out, err = read(capsys, *(word.format(own=own_set) for word in words), code=2)
    assert out == "" and message in err and err.count("\n") == 1


def test_parts_are_numbers_and_ranges() -> None:
    assert _numbers("0-2, 17,99") == {0, 1, 2, 17, 99}


@pytest.fixture
def server() -> Iterator[FileServer]:
    def packed(files: dict[str, bytes]) -> bytes:
        opened = io.BytesIO()
        with zipfile.ZipFile(opened, "w") as z:
            for name, data in files.items():
                z.writestr(name, data)
        return opened.getvalue()

    picture = io.BytesIO()
    PILImage.new("RGB", (4, 4)).save(picture, "png")
    header = "id,left_vote,right_vote,votes,ref_path,left_path,right_path,split,is_imagenet,prompt\n"
    rows = [f"{p},1,0,6,ref/{p:03d}/0.png,distort/{p:03d}/0_0.png,distort/{p:03d}/0_1.png,val,True,x\n" for p in (0, 1)]
    files = {"/nights.zip": packed({"nights/data.csv": (header + "".join(rows)).encode()})}
    for p in (0, 1):
        for folder, names in {"ref": ["0.png"], "distort": ["0_0.png", "0_1.png"]}.items():
            pictures = {f"{p:03d}/{name}": picture.getvalue() for name in names}
            files[f"/nights_chunked/{folder}/{p:03d}.zip"] = packed(pictures)
    with serve(files=files) as state:
        yield state


def test_nights_is_fetched_and_checked(capsys: pytest.CaptureFixture[str], tmp_path: Path, server: FileServer) -> None:
    words = ("nights", "--to", str(tmp_path), "--base-url", server.url)
    out, err = read(capsys, *words, "--parts", "0")
    assert out == f"{tmp_path / 'data.csv'}\n"
    assert "ref-000.zip" in err and "lists the triplets whose pictures are here" in err
    assert "triplets    1" in read(capsys, "check", str(tmp_path))[0]
    out, err = read(capsys, *words, "--parts", "0-1")
    assert "ref-000.zip" not in err and "ref-001.zip" in err and "lists the triplets" not in err
    assert "triplets    2" in read(capsys, "check", str(tmp_path))[0]
    _, err = read(capsys, *words, "--parts", "0-2", code=2)
    assert "could not download" in err and "ref/002.zip" in err


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys; from dreamsim_guidance.cli import main; main(['data', '--help']); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0
