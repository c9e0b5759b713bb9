"""`generate`: the folder, its records, and runs that are interrupted at any moment."""

from __future__ import annotations

import csv
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from small_plan import CONTENT, contents, small_plan

from dreamsim_guidance.data import read_judgments, read_triplet_rows, recognise
from dreamsim_guidance.files.checksums import sha256
from dreamsim_guidance.generation import generating, named_models
from dreamsim_guidance.generation.generating import Generated, generate
from dreamsim_guidance.generation.variations import Source
from dreamsim_guidance.preprocess import load_image


@pytest.fixture(scope="module", autouse=True)
def load_each_model_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(named_models, "load", functools.cache(named_models.load))
        patch.setattr(generating, "DreamSim", functools.cache(generating.DreamSim))
        yield


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Generated:
    """The small plan, carried out without an interruption."""
    return generate(small_plan(), tmp_path_factory.mktemp("whole") / "set", "cpu", progress=False)


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "pictures.jsonl").read_text().splitlines()]


def test_the_folder_is_a_set_in_the_layout_of_nights_that_nobody_has_judged(generated: Generated) -> None:
    folder = generated.folder
    rows = read_triplet_rows(folder)
    assert len(rows) == len(generated.screening.rows) == 8 and generated.sampled == generated.pictures == 24
    assert recognise(folder) == "nights"
    with pytest.raises(ValueError, match="nobody has judged"):
        read_judgments(folder)
    for row in rows:
        number = int(row.id)
        assert row.reference == f"ref/000/{number:03}.png"
        assert {row.left, row.right} == {f"distort/000/{number:03}_{i}.png" for i in (0, 1)}
        assert row.votes == 0 and row.prompt.endswith("on a white background") and not row.is_imagenet
    assert [row.way for row in rows] == ["seed"] * 2 + ["noise"] * 2 + ["img2img"] * 2 + ["guide"] * 2


def test_every_picture_has_a_record_with_which_it_can_be_made_again(generated: Generated) -> None:
    entries = records(generated.folder)
    assert len(entries) == 24 and len({entry["seed"] for entry in entries}) == 24
    for entry in entries:
        assert entry["sha256"] == sha256(generated.folder / entry["file"])
        assert entry["safety"] == "none" and entry["licence"] == "MIT"
        assert (entry["steps"], entry["guidance_scale"], entry["scheduler"]) == (3, 7.5, "DDIMScheduler")
        assert entry["size"] == [64, 64] and "torch " in entry["versions"] and entry["device"] == "cpu"
    reference = next(entry for entry in entries if entry["file"] == "ref/000/001.png")
    again = Source(small_plan().models[0], "cpu").references([reference["prompt"]], [reference["seed"]])
    stored = load_image(generated.folder / reference["file"])
    assert float((again.images - stored).abs().max()) <= 1.5 / 255  # sampled alone, not in its batch: rounding


def test_guided_variations_report_the_distance_they_reached(generated: Generated) -> None:
    rows = {row.id: row for row in read_triplet_rows(generated.folder)}
    for entry in (entry for entry in records(generated.folder) if entry["way"] == "guide"):
        row = rows[str(entry["triplet"])]
        measured = row.left_distance if row.left == entry["file"] else row.right_distance
        assert measured == pytest.approx(entry["reached"], abs=1e-5)  # in its batch against in the screening's
        assert entry["amount"] == 0.15 and entry["strength"] == 0.5 and entry["attempts"] == 1
    report = json.loads((generated.folder / "screening.json").read_text())
    assert report["ways"]["guide 0.15"]["error"]["mean"] < 0.06
    assert report["kept"] == 8 and report["metric"] == "pocket" and report["dropped_triplets"] == []


def test_people_can_look_at_the_triplets(generated: Generated) -> None:
    page = (generated.folder / "index.html").read_text()
    assert page.count("<img") == 24 and "seed" in page and "guide 0.15" in page
    assert all(f'src="{entry["file"]}"' in page for entry in records(generated.folder))
    assert load_image(generated.folder / "sheet.png").shape[-1] > 300


