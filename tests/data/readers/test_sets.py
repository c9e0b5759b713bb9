"""Each reader on a small tree of the shape that the published set has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

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


def draw(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        PILImage.new("RGB", (4, 4)).save(root / name)


def write(file: Path, *lines: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")
    return file


def nights(root: Path) -> None:
    write(
        root / "data.csv",
        "id,left_vote,right_vote,votes,ref_path,left_path,right_path,split,is_imagenet,prompt",
        'A0,1,0,7,ref/000/000.png,distort/000/000_1.png,distort/000/000_0.png,test,True,"An image of a cat, tabby"',
        "A1,0,1,6,ref/000/001.png,distort/000/001_0.png,distort/000/001_1.png,train,False,An image of a rose",
    )
    draw(root, *(f"ref/000/00{i}.png" for i in "01"), *(f"distort/000/00{i}_{j}.png" for i in "01" for j in "01"))


def nights_unfiltered(root: Path) -> None:
    write(
        root / "nights_raw.csv",
        "id,left_vote,right_vote,votes,ref_path,left_path,right_path",
        "0,0.25,0.75,4,ref/0.png,distort/0_0.png,distort/0_1.png",
        "1,0,0,0,ref/1.png,distort/1_0.png,distort/1_1.png",
        "2,1,0,1,ref/0.png,distort/0_0.png,distort/0_1.png",
    )
    draw(root, "ref/0.png", "distort/0_0.png", "distort/0_1.png")


def nights_jnd(root: Path) -> None:
    write(
        root / "jnd_votes.csv",
        "id,ref_path,distort_path,same,votes",
        "0,ref/0.png,distort/0_0.png,0.75,4",
        "1,ref/0.png,distort/0_1.png,0,3",
    )
    draw(root, "ref/0.png", "distort/0_0.png", "distort/0_1.png")


def bapps(root: Path) -> None:
    for place, shares in {"train/cnn": [0.5], "val/cnn": [0.2, 1.0], "val/traditional": [0.0]}.items():
        for i, share in enumerate(shares):
            (root / "2afc" / place / "judge").mkdir(parents=True, exist_ok=True)
            np.save(root / "2afc" / place / "judge" / f"{i:06d}.npy", np.array([share], dtype=np.float32))
            draw(root / "2afc" / place, *(f"{folder}/{i:06d}.png" for folder in ("ref", "p0", "p1")))


def bapps_jnd(root: Path) -> None:
    for family, share in {"traditional": 1 / 3, "cnn": 1.0}.items():
        place = root / "jnd" / "val" / family
        (place / "same").mkdir(parents=True)
        np.save(place / "same" / "000000.npy", np.array([share]))
        draw(place, "p0/000000.png", "p1/000000.png")


def things(root: Path) -> None:
    write(root / "things_valset.txt", "0 5 7", "12 0 5")
    draw(root, "0.png", "5.png", "7.png", "12.png")


def pieapp(root: Path) -> None:
    head = "ref.image, distorted image A, distorted image B,"
    write(
        root / "labels/train/ref_1_pairwise_labels.csv",
        head + " raw preference for A, processed preference for A",
        "ref_1.png, distort_1_x_inter_0.png, distort_1_y_inter_0.png, 0.9, 0.75",
        "ref_1.png, distort_1_y_inter_0.png, distort_1_x_inter_0.png, , 0.3",
    )
    write(
        root / "labels/test/ref_2_pairwise_labels.csv",
        head + " preference for A",
        "ref_2.png,distort_2_x_inter_0.png,distort_2_y_inter_0.png,0.1",
        "ref_2.png,ref_2.png,distort_2_y_inter_0.png,1.0",
    )
    write(root / "labels/test/ref_2_per_image_score.csv", "ref_image, distorted image, score for distorted image")
    for part, n in (("train", 1), ("test", 2)):
        draw(root, f"reference_images/{part}/ref_{n}.png")
        draw(root / f"distorted_images/{part}/ref_{n}", *(f"distort_{n}_{kind}_inter_0.png" for kind in "xy"))


def tid2013(root: Path) -> None:
    write(root / "mos_with_names.txt", "5.51429 I01_01_1.bmp", "5.56757 i01_01_2.bmp", "2.5 I25_24_5.bmp")
    draw(root / "reference_images", "I01.BMP", "i25.bmp")
    draw(root / "distorted_images", "i01_01_1.bmp", "I01_01_2.bmp", "I25_24_5.BMP")


def kadid10k(root: Path) -> None:
    write(
        root / "dmos.csv",
        "dist_img,ref_img,dmos,var",
        "I01_01_01.png,I01.png,4.57,0.496",
        "I01_25_02.png,I01.png,2.0,0.5",
    )
    draw(root / "images", "I01.png", "I01_01_01.png", "I01_25_02.png")


def pipal(root: Path) -> None:
    write(root / "Train_Label/A0001.txt", "A0001_00_00.bmp,1520.0648", "A0001_03_01.bmp, 1437.0798")
    write(root / "val_label.txt", "A0000_10_00.bmp,1400")
    draw(root, "Train_Ref/A0001.bmp", "Val_Ref/A0000.bmp", "Val_Dist/A0000_10_00.bmp")
    draw(root, "Distortion_1/A0001_00_00.bmp", "Distortion_2/A0001_03_01.bmp")


def clic(root: Path) -> None:
    write(
        root / "oracle.csv",
        "o.png,x.png,y.png,0",
        "o.png,y.png,x.png,0",
        "o.png,x.png,y.png,0",
        "o.png,x.png,z.png,1",
        "o.png,o.png,y.png,0",
        "o.png,y.png,y.png,1",
    )
    write(root / "validation.csv", "o.png,x.png,y.png")
    draw(root, "o.png", "x.png", "crops/y.png", "crops/z.png")


def own_folder(root: Path) -> None:
    write(root / "votes.csv", "name,votes_a,votes_b,split", "cat.png,3,1,val", "dog.png,0,2,train")
    draw(root, *(f"{folder}/{name}.png" for folder in ("ref", "a", "b") for name in ("cat", "dog")))


TREES: dict[str, Callable[[Path], None]] = {
    "nights": nights,
    "nights-unfiltered": nights_unfiltered,
    "nights-jnd": nights_jnd,
    "bapps": bapps,
    "bapps-jnd": bapps_jnd,
    "things": things,
    "pieapp": pieapp,
    "tid2013": tid2013,
    "kadid10k": kadid10k,
    "pipal": pipal,
    "clic": clic,
    "folder": own_folder,
}


def triplets(found: Judgments) -> list[str]:
    """Each triplet as the names of its pictures."""
    return [
        " ".join(found.images[column[i]].stem for column in (found.reference, found.a, found.b))
        for i in range(len(found))
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_recognised_and_read(tmp_path: Path, kind: str) -> None:
    TREES[kind](tmp_path)
    assert recognise(tmp_path) == kind
    found = read_judgments(tmp_path)
    by_name = read_judgments(tmp_path, kind)
    assert type(found) is type(by_name) and found.images == by_name.images
    assert all(path.is_file() for path in found.images) and len(found) == len(found.group) == len(found.split) > 0
    triplets = found.judgments() if isinstance(found, Ratings) else found
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


def test_what_cannot_be_told_is_an_error_with_the_kinds(tmp_path: Path) -> None:
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
    found = read_judgments(tmp_path)
    assert isinstance(found, Judgments)
    assert triplets(found) == ["000 000_1 000_0", "001 001_0 001_1"]
    assert found.votes_a.tolist() == [7, 0] and found.group == ("imagenet", "other")


def test_nights_unfiltered_counts_shares_and_leaves_out_what_nobody_saw(tmp_path: Path) -> None:
    nights_unfiltered(tmp_path)
    found = read_nights_unfiltered(tmp_path)
    assert found.votes_a.tolist() == [1, 1] and found.votes_b.tolist() == [3, 0]
    assert len(read_nights_unfiltered(tmp_path, least_votes=2)) == 1


def test_nights_jnd_votes(tmp_path: Path) -> None:
    nights_jnd(tmp_path)
    found = read_nights_jnd(tmp_path)
    assert found.share_same.tolist() == [0.75, 0] and found.votes.tolist() == [4, 3]
    assert [found.images[i].name for i in found.b] == ["0_0.png", "0_1.png"] and len(set(found.a)) == 1


def test_bapps_shares_are_of_p1_and_people_depend_on_the_split(tmp_path: Path) -> None:
    bapps(tmp_path)
    found = read_bapps(tmp_path)
    assert found.split == ("train", "val", "val", "val") and found.group == ("cnn", "cnn", "cnn", "traditional")
    np.testing.assert_allclose(found.votes_a, [1, 4, 0, 5], atol=1e-6)
    np.testing.assert_allclose(found.votes_b, [1, 1, 5, 0], atol=1e-6)
    first = [found.images[column[0]].parent.name for column in (found.reference, found.a, found.b)]
    assert first == ["ref", "p0", "p1"]


@pytest.mark.parametrize("place", ["2afc", "2afc/val", "2afc/val/cnn"])
def test_bapps_may_be_given_in_part(tmp_path: Path, place: str) -> None:
    bapps(tmp_path)
    found = read_bapps(tmp_path / place, "val")
    assert set(found.split) == {"val"} and len(found) == (2 if place.endswith("cnn") else 3)


def test_bapps_jnd_has_three_people(tmp_path: Path) -> None:
    bapps_jnd(tmp_path)
    found = read_bapps_jnd(tmp_path)
    assert found.group == ("cnn", "traditional") and found.votes.tolist() == [3, 3]
    np.testing.assert_allclose(found.share_same, [1, 1 / 3])


def test_things_is_two_triplets_for_each_odd_one_out(tmp_path: Path) -> None:
    things(tmp_path)
    found = read_things(tmp_path)
    assert triplets(found) == ["0 5 7", "5 0 7", "12 0 5", "0 12 5"]
    assert found.votes_a.tolist() == [1] * 4 and found.votes_b.tolist() == [0] * 4


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
    found = read_pieapp(tmp_path)
    np.testing.assert_allclose(found.votes_a, [4, 30, 12])  # test, then train, processed
    np.testing.assert_allclose(found.votes_a + found.votes_b, 40)
    assert found.split == ("test", "train", "train") and found.group == ("ref_2", "ref_1", "ref_1")
    assert triplets(found)[1] == "ref_1 distort_1_x_inter_0 distort_1_y_inter_0"
    assert len(read_pieapp(tmp_path, "train")) == 2


def test_tid2013_is_found_in_any_case(tmp_path: Path) -> None:
    tid2013(tmp_path)
    found = read_tid2013(tmp_path)
    assert [found.images[i].name for i in found.reference] == ["I01.BMP", "I01.BMP", "i25.bmp"]
    assert found.score.tolist() == [5.51429, 5.56757, 2.5] and found.group == ("01", "01", "24")


def test_kadid10k_scores_are_higher_for_better(tmp_path: Path) -> None:
    kadid10k(tmp_path)
    found = read_kadid10k(tmp_path)
    assert found.score.tolist() == [4.57, 2.0] and found.group == ("01", "25")
    pairs = found.judgments()
    assert triplets(pairs) == ["I01 I01_01_01 I01_25_02"] and pairs.votes_a.tolist() == [1]


def test_pipal_pictures_are_found_by_name(tmp_path: Path) -> None:
    pipal(tmp_path)
    found = read_pipal(tmp_path)
    assert found.split == ("train", "train", "val") and found.group == ("00", "03", "10")
    assert [found.images[i].name for i in found.reference] == ["A0001.bmp", "A0001.bmp", "A0000.bmp"]
    assert read_pipal(tmp_path, "train").score.tolist() == [1520.0648, 1437.0798]


def test_clic_answers_to_one_question_add_up_in_either_order(tmp_path: Path) -> None:
    clic(tmp_path)
    found = read_clic(tmp_path)
    assert triplets(found) == ["o x y", "o x z"]
    assert found.votes_a.tolist() == [2, 0] and found.votes_b.tolist() == [1, 1]


def test_clic_may_have_a_header(tmp_path: Path) -> None:
    clic(tmp_path)
    file = tmp_path / "oracle.csv"
    file.write_text("O,A,B,T\n" + file.read_text())
    assert recognise(tmp_path) == "clic" and len(read_clic(tmp_path)) == 2


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    own_folder(tmp_path)
    found = read_own_folder(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found.images[:3]] == [
        "ref/cat.png",
        "a/cat.png",
        "b/cat.png",
    ]
    assert found.votes_a.tolist() == [3, 0] and found.votes_b.tolist() == [1, 2] and found.split == ("val", "train")
    assert len(read_own_folder(tmp_path, "val")) == 1 and len(read_own_folder(tmp_path, least_votes=3)) == 1


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
def test_odd_lines_are_refused_with_where_they_are(
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
def test_odd_shares_of_bapps_are_refused(tmp_path: Path, kind: str, value: Any, message: str) -> None:
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
