"""Each reader on a small tree with the layout of the published set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data.readers.small_sets import (
    TREES,
    bapps,
    bapps_jnd,
    clic,
    kadid10k,
    nights,
    nights_jnd,
    nights_unfiltered,
    own_folder,
    pieapp,
    pipal,
    things,
    tid2013,
)

from dreamsim_guidance.data.judgments import Judgments
from dreamsim_guidance.data.ratings import Ratings
from dreamsim_guidance.data.readers.bapps import read_bapps, read_bapps_jnd
from dreamsim_guidance.data.readers.clic import read_clic
from dreamsim_guidance.data.readers.kadid10k import read_kadid10k
from dreamsim_guidance.data.readers.nights import read_nights_jnd, read_nights_unfiltered
from dreamsim_guidance.data.readers.own_folder import read_own_folder
from dreamsim_guidance.data.readers.pieapp import read_pieapp
from dreamsim_guidance.data.readers.pipal import read_pipal
from dreamsim_guidance.data.readers.sets import KINDS, read_judgments, recognise
from dreamsim_guidance.data.readers.things import odd_one_out, read_things
from dreamsim_guidance.data.readers.tid2013 import read_tid2013
from dreamsim_guidance.data.same_pairs import SamePairs


def triplets(judgments: Judgments) -> list[str]:
    """Each triplet as the names of its pictures."""
    return [
        " ".join(judgments.images[column[i]].stem for column in (judgments.reference, judgments.a, judgments.b))
        for i in range(len(judgments))
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_recognised_and_read(tmp_path: Path, kind: str) -> None:
    TREES[kind](tmp_path)
    assert recognise(tmp_path) == kind
    judgments = read_judgments(tmp_path)
    by_name = read_judgments(tmp_path, kind)
    assert type(judgments) is type(by_name) and judgments.images == by_name.images
    assert (
        all(path.is_file() for path in judgments.images)
        and len(judgments) == len(judgments.group) == len(judgments.split) > 0
    )
    triplets = judgments.judgments() if isinstance(judgments, Ratings) else judgments
    if isinstance(triplets, Judgments):
        assert (triplets.votes_a + triplets.votes_b >= 1 - 1e-9).all()


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("nights", "data.csv"),
        ("nights-unfiltered", "nights_raw.csv"),
        ("nights-jnd", "jnd_votes.csv"),
        ("things", "things_valset.txt"),
        ("tid2013", "mos_with_names.txt"),
        ("kadid10k", "dmos.csv"),
        ("clic", "oracle.csv"),
        ("folder", "votes.csv"),
    ],
)
def test_the_file_of_votes_stands_for_its_folder(tmp_path: Path, kind: str, file: str) -> None:
    TREES[kind](tmp_path)
    assert recognise(tmp_path / file) == kind
    assert read_judgments(tmp_path / file).images == read_judgments(tmp_path).images


def test_a_set_that_is_not_recognised_is_an_error_that_lists_the_kinds(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"looks like none of them; say which kind it is, one of nights, .*, folder\."):
        read_judgments(tmp_path)
    with pytest.raises(ValueError, match="unknown kind 'NIGHTS'; known: nights, nights-unfiltered"):
        read_judgments(tmp_path, "NIGHTS")
    with pytest.raises(FileNotFoundError, match="judgments not found"):
        read_judgments(tmp_path / "none")
    bapps(tmp_path)
    bapps_jnd(tmp_path)
    with pytest.raises(ValueError, match=r"looks like several of them \(bapps, bapps-jnd\)"):
        read_judgments(tmp_path)
    assert isinstance(read_judgments(tmp_path, "bapps-jnd"), SamePairs)
    assert isinstance(read_judgments(tmp_path / "jnd"), SamePairs)


def test_nights_stays_nights_when_its_jnd_votes_lie_beside_it(tmp_path: Path) -> None:
    nights(tmp_path)
    nights_jnd(tmp_path)
    assert recognise(tmp_path) == "nights" and recognise(tmp_path / "jnd_votes.csv") == "nights-jnd"


def test_nights_sides_are_taken_as_the_file_has_them(tmp_path: Path) -> None:
    nights(tmp_path)
    judgments = read_judgments(tmp_path)
    assert isinstance(judgments, Judgments)
    assert triplets(judgments) == ["000 000_1 000_0", "001 001_0 001_1"]
    assert judgments.votes_a.tolist() == [7, 0] and judgments.group == ("imagenet", "other")


def test_nights_unfiltered_counts_shares_and_leaves_out_triplets_without_votes(tmp_path: Path) -> None:
    nights_unfiltered(tmp_path)
    judgments = read_nights_unfiltered(tmp_path)
    assert judgments.votes_a.tolist() == [1, 1] and judgments.votes_b.tolist() == [3, 0]
    assert len(read_nights_unfiltered(tmp_path, least_votes=2)) == 1


def test_nights_jnd_votes(tmp_path: Path) -> None:
    nights_jnd(tmp_path)
    judgments = read_nights_jnd(tmp_path)
    assert judgments.share_same.tolist() == [0.75, 0] and judgments.votes.tolist() == [4, 3]
    assert [judgments.images[i].name for i in judgments.b] == ["0_0.png", "0_1.png"] and len(set(judgments.a)) == 1


def test_bapps_shares_are_of_p1_and_people_depend_on_the_split(tmp_path: Path) -> None:
    bapps(tmp_path)
    judgments = read_bapps(tmp_path)
    assert judgments.split == ("train", "val", "val", "val") and judgments.group == ("cnn", "cnn", "cnn", "traditional")
    np.testing.assert_allclose(judgments.votes_a, [1, 4, 0, 5], atol=1e-6)
    np.testing.assert_allclose(judgments.votes_b, [1, 1, 5, 0], atol=1e-6)
    first = [judgments.images[column[0]].parent.name for column in (judgments.reference, judgments.a, judgments.b)]
    assert first == ["ref", "p0", "p1"]


@pytest.mark.parametrize("place", ["2afc", "2afc/val", "2afc/val/cnn"])
def test_bapps_may_be_given_in_part(tmp_path: Path, place: str) -> None:
    bapps(tmp_path)
    judgments = read_bapps(tmp_path / place, "val")
    assert set(judgments.split) == {"val"} and len(judgments) == (2 if place.endswith("cnn") else 3)


def test_bapps_jnd_has_three_people(tmp_path: Path) -> None:
    bapps_jnd(tmp_path)
    judgments = read_bapps_jnd(tmp_path)
    assert judgments.group == ("cnn", "traditional") and judgments.votes.tolist() == [3, 3]
    np.testing.assert_allclose(judgments.share_same, [1, 1 / 3])


def test_things_is_two_triplets_for_each_odd_one_out(tmp_path: Path) -> None:
    things(tmp_path)
    judgments = read_things(tmp_path)
    assert triplets(judgments) == ["0 5 7", "5 0 7", "12 0 5", "0 12 5"]
    assert judgments.votes_a.tolist() == [1] * 4 and judgments.votes_b.tolist() == [0] * 4


def test_odd_one_out_is_the_originals_rule(tmp_path: Path) -> None:
    d12, d13, d23 = np.random.default_rng(0).integers(0, 4, (3, 200)).astype(float)
    d_a, d_b = np.repeat(d12, 2), np.stack([d13, d23], axis=1).reshape(-1)
    expected = (d12 <= d13) & (d12 <= d23)  # torch.le, twice, in its score_things_dataset
    assert (odd_one_out(d_a, d_b) == expected).all() and 0 < expected.mean() < 1
    with pytest.raises(ValueError, match="two distances for each line"):
        odd_one_out(d_a[:-1], d_b[:-1])
    with pytest.raises(ValueError, match="NaN"):
        odd_one_out([np.nan, 1.0], [1.0, 1.0])


def test_pieapp_preferences_are_shares_of_forty(tmp_path: Path) -> None:
    pieapp(tmp_path)
    judgments = read_pieapp(tmp_path)
    np.testing.assert_allclose(judgments.votes_a, [4, 30, 12])  # test, then train, processed
    np.testing.assert_allclose(judgments.votes_a + judgments.votes_b, 40)
    assert judgments.split == ("test", "train", "train") and judgments.group == ("ref_2", "ref_1", "ref_1")
    assert triplets(judgments)[1] == "ref_1 distort_1_x_inter_0 distort_1_y_inter_0"
    assert len(read_pieapp(tmp_path, "train")) == 2


def test_tid2013_is_found_in_any_case(tmp_path: Path) -> None:
    tid2013(tmp_path)
    judgments = read_tid2013(tmp_path)
    assert [judgments.images[i].name for i in judgments.reference] == ["I01.BMP", "I01.BMP", "i25.bmp"]
    assert judgments.score.tolist() == [5.51429, 5.56757, 2.5] and judgments.group == ("01", "01", "24")


def test_kadid10k_scores_are_higher_for_better(tmp_path: Path) -> None:
    kadid10k(tmp_path)
    judgments = read_kadid10k(tmp_path)
    assert judgments.score.tolist() == [4.57, 2.0] and judgments.group == ("01", "25")
    pairs = judgments.judgments()
    assert triplets(pairs) == ["I01 I01_01_01 I01_25_02"] and pairs.votes_a.tolist() == [1]


def test_pipal_pictures_are_found_by_name(tmp_path: Path) -> None:
    pipal(tmp_path)
    judgments = read_pipal(tmp_path)
    assert judgments.split == ("train", "train", "val") and judgments.group == ("00", "03", "10")
    assert [judgments.images[i].name for i in judgments.reference] == ["A0001.bmp", "A0001.bmp", "A0000.bmp"]
    assert read_pipal(tmp_path, "train").score.tolist() == [1520.0648, 1437.0798]


def test_clic_answers_to_one_question_add_up_in_either_order(tmp_path: Path) -> None:
    clic(tmp_path)
    judgments = read_clic(tmp_path)
    assert triplets(judgments) == ["o x y", "o x z"]
    assert judgments.votes_a.tolist() == [2, 0] and judgments.votes_b.tolist() == [1, 1]


def test_clic_may_have_a_header(tmp_path: Path) -> None:
    clic(tmp_path)
    file = tmp_path / "oracle.csv"
    file.write_text("O,A,B,T\n" + file.read_text())
    assert recognise(tmp_path) == "clic" and len(read_clic(tmp_path)) == 2


def test_a_folder_of_a_users_judgments_is_read(tmp_path: Path) -> None:
    own_folder(tmp_path)
    judgments = read_own_folder(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in judgments.images[:3]] == [
        "ref/cat.png",
        "a/cat.png",
        "b/cat.png",
    ]
    assert (
        judgments.votes_a.tolist() == [3, 0]
        and judgments.votes_b.tolist() == [1, 2]
        and judgments.split == ("val", "train")
    )
    assert len(read_own_folder(tmp_path, "val")) == 1 and len(read_own_folder(tmp_path, least_votes=3)) == 1
