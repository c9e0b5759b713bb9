"""Comparisons of inversions through GANs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dreamsim_guidance.comparisons.gan_inversion import InvertGAN
from dreamsim_guidance.experiment.registry import recipe


@recipe
def invert_pocket_gan() -> InvertGAN:
    """Compare losses, `invert` and the StyleGAN2-ADA projector's schedule on the pocket GAN: own samples, unseen scenes.

    With the pixel loss and 32 own samples (own=32 others=0 losses=mse), `invert` succeeds on 26, 95 % interval 0.65 to 0.91,
    and the projector's schedule on 8, 0.13 to 0.42, at equal evaluations of the generator. It all took eight minutes with one
    thread of an AMD EPYC (AVX-512, 2 cores, torch 2.14.1) that had much other work.
    """
    return InvertGAN()


@recipe
def invert_pocket_gan_tiny() -> InvertGAN:
    """The same with few samples and steps, in seconds, for tests and to see what a run folder holds."""
    return replace(invert_pocket_gan(), own=2, others=2, losses=("mse", "dreamsim"), steps=4, search=4, restarts=2)


@recipe
def invert_faces() -> InvertGAN:
    """Invert a DCGAN of faces: own samples and a photograph, by pixel loss, metric and both.

    `weights` is the folder of the unpacked wheel gan-face-generate 1.1.1 (MIT; trained on DigiFace-1M, rendered faces).
    """
    return InvertGAN(model="faces", weights=Path("gan-face-generate"), own=8, others=1)
