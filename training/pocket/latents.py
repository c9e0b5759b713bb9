"""Training of a text-conditioned latent diffusion model of easy scenes: Stable Diffusion's architecture in a small size.

The autoencoder is trained first, and the pictures are encoded once. Then a denoiser and a text encoder learn together to
predict v from noised latents and captions. Some captions are empty, so that classifier-free guidance works. The result is
saved as an ordinary `StableDiffusionPipeline` of diffusers.

Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, CVPR 2022; Ho & Salimans, Classifier-Free
Diffusion Guidance, 2022.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dreamsim_guidance.data.scenes.captions import caption
from dreamsim_guidance.data.scenes.drawing import picture_grid
from dreamsim_guidance.data.scenes.pocket_scenes import draw_pocket_scenes
from dreamsim_guidance.data.scenes.scene import Scene
from dreamsim_guidance.preprocess import save_image
from dreamsim_guidance.training.fit import Learner, fit, step_generator
from dreamsim_guidance.training.pocket.autoencoder import (
    AutoencoderLearner,
    autoencoder,
    encode,
    reconstruct,
    rms,
    standardise,
)
from dreamsim_guidance.training.pocket.diffusion import (
    cosine_scheduler,
    distance_to_scenes,
    noisy,
    prediction_loss,
    save_pipeline,
    spread_times,
)
from dreamsim_guidance.training.pocket.settings import TrainPocketLatents
from dreamsim_guidance.training.pocket.training_log import line_writer
from dreamsim_guidance.training.pocket.words import text_encoder, tokenizer, write_tokenizer
from dreamsim_guidance.training.weight_average import AveragedCopy
from dreamsim_guidance.types import Image

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel

__all__ = ["LatentLearner", "pocket_caption", "sample_latents", "train_latents"]

MENTIONED = ("shape", "colour", "count", "layout", "background", "texture", "style")
"""The factors that captions mention; easy scenes vary little or not at all in the others."""


def train_latents(settings: TrainPocketLatents, folder: Path) -> dict[str, Any]:
    """Carry out `TrainPocketLatents.run`."""
    folder.mkdir(parents=True, exist_ok=True)
    scenes, pictures = draw_pocket_scenes(settings.scenes, settings.size)
    vae = _trained_autoencoder(settings, folder, pictures)
    torch.manual_seed(settings.seed)
    learner = LatentLearner(settings, scenes, vae.config.scaling_factor * encode(vae, pictures))
    held_out, drawn = draw_pocket_scenes(min(512, settings.scenes), settings.size, "val")
    captions = [pocket_caption(scene, i) for i, scene in enumerate(held_out)]
    (folder / "samples.txt").write_text("\n".join(captions[:48]) + "\n", encoding="utf-8")

    def save() -> StableDiffusionPipeline:
        pipeline = latent_pipeline(learner, vae)
        save_pipeline(pipeline, folder / "pocket_latents", _for_older_transformers)
        return pipeline

    def watch(step: int) -> None:
        pipeline = save()
        images = sample_latents(pipeline, captions[: min(48, settings.samples)], settings.seed, steps=20)
        save_image(picture_grid(images, 12), folder / "samples.png")

    write = line_writer(folder / "training.txt")
    fit(learner, settings.schedule, settings.seed, folder / "latents.pt", "latents", write, watch, str(settings))
    prompts = [pocket_caption(scene, i) for i, scene in enumerate(draw_pocket_scenes(settings.samples, 8, "test")[0])]
    images, pixels = sample_latents(save(), prompts, settings.seed), drawn.float() / 255
    return {
        "loss": learner.held_out_loss(held_out, vae.config.scaling_factor * encode(vae, drawn)),
        "reconstruction_rms": rms(reconstruct(vae, pixels), pixels),
        "parameters": sum(p.numel() for p in learner.towers.parameters()),
        "autoencoder_parameters": sum(p.numel() for p in vae.parameters()),
        **distance_to_scenes(images),
    }


def _trained_autoencoder(settings: TrainPocketLatents, folder: Path, pictures: Tensor) -> AutoencoderKL:
    torch.manual_seed(settings.seed)
    network = autoencoder(settings.autoencoder, settings.size)
    learner = AutoencoderLearner(network, pictures[:8000], settings.autoencoder)
    write = line_writer(folder / "training.txt")
    _, held_out = draw_pocket_scenes(24, settings.size, "val")
    images = held_out.float() / 255

    def watch(step: int) -> None:
        reconstructed = reconstruct(network, images)
        save_image(picture_grid(torch.cat([images, reconstructed]), 12), folder / "autoencoder.png")
        write(f"autoencoder step {step} rms {rms(reconstructed, images):.4f}")

    path, made_of = folder / "autoencoder.pt", str(settings.autoencoder)
    fit(learner, settings.autoencoder.schedule, settings.seed, path, "autoencoder", write, watch, made_of)
    network.requires_grad_(False).eval()
    standardise(network, pictures[:1000])
    return network


class LatentLearner(Learner):
    """Denoiser and text encoder and their average, trained on the given latents with fresh noise and captions."""

    def __init__(
        self, settings: TrainPocketLatents, scenes: Sequence[Scene], latents: Float[Tensor, "n c h w"]
    ) -> None:
        super().__init__()
        self.words = tokenizer()
        text = settings.text
        towers = {
            "unet": latent_network(latents.shape[-1], latents.shape[1], settings.channels, text.width),
            "text_encoder": text_encoder(self.words, text.width, text.depth, text.heads),
        }
        self.towers = nn.ModuleDict(towers)
        self.average = AveragedCopy(self.towers, settings.average)
        self.scenes, self.latents, self.settings = scenes, latents, settings
        self.alphas = cosine_scheduler("v_prediction", clip=False).alphas_cumprod

    def loss(self, generator: torch.Generator, progress: float) -> Tensor:
        chosen = torch.randint(len(self.latents), (self.settings.batch,), generator=generator)
        scenes = [self.scenes[i] for i in chosen.tolist()]
        return self._loss(self.towers, scenes, self.latents[chosen], generator)

    def after_step(self, progress: float) -> None:
        self.average.update(self.towers)

    @torch.no_grad()
    def held_out_loss(self, scenes: Sequence[Scene], latents: Float[Tensor, "n c h w"]) -> float:
        """Mean loss of the averaged weights, at times spread over the schedule, with empty captions as in training."""
        losses = [
            self._loss(self.average.model, scenes[i : i + 64], latents[i : i + 64], step_generator(1, i))
            for i in range(0, len(scenes), 64)
        ]
        return float(torch.stack(losses).mean())

    def _loss(
        self, towers: nn.Module, scenes: Sequence[Scene], latents: Tensor, generator: torch.Generator
    ) -> Float[Tensor, ""]:
        clean, batch = latents.contiguous(memory_format=torch.channels_last), len(latents)
        seeds = torch.randint(2**31, (batch,), generator=generator).tolist()
        captions = [pocket_caption(scene, seed) for scene, seed in zip(scenes, seeds, strict=True)]
        empty = torch.rand(batch, generator=generator, dtype=torch.float32) < self.settings.dropout
        captions = ["" if dropped else text for text, dropped in zip(captions, empty.tolist(), strict=True)]
        tokens = self.words(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        times = spread_times(batch, len(self.alphas), generator)
        x_t, v = noisy(clean, self.alphas[times], generator)
        words = towers.get_submodule("text_encoder")(tokens)[0]
        output = towers.get_submodule("unet")(x_t, times, words).sample
        return prediction_loss(output, clean, v, self.alphas[times], "v_prediction")


def pocket_caption(scene: Scene, number: int) -> str:
    """The caption of an easy scene, drawn with seed `number`: a sentence, or tags in one of four; some mention few factors."""
    generator = torch.Generator().manual_seed(number)
    keep, manner = torch.rand(2, generator=generator, dtype=torch.float32).tolist()
    return caption(scene, generator, "tags" if manner < 0.25 else "sentence", 0.5 + 0.5 * keep**0.5, MENTIONED)


def latent_network(size: int, latent_channels: int, channels: tuple[int, ...], width: int) -> UNet2DConditionModel:
    """A denoiser with random weights for latents of `size` x `size`, attending to words of `width` numbers."""
    from diffusers import UNet2DConditionModel

    network = UNet2DConditionModel(
        sample_size=size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * (len(channels) - 1),
        up_block_types=("CrossAttnUpBlock2D",) * (len(channels) - 1) + ("UpBlock2D",),
        cross_attention_dim=width,
        attention_head_dim=channels[-1] // 32,  # diffusers takes it for the number of heads
        norm_num_groups=4,
    )
    return network.to(memory_format=torch.channels_last)


def latent_pipeline(learner: LatentLearner, vae: AutoencoderKL) -> StableDiffusionPipeline:
    """A `StableDiffusionPipeline` with copies of the averaged networks and of the autoencoder."""
    from diffusers import StableDiffusionPipeline

    towers: Any = copy.deepcopy(learner.average.model)
    pipeline = StableDiffusionPipeline(
        vae=copy.deepcopy(vae),
        text_encoder=towers["text_encoder"],
        tokenizer=learner.words,
        unet=towers["unet"],
        scheduler=cosine_scheduler("v_prediction", clip=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _for_older_transformers(folder: Path) -> None:
    """Rename files and weights to CLIP's own names: transformers 5 writes names unknown to version 4, but reads both."""
    for file in (folder / "tokenizer").iterdir():
        file.unlink()
    write_tokenizer(folder / "tokenizer")
    file = folder / "text_encoder" / "model.safetensors"
    named = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in load_file(file).items()}
    save_file(named, file, {"format": "pt"})


def sample_latents(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    seed: int,
    steps: int = 50,
    guidance_scale: float = 4.0,
    batch: int = 48,
) -> Image:
    """Sample an image in [0, 1] for each prompt, `batch` at a time."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for first in range(0, len(prompts), batch):
        images = pipeline(
            list(prompts[first : first + batch]),
            generator=generator,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            output_type="pt",
        ).images
        parts.append(images.float())
    return torch.cat(parts)
