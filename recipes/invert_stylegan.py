"""Photographs through your own StyleGAN."""

from __future__ import annotations

from dataclasses import replace

from dreamsim_guidance.comparisons.own_stylegan import InvertStyleGAN
from dreamsim_guidance.experiment.registry import recipe


@recipe
def invert_stylegan() -> InvertStyleGAN:
    """Invert photographs through a StyleGAN: give photos, network (a .pkl) and code (your checkout), or use the pocket GAN."""
    return InvertStyleGAN()


@recipe
def pivotal_tuning() -> InvertStyleGAN:
    """Invert photographs in w, then tune the network's weights around the codes, keeping other images as they were."""
    return replace(invert_stylegan(), space="w", noise=False, tuning=350)
