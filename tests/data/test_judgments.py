from pathlib import Path

import numpy as np
import pytest

from dreamsim_guidance.data.judgments import Judgments, Triplet, choose, gather
from dreamsim_guidance.data.ratings import MIXED, Rating, Ratings, gather_ratings


def touch(folder: Path, *names: str) -> list[Path]:
    """Files that exist; these tests do not open them."""
    paths = [folder / name for name in names]
    for path in paths:
        path.touch()
    return paths


@pytest.fixture
def three(tmp_path: Path) -> Judgments:
    r, s, x, y, z = touch(tmp_path, *"rsxyz")
    rows = [
        Triplet(r, x, y, 1.0, 2.0, "low", "train"),
        Triplet(s, y, z, 3.0, 0.0, "high", "train"),
        Triplet(r, z, x, 2.0, 2.0, "low", "val"),
    ]
    return gather(rows, tmp_path)


def names(judgments: Judgments, row: int) -> str:
    return "".join(judgments.images[column[row]].name for column in (judgments.reference, judgments.a, judgments.b))


def test_a_picture_of_several_triplets_is_listed_once(three: Judgments) -> None:
    assert [path.name for path in three.images] == list("rxysz")
    assert [names(three, i) for i in range(3)] == ["rxy", "syz", "rzx"]
    assert three.votes_a.tolist() == [1, 3, 2] and three.votes_b.tolist() == [2, 0, 2]
    assert three.group == ("low", "high", "low") and three.split == ("train", "train", "val")


@pytest.mark.parametrize("rows", [[0, 2], np.array([True, False, True]), [True, False, True]])
def test_a_selection_keeps_its_rows_and_only_their_pictures(three: Judgments, rows: object) -> None:
    judgments = three.select(rows)
    assert [names(judgments, i) for i in range(2)] == ["rxy", "rzx"] and len(judgments) == 2
    assert sorted(path.name for path in judgments.images) == list("rxyz")
    assert (
        judgments.votes_a.tolist() == [1, 2]
        and judgments.group == ("low", "low")
        and judgments.split == ("train", "val")
    )


def test_a_selection_may_repeat_and_reorder(three: Judgments) -> None:
    judgments = three.select([1, 0, 1])
    assert [names(judgments, i) for i in range(3)] == ["syz", "rxy", "syz"]


def test_missing_pictures_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    (r,) = touch(tmp_path, "r")
    row = Triplet(r, tmp_path / "x", tmp_path / "y", 1.0, 0.0)
    with pytest.raises(FileNotFoundError, match=r"2 of 3 pictures of .* are missing, the first: '.*x'"):
        gather([row, row], tmp_path)


def test_an_empty_selection_is_an_error_that_states_splits_and_numbers(tmp_path: Path) -> None:
    rows = [Triplet(tmp_path, tmp_path, tmp_path, 1.0, 1.0, "", split) for split in ("val", "train", "val")]
    with pytest.raises(ValueError, match=r"no judgments of split 'test', of 3; its splits: train, val\."):
        choose(rows, tmp_path, "test")
    with pytest.raises(ValueError, match=r"no judgments of split 'val' with at least 3 votes, of 3"):
        choose(rows, tmp_path, "val", 3)
    with pytest.raises(ValueError, match=r"no judgments at all, of 0; its splits: none\."):
        choose(rows[:0], tmp_path)


def scores(folder: Path) -> Ratings:
    r, s, a, b, c, d, e = touch(folder, *"rsabcde")
    rows = [
        Rating(r, a, 3.0, "blur"),
        Rating(s, d, 9.0, "blur"),
        Rating(r, b, 1.0, "noise"),
        Rating(r, c, 3.0, "blur"),
        Rating(s, e, 8.0, "noise"),
    ]
    return gather_ratings(rows, folder)


def test_scores_become_all_pairs_of_one_reference(tmp_path: Path) -> None:
    judgments = scores(tmp_path).judgments()
    assert [names(judgments, i) for i in range(4)] == ["rab", "rac", "rbc", "sde"]
    assert judgments.votes_a.tolist() == [1, 0.5, 0, 1]
    assert (judgments.votes_a + judgments.votes_b == 1).all()
    assert judgments.group == (MIXED, "blur", MIXED, MIXED)


def test_pairs_do_not_cross_splits(tmp_path: Path) -> None:
    r, a, b, c = touch(tmp_path, *"rabc")
    rows = [
        Rating(r, a, 1.0, split="train"),
        Rating(r, b, 2.0, split="val"),
        Rating(r, c, 3.0, split="val"),
    ]
    judgments = gather_ratings(rows, tmp_path).judgments()
    assert names(judgments, 0) == "rbc" and len(judgments) == 1 and judgments.split == ("val",)


def test_scores_without_a_pair_and_doubled_scores_are_refused(tmp_path: Path) -> None:
    r, s, a, b = touch(tmp_path, *"rsab")
    with pytest.raises(ValueError, match="no reference has two"):
        gather_ratings([Rating(r, a, 1.0), Rating(s, b, 1.0)], tmp_path).judgments()
    with pytest.raises(ValueError, match="'a' is rated twice"):
        gather_ratings([Rating(r, a, 1.0), Rating(r, a, 2.0)], tmp_path)
