"""A folder of triplets in NIGHTS' layout, before and after people have judged them."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image as PILImage

from dreamsim_guidance.data import TripletRow, read_judgments, read_triplet_rows, recognise, write_triplet_rows
from dreamsim_guidance.data.triplet_folder import distorted_path, is_swapped, reference_path, split_of

PROMPT = 'An image of a "naïve, café" cat'


def rows(count: int = 3) -> list[TripletRow]:
    return [
        TripletRow(
            str(n), reference_path(n), distorted_path(n, 0), distorted_path(n, 1), "val", n == 1, PROMPT, way="seed"
        )
        for n in range(count)
    ]


def write(folder: Path, lines: list[TripletRow]) -> Path:
    for row in lines:
        for number, name in enumerate((row.reference, row.left, row.right)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            PILImage.new("RGB", (8, 8), (int(row.id) % 256, number, 0)).save(folder / name)
    write_triplet_rows(folder, lines)
    return folder


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    lines = rows()
    lines[0] = replace(lines[0], votes=7, left_vote=0.0, right_vote=1.0, left_distance=0.1, right_distance=1 / 3)
    assert read_triplet_rows(write(tmp_path, lines)) == lines


def test_the_original_package_finds_its_columns_at_their_positions(tmp_path: Path) -> None:
    lines = [replace(rows(1)[0], votes=6, left_vote=0.0, right_vote=1.0)]
    with (write(tmp_path, lines) / "data.csv").open(newline="") as file:
        header, row = csv.reader(file)
    nights = "id,left_vote,right_vote,votes,ref_path,left_path,right_path,split,is_imagenet,prompt"
    assert ",".join(header[:10]) == nights
    assert row[:7] == ["0", "0.0", "1.0", "6", "ref/000/000.png", "distort/000/000_0.png", "distort/000/000_1.png"]
    assert float(row[2]) == 1.0 and int(row[3]) >= 6  # its target and its filter


def test_triplets_that_nobody_judged_are_no_judgments_yet(tmp_path: Path) -> None:
    write(tmp_path, rows())
    assert recognise(tmp_path) == "nights"
    for kind in (None, "nights"):
        with pytest.raises(ValueError, match=r"nobody has judged the triplets .* yet; ask people with"):
            read_judgments(tmp_path, kind)
    write(tmp_path, [rows()[0], replace(rows()[1], votes=6, left_vote=1.0, right_vote=0.0), rows()[2]])
    judged = read_judgments(tmp_path)
    assert len(judged) == 1 and judged.votes_a.tolist() == [6] and judged.group == ("imagenet",)


def test_a_set_with_a_header_alone_is_empty(tmp_path: Path) -> None:
    write(tmp_path, [])
    with pytest.raises(ValueError, match=r"no judgments .*, of 0"):
        read_judgments(tmp_path)
    with pytest.raises(ValueError, match="holds no triplets"):
        read_triplet_rows(tmp_path)


def test_paths_hold_a_thousand_triplets_a_folder_as_in_nights() -> None:
    assert reference_path(12345) == "ref/012/345.png" and distorted_path(12345, 1) == "distort/012/345_1.png"
    assert reference_path(1234567) == "ref/1234/567.png"


def test_splits_have_the_original_shares_and_stay_when_the_set_grows() -> None:
    splits = [split_of(str(n)) for n in range(20000)]
    counts = Counter(splits)
    assert abs(counts["train"] - 16000) < 300 and abs(counts["val"] - 2000) < 200 and abs(counts["test"] - 2000) < 200
    assert splits[:100] == [split_of(str(n)) for n in range(100)]
    assert splits != [split_of(str(n), seed=1) for n in range(20000)]
    assert {split_of(str(n), shares={"a": 0.0, "b": 1.0}) for n in range(100)} == {"b"}


def test_either_variation_is_on_the_left_in_half_of_the_triplets() -> None:
    swapped = [is_swapped(str(n)) for n in range(10000)]
    assert abs(sum(swapped) - 5000) < 200
    splits = [split_of(str(n)) == "train" for n in range(10000)]
    both = sum(a and b for a, b in zip(swapped, splits, strict=True))
    assert abs(both - sum(splits) / 2) < 200  # sides and splits are drawn independently


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": "../secret.png"}, "leaves the folder"),
        ({"left": "/etc/passwd"}, "leaves the folder"),
        ({"right": "distort/000/000_0.png"}, "needs three files"),
        ({"prompt": "a cat\nand a dog"}, "control characters"),
        ({"way": "seed\x1b[31m"}, "control characters"),
        ({"id": "1"}, "the id 1 occurs twice"),
    ],
)
def test_rows_that_no_reader_would_take_are_refused(tmp_path: Path, change: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_triplet_rows(tmp_path, [replace(rows(1)[0], **change), rows(2)[1]])  # type: ignore[arg-type]
    assert not (tmp_path / "data.csv").exists()


@pytest.mark.parametrize("votes", [(0, 1.0, 0.0), (3, None, None), (-1, None, None), (3, 1.0, None)])
def test_votes_and_shares_must_fit(votes: tuple[int, float | None, float | None]) -> None:
    with pytest.raises(ValueError, match="votes with the shares"):
        replace(rows(1)[0], votes=votes[0], left_vote=votes[1], right_vote=votes[2])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",0,ref", ",2.5,ref", "votes must be a whole number"),
        ("0,,,0,", "0,x,1,3,", "left_vote must be a number"),
        ("0,,,0,", "0,0.7,0.7,3,", "must add up to 1"),
        ("0,,,0,", "0,1,0,0,", "votes must be finite and at least 1, got 0"),
        ("ref/000/000.png", "../000.png", "leaves the folder"),
        ("votes", "number", "lacks the column votes"),
    ],
)
def test_a_table_changed_by_hand_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    file = write(tmp_path, rows(1)) / "data.csv"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_triplet_rows(tmp_path)


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    write(tmp_path, rows())
    (tmp_path / "distort/000/002_1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"002_1\.png' is missing"):
        read_triplet_rows(tmp_path)
