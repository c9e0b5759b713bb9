"""Photographs, inverted through an autoencoder's decoder by several losses."""

from __future__ import annotations

from dataclasses import replace

from dreamsim_guidance.experiment.registry import recipe
from dreamsim_guidance.inversion.autoencoder import InvertVAE


@recipe
def invert_vae() -> InvertVAE:
    """Find latents of an autoencoder on your disk that reproduce photographs, from the encoder's start and from zero.

    Name the folder: `dreamsim-guidance run invert-vae model=taef2`, with the files of TAEF2 or an autoencoder in diffusers'
    format. With TAEF2, latents fitted from the encoder's start have a PSNR of 34.9 dB, where the round trip of encoder and
    decoder has 27.9; all rows are in docs/results.md. It took half an hour on an AMD EPYC that had much other work.
    """
    return InvertVAE(model="taef2", metric="photographs", size=128, steps=80)


@recipe
def invert_sd15_vae() -> InvertVAE:
    """Find latents of Stable Diffusion 1.5's autoencoder that reproduce photographs; needs downloads and a GPU; not run yet."""
    return replace(
        invert_vae(),
        model="stable-diffusion-v1-5/stable-diffusion-v1-5",
        subfolder="vae",
        metric="ensemble",
        size=512,
        steps=200,
    )
