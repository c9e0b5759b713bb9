"""The folder of a scene set: NIGHTS' layout, the truth behind it, resumed runs, refused settings, and the command."""

import csv
import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dreamsim_guidance.cli.data import Scenes
from dreamsim_guidance.cli.entry import main
from dreamsim_guidance.data.readers.nights import read_nights
from dreamsim_guidance.data.scenes.drawing import draw
from dreamsim_guidance.data.scenes.scene_questions import SPLITS, SceneSet, changed_factors
from dreamsim_guidance.data.scenes.scene_set import COLUMNS, write_scene_set
from dreamsim_guidance.preprocess import load_image

COUNT = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene_set(tmp_path_factory.mktemp("sets") / "scenes", COUNT, seed=3, size=16)


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def table(folder: Path, name: str = "data.csv") -> list[dict[str, str]]:
    with (folder / name).open(newline="") as file:
        return list(csv.DictReader(file))


def program(folder: Path, workers: int, before: str = "") -> list[str]:
    """Another process that writes the set of the fixture."""
    call = f"write_scene_set({str(folder)!r}, {COUNT}, seed=3, size=16, workers={workers})"
    return [
        sys.executable,
        "-c",
        f"import time\nfrom dreamsim_guidance.data.scenes.scene_set import *\n{before}\n{call}",
    ]


def test_the_reader_of_nights_reads_every_split(folder: Path) -> None:
    by_split = {split: read_nights(folder, split) for split in SPLITS}
    assert {split: len(judgments) for split, judgments in by_split.items()} == SceneSet(COUNT).counts()
    assert {split: len(judgments) for split, judgments in by_split.items()} == {
        "train": 28,
        "val": 4,
        "test": 4,
        "test_held_out": 4,
    }
    everything = read_nights(folder)
    assert len(everything) == COUNT and len(everything.images) == 3 * COUNT
    assert load_image(everything.images[0]).shape == (1, 3, 16, 16)
    assert not [name for name in content(folder) if name.endswith((".part", ".lock"))]


def test_the_table_has_the_columns_of_nights_by_position_and_by_name(folder: Path) -> None:
    """The original reads columns 0, 2, 4, 5 and 6 by position and keeps rows with at least six votes."""
    with (folder / "data.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == list(COLUMNS) == [
        "id", "left_vote", "right_vote", "votes", "ref_path", "left_path", "right_path", "split", "is_imagenet", "prompt"
    ]  # fmt: skip
    for i, row in enumerate(rows):
        left, right = (f"distort/000/{i:03d}_{which}.png" for which in (0, 1))
        assert row[0] == str(i) and row[4] == f"ref/000/{i:03d}.png" and {row[5], row[6]} == {left, right}
        assert {row[1], row[2]} == {"0", "1"} and 6 <= int(row[3]) <= 11 and row[8] == "False" and row[9]


def test_the_tables_say_what_the_pictures_show(folder: Path) -> None:
    settings, rows, factors = SceneSet(COUNT, 3, 16), table(folder), table(folder, "factors.csv")
    numbers = [(split, number) for split, count in settings.counts().items() for number in range(count)]
    for (split, number), row, truth in zip(numbers, rows, factors, strict=True):
        question = settings.question(split, number)
        sides = [(question.triplet.a, question.triplet.distance_a), (question.triplet.b, question.triplet.distance_b)]
        (left, left_distance), (right, right_distance) = sides if question.a_is_left else sides[::-1]
        for scene, name in ((question.triplet.reference, "ref_path"), (left, "left_path"), (right, "right_path")):
            assert (load_image(folder / row[name]) - draw(scene, 16)).abs().max() <= 0.5 / 255 + 1e-6
        a_won = question.votes_a == question.people
        assert row["left_vote"] == str(int(a_won == question.a_is_left)) and row["votes"] == str(question.people)
        assert (row["split"], row["prompt"]) == (split, question.prompt) and truth["id"] == row["id"]
        assert (float(truth["left_distance"]), float(truth["right_distance"])) == (left_distance, right_distance)
        assert truth["left_changed"].split() == list(changed_factors(question.triplet.reference, left))
        assert truth["held_out"] == (question.held_out or "")


def test_shares_of_votes_are_read_back_as_numbers_of_votes(tmp_path: Path) -> None:
    judgments = read_nights(write_scene_set(tmp_path, 30, size=16, shares=True))
    settings = SceneSet(shares=True)
    questions = [settings.question("train", number) for number in range(21)]
    votes = [(q.votes_a, q.people - q.votes_a) if q.a_is_left else (q.people - q.votes_a, q.votes_a) for q in questions]
    np.testing.assert_allclose(np.stack([judgments.votes_a, judgments.votes_b], 1)[:21], votes, atol=1e-9)
    assert any(0 < q.votes_a < q.people for q in questions)


