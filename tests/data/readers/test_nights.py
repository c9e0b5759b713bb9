import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dreamsim_guidance import save_image
from dreamsim_guidance.data.readers.nights import read_nights

ROW = {
    "id": 0, "left_vote": 1, "right_vote": 0, "votes": 6, "ref_path": "ref/0.png", "left_path": "a/0.png",
    "right_path": "b/0.png", "split": "train", "is_imagenet": True, "prompt": "An image of a lynx",
}  # fmt: skip
MATERIALS = Path(__file__).parents[4] / "shared" / "data" / "materials"


def write(folder: Path, *changes: dict[str, Any]) -> Path:
    """A small tree in NIGHTS' layout: one row for each dictionary of changes."""
    rows = [{**ROW, "id": i, **change} for i, change in enumerate(changes)]
    with (folder / "data.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        for name in ("ref_path", "left_path", "right_path"):
            if not Path(row[name]).is_absolute() and ".." not in row[name]:
                save_image(torch.rand(1, 3, 8, 8), folder / row[name])
    return folder


def test_winners_count_all_votes_and_few_votes_are_left_out(tmp_path: Path) -> None:
    judgments = read_nights(write(tmp_path, {}, {"left_vote": 0, "right_vote": 1, "votes": 7}, {"votes": 5}))
    assert judgments.votes_a.tolist() == [6, 0] and judgments.votes_b.tolist() == [0, 7]
    assert [path.name for path in judgments.images] == ["0.png"] * 3 and len(judgments) == 2
    assert len(read_nights(tmp_path, least_votes=1)) == 3


def test_shares_of_votes_are_counted_out(tmp_path: Path) -> None:
    judgments = read_nights(write(tmp_path, {"left_vote": 0.25, "right_vote": 0.75, "votes": 4}))
    assert judgments.votes_a.tolist() == [1] and judgments.votes_b.tolist() == [3]


def test_each_picture_is_listed_once(tmp_path: Path) -> None:
    judgments = read_nights(write(tmp_path, {}, {"left_path": "b/0.png", "right_path": "c/1.png"}))
    assert [path.relative_to(tmp_path).as_posix() for path in judgments.images] == [
        "ref/0.png",
        "a/0.png",
        "b/0.png",
        "c/1.png",
    ]
    np.testing.assert_equal([judgments.reference, judgments.a, judgments.b], [[0, 0], [1, 2], [2, 3]])


def test_the_originals_splits(tmp_path: Path) -> None:
    write(tmp_path, {}, {"split": "val"}, {"split": "test"}, {"split": "test", "is_imagenet": False})
    count = {
        name: len(read_nights(tmp_path, name)) for name in ("train", "val", "test", "test_imagenet", "test_no_imagenet")
    }
    assert count == {"train": 1, "val": 1, "test": 2, "test_imagenet": 1, "test_no_imagenet": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"left_vote": 0.5, "right_vote": 0.9},
            "line 2: left_vote and right_vote must add up to 1, got 0.5 and 0.9",
        ),
        ({"left_vote": "x"}, "line 2: left_vote must be a number, got 'x'"),
        ({"left_vote": -0.5, "right_vote": 1.5}, "left_vote must be between 0 and 1, got -0.5"),
        ({"votes": "inf"}, "votes must be finite and at least 1, got inf"),
        ({"votes": 0}, "votes must be finite and at least 1, got 0"),
        ({"ref_path": "../secret.png"}, "leaves the folder"),
        ({"left_path": "/etc/passwd"}, "leaves the folder"),
        ({"split": "val"}, "no judgments of split 'train' .* its splits: val"),
    ],
)
def test_malformed_rows_are_refused_with_their_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_nights(write(tmp_path, change), "train")


def test_broken_sets_are_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="judgments not found"):
        read_nights(tmp_path)
    write(tmp_path, {}, {"id": 0})
    with pytest.raises(ValueError, match="line 3: the id 0 occurs twice"):
        read_nights(tmp_path)
    write(tmp_path, {})
    (tmp_path / "a" / "0.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 3 pictures of .* are missing, the first: .*a/0.png"):
        read_nights(tmp_path)
    (tmp_path / "data.csv").write_text("id,votes\n0,6\n")
    with pytest.raises(ValueError, match="lacks the column left_vote; it has id, votes"):
        read_nights(tmp_path)


@pytest.mark.skipif(not MATERIALS.is_dir(), reason="the materials' judgments are not here")
def test_the_materials_are_read() -> None:
    judgments = read_nights(MATERIALS)
    assert len(judgments) == 22_801 and len(judgments.images) == 100
    assert (judgments.votes_a + judgments.votes_b).sum() == 92_892
