import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from study.reconstructions import METHODS, write_folders

from dreamsim_guidance import load_image, save_image
from dreamsim_guidance.cli import main
from dreamsim_guidance.study import Page, make_study, read_record
from dreamsim_guidance.study.design import DEGRADED, TARGET


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_folders(tmp_path)
    return tmp_path


def page_data(folder: Path) -> dict[str, Any]:
    text = (folder / "index.html").read_text()
    match = re.search(r'<script type="application/json" id="study">(.*?)</script>', text, re.DOTALL)
    assert match
    return json.loads(match.group(1))


@pytest.mark.parametrize("mode", ["2afc", "jnd"])
def test_the_page_contains_no_method_no_reference_and_no_other_address(workdir: Path, mode: Any) -> None:
    make_study("targets", METHODS, "study", mode=mode, progress=False)
    text = (workdir / "study" / "index.html").read_text()
    text = re.sub(r"repeat\(\d|event\.(repeat|target)|catch( \{|\(\(\))", "", text)  # of the languages
    for word in (*METHODS, "scene", "catch", "repeat", "target", "degraded", "http:", "https:", "@import", "url("):
        assert word not in text, word
    assert sorted(os.listdir(workdir / "study")) == ["images", "index.html", "study.json"]
    assert all(re.fullmatch(r"\d\d\.png", name) for name in os.listdir(workdir / "study" / "images"))


def test_pictures_are_those_of_the_files_without_what_was_written_into_them(workdir: Path) -> None:
    from PIL import Image, PngImagePlugin

    notes = PngImagePlugin.PngInfo()
    notes.add_text("parameters", "made by the grainy method")
    Image.open("grainy/scene 1.png").save("grainy/scene 1.png", pnginfo=notes)
    study = make_study("targets", METHODS, "study", progress=False).study
    files = {(picture.reference, picture.shows): Path("study") / picture.file for picture in study.pictures}
    assert len(files) == 16
    for name, ending in {TARGET: "targets/*.png", "coarse": "coarse/*.jpg", "washed": "washed/*.bmp"}.items():
        for file in workdir.glob(ending):
            torch.testing.assert_close(load_image(files[file.stem, name]), load_image(file), rtol=0, atol=0)
    for file in files.values():
        with Image.open(file) as picture:
            assert picture.format == "PNG" and not picture.info


def test_each_trial_of_the_page_shows_what_the_record_says(workdir: Path) -> None:
    result = make_study("targets", METHODS, "study", participants=5, seed=4, progress=False)
    of = {int(Path(p.file).stem): (p.reference, p.shows) for p in (*result.study.pictures, *result.study.extra)}
    data = page_data(workdir / "study")
    assert result.study == read_record("study") and data["id"] == result.study.id
    seen = 0
    for trials, block in zip(data["blocks"], result.study.blocks, strict=True):
        for (id, reference, left, right), trial in zip(trials, block, strict=True):
            assert id == trial.id and of[reference] == (trial.reference, TARGET)
            assert (of[left], of[right]) == ((trial.reference, trial.left), (trial.reference, trial.right))
            assert len({reference, left, right}) == 3  # a catch trial has its own copy of the reference
            seen += trial.kind == "catch"
    assert seen == 25


def test_jnd_trials_show_reconstruction_and_reference_in_both_orders(workdir: Path) -> None:
    study = make_study("targets", ["coarse"], "study", mode="jnd", trials=4, catch=4, progress=False).study
    of = {int(Path(p.file).stem): (p.reference, p.shows) for p in (*study.pictures, *study.extra)}
    data = page_data(workdir / "study")
    orders = set()
    for trials, block in zip(data["blocks"], study.blocks, strict=True):
        for (_, first, second), trial in zip(trials, block, strict=True):
            assert [of[first][1], of[second][1]] == [trial.left, trial.right] and first != second
            orders.add((trial.left, trial.right))
    assert orders == {(TARGET, "coarse"), ("coarse", TARGET), (TARGET, TARGET), (TARGET, DEGRADED), (DEGRADED, TARGET)}


def test_the_wrong_candidate_of_a_catch_trial_is_far_from_the_reference(workdir: Path) -> None:
    study = make_study("targets", METHODS, "study", progress=False).study
    wrong = [picture for picture in study.extra if picture.shows == DEGRADED]
    assert len(wrong) == 4
    for picture in wrong:
        target, degraded = load_image(picture.source), load_image(Path("study") / picture.file)
        assert target.shape == degraded.shape and float((target - degraded).square().mean().sqrt()) > 0.05


def test_plain_references_are_not_used_for_catch_trials(workdir: Path) -> None:
    for i in range(3):
        save_image(torch.full((1, 3, 24, 24), 0.3 * i), f"targets/scene {i}.png")
    study = make_study("targets", METHODS, "study", progress=False).study
    assert {trial.reference for trial in study.trials.values() if trial.kind == "catch"} == {"scene 3"}
    save_image(torch.full((1, 3, 24, 24), 0.5), "targets/scene 3.png")
    with pytest.raises(ValueError, match=r"every reference is so plain .*: --catch 0"):
        make_study("targets", METHODS, "other", progress=False)
    assert make_study("targets", METHODS, "other", catch=0, progress=False).study.extra == ()


