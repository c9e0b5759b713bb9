"""Fine-tuning of an AutoencoderKL: it learns, resumes to the same weights, and leaves what diffusers can load."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

from dreamsim_guidance import save_image
from dreamsim_guidance.recipes.train_vae import train_vae_with_dreamsim
from dreamsim_guidance.training.accelerate_state import own_accelerate_state
from dreamsim_guidance.training.optimiser import Optimiser
from dreamsim_guidance.training.picture_crops import CropBatches, pictures_in, split_off, squares
from dreamsim_guidance.training.vae import TrainVAE
from dreamsim_guidance.training.vae_run import _Run


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six smooth pictures of two sizes, one of them in a folder inside."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = torch.Generator().manual_seed(0)
    for i in range(6):
        coarse = torch.rand(1, 3, 4, 4, generator=generator)
        image = torch.nn.functional.interpolate(coarse, (40, 56 if i % 2 else 48), mode="bicubic").clamp(0, 1)
        save_image(image, folder / ("more" if i == 5 else "") / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vae")
    torch.manual_seed(0)
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        layers_per_block=1,
        scaling_factor=0.7,
    ).save_pretrained(folder)
    return folder


def settings(pictures: Path, vae: Path, **changes: Any) -> TrainVAE:
    tiny = TrainVAE(
        pictures,
        str(vae),
        metric="pocket",
        size=32,
        held_out=2,
        optimiser=Optimiser("adamw", 3e-3, (0.9, 0.99), clip=1.0),
        steps=4,
        batch=2,
        validate_every=4,
        save_every=2,
        log_every=1,
        workers=0,
    )
    return replace(tiny, **changes)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoencoderKL.from_pretrained(folder / "vae").state_dict()


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"part": "all", "balanced": True, "average": 0.9, "precision": "bf16", "mse": 1.0},
        {"dreamsim": 0.0, "gradient_checkpointing": True},
    ],
    ids=["decoder", "all, balanced, averaged, bf16", "pixels alone"],
)
def test_a_killed_run_goes_on_to_the_same_weights(
    pictures: Path, vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    config = settings(pictures, vae, **changes)
    results = config.run(tmp_path / "whole")
    made, step = [], _Run._step

    def killed(run: _Run, number: int, images: torch.Tensor) -> dict[str, torch.Tensor]:
        if number == 3 and len(made) == 3:
            raise Killed
        made.append(number)
        return step(run, number, images)

    monkeypatch.setattr(_Run, "_step", killed)
    with pytest.raises(Killed):
        config.run(tmp_path / "killed")
    assert config.run(tmp_path / "killed") == results
    assert made == [0, 1, 2, 2, 3]  # from the checkpoint of step 2 on
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    history = [json.loads((tmp_path / name / "history.json").read_text()) for name in ("whole", "killed")]
    assert history[0] == history[1]


def test_training_improves_held_out_pictures_and_keeps_the_encoder(pictures: Path, vae: Path, tmp_path: Path) -> None:
    results = settings(pictures, vae, steps=20, validate_every=20, save_every=20, judge="pocket").run(tmp_path)
    start, end = results["start"], results["end"]
    assert end["PSNR"] > start["PSNR"] + 0.5 and end["dreamsim"] < start["dreamsim"]
    assert set(end) == {"PSNR", "1 - SSIM", "dreamsim", "judge"} and end["judge"] == pytest.approx(end["dreamsim"])
    before, after = AutoencoderKL.from_pretrained(vae), AutoencoderKL.from_pretrained(tmp_path / "vae")
    assert after.config.scaling_factor == 0.7
    for name, value in before.state_dict().items():
        trained = name.startswith(("decoder.", "post_quant_conv."))
        assert torch.equal(value, after.state_dict()[name]) != trained, name
    assert {"preview.png", "start.png", "curves.png", "history.json"} <= {file.name for file in tmp_path.iterdir()}
    x = torch.rand(1, 3, 32, 32)
    assert torch.equal(before.encode(x).latent_dist.mean, after.encode(x).latent_dist.mean)


def test_the_average_is_what_is_judged_and_saved(pictures: Path, vae: Path, tmp_path: Path) -> None:
    pixels = settings(pictures, vae, steps=2, dreamsim=0.0)
    plain, averaged = pixels.run(tmp_path / "plain"), replace(pixels, average=0.99).run(tmp_path / "averaged")
    assert plain["start"] == averaged["start"] and plain["end"] != averaged["end"]
    name = "decoder.conv_out.weight"
    start = AutoencoderKL.from_pretrained(vae).state_dict()[name]
    moved = [(weights(tmp_path / run)[name] - start).norm() for run in ("averaged", "plain")]
    assert 0 < moved[0] < moved[1]


def test_batches_do_not_depend_on_the_number_of_processes(pictures: Path) -> None:
    files = pictures_in(pictures)
    whole = CropBatches(files, 16, 4, 3, seed=7)
    parts = [CropBatches(files, 16, 4, 3, seed=7, process=p, processes=2) for p in range(2)]
    for step in range(3):
        together = torch.stack([part[step] for part in parts], dim=1).flatten(0, 1)
        assert torch.equal(whole[step], together)
    assert not torch.equal(whole[0], whole[1]) and not torch.equal(whole[0], CropBatches(files, 16, 4, 3, seed=8)[0])
    with pytest.raises(ValueError, match="batch must be a multiple of the 3 processes, got 4"):
        CropBatches(files, 16, 4, 3, seed=7, processes=3)


def test_held_out_pictures_are_apart_and_square(pictures: Path) -> None:
    files = pictures_in(pictures)
    assert len(files) == 6 and files[-1].parent.name == "more"
    train, held_out = split_off(files, 2, seed=0)
    assert len(held_out) == 2 and not set(train) & set(held_out) and set(train) | set(held_out) == set(files)
    assert any(split_off(files, 2, seed=s)[1] != held_out for s in range(1, 5))
    assert squares(held_out, 24).shape == (2, 3, 24, 24)
    with pytest.raises(ValueError, match="there are 6 pictures, of which 6 are held out"):
        split_off(files, 6, seed=0)


def test_a_callers_accelerator_keeps_its_settings(pictures: Path, vae: Path, tmp_path: Path) -> None:
    from accelerate import Accelerator

    with own_accelerate_state():
        accelerator = Accelerator(cpu=True, mixed_precision="bf16")
        settings(pictures, vae, steps=1, precision="no").run(tmp_path)
        assert Accelerator().mixed_precision == accelerator.mixed_precision == "bf16"


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_trained_is_refused(pictures: Path, vae: Path, tmp_path: Path) -> None:
    config = settings(pictures, vae, steps=1)
    config.run(tmp_path / "run")
    with pytest.raises(ValueError, match="is a checkpoint of another run"):
        replace(config, dreamsim=0.5).run(tmp_path / "run")
    with pytest.raises(ValueError, match="needs an accelerator; a CPU trains in"):
        replace(config, precision="fp16").run(tmp_path / "fp16")
    with pytest.raises(ValueError, match="holds no pictures"):
        replace(config, data=vae).run(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"the loss became \w+ before step \d+; lower the learning rate"):
        broken = Optimiser("adamw", 1e30)
        replace(config, optimiser=broken, dreamsim=0.0, steps=6, save_every=9, validate_every=9).run(
            tmp_path / "broken"
        )
    for changes, message in (
        ({"l1": 0.0}, "DreamSim alone does not determine"),
        ({"dreamsim": float("nan")}, "dreamsim must be a number"),
        ({"average": 1.0}, "average is a momentum"),
        ({"smallest": 0.0}, "smallest must lie in"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"part": "encoder"}, "part must be decoder or all"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(config, **changes)


def test_the_recipe_names_what_it_needs() -> None:
    config = train_vae_with_dreamsim()
    assert config.model == "stabilityai/sd-vae-ft-mse" and config.metric == "ensemble" and config.part == "decoder"
