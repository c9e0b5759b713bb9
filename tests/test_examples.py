"""Every program of examples/ runs offline in a small form, and so do those that draw the documentation's pictures."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dreamsim_guidance import save_image

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
EXAMPLES = ROOT / "examples"
in_the_repository = pytest.mark.skipif(not README.is_file(), reason="the tests were copied out of the repository")

GUIDED = [
    ("guide_two_references", "two_references.png", r"unguided +\d\.\d{4} \d\.\d{4}"),
    ("guide_with_mask", "with_mask.png", r"guided on the left +\d\.\d{4} +\d\.\d{4}"),
    ("guide_img2img", "img2img.png", r"guided +\d\.\d{4} +\d\.\d{4}"),
    ("invert_own_generator", "own_generator.png", r"mse and DreamSim +mse \d\.\d{4}, DreamSim \d\.\d{4}"),
    ("compare_inversions", "compare_inversions.png", r"from_encoder +loss \d\.\d{4}"),
    ("transfer_style_and_layout", "transfer.png", r"style and layout +dreamsim \d\.\d{4}, layout \d\.\d{4}"),
]
"""An example, the picture that it writes, and a line of numbers that it prints."""

ALSO_RUN = {"train_autoencoder.py", "train_on_slurm.sh"}


def run(program: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [program.name, *arguments])
    runpy.run_path(str(program), run_name="__main__")


@in_the_repository
def test_the_autoencoder_is_trained_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run(EXAMPLES / "train_autoencoder.py", monkeypatch, "--steps", "2")
    assert (tmp_path / "autoencoder.png").is_file()
    assert (
        len(re.findall(r"DreamSim \d\.\d+, L1 \d\.\d+, 1 - SSIM \d\.\d+ on photographs", capsys.readouterr().out)) == 2
    )


@in_the_repository
@pytest.mark.parametrize(("example", "picture", "numbers"), GUIDED)
def test_the_picture_and_the_numbers_are_shown(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    example: str,
    picture: str,
    numbers: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    run(EXAMPLES / f"{example}.py", monkeypatch, "--steps", "2", "--n", "1")
    assert (tmp_path / picture).is_file()
    assert re.search(numbers, capsys.readouterr().out)


@in_the_repository
def test_the_script_for_slurm_is_a_script() -> None:
    subprocess.run(["bash", "-n", str(EXAMPLES / "train_on_slurm.sh")], check=True)


@in_the_repository
def test_every_example_is_short_listed_and_run_here() -> None:
    programs = {file.name for file in EXAMPLES.iterdir() if file.suffix in (".py", ".sh")}
    assert programs == ALSO_RUN | {f"{example}.py" for example, _, _ in GUIDED}
    index = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for program in programs:
        assert f"({program})" in index
        assert len((EXAMPLES / program).read_text(encoding="utf-8").splitlines()) <= 80, program


@in_the_repository
@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("draw_strengths", ["--strengths", "0.005", "--steps", "2", "--n", "1"]),
        ("draw_distance_map", []),
    ],
)
def test_the_pictures_of_the_documentation_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, arguments: list[str]
) -> None:
    run(ROOT / "docs" / "pictures" / f"{program}.py", monkeypatch, *arguments, "--to", str(tmp_path / "picture.png"))
    assert (tmp_path / "picture.png").stat().st_size > 1000


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
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", README.read_text(encoding="utf-8"))
    assert targets and all((ROOT / target).is_file() for target in targets)
