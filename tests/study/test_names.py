"""File names that are not UTF-8, which Linux allows, through a whole study and its evaluation."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from study.reconstructions import METHODS, votes, write_csv, write_folders

from dreamsim_guidance.cli import main
from dreamsim_guidance.data import read_judgments
from dreamsim_guidance.files.names import encoded
from dreamsim_guidance.study import Page, make_study, read_record

BYTES = os.fsdecode(b"caf\xe9 50%")
ODD = ("100%.png", "<b>&amp;.png", "naïve 図.png", "two\nlines.png")


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six references; the name of one is not UTF-8, and those of four are special in HTML, URLs or tables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DREAMSIM_GUIDANCE_CACHE", str(tmp_path / "cache"))
    write_folders(tmp_path, 6)
    try:
        for folder in ("targets", *METHODS):
            for i, name in enumerate((f"{BYTES}.png", *ODD)):
                (file,) = (tmp_path / folder).glob(f"scene {i}.*")
                file.rename(file.with_name(name).with_suffix(file.suffix))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    return tmp_path


def judged(folder: str = "judged") -> Path:
    study = make_study("targets", METHODS, "study", participants=3, progress=False).study
    files = [str(write_csv(Path(f"{p}.csv"), study, p, f"s{p}", votes(study, p))) for p in (1, 2, 3)]
    assert main(["study", "read", "study", *files, "--to", folder]) == 0
    return Path(folder)


def test_a_study_is_made_kept_and_read_again(workdir: Path) -> None:
    folder = judged()
    study = read_record("study")
    assert BYTES in {trial.reference for trial in study.trials.values()}
    json.loads(Path("study/study.json").read_text(encoding="utf-8"))
    Path("study/index.html").read_text(encoding="utf-8")
    with (folder / "data.csv").open(encoding="utf-8", newline="") as opened:
        paths = {row["ref_path"] for row in csv.DictReader(opened)}
    assert "targets/caf%E9 50%.png" in paths and "targets/100%.png" in paths
    assert len(read_judgments(folder)) == 18 and len(paths) == 6
    json.loads((folder / "report.json").read_text(encoding="utf-8"))


def test_every_output_of_an_evaluation_is_utf8(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the commands with a strict UTF-8 stdout, as that of a process whose output another program reads."""
    os.rename(judged(), os.fsdecode(b"judg\xe9"))
    for words, page in (
        ([os.fsdecode(b"judg\xe9"), "--html", "page.html"], "page.html"),
        ([os.fsdecode(b"judg\xe9"), "--json"], None),
        (["reconstructions", "targets", *METHODS, "--to", "results"], "results/reconstructions.html"),
        (["reconstructions", "targets", *METHODS, "--json"], None),
    ):
        streams = {name: io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for name in ("stdout", "stderr")}
        with monkeypatch.context() as patch:
            for name, stream in streams.items():
                patch.setattr(sys, name, stream)
            code = main(["evaluate", *words, "--metric", "mse"])
        out, err = (stream.buffer.getvalue().decode() for stream in streams.values())
        assert code == 0, err
        if page is None:
            content = json.loads(out)
            json.dumps(content, ensure_ascii=False).encode()  # no lone surrogate
            assert r"judg\xe9" in content.get("source", r"judg\xe9")
            assert "reconstructions" not in words or r"caf\xe9 50%" in content["references"]
        else:
            text = Path(page).read_text(encoding="utf-8")
            assert "<b>&amp;.png" not in text and "\udce9" not in text
            assert r"judg\xe9" in text or "reconstructions" in words
    json.loads(Path("results/reconstructions.json").read_text(encoding="utf-8"))


def test_a_missing_partner_is_reported_with_an_escaped_name(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("grainy", f"{BYTES}.png").unlink()
    assert main(["study", "make", "targets", *METHODS, "--to", "study"]) == 0
    assert r"missing in grainy: caf\xe9 50%" in capsys.readouterr().err
    assert main(["evaluate", "reconstructions", "targets", *METHODS, "--metric", "mse"]) == 0
    assert r"missing in grainy: caf\xe9 50%" in capsys.readouterr().err


def test_a_method_has_a_name_that_can_be_written(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.rename("grainy", os.fsdecode(b"gr\xe9y"))
    words = ("targets", "coarse", os.fsdecode(b"gr\xe9y"), "--to", "study")
    done = subprocess.run([sys.executable, "-m", "dreamsim_guidance", "study", "make", *words], capture_output=True)
    assert done.returncode == 2 and b"give it a plain name: NAME=" in done.stderr
    words = ("targets", "coarse", "grey=" + os.fsdecode(b"gr\xe9y"), "--to", "study")
    assert main(["study", "make", *words]) == 0
    assert read_record("study").methods == ("coarse", "grey")


@pytest.mark.parametrize("field", ["title", "question", "closing"])
def test_texts_that_people_read_are_unicode(field: str) -> None:
    with pytest.raises(ValueError, match=rf"the {field} 'caf\\udce9' is not valid Unicode text"):
        Page(**{field: "caf\udce9"})


def test_different_names_have_different_encodings() -> None:
    names = ["caf\udce9", "caf%E9", "caf%25E9", "%\udce9", "%%E9", "a\nb", "a%0Ab", "café", "100%"]
    texts = [encoded(name) for name in names]
    assert texts == ["caf%E9", "caf%25E9", "caf%2525E9", "%%E9", "%%25E9", "a%0Ab", "a%250Ab", "café", "100%"]
    assert len(set(texts)) == len(names)
