"""The command `generate`."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dreamsim_guidance.cli.entry import main
from dreamsim_guidance.data import read_triplet_rows
from dreamsim_guidance.generation import named_models
from dreamsim_guidance.generation.plan_file import built_in_plans, read_plan

PLAN = """
categories = "names.txt"
templates = ["<category>, flat drawing"]
ways = ["seed"]
metric = "pocket"

[[models]]
model = "pocket"
steps = 2
"""


@pytest.fixture(scope="module", autouse=True)
def load_each_model_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(named_models, "load", functools.cache(named_models.load))
        yield


def test_a_plan_becomes_a_folder_of_triplets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "names.txt").write_text("red star\nblue heart\n")
    (tmp_path / "plan.toml").write_text(PLAN)
    words = ["generate", str(tmp_path / "plan.toml"), "--to", str(tmp_path / "set"), "--device", "cpu"]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert "2 of 2 triplets kept" in printed.out and "sampled 6 of 6 pictures" in printed.err
    assert "image/s" in printed.err or "s/image" in printed.err  # progress
    assert len(read_triplet_rows(tmp_path / "set")) == 2
    assert main(words) == 0
    assert "sampled" not in capsys.readouterr().err.replace("sampling", "")
    assert main(["evaluate", str(tmp_path / "set"), "--metric", "mse"]) == 2
    assert "nobody has judged the triplets" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["flux", "pocket", "sd14", "sd15", "sdxl"])
def test_a_built_in_plan_is_shown_to_begin_ones_own(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", name, "--show"]) == 0
    text = capsys.readouterr().out
    assert text == built_in_plans()[name] and "models" in text
    if "cifar100.txt" not in text:
        (tmp_path / "own.toml").write_text(text)
        assert read_plan(tmp_path / "own.toml") == read_plan(name)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["nothing"],
            "unknown plan 'nothing'; give a file (.toml or .json), or one of flux, pocket, sd14, sd15, sdxl.",
        ),
        (["missing.toml", "--to", "set"], "the plan 'missing.toml' is not a file; check its path."),
        (["pocket"], "a folder is needed: --to DIR"),
        (["own.toml", "--show"], "'own.toml' is not a built-in plan; --show prints flux"),
        (["wrong.json", "--to", "set"], "the plan 'wrong.json': a plan has the unknown key 'model'"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_folder(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.json").write_text(json.dumps({"model": "pocket", "categories": ["red star"]}))
    assert main(["generate", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "set").exists()
