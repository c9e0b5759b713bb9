import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import dreamsim_guidance
from dreamsim_guidance.data.scenes.captions import caption
from dreamsim_guidance.data.scenes.pocket_scenes import draw_pocket_scenes, pocket_scene
from dreamsim_guidance.evaluation.samples.factor_agreement import factor_agreement
from dreamsim_guidance.evaluation.samples.frechet import frechet_distance
from dreamsim_guidance.pocket import load_judge, load_pocket
from dreamsim_guidance.recipes.pocket_diffusion import train_pocket_judge, train_pocket_latents, train_pocket_pixels
from dreamsim_guidance.training.pocket.latents import MENTIONED, sample_latents

WEIGHTS = Path(dreamsim_guidance.__file__).parent / "weights"


def shipped() -> list[Path]:
    places = [WEIGHTS / "pocket_pixels", WEIGHTS / "pocket_latents", WEIGHTS / "pocket_judge.safetensors"]
    return [file for place in places for file in (place.rglob("*") if place.is_dir() else [place]) if file.is_file()]


def judged(images: torch.Tensor) -> tuple[float, float]:
    """Frechet distance to easy scenes, of the images and of noise with the images' colours."""
    judge, generator = load_judge(), torch.Generator().manual_seed(0)
    scenes = draw_pocket_scenes(len(images), images.shape[-1], "test", 7000)[1].float() / 255
    pixels = images.flatten(2)
    noise = pixels[..., torch.randperm(pixels.shape[-1], generator=generator)].view_as(images)
    real = judge.features(scenes)
    return frechet_distance(judge.features(images), real), frechet_distance(judge.features(noise), real)


def test_the_pixel_model_draws_scenes_rather_than_noise() -> None:
    pipeline = load_pocket("pixels")
    pipeline.set_progress_bar_config(disable=True)
    arrays = pipeline(32, torch.Generator().manual_seed(0), num_inference_steps=20, output_type="np").images
    images = torch.from_numpy(arrays).permute(0, 3, 1, 2)
    assert images.shape == (32, 3, 32, 32) and images.min() >= 0 and images.max() <= 1
    distance, of_noise = judged(images)
    assert distance < 0.5 * of_noise


def test_the_latent_model_draws_what_the_prompt_says() -> None:
    pipeline, judge = load_pocket("latents"), load_judge()
    pipeline.set_progress_bar_config(disable=True)
    scenes = [pocket_scene(number, "test") for number in range(24)]
    prompts = [
        caption(scene, torch.Generator().manual_seed(i), "sentence", 1.0, MENTIONED) for i, scene in enumerate(scenes)
    ]
    images = sample_latents(pipeline, prompts, seed=0, steps=12)
    assert images.shape == (24, 3, 64, 64)
    agreement = float(factor_agreement(images, scenes, judge).mean())
    of_others = float(factor_agreement(images, [*scenes[1:], scenes[0]], judge).mean())
    assert agreement > of_others + 0.1


def test_encoding_and_decoding_preserve_pictures_of_scenes() -> None:
    pipeline = load_pocket("latents")
    scenes = draw_pocket_scenes(16, 64, "test", 7000)[1].float() / 255
    with torch.no_grad():
        latents = pipeline.vae.encode(2 * scenes - 1).latent_dist.mean
        decoded = (pipeline.vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
    assert (decoded - scenes).square().mean().sqrt() < 0.08
    assert (pipeline.vae.config.scaling_factor * latents).std() == pytest.approx(1, abs=0.1)
    assert factor_agreement(decoded, scenes).mean() > 0.8


def test_the_models_are_loaded_in_float32_without_log_messages(caplog: pytest.LogCaptureFixture) -> None:
    for name, parts in (("pixels", ("unet",)), ("latents", ("unet", "vae", "text_encoder"))):
        pipeline = load_pocket(name)
        assert {getattr(pipeline, part).dtype for part in parts} == {torch.float32}
    assert load_pocket("latents").safety_checker is None
    assert not caplog.records


def test_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown pocket model 'sd15'; known: pixels, latents"):
        load_pocket("sd15")


def test_the_models_are_small() -> None:
    assert sum(file.stat().st_size for file in shipped()) < 15_000_000
    assert not [file for file in shipped() if file.suffix in {".bin", ".pt", ".ckpt"}]


def test_the_recipes_are_those_of_the_shipped_files() -> None:
    pixels, latents, judge = train_pocket_pixels(), train_pocket_latents(), load_judge()
    unet = json.loads((WEIGHTS / "pocket_pixels" / "unet" / "config.json").read_text())
    assert (unet["sample_size"], tuple(unet["block_out_channels"])) == (pixels.size, pixels.channels)
    vae = json.loads((WEIGHTS / "pocket_latents" / "vae" / "config.json").read_text())
    assert (vae["sample_size"], tuple(vae["block_out_channels"])) == (latents.size, latents.autoencoder.channels)
    assert judge.width == train_pocket_judge().width


SHIPPED = """
import sys
from dreamsim_guidance.pocket import load_judge
print(load_judge().width, "diffusers" in sys.modules)
"""


def test_the_judge_needs_no_diffusers() -> None:
    run = subprocess.run([sys.executable, "-c", SHIPPED], capture_output=True, text=True, check=True)
    assert run.stdout.split() == [str(load_judge().width), "False"]