def test_the_same_seed_writes_the_same_files(workdir: Path) -> None:
    for name in ("one", "two"):
        make_study("targets", METHODS, name, seed=3, progress=False)
    first, second = (
        {f.relative_to(root): f.read_bytes() for f in root.rglob("*.*")} for root in (workdir / "one", workdir / "two")
    )
    assert first == second
    ids = {read_record("one").id, make_study("targets", METHODS, "three", seed=4, progress=False).study.id}
    save_image(torch.rand(1, 3, 24, 24), "targets/scene 0.png")
    ids.add(make_study("targets", METHODS, "four", seed=3, progress=False).study.id)
    assert len(ids) == 3


def test_missing_partners_are_reported_and_the_others_are_compared(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("grainy/scene 2.png").unlink()
    Path("washed/scene 2.bmp").unlink()
    Path("grainy/scene 0.png").unlink()
    save_image(torch.rand(1, 3, 24, 36), "washed/scene 1.bmp")
    save_image(torch.rand(1, 3, 24, 24), "coarse/odd.png")
    assert main(["study", "make", "targets", *METHODS, "--to", "study", "--participants", "3"]) == 0
    out, err = capsys.readouterr()
    assert "missing in grainy: scene 0, scene 2" in err and "missing in targets: odd" in err
    assert "1 pictures have another aspect ratio" in err and "washed/scene 1.bmp" in err
    assert "study/index.html" in out and "3 votes for each triplet" in out
    compared = {(trial.reference, *sorted((trial.left, trial.right))) for trial in read_record("study").trials.values()}
    compared = {item for item in compared if TARGET not in item}
    assert len(compared) == 3 + 3 + 1 and ("scene 0", "coarse", "washed") in compared
    assert not any(item[0] == "scene 2" for item in compared)
    assert not any(picture.reference == "scene 2" for picture in read_record("study").pictures)


def test_a_method_can_be_given_another_name(workdir: Path) -> None:
    (workdir / "run2").mkdir()
    (workdir / "coarse").rename("run2/out")
    (workdir / "grainy").rename("run2/deep")
    study = make_study("targets", ["one=run2/out", "run2/deep"], "study", progress=False).study
    assert study.methods == ("one", "deep")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("targets", "coarse"), "at least 2 methods are needed, got 1"),
        (("none", "coarse", "grainy"), "'none' is not a folder; give the folder with the target pictures"),
        (("targets", "coarse", "none"), "'none' is not a folder; give the folder with the pictures of a method"),
        (("targets", "coarse", "coarse"), "two methods are called 'coarse'"),
        (("targets", "coarse", "b=coarse"), "'coarse' and 'b' are the same folder"),
        (("targets", "coarse", "targets"), "is the folder of the targets"),
        (("targets", "coarse", "empty"), "no pictures in 'empty'"),
        (("targets", "strange", "other"), "no picture of the methods has the name of one in 'targets'"),
        (("targets", "coarse", "../=grainy"), "a method cannot be called '../'"),
        (("targets", "coarse", "twice"), "have one name; pictures are matched by it"),
        (("targets", "coarse", "grainy", "--trials", "9"), "9 trials for each participant are too many: there are 4"),
        (
            ("targets", "coarse", "grainy", "--repeats", "2"),
            "at most a third of the 4 trials can be repeated, 1, got 2",
        ),
        (("targets", "coarse", "grainy", "--size", "3"), "size must lie between 32 and 4096"),
        (
            ("targets", "coarse", "grainy", "--name", "Is Grainy good?"),
            "title 'Is Grainy good?' names the method 'grainy'",
        ),
        (("targets", "coarse", "broken"), "1 of 12 pictures cannot be read: 'broken/scene 3.png'"),
        (("targets", "coarse", "grainy", "--mode", "rating"), ""),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    workdir: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    for folder in ("empty", "strange", "other", "twice", "broken"):
        (workdir / folder).mkdir()
    for folder in ("strange", "other"):
        save_image(torch.rand(1, 3, 8, 8), workdir / folder / "unknown.png")
    for ending in (".png", ".jpg"):
        save_image(torch.rand(1, 3, 8, 8), workdir / "twice" / f"scene 1{ending}")
    for i in range(4):
        whole = (workdir / "grainy" / f"scene {i}.png").read_bytes()
        (workdir / "broken" / f"scene {i}.png").write_bytes(whole if i < 3 else whole[: len(whole) // 2])
    before = sorted(workdir.rglob("*"))
    assert main(["study", "make", *words, "--to", "study"]) == 2
    out, err = capsys.readouterr()
    assert message in err + out
    assert sorted(workdir.rglob("*")) == before


def test_existing_files_are_never_overwritten(workdir: Path) -> None:
    (workdir / "study").mkdir()
    (workdir / "study" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="'study' exists already and is not an empty folder"):
        make_study("targets", METHODS, "study", progress=False)
    assert os.listdir(workdir / "study") == ["notes.txt"]


def test_a_failure_while_writing_leaves_nothing(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("dreamsim_guidance.study.exporter.render", full)
    before = sorted(workdir.rglob("*"))
    with pytest.raises(OSError, match="no space left"):
        make_study("targets", METHODS, "study", progress=False)
    assert sorted(workdir.rglob("*")) == before


def test_texts_of_the_page_cannot_break_it(workdir: Path) -> None:
    title = 'A </script><script>alert("x")</script> /*PROGRAM*/ & <b>'
    make_study("targets", METHODS, "study", page=Page(title=title, size=222), progress=False)
    text = (workdir / "study" / "index.html").read_text()
    assert page_data(workdir / "study")["title"] == title
    assert text.count("</script>") == 2 and "<title>A &lt;/script&gt;" in text and "222px" in text
