"""The recipes invert-vae and invert-sd15-vae, at toy size: rows, judges that took no part, resumption."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

from dreamsim_guidance import DreamSim
from dreamsim_guidance.inversion import Inversion, autoencoder_run
from dreamsim_guidance.inversion.autoencoder import InvertVAE
from dreamsim_guidance.losses.shift_tolerant import ShiftTolerantAlexNet
from dreamsim_guidance.metric import BranchConfig, Ensemble
from dreamsim_guidance.recipes.invert_vae import invert_sd15_vae, invert_vae


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as of a whole pipeline, with an autoencoder in `vae`."""
    folder = tmp_path_factory.mktemp("pipeline")
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1, **blocks).save_pretrained(
        folder / "vae"
    )
    return folder


def test_losses_and_starts_are_compared_and_a_run_goes_on(
    pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    torch.save(ShiftTolerantAlexNet().state_dict(), tmp_path / "weights.pth")
    config = replace(
        invert_sd15_vae(),
        model=str(pipeline),
        metric="pocket",
        lpips_weights=tmp_path / "weights.pth",
        size=32,
        steps=6,
    )
    results = config.run(tmp_path / "run")
    rows = results["rows"]
    assert [(row["start"], row["optimised"]) for row in rows[:3]] == [
        ("encoder", None), ("encoder", "mse"), ("encoder", "dreamsim"),
    ]  # fmt: skip
    assert len(rows) == 9 and all(len(row["PSNR"]) == 2 for row in rows)
    assert {"PSNR", "1 - SSIM", "held-out branch", "LPIPS"} < set(rows[1])
    assert all(after > before for before, after in zip(rows[0]["PSNR"], rows[1]["PSNR"], strict=True))
    table = (tmp_path / "run" / "table.md").read_text().splitlines()
    assert len(table) == 11 and table[3].count("(") == 1 and "(" not in table[2]  # what was optimised is marked
    assert (tmp_path / "run" / "sheet.png").is_file()

    optimised: list[str] = []
    invert = autoencoder_run.invert

    def recording(*arguments: object, **options: object) -> object:
        optimised.append(str(options["progress"]))
        return invert(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(autoencoder_run, "invert", recording)
    (tmp_path / "run" / "lpips, from zero" / "result.safetensors").unlink()
    again = config.run(tmp_path / "run")
    assert optimised == ["lpips, from zero"]
    assert [row["PSNR"] for row in again["rows"]] == [row["PSNR"] for row in rows]


def test_without_weights_of_lpips_the_rest_runs(
    pipeline: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autoencoder_run, "has_shift_tolerant", lambda: False)
    options: dict[str, Any] = {"subfolder": "vae", "metric": "pocket", "size": 32, "steps": 1, "starts": ("zero",)}
    config = replace(invert_vae(), model=str(pipeline), **options)
    rows = config.run(tmp_path)["rows"]
    assert [row["optimised"] for row in rows] == [None, "mse", "dreamsim", "mse + dreamsim"] and "LPIPS" not in rows[0]
    assert 'pip install "dreamsim-guidance[losses]", or give lpips_weights' in caplog.text


def test_maps_of_a_metric_are_followed(pipeline: Path, tmp_path: Path) -> None:
    branch = BranchConfig("cnn", "test_resnet", image_size=32, layers=(0, 1), spatial=True)
    DreamSim(Ensemble([branch, replace(branch, name="judge")])).save(tmp_path / "maps.safetensors")
    options: dict[str, Any] = {"subfolder": "vae", "metric": str(tmp_path / "maps.safetensors"), "size": 32, "steps": 8}
    config = replace(invert_vae(), model=str(pipeline), starts=("encoder",), losses=("dreamsim",), **options)
    before, after = config.run(tmp_path / "run")["rows"]
    history = Inversion.load(tmp_path / "run" / "dreamsim, from encoder").history["loss"]
    assert (history.amin(0) < 0.95 * history[0]).all() and before["held-out branch"] != after["held-out branch"]


def test_settings_that_make_no_sense_are_refused() -> None:
    for changes, message in (
        ({"losses": ("l3",)}, "unknown losses 'l3'; known: mse, dreamsim, mse"),
        ({"losses": ()}, "unknown losses 'nothing'"),
        ({"starts": ("noise",)}, "unknown starts 'noise'; known: encoder, zero"),
        ({"steps": 0}, "size and steps must be at least 1"),
        ({"lr": 0.0}, "lr and dreamsim must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            InvertVAE("taef2", **changes)  # type: ignore[arg-type]
