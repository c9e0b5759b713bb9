"""What a reader would copy runs: the programs in examples/ and the README's first lines of code."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

from dreamsim_guidance import save_image

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
in_the_repository = pytest.mark.skipif(not README.is_file(), reason="the tests were copied out of the repository")


@in_the_repository
def test_the_autoencoder_is_trained_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train_autoencoder.py", "--steps", "2"])
    runpy.run_path(str(ROOT / "examples" / "train_autoencoder.py"), run_name="__main__")
    assert (tmp_path / "autoencoder.png").is_file()
    assert (
        len(re.findall(r"DreamSim \d\.\d+, L1 \d\.\d+, 1 - SSIM \d\.\d+ on photographs", capsys.readouterr().out)) == 2
    )


@in_the_repository
def test_the_first_lines_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    monkeypatch.chdir(tmp_path)
    save_image(torch.rand(1, 3, 50, 70), "photo.png")
    names: dict[str, torch.Tensor] = {}
    exec(code[1], names)
    assert names["distance"].shape == (4,) and names["image"].grad is not None


@in_the_repository
def test_the_readme_points_at_files_that_exist() -> None:
    places = re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert places and all((ROOT / place).is_file() for place in places)
