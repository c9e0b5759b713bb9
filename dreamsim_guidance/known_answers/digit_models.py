"""A small diffusion model of 8 x 8 digits, and the classifiers that guide it.

The denoiser is a residual network of fully connected layers, made of diffusers' classes so that its pixel pipelines accept
it. It is trained on ||eps - eps(x_t, t)||^2: Ho et al., Denoising Diffusion Probabilistic Models, NeurIPS 2020.
"""

from __future__ import annotations

import copy
import math

import torch
from diffusers import ConfigMixin, DDPMScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import trange

from dreamsim_guidance.known_answers.digit_set import CLASSES, SIDE, Digits

__all__ = ["DigitDenoiser", "DigitGuide", "train_denoiser", "train_guide"]


class DigitDenoiser(ModelMixin, ConfigMixin):
    """Predicts the noise in images `(b, 1, 8, 8)` of range [-1, 1] at a timestep from 0 to 999.

    width: of the layers. depth: number of residual blocks.
    """

    @register_to_config
    def __init__(self, width: int = 384, depth: int = 3, sample_size: int = SIDE, in_channels: int = 1) -> None:
        super().__init__()
        pixels = in_channels * sample_size**2
        self.enter = nn.Linear(pixels, width)
        self.time = nn.Sequential(nn.Linear(_WAVES, _WAVES), nn.SiLU(), nn.Linear(_WAVES, _WAVES), nn.SiLU())
        self.blocks = nn.ModuleList(_Block(width) for _ in range(depth))
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, pixels))

    def forward(
        self, sample: Float[Tensor, "b c h w"], timestep: Tensor | float | int, return_dict: bool = True
    ) -> UNet2DOutput | tuple[Tensor]:
        # a timestep that all images share is a single row, which is broadcast
        time = torch.as_tensor(timestep, dtype=sample.dtype, device=sample.device).reshape(-1)
        condition = self.time(_waves(time))
        hidden = self.enter(sample.flatten(1))
        for block in self.blocks:
            hidden = block(hidden, condition)
        noise = self.leave(hidden).view_as(sample)
        return UNet2DOutput(sample=noise) if return_dict else (noise,)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.condition = nn.Linear(_WAVES, 2 * width)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, hidden: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.condition(condition).chunk(2, dim=-1)
        return hidden + self.layers(self.norm(hidden) * (1 + scale) + shift)


_WAVES = 64


def _waves(time: Tensor) -> Tensor:
    order = torch.arange(_WAVES // 2, dtype=time.dtype, device=time.device)
    frequency = torch.exp(-math.log(10_000) * order * 2 / _WAVES)
    angles = time[:, None] * frequency
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def train_denoiser(
    data: Digits, scheduler: DDPMScheduler, steps: int = 8000, batch: int = 128, width: int = 384, seed: int = 0
) -> DigitDenoiser:
    """Train a denoiser on all images of `data`; return the average of its weights over the training.

    steps: of AdamW, with `batch` images each; the learning rate warms up and follows a cosine to 0.
    width: of the denoiser's layers.
    seed: of the first weights, the batches and the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = DigitDenoiser(width)
    average = copy.deepcopy(model).eval().requires_grad_(False)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1.5e-3, weight_decay=1e-2, fused=True)
    averaged, trained = (list(network.parameters()) for network in (average, model))
    warmup = max(1, min(400, steps // 10))
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1.0, (1 + step) / warmup) * (1 + math.cos(math.pi * step / steps)) / 2
    )
    clean = data.images * 2 - 1
    for step in (bar := trange(steps, desc="denoiser")):
        x0 = clean[torch.randint(len(clean), (batch,), generator=generator)]
        noise = torch.randn(x0.shape, generator=generator)
        time = torch.randint(scheduler.config.num_train_timesteps, (batch,), generator=generator)
        loss = F.mse_loss(model(scheduler.add_noise(x0, noise, time), time).sample, noise)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
        weight = min(0.999, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(averaged, trained, 1 - weight)
        if step % 200 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}")
    return average


class DigitGuide(nn.Module):
    """A classifier: from images `(b, 1, 8, 8)` in [0, 1] to log-probabilities of the classes, `(b, 10)`."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(SIDE * SIDE, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES)
        )

    def forward(self, images: Float[Tensor, "b 1 8 8"]) -> Float[Tensor, "b 10"]:
        return self.layers(images.flatten(1)).log_softmax(-1)


def train_guide(data: Digits, steps: int = 1500, batch: int = 128, seed: int = 0) -> DigitGuide:
    """Train a classifier on `data`, which takes seconds; `seed` decides its first weights and its batches."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = DigitGuide()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    for _ in trange(steps, desc="guide"):
        rows = torch.randint(len(data.labels), (batch,), generator=generator)
        loss = F.nll_loss(model(data.images[rows]), data.labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval().requires_grad_(False)
