import itertools
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dreamsim_guidance.data.scenes.captions import vocabulary
from dreamsim_guidance.data.scenes.pocket_scenes import POCKET_KINDS, draw_pocket_scenes, pocket_scene
from dreamsim_guidance.data.scenes.scene import scene_generator
from dreamsim_guidance.evaluation.samples.scene_judge import read_judge
from dreamsim_guidance.recipes.pocket_diffusion import (
    train_pocket_judge_tiny,
    train_pocket_latents_tiny,
    train_pocket_pixels_tiny,
)
from dreamsim_guidance.training.fit import fit, step_generator
from dreamsim_guidance.training.fit_settings import FitSettings
from dreamsim_guidance.training.pocket.autoencoder import autoencoder, encode, standardise
from dreamsim_guidance.training.pocket.diffusion import cosine_scheduler, noisy, save_pipeline, spread_times
from dreamsim_guidance.training.pocket.judge import damaged, judged_scenes, readable
from dreamsim_guidance.training.pocket.latents import pocket_caption
from dreamsim_guidance.training.pocket.pixels import PixelLearner, pixel_network, pixel_pipeline, sample_pixels
from dreamsim_guidance.training.pocket.words import byte_pairs, tokenizer
from dreamsim_guidance.training.weight_average import AveragedCopy


def pixel_learner() -> PixelLearner:
    torch.manual_seed(0)
    _, pictures = draw_pocket_scenes(12, 16)
    return PixelLearner(pixel_network(16, (12, 24)), pictures, batch=4, average=0.9)


def test_easy_scenes_are_easy_and_their_splits_apart():
    scenes = [pocket_scene(i) for i in range(200)]
    for name, kinds in POCKET_KINDS.items():
        assert {getattr(scene, name) for scene in scenes} == set(kinds)
    assert {scene.perspective for scene in scenes} == {(0.0, 0.0)}
    assert pocket_scene(3) == pocket_scene(3) != pocket_scene(3, "test")
    with pytest.raises(ValueError, match="unknown split 'dev'; known: train, val, test"):
        pocket_scene(3, "dev")


