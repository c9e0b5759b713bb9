"""Training of an unconditional diffusion model of easy scenes in pixels, for guidance without a downloaded model.

The average of the weights is saved as an ordinary `DDIMPipeline` of diffusers.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from dreamsim_guidance.data.scenes.drawing import picture_grid
from dreamsim_guidance.data.scenes.pocket_scenes import draw_pocket_scenes
from dreamsim_guidance.preprocess import save_image
from dreamsim_guidance.training.fit import Learner, fit, step_generator
from dreamsim_guidance.training.pocket.diffusion import (
    cosine_scheduler,
    distance_to_scenes,
    noisy,
    prediction_loss,
    save_pipeline,
    spread_times,
)
from dreamsim_guidance.training.pocket.settings import TrainPocketPixels
from dreamsim_guidance.training.pocket.training_log import line_writer
from dreamsim_guidance.training.weight_average import AveragedCopy
from dreamsim_guidance.types import Image

if TYPE_CHECKING:
    from diffusers import DDIMPipeline, UNet2DModel

__all__ = ["PixelLearner", "pixel_network", "pixel_pipeline", "sample_pixels", "train_pixels"]


def train_pixels(settings: TrainPocketPixels, folder: Path) -> dict[str, Any]:
    """Carry out `TrainPocketPixels.run`."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    _, pictures = draw_pocket_scenes(settings.scenes, settings.size)
    learner = PixelLearner(pixel_network(settings.size, settings.channels), pictures, settings.batch, settings.average)

    def save() -> DDIMPipeline:
        pipeline = pixel_pipeline(learner.average.model)
        save_pipeline(pipeline, folder / "pocket_pixels")
        return pipeline

    def watch(step: int) -> None:
        pipeline = save()
        images = sample_pixels(pipeline, min(48, settings.samples), settings.seed, steps=25)
        save_image(picture_grid(images, 12), folder / "samples.png")

    made_of = f"{settings.scenes} {settings.size} {settings.channels} {settings.batch} {settings.average}"
    write = line_writer(folder / "training.txt")
    fit(learner, settings.schedule, settings.seed, folder / "pixels.pt", "pixels", write, watch, made_of)
    images = sample_pixels(save(), settings.samples, settings.seed)
    parameters = sum(p.numel() for p in learner.network.parameters())
    _, held_out = draw_pocket_scenes(min(512, settings.scenes), settings.size, "val")
    return {"loss": learner.held_out_loss(held_out), "parameters": parameters, **distance_to_scenes(images)}


class PixelLearner(Learner):
    """The network and its average, trained on the given pictures with fresh noise."""

    def __init__(self, network: UNet2DModel, pictures: UInt8[Tensor, "n 3 h w"], batch: int, average: float) -> None:
        super().__init__()
        self.network, self.average = network, AveragedCopy(network, average)
        self.pictures, self.batch = pictures, batch
        self.alphas = cosine_scheduler("sample", clip=True).alphas_cumprod

    def loss(self, generator: torch.Generator, progress: float) -> Tensor:
        chosen = torch.randint(len(self.pictures), (self.batch,), generator=generator)
        return self._loss(self.network, self.pictures[chosen], generator)

    def after_step(self, progress: float) -> None:
        self.average.update(self.network)

    @torch.no_grad()
    def held_out_loss(self, pictures: UInt8[Tensor, "n 3 h w"]) -> float:
        """Mean loss of the averaged weights, at times spread over the schedule."""
        parts = pictures.split(64)
        losses = [self._loss(self.average.model, part, step_generator(1, i)) for i, part in enumerate(parts)]
        return float(torch.stack(losses).mean())

    def _loss(self, network: nn.Module, pictures: Tensor, generator: torch.Generator) -> Float[Tensor, ""]:
        clean = (pictures.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        times = spread_times(len(clean), len(self.alphas), generator)
        x_t, v = noisy(clean, self.alphas[times], generator)
        return prediction_loss(network(x_t, times).sample, clean, v, self.alphas[times], "sample")


def pixel_network(size: int, channels: tuple[int, ...]) -> UNet2DModel:
    """A U-Net with random weights for images of `size` x `size` pixels; `channels` by resolution, each half the one before."""
    from diffusers import UNet2DModel

    levels = len(channels)
    network = UNet2DModel(
        sample_size=size,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * (levels - 2) + ("AttnDownBlock2D",) * 2,
        up_block_types=("AttnUpBlock2D",) * 2 + ("UpBlock2D",) * (levels - 2),
        attention_head_dim=channels[-1] // 3,
        norm_num_groups=2,
    )
    return network.to(memory_format=torch.channels_last)  # a tenth faster on CPUs


def pixel_pipeline(network: UNet2DModel) -> DDIMPipeline:
    """A `DDIMPipeline` with a copy of the network."""
    from diffusers import DDIMPipeline

    frozen = copy.deepcopy(network).requires_grad_(False).eval()
    pipeline = DDIMPipeline(unet=frozen, scheduler=cosine_scheduler("sample", clip=True))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample_pixels(pipeline: DDIMPipeline, count: int, seed: int, steps: int = 50, batch: int = 64) -> Image:
    """Sample `count` images in [0, 1], `batch` at a time."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for first in range(0, count, batch):
        images = pipeline(min(batch, count - first), generator, num_inference_steps=steps, output_type="np").images
        parts.append(torch.from_numpy(images).permute(0, 3, 1, 2).float())
    return torch.cat(parts)
