"""Sheets of an inverted photograph; `dreamsim-guidance invert` is the same with options."""

from __future__ import annotations

from dreamsim_guidance.comparisons.inversion_sheet import InversionSheet
from dreamsim_guidance.experiment.registry import recipe


@recipe
def invert_pixels() -> InversionSheet:
    """Invert a photograph through the pixels of a pyramid, by the distances of its parts."""
    return InversionSheet(through="pixels")


@recipe
def invert_pocket_vae() -> InversionSheet:
    """Invert a drawn scene through the latents of the pocket autoencoder, from the encoder's start."""
    return InversionSheet(through="vae")


@recipe
def invert_pocket() -> InversionSheet:
    """Find the noise from which the pocket latent model draws a scene, by reversing its sampler exactly."""
    return InversionSheet(through="trajectory", sampler_steps=20)


@recipe
def invert_sdxl_turbo_noise() -> InversionSheet:
    """Invert a photograph through the noise of SDXL Turbo with ReNO's settings; needs downloads and a GPU; not run yet."""
    return InversionSheet(
        through="noise",
        model="sdxl-turbo",
        metric="ensemble",
        sampler_steps=1,
        cfg=0.0,
        prompt="a portrait of an astronaut",
        reno=True,
    )