def test_times_are_spread_over_the_schedule():
    times = spread_times(10, 1000, scene_generator(0))
    assert torch.equal(times // 100, torch.arange(10))
    assert spread_times(3, 2, scene_generator(0)).max() <= 1


def test_the_clean_picture_follows_from_x_t_and_v():
    clean, alphas = torch.randn(5, 3, 4, 4), torch.linspace(0, 1, 5)
    x_t, v = noisy(clean, alphas, scene_generator(0))
    a, s = alphas.sqrt().view(-1, 1, 1, 1), (1 - alphas).sqrt().view(-1, 1, 1, 1)
    assert torch.allclose(a * x_t - s * v, clean, atol=1e-5)
    assert torch.equal(x_t[-1], clean[-1])


def test_the_scheduler_understands_the_learned_v():
    scheduler = cosine_scheduler("v_prediction", clip=False)
    clean, t = torch.randn(1, 3, 4, 4), 500
    x_t, v = noisy(clean, scheduler.alphas_cumprod[t : t + 1], scene_generator(0))
    scheduler.set_timesteps(20)
    assert torch.allclose(scheduler.step(v, t, x_t).pred_original_sample, clean, atol=1e-5)
    assert scheduler.timesteps[0] == 999  # pure noise, as in training


def test_the_average_forgets_its_start_and_then_moves_slowly():
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(module.weight)
    average = AveragedCopy(module, 0.9)
    torch.nn.init.ones_(module.weight)
    average.update(module)
    assert average.model.weight.item() == pytest.approx(1 - 2 / 11)
    for _ in range(200):
        average.update(module)
    assert average.model.weight.item() == pytest.approx(1, abs=1e-6)
    torch.nn.init.zeros_(module.weight)
    average.update(module)
    assert average.model.weight.item() == pytest.approx(0.9, abs=1e-6)


def test_a_killed_training_goes_on_as_if_nothing_had_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    schedule = FitSettings(steps=4, learning_rate=1e-3, warmup=1, weight_decay=0.0, save_every=2, log_every=1)
    whole, killed, resumed = pixel_learner(), pixel_learner(), pixel_learner()
    fit(whole, schedule, 5, tmp_path / "whole.pt")
    step = killed.after_step
    calls = itertools.count()

    def stop(progress: float) -> None:
        step(progress)
        if next(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(killed, "after_step", stop)
    with pytest.raises(KeyboardInterrupt):
        fit(killed, schedule, 5, tmp_path / "killed.pt")
    fit(resumed, schedule, 5, tmp_path / "killed.pt")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_training_lowers_the_loss_of_the_averaged_weights():
    learner = pixel_learner()
    before = learner.held_out_loss(learner.pictures)
    optimiser = torch.optim.Adam(learner.network.parameters(), 2e-3)
    for step in range(20):
        optimiser.zero_grad()
        learner.loss(step_generator(0, step), 0.0).backward()
        optimiser.step()
        learner.after_step(0.0)
    assert learner.held_out_loss(learner.pictures) < 0.9 * before


def test_the_tiny_pixel_recipe_writes_a_pipeline(tmp_path: Path):
    from diffusers import DDIMPipeline

    results = train_pocket_pixels_tiny().run(tmp_path)
    assert results["loss"] > 0 and results["frechet"] > 0 and results["frechet_of_scenes"] > 0
    assert {"samples.png", "training.txt", "pixels.pt"} <= {file.name for file in tmp_path.iterdir()}
    pipeline = DDIMPipeline.from_pretrained(tmp_path / "pocket_pixels")
    pipeline.unet.float()
    assert sample_pixels(pipeline, 3, 0, steps=2, batch=2).shape == (3, 3, 16, 16)


def test_a_saved_pipeline_takes_the_place_of_the_one_before_in_half_the_bytes(tmp_path: Path):
    pipeline = pixel_pipeline(pixel_network(16, (12, 24)))
    save_pipeline(pipeline, tmp_path / "model")
    (tmp_path / "model" / "old.txt").touch()
    save_pipeline(pipeline, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not (tmp_path / "model" / "old.txt").exists()
    stored = (tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert stored < 2.2 * sum(p.numel() for p in pipeline.unet.parameters())
    assert pipeline.unet.dtype == torch.float32


def test_the_tiny_latent_recipe_writes_a_pipeline_that_follows_its_prompt(tmp_path: Path):
    from diffusers import StableDiffusionPipeline

    config = train_pocket_latents_tiny()
    results = config.run(tmp_path)
    assert results["loss"] > 0 and 0 < results["reconstruction_rms"] < 1
    assert config.run(tmp_path) == results  # a finished run is left alone
    assert {"samples.png", "samples.txt", "autoencoder.png"} <= {file.name for file in tmp_path.iterdir()}
    folder = tmp_path / "pocket_latents"
    stored = load_file(folder / "text_encoder" / "model.safetensors")
    assert all(name.startswith("text_model.") for name in stored)  # as in transformers 4, which must be able to read it
    assert {"vocab.json", "merges.txt", "tokenizer_config.json"} == {f.name for f in (folder / "tokenizer").iterdir()}
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.float()
    embedded = pipeline.text_encoder.get_input_embeddings().weight
    assert torch.equal(embedded, stored["text_model.embeddings.token_embedding.weight"].float())
    pipeline.set_progress_bar_config(disable=True)
    words = [pipeline.encode_prompt(text, "cpu", 1, False)[0] for text in ("red star", "two blue hearts")]
    assert not torch.allclose(*words)
    image = pipeline("red star", num_inference_steps=2, output_type="pt", generator=scene_generator(0)).images
    assert image.shape == (1, 3, 32, 32)


def test_standardised_latents_have_unit_variance_and_give_the_same_pictures():
    torch.manual_seed(0)
    network = autoencoder(train_pocket_latents_tiny().autoencoder, 32).eval().requires_grad_(False)
    _, pictures = draw_pocket_scenes(12, 32)
    images = pictures[:2].float() / 127.5 - 1
    coded = network.encode(images).latent_dist
    before, spread = network.decode(coded.mean).sample, coded.std / coded.mean.std((0, 2, 3), keepdim=True)
    standardise(network, pictures)
    latents = network.config.scaling_factor * encode(network, pictures)
    assert torch.allclose(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(latents.std((0, 2, 3)), torch.ones(4), atol=1e-3)
    after = network.encode(images).latent_dist
    assert torch.allclose(network.decode(after.mean).sample, before, atol=1e-4)  # two more roundings
    assert torch.allclose(after.std / after.mean.std((0, 2, 3), keepdim=True), spread, rtol=1e-3)


def test_every_word_of_the_captions_is_one_token():
    words = tokenizer()
    assert all(len(words(word).input_ids) == 3 for word in [*vocabulary(), ","])
    assert words("Two  STARS, neon").input_ids == words("two stars , neon").input_ids
    assert len(words("zebra").input_ids) > 3  # spelled, but readable
    ids = [words(word).input_ids[1] for word in vocabulary()]
    assert len(set(ids)) == len(ids)


def test_byte_pairs_merge_the_commonest_first():
    assert byte_pairs(["aab", "aac", "d"]) == [("a", "a"), ("aa", "b</w>"), ("aa", "c</w>")]


def test_captions_of_easy_scenes_fit_the_text_encoder():
    words = tokenizer()
    lengths = [len(words(pocket_caption(pocket_scene(i), i)).input_ids) for i in range(100)]
    assert max(lengths) <= words.model_max_length
    assert pocket_caption(pocket_scene(1), 1) == pocket_caption(pocket_scene(1), 1)
    assert pocket_caption(pocket_scene(1), 1) != pocket_caption(pocket_scene(1), 2)


def test_the_tiny_judge_recipe_writes_a_judge_that_can_be_read(tmp_path: Path):
    results = train_pocket_judge_tiny().run(tmp_path)
    assert set(results["easy"]["accuracy"]) == set(results["full"]["commonest"])
    judge = read_judge(tmp_path / "pocket_judge.safetensors")
    assert list(judge.readable) == results["readable"]
    assert not any(parameter.requires_grad for parameter in judge.parameters())
    assert json.dumps(results)


def test_only_factors_that_are_read_well_count():
    chance = dict.fromkeys(
        ("shape", "colour", "count", "layout", "scale", "background", "background_colour", "texture", "style"), 0.5
    )
    assert readable({**chance, "shape": 0.9, "count": 0.7}, chance) == ["shape"]


def test_the_scenes_of_the_judge_are_of_two_kinds_and_not_those_of_the_pocket_models():
    scenes, pictures = judged_scenes(30, "train")
    assert pictures.shape == (30, 3, 32, 32)
    assert sum(scene.perspective == (0.0, 0.0) for scene in scenes) == 20
    assert not set(scenes) & {pocket_scene(i) for i in range(100)}


def test_damaged_pictures_stay_near_and_in_range():
    images = torch.rand(4, 3, 32, 32)
    hurt = damaged(images, scene_generator(0))
    assert hurt.min() >= 0 and hurt.max() <= 1
    assert 0 < (hurt - images).abs().mean() < 0.2
    assert torch.equal(hurt, damaged(images, scene_generator(0)))
