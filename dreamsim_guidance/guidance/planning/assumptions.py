"""Defaults of a plan: the published ensemble as the loss, and the published tiny autoencoders.

Architectures only, on the meta device: nothing is downloaded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dreamsim_guidance.loss import Loss
from dreamsim_guidance.metric.ensemble import Ensemble
from dreamsim_guidance.metric.variants import variant

__all__ = ["PublishedLoss", "tiny_decoder"]


class PublishedLoss(Loss):
    """A loss that costs as much as the published ensemble's distance to a fixed reference. Its value has no meaning."""

    name = "dreamsim"
    capturable = True

    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):
            self.ensemble = Ensemble(variant("ensemble").branches).eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.ensemble(images).square().sum(1)


def tiny_decoder(pipe: Any) -> tuple[nn.Module, str] | None:
    """A tiny autoencoder for the latents of `pipe`, on the meta device, and its published name; None if there is none.

    O. Boer Bohan, Tiny AutoEncoder for Stable Diffusion (TAESD), 2023: for autoencoders that turn 8 x 8 pixels into one latent
    pixel of 4 or 16 channels.
    """
    vae = getattr(pipe, "vae", None)
    if vae is None or type(vae).__name__ != "AutoencoderKL":
        return None
    channels = vae.config.latent_channels
    if len(vae.config.block_out_channels) != 4 or channels not in (4, 16):
        return None
    from diffusers import AutoencoderTiny

    name = type(pipe).__name__
    published = {4: "taesd", 16: "taef1"}[channels]
    if "XL" in name or "Diffusion3" in name:
        published = {4: "taesdxl", 16: "taesd3"}[channels]
    with torch.device("meta"):
        tiny: Any = AutoencoderTiny(latent_channels=channels)
    return nn.Module.to(tiny.eval(), vae.dtype), published  # diffusers' own `to` warns