def test_the_number_of_processes_changes_no_byte(folder: Path, tmp_path: Path) -> None:
    subprocess.run(program(tmp_path / "two", workers=2), check=True, capture_output=True, timeout=60)
    assert content(tmp_path / "two") == content(folder)


def test_a_killed_run_goes_on_and_ends_with_the_same_files(folder: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    module = "import time\nimport dreamsim_guidance.data.scenes.scene_set as s\n"
    slowly = module + "draw = s.draw\ns.draw = lambda *x: (time.sleep(0.05), draw(*x))[1]"
    process = subprocess.Popen(program(killed, workers=1, before=slowly), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(killed.rglob("*_1.png"))) < 5 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL
    drawn = {path: path.stat().st_mtime_ns for path in killed.rglob("*.png")}
    assert 15 <= len(drawn) < 3 * COUNT and not (killed / "data.csv").exists()
    write_scene_set(killed, COUNT, seed=3, size=16)
    assert content(killed) == content(folder)
    assert {path: path.stat().st_mtime_ns for path in drawn} == drawn  # kept, not drawn again


def test_a_complete_set_is_left_alone_and_a_lost_picture_is_drawn_again(tmp_path: Path) -> None:
    write_scene_set(tmp_path, 20, size=16)
    before, stamp = content(tmp_path), (tmp_path / "data.csv").stat().st_mtime_ns
    write_scene_set(tmp_path, 20, size=16)
    assert (tmp_path / "data.csv").stat().st_mtime_ns == stamp
    os.unlink(tmp_path / "distort" / "000" / "007_1.png")
    write_scene_set(tmp_path, 20, size=16)
    assert content(tmp_path) == before


def test_a_folder_with_something_else_is_refused_and_left_alone(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "thesis.txt").write_text("words")
    with pytest.raises(
        ValueError, match=r"holds something other than a scene set \('thesis.txt'\); give an empty folder"
    ):
        write_scene_set(tmp_path, 20)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(ValueError, match="is a file; give a folder"):
        write_scene_set(tmp_path / "thesis.txt", 20)
    before = content(folder)
    for change, message in (
        ({"seed": 4}, "holds a set with seed 3, not 4; give another folder"),
        ({"size": 32}, "size 16, not 32"),
        ({"shares": True}, "shares False, not True"),
        ({"held_out": ("texture",)}, r"held_out \['layout', 'style'\], not \['texture'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            write_scene_set(folder, **{"triplets": COUNT, "seed": 3, "size": 16, **change})
    assert content(folder) == before


def test_settings_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "scene_set.json").write_text("{")
    with pytest.raises(ValueError, match="does not hold the settings of a scene set"):
        write_scene_set(tmp_path, 20)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"triplets": 9}, "triplets must lie between 10 and 1000000, got 9"),
        ({"seed": -1}, "seed must be at least 0, .* got -1"),
        ({"size": 8}, "size at least 16"),
        ({"temperature": 0.0}, "temperature greater than 0"),
        ({"held_out": ("hue",)}, "unknown factor 'hue' to hold out; known: shape, colour"),
        ({"held_out": ()}, "between 1 and 9 different factors can be held out, got none"),
        ({"held_out": ("style", "style")}, "different factors can be held out, got style, style"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
    ],
)
def test_impossible_settings_are_refused_and_leave_no_folder(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_scene_set(tmp_path / "set", **{"triplets": 20, **change})
    assert not (tmp_path / "set").exists()


def test_the_command_has_the_same_defaults() -> None:
    defaults = {f.name: f.default for f in dataclasses.fields(Scenes)}
    assert dataclasses.asdict(SceneSet()).items() <= defaults.items()


def test_the_command_writes_the_same_set(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = tmp_path / "set"
    options = ["--triplets", str(COUNT), "--seed", "3", "--size", "16", "--workers", "1"]
    assert main(["data", "scenes", "--to", str(to), *options]) == 0
    assert capsys.readouterr().out == f"{to / 'data.csv'}\n"
    assert content(to) == content(folder)
    assert main(["data", "scenes", "--to", str(to), "--triplets", str(COUNT)]) == 2
    assert "holds a set with seed 3, not 0; give another folder" in capsys.readouterr().err