class Killed(BaseException):
    """Stands for a kill: nothing in the library catches it."""


def copy(generated: Generated, to: Path, change: Any = None) -> Path:
    shutil.copytree(generated.folder, to)
    return to


@pytest.mark.parametrize("moment", [1, 6, 24])
def test_a_run_that_was_killed_ends_with_the_same_files(
    generated: Generated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    written = 0
    save = generating.save_image

    def save_until_killed(image: torch.Tensor, path: Path) -> None:
        nonlocal written
        written += 1
        if written == moment:
            raise Killed
        save(image, path)

    monkeypatch.setattr(generating, "save_image", save_until_killed)
    with pytest.raises(Killed):
        generate(small_plan(), tmp_path / "set", "cpu", progress=False)
    assert not (tmp_path / "set" / "data.csv").exists()
    monkeypatch.setattr(generating, "save_image", save)
    resumed = generate(small_plan(), tmp_path / "set", "cpu", progress=False)
    assert 24 - moment < resumed.sampled <= 24 - moment + 2  # at most the batch that was being written is repeated
    assert contents(tmp_path / "set") == contents(generated.folder)


def test_damage_of_any_kind_is_repaired_with_the_same_pictures(generated: Generated, tmp_path: Path) -> None:
    folder = copy(generated, tmp_path / "set")
    draw = random.Random(0)
    lines = (folder / "pictures.jsonl").read_bytes()
    (folder / "pictures.jsonl").write_bytes(lines[: draw.randrange(len(lines) // 2, len(lines))] + b"\xff\xfe{[[")
    (folder / "ref/000/003.png").unlink()
    cut = folder / "distort/000/001_1.png"
    cut.write_bytes(cut.read_bytes()[:50])
    (folder / "distort/000/002_0.png").write_bytes((folder / "ref/000/000.png").read_bytes())
    for name in ("data.csv", "screening.json", "index.html"):
        (folder / name).unlink()
    resumed = generate(small_plan(), folder, "cpu", progress=False)
    assert 3 <= resumed.sampled < 24
    assert contents(folder) == contents(generated.folder)


def test_what_a_killed_process_was_writing_is_removed(generated: Generated, tmp_path: Path) -> None:
    folder = copy(generated, tmp_path / "set")
    (folder / "ref/000/.007-1a2b3c4d.png").write_bytes(b"half a pict")
    generate(small_plan(), folder, "cpu", progress=False)
    assert contents(folder) == contents(generated.folder)


def test_two_processes_do_not_share_a_folder(generated: Generated) -> None:
    with FileLock(generated.folder / ".lock"), pytest.raises(BlockingIOError, match="another process generates into"):
        generate(small_plan(), generated.folder, "cpu", progress=False)


def test_a_finished_folder_is_left_as_it_is(generated: Generated, tmp_path: Path) -> None:
    folder = copy(generated, tmp_path / "set")
    times = {file: file.stat().st_mtime_ns for file in folder.rglob("*.png") if file.name != "sheet.png"}
    assert generate(small_plan(), folder, "cpu", progress=False).sampled == 0
    assert times == {file: file.stat().st_mtime_ns for file in times}
    assert contents(folder) == contents(generated.folder)


def test_a_process_killed_by_the_system_leaves_a_folder_that_is_resumed(generated: Generated, tmp_path: Path) -> None:
    file, folder = tmp_path / "plan.json", tmp_path / "set"
    file.write_text(json.dumps(CONTENT))
    command = [sys.executable, "-m", "dreamsim_guidance", "generate", str(file), "--to", str(folder), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while len(list(folder.rglob("[0-9]*.png"))) < 7 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert 7 <= len(list(folder.rglob("[0-9]*.png"))) < 24, "the process was not killed in the middle"
    assert generate(small_plan(), folder, "cpu", progress=False).sampled < 24
    assert contents(folder) == contents(generated.folder)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"seed": 1}, "seed"),
        ({"categories": ["red star"]}, "categories"),
        ({"ways": ["seed"]}, "ways"),
        ({"models": [{"model": "pocket", "steps": 4, "batch": 2}]}, "models"),
        ({"models": [{"model": "pocket", "steps": 3, "batch": 3}]}, "models"),
        ({"metric": "pocket_robust"}, "metric"),
    ],
)
def test_the_folder_of_another_plan_is_refused_and_not_touched(
    generated: Generated, change: dict[str, Any], key: str
) -> None:
    before = contents(generated.folder)
    with pytest.raises(ValueError, match=f"holds the pictures of another plan, which differs in {key}"):
        generate(small_plan(**change), generated.folder, "cpu", progress=False)
    assert contents(generated.folder) == before


def test_folders_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for folder in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(ValueError, match="exists already and is not an empty folder"):
            generate(small_plan(), folder, "cpu", progress=False)
    for text in ("{", "[]", '{"format": "other"}', "[" * 100_000):
        folder = tmp_path / "begun"
        folder.mkdir(exist_ok=True)
        (folder / "plan.json").write_text(text)
        with pytest.raises(ValueError, match="is not the record of a plan"):
            generate(small_plan(), folder, "cpu", progress=False)


def test_screening_and_splits_can_be_changed_afterwards(generated: Generated, tmp_path: Path) -> None:
    folder = copy(generated, tmp_path / "set")
    changed = small_plan(
        screen={"duplicate": 0, "most_difference": 0.02}, split_by="category", shares={"train": 0.5, "test": 0.5}
    )
    result = generate(changed, folder, "cpu", progress=False)
    assert result.sampled == 0 and 0 < len(result.screening.rows) < 8
    dropped = [t for t in result.screening.triplets if t.dropped]
    assert {t.dropped for t in dropped} == {"unequal"} and all(t.difference > 0.02 for t in dropped)
    rows = read_triplet_rows(folder)
    assert len({(row.prompt, row.split) for row in rows}) == len({row.prompt for row in rows})
    assert {row.split for row in rows} <= {"train", "test"}
    with (folder / "data.csv").open(newline="") as file:
        assert {row["id"] for row in csv.DictReader(file)}.isdisjoint(str(t.triplet.number) for t in dropped)


def test_the_size_of_batches_changes_no_more_than_rounding(generated: Generated, tmp_path: Path) -> None:
    one = small_plan(models=[{"model": "pocket", "steps": 3, "batch": 1}])
    folder = generate(one, tmp_path / "set", "cpu", progress=False).folder
    for file in folder.rglob("[0-9]*.png"):
        same = generated.folder / file.relative_to(folder)
        assert float((load_image(file) - load_image(same)).abs().max()) <= 3.5 / 255


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": ["pokcet"]}, "unknown model 'pokcet'; give pocket"),
        ({"models": ["pocket-pixels"]}, "'pocket-pixels' takes no prompt"),
        ({"models": [{"model": "pocket", "scheduler": "DDIMSheduler"}]}, "diffusers has no scheduler 'DDIMSheduler'"),
        ({"categories": ["green dog"]}, "the pocket model does not know the word 'dog'"),
        ({"categories": ["../../x"]}, "the pocket model does not know the word '../../x'"),
        ({"metric": "ensembel"}, "ensembel"),
        ({"ways": [{"way": "img2img", "amounts": [0.1]}]}, "leaves less than one of 3 steps"),
        (
            {"ways": [{"way": "guide", "amounts": [0.1], "method": "mpdg"}]},
            r"unknown method 'mpdg' \(did you mean 'mpgd'",
        ),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_is_written(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, OSError), match=message):
        generate(small_plan(**change), tmp_path / "set", "cpu", progress=False)
    assert not (tmp_path / "set").exists()


def test_a_folder_that_is_no_pipeline_is_refused_without_talk_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(ValueError, match="cannot be loaded as a pipeline of diffusers") as raised:
        generate(small_plan(models=[str(tmp_path / "model")]), tmp_path / "set", "cpu", progress=False)
    assert "huggingface.co" not in str(raised.value) and not (tmp_path / "set").exists()
