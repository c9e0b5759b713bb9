"""Sets that readers refuse, with their messages: malformed lines and shares, missing pictures, unknown splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data.readers.small_sets import TREES, clic, draw, kadid10k, pipal

from dreamsim_guidance.data.readers.clic import read_clic
from dreamsim_guidance.data.readers.pipal import read_pipal
from dreamsim_guidance.data.readers.sets import KINDS, read_judgments


def change(root: Path, file: str, old: str, new: str) -> None:
    text = (root / file).read_text()
    assert old in text
    (root / file).write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("kind", "file", "old", "new", "message"),
    [
        ("nights", "data.csv", "right_path", "path", "lacks the column right_path; it has id, left_vote,.*, path, split"),
        ("nights-unfiltered", "nights_raw.csv", "votes", "n", "lacks the column votes; it has .*Needed: id, left_vote"),
        ("nights-unfiltered", "nights_raw.csv", "0.75", "0.5", "line 2: left_vote and right_vote must add up to 1"),
        ("nights-unfiltered", "nights_raw.csv", "\n1,", "\n0,", "line 3: the id 0 occurs twice"),
        ("nights-jnd", "jnd_votes.csv", "same", "answer", "lacks the column same; it has id, ref_path, distort_path"),
        ("nights-jnd", "jnd_votes.csv", "0.75", "7", "line 2: same must be between 0 and 1, got 7"),
        ("nights-jnd", "jnd_votes.csv", "ref/0.png", "../0.png", "line 2: the path '../0.png' leaves the folder"),
        ("nights-jnd", "jnd_votes.csv", "\n1,", "\n0,", "line 3: the id 0 occurs twice"),
        ("things", "things_valset.txt", "12 0 5", "12 0", "line 2: three different numbers of pictures are needed"),
        ("things", "things_valset.txt", "12 0 5", "12 0 0", "line 2: three different numbers of pictures are needed"),
        ("things", "things_valset.txt", "12 0 5", "12 0 ../5", "line 2: three different numbers"),
        ("pieapp", "labels/train/ref_1_pairwise_labels.csv", " 0.75", " 75", "must be between 0 and 1, got 75"),
        ("pieapp", "labels/train/ref_1_pairwise_labels.csv", "ref_1.png", "/ref_1.png", "leaves the folder"),
        ("pieapp", "labels/test/ref_2_pairwise_labels.csv", "preference", "choice", "lacks the column processed preference"),
        ("tid2013", "mos_with_names.txt", "5.51429 I01_01_1.bmp", "5.51429", "line 1: a score and a file such as"),
        ("tid2013", "mos_with_names.txt", "5.51429", "nan", "line 1: the score must be finite, got nan"),
        ("tid2013", "mos_with_names.txt", "i01_01_2", "I01_01_1", "'i01_01_1.bmp' is rated twice"),
        ("kadid10k", "dmos.csv", "dmos", "mos", "lacks the column dmos; it has dist_img, ref_img, mos, var"),
        ("kadid10k", "dmos.csv", "4.57", "0.5", "line 2: dmos must be between 1 and 5, got 0.5"),
        ("kadid10k", "dmos.csv", "I01.png", "C:\\I01.png", "leaves the folder"),
        ("kadid10k", "dmos.csv", "I01_25_02.png", "I01_01_01.png", "'I01_01_01.png' is rated twice"),
        ("pipal", "Train_Label/A0001.txt", "A0001_00_00.bmp,1520.0648", "A0001_00_00.bmp", "line 1: a file such as"),
        ("pipal", "Train_Label/A0001.txt", "1520.0648", "many", "the score must be a number, got 'many'"),
        ("pipal", "Train_Label/A0001.txt", "A0001_03_01", "A0001_00_00", "'A0001_00_00.bmp' is rated twice"),
        ("clic", "oracle.csv", "o.png,x.png,y.png,0", "o.png,x.png,y.png,2", "line 1: original,A,B and 0 or 1 are needed"),
        ("clic", "oracle.csv", "o.png,y.png,x.png,0", "o.png,../y.png,x.png,0", "line 2: the path '../y.png' leaves"),
        ("folder", "votes.csv", "votes_b", "b", "lacks the column votes_b; it has name, votes_a, b, split"),
        ("folder", "votes.csv", "3,1", "-3,1", "line 2: votes_a must be finite and at least 0, got -3"),
        ("folder", "votes.csv", "3,1", "0,0", "line 2: cat.png has no vote"),
        ("folder", "votes.csv", "dog.png", "cat.png", "line 3: the name cat.png occurs twice"),
        ("folder", "votes.csv", "dog.png", "../dog.png", "line 3: the path '../dog.png' leaves the folder"),
    ],
)  # fmt: skip
def test_malformed_lines_are_refused_with_file_and_line(
    tmp_path: Path, kind: str, file: str, old: str, new: str, message: str
) -> None:
    TREES[kind](tmp_path)
    change(tmp_path, file, old, new)
    with pytest.raises(ValueError, match=message):
        read_judgments(tmp_path, kind)


@pytest.mark.parametrize("kind", ["bapps", "bapps-jnd"])
@pytest.mark.parametrize(
    ("value", "message"),
    [(np.array([1.5]), "must lie in .0, 1., got 1.5"), (np.zeros(2), "must hold one number"), (None, "one number")],
)
def test_impossible_shares_of_bapps_are_refused(tmp_path: Path, kind: str, value: Any, message: str) -> None:
    TREES[kind](tmp_path)
    file = next(tmp_path.rglob("*.npy"))
    file.write_bytes(b"") if value is None else np.save(file, value)
    with pytest.raises(ValueError, match=message):
        read_judgments(tmp_path, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_picture_is_named_at_the_start(tmp_path: Path, kind: str) -> None:
    TREES[kind](tmp_path)
    gone = read_judgments(tmp_path).images[-1]
    gone.unlink()
    with pytest.raises(FileNotFoundError, match=rf"1 of \d+ pictures of .* are missing, the first: .*{gone.stem}"):
        read_judgments(tmp_path, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_split_is_an_error(tmp_path: Path, kind: str) -> None:
    TREES[kind](tmp_path)
    with pytest.raises(ValueError, match=r"no judgments of split 'half'.*; its splits: "):
        read_judgments(tmp_path, kind, "half")


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_folder_says_what_is_needed(tmp_path: Path, kind: str) -> None:
    with pytest.raises(FileNotFoundError):
        read_judgments(tmp_path, kind)


def test_least_votes_needs_votes(tmp_path: Path) -> None:
    kadid10k(tmp_path)
    with pytest.raises(ValueError, match="holds mean scores, not votes; leave least_votes out"):
        read_judgments(tmp_path, least_votes=2)


def test_several_files_of_answers_need_a_choice(tmp_path: Path) -> None:
    clic(tmp_path)
    (tmp_path / "mine.csv").write_text((tmp_path / "oracle.csv").read_text())
    with pytest.raises(
        ValueError, match=r"must have one csv file .*, it has mine.csv, oracle.csv; give the file itself"
    ):
        read_clic(tmp_path)
    assert len(read_clic(tmp_path / "mine.csv")) == 2


def test_pictures_of_one_name_in_two_places_are_refused(tmp_path: Path) -> None:
    pipal(tmp_path)
    draw(tmp_path, "copy/A0001.bmp")
    with pytest.raises(ValueError, match="have the same name; keep one of them"):
        read_pipal(tmp_path)


def test_what_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    with pytest.raises(ValueError, match="is not a table of comma-separated text"):
        read_judgments(tmp_path)
