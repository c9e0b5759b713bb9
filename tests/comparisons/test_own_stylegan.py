"""Photographs through a StyleGAN's file or the pocket GAN, with and without pivotal tuning."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dreamsim_guidance.comparisons.own_stylegan import InvertStyleGAN
from dreamsim_guidance.inversion import Inversion
from dreamsim_guidance.pocket import load_pocket
from dreamsim_guidance.preprocess import save_image
from dreamsim_guidance.recipes.invert_stylegan import invert_stylegan, pivotal_tuning


@pytest.fixture
def photos(tmp_path: Path) -> tuple[Path, ...]:
    files = tuple(tmp_path / f"{i}.png" for i in range(2))
    for i, file in enumerate(files):
        save_image(torch.rand(1, 3, 20, 30, generator=torch.Generator().manual_seed(i)), file)
    return files


def test_photographs_are_inverted_with_noise(photos: tuple[Path, ...], tmp_path: Path) -> None:
    figures = dataclasses.replace(invert_stylegan(), photos=photos, steps=2).run(tmp_path / "run")
    result = Inversion.load(tmp_path / "run" / "inversion")
    assert result.leaves["ws"].shape == (2, 8, 64) and any("noise_const" in name for name in result.leaves)
    assert figures["loss"] == pytest.approx(result.loss.tolist()) and "tuned" not in figures
    assert (tmp_path / "run" / "sheet.png").is_file()


def test_tuning_lowers_the_loss_and_its_weights_fit_the_network(photos: tuple[Path, ...], tmp_path: Path) -> None:
    figures = dataclasses.replace(pivotal_tuning(), photos=photos, steps=2, tuning=6, regularise=0.0).run(tmp_path)
    assert sum(figures["tuned"]["loss"]) < sum(figures["loss"])
    missing = load_pocket("gan").load_state_dict(load_file(tmp_path / "tuned.safetensors"), strict=False)
    assert not missing.unexpected_keys and all("mapping" in n or "noise_const" in n for n in missing.missing_keys)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no photograph; give photos"):
        invert_stylegan().run(tmp_path)
    with pytest.raises(ValueError, match="a network's file needs code=FOLDER"):
        InvertStyleGAN(network=tmp_path / "ffhq.pkl")
    with pytest.raises(ValueError, match="steps must be at least 1"):
        InvertStyleGAN(steps=0)
