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
@pytest.mark.parametrize(
    ("example", "picture", "told"),
    [
        ("guide_two_references", "two_references.png", r"unguided +\d\.\d{4} \d\.\d{4}"),
        ("guide_with_mask", "with_mask.png", r"guided on the left +\d\.\d{4} +\d\.\d{4}"),
        ("guide_img2img", "img2img.png", r"guided +\d\.\d{4} +\d\.\d{4}"),
        ("transfer_style_and_layout", "transfer.png", r"style and layout +dreamsim \d\.\d{4}, layout \d\.\d{4}"),
    ],
)
def test_guidance_is_shown(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    example: str,
    picture: str,
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [example, "--steps", "2", "--n", "1"])
    runpy.run_path(str(ROOT / "examples" / f"{example}.py"), run_name="__main__")
    assert (tmp_path / picture).is_file()
    assert re.search(told, capsys.readouterr().out)


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
