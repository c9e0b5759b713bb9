"""Results are printed before anything is written, so that a file that cannot be written costs that file alone."""

from __future__ import annotations

import json
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from study.reconstructions import METHODS, votes, write_csv, write_folders

from dreamsim_guidance.cli import main
from dreamsim_guidance.cli.outputs import write_files
from dreamsim_guidance.study import make_study

TURNS = """
import os, pathlib

def distance(x, y):  # while the command runs, its folder of results is replaced by a file
    if os.path.isdir("results"):
        os.rmdir("results")
        pathlib.Path("results").write_text("in the way")
    return (x - y).square().flatten(1).mean(1)
"""


@contextmanager
def full_disk(bytes_left: int = 2000) -> Iterator[None]:
    """Let every file that grows beyond `bytes_left` bytes fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Reconstructions, a study of them, three people's votes, judgments made of these, and a metric that spoils a folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DREAMSIM_GUIDANCE_CACHE", str(tmp_path / "cache"))
    write_folders(tmp_path, 4)
    study = make_study("targets", METHODS, "study", participants=3, progress=False).study
    for p in (1, 2, 3):
        write_csv(tmp_path / f"{p}.csv", study, p, f"s{p}", votes(study, p))
    assert main(["study", "read", "study", "1.csv", "2.csv", "3.csv", "--to", "judged"]) == 0
    (tmp_path / "turns.py").write_text(TURNS)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(list(words))
    out, err = capsys.readouterr()
    return code, out, err


COMMANDS = {
    "evaluate": (("evaluate", "judged", "--html", "results/page.html", "--no-cache"), "fraction"),
    "evaluate --json": (("evaluate", "judged", "--html", "results/page.html", "--no-cache", "--json"), '"fraction"'),
    "reconstructions": (("evaluate", "reconstructions", "targets", *METHODS, "--to", "results"), "coarse"),
    "reconstructions --html": (
        ("evaluate", "reconstructions", "targets", *METHODS, "--html", "results/page.html"), "coarse",
    ),
    "reconstructions --json": (
        ("evaluate", "reconstructions", "targets", *METHODS, "--to", "results", "--json"), '"coarse"',
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("fault", ["a full disk", "a folder that went away"])
def test_results_are_printed_even_if_files_cannot_be_written(
    name: str, fault: str, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, expected = COMMANDS[name]
    code, whole, _ = run(capsys, *words, "--metric", "mse")
    assert code == 0
    if fault == "a full disk":
        with full_disk():
            code, out, err = run(capsys, *words, "--metric", "mse")
        assert "File too large" in err or "not written" in err
    else:
        for file in Path("results").iterdir():
            file.unlink()
        code, out, err = run(capsys, *words, "--metric", "turns.py:distance")
        whole = whole.replace("mse", "turns.py:distance")
    assert code == 2 and err.splitlines()[-1].startswith("error: ")
    if "--json" in words:
        assert expected in out and json.loads(out).keys() == json.loads(whole).keys()
    else:
        assert expected in out and len(out.splitlines()) == len(whole.splitlines())
    assert not list(workdir.glob(".*")) and not list(workdir.glob("results/.*"))


def test_one_file_that_cannot_be_written_leaves_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(file: Path) -> None:
        raise OSError(28, "No space left on device", str(file))

    files = {tmp_path / "a": fail, tmp_path / "b": lambda file: file.write_text("b"), tmp_path / "c": fail}
    with pytest.raises(OSError, match=r"No space left on device.*a'"):
        write_files(files)
    err = capsys.readouterr().err
    assert (tmp_path / "b").read_text() == "b" and f"written: {tmp_path / 'b'}" in err
    assert f"'{tmp_path / 'c'}' was not written: " in err


def test_people_who_voted_are_printed_before_their_judgments_are_written(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("study", "read", "study", "1.csv", "2.csv", "--to", "again")
    with full_disk(100):
        code, out, err = run(capsys, *words)
    assert code == 2 and re.search(r"error: .*File too large", err)
    assert "participant 1 (s1): " in out and "24 votes of 2 people (of 2) for 12 triplets" in out
    assert not Path("again").exists() and not list(workdir.glob(".again*"))
    assert run(capsys, *words)[0] == 0 and Path("again/data.csv").is_file()


def test_a_study_on_a_full_disk_leaves_nothing_half_written(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with full_disk(100):
        code, _, err = run(capsys, "study", "make", "targets", *METHODS, "--to", "more")
    assert code == 2 and "error: " in err
    assert not Path("more").exists() and not list(workdir.glob(".more*"))


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "judged", "--metric", "mse", "--html", "turns.py/page.html"),
        ("evaluate", "reconstructions", "targets", *METHODS, "--metric", "mse", "--html", "turns.py/page.html"),
        ("evaluate", "reconstructions", "targets", *METHODS, "--metric", "mse", "--to", "turns.py"),
        ("evaluate", "reconstructions", "targets", *METHODS, "--metric", "mse", "--html", "results"),
        ("study", "make", "targets", *METHODS, "--to", "turns.py/study"),
        ("study", "read", "study", "1.csv", "--to", "turns.py/judged"),
    ],
)
def test_an_impossible_output_path_is_refused_before_the_work(
    words: tuple[str, ...], workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("results").mkdir()
    code, out, err = run(capsys, *words)
    assert code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1
