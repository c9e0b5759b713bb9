"""The command `embed`: what it prints, and mistakes that it names."""

from __future__ import annotations

from pathlib import Path

import pytest
from collections_of_pictures import write_pictures, write_shard

from dreamsim_guidance import DreamSim
from dreamsim_guidance.cli import main

pytest.importorskip("lancedb")


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_summary_goes_to_stdout_and_broken_pictures_to_stderr(
    metric: DreamSim, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = write_pictures(tmp_path / "pictures", range(4))
    (source / "bad\n.png").write_bytes(b"text")
    metric.save(tmp_path / "m.safetensors", source="test", licence="none")
    code, out, err = run(capsys, "embed", "pictures", "--to", "index", "--metric", "m.safetensors")
    assert code == 0 and out.startswith("embedded 4, copies 0, broken 1, already there 0; ") and "images/s" in out
    assert f"broken: {source}/bad%0A.png: not a picture" in err and "image/s" in err  # the bar shows rate and time left
    monkeypatch.chdir(source)  # the index names the metric's file by its absolute path
    code, out, _ = run(capsys, "embed", source, "--to", tmp_path / "index")
    assert code == 0 and out.startswith("embedded 0, copies 0, broken 1, already there 4; ")


def test_it_is_an_error_if_nothing_could_be_embedded(
    metric: DreamSim, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    metric.save("m.safetensors", source="test", licence="none")
    write_shard(tmp_path / "bad.tar", {"a.png": b"text", "b.png": b""})
    write_shard(tmp_path / "other.tar", {"a.txt": b"text"})
    for source, reasons in (
        ("bad.tar", 2),
        ("bad.tar", 2),
        ("other.tar", 0),
    ):  # also if it is known that they are broken
        code, out, err = run(capsys, "embed", source, "--to", "index", "--metric", "m.safetensors")
        assert code == 2 and out.startswith(f"embedded 0, copies 0, broken {reasons}, already there 0; ")
        assert (
            err.splitlines()[-1].startswith("error: no picture could be embedded") and err.count("broken: ") == reasons
        )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--to", "index"), "embed needs a source"),
        (("nowhere", "--to", "index"), "there is no file or folder 'nowhere'"),
        ((".", "--to", "index"), "'.' holds no picture"),
        (("", "--to", "index"), "a source is empty"),
        (("pictures", "--to", "pictures/000.png"), "'pictures/000.png' is a file; give a new or an empty folder"),
        (("pictures", "--to", "index", "--metric", "no-such"), "unknown metric 'no-such'"),
        (("pictures", "--to", "pictures", "--metric", "pocket"), "'pictures' holds other files"),
        (("pictures", "--to", "index", "--batch", "0", "--metric", "pocket"), "batch and workers must be at least 1"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_index(
    words: tuple[str, ...],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if "pictures" in words:
        write_pictures(tmp_path / "pictures", range(2))
    code, out, err = run(capsys, "embed", *words)
    assert (code, out) == (2, "") and err.splitlines()[-1].startswith(f"error: {message}")
    assert not (tmp_path / "index" / "index.json").exists() and not (tmp_path / "pictures" / ".embed.lock").exists()
