"""The recipes of retrieval, on small sources."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dreamsim_guidance.cli import main
from dreamsim_guidance.preprocess import save_image


def test_scenes_and_crops_are_evaluated_offline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    words = ["scenes=3", "metrics=pocket,mse", "cutoffs=1", "resamples=100", "cache=False"]
    assert main(["run", "evaluate-retrieval", *words, "--folder", str(folder)]) == 0
    output = capsys.readouterr()
    tasks = json.loads(output.out)["tasks"]
    assert len(tasks) == 12 and tasks["crops"]["scores"]["pocket"]["mAP"]["value"] > 0.8
    assert set(tasks["scene"]["scores"]) == {"pocket", "mse"}
    assert "difference to pocket" in output.err
    assert "| crops" in (folder / "report.md").read_text()
    assert json.loads((folder / "retrieval.json").read_text())["tasks"] == tasks


def test_every_source_becomes_a_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cat/1.png", "cat/2.png", "dog/3.png", "dog/4.png"):
        (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        save_image(torch.rand(3, 16, 16), tmp_path / "pets" / name)
    (tmp_path / "labels.csv").write_text("path,label\npets/cat/1.png,x\npets/dog/3.png,x\npets/dog/4.png,y\n")
    words = [f"folder={tmp_path / 'pets'}", f"table={tmp_path / 'labels.csv'}", f"crops_of={tmp_path / 'pets'}"]
    words += ["metrics=mse", "queries=2", "resamples=100"]
    assert main(["run", "evaluate-retrieval", *words, "--folder", str(tmp_path / "run")]) == 0
    tasks = json.loads(capsys.readouterr().out)["tasks"]
    assert {name: (task["queries"], task["gallery"]) for name, task in tasks.items()} == {
        "pets": (2, 4),
        "labels": (2, 3),
        "crops of pets": (2, 4),
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["scenes=1"], "scenes must be 0 or at least 2"),
        (["scenes=0", "crops=False"], "nothing to evaluate"),
        (["cutoffs=0"], "cutoffs must be at least 1"),
        (["split=val"], "split is a split of a table"),
        (["queries=0"], "queries must be at least 1"),
        (["amount=2"], "amount must lie in"),
        (["scenes=2", "metrics=nothing"], "unknown metric 'nothing'"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["run", "evaluate-retrieval", *words, "--folder", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
