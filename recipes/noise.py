"""Noise of diffusion models, optimised through their whole samplers."""

from __future__ import annotations

from dreamsim_guidance.comparisons.noise_penalties import NoisePenalties
from dreamsim_guidance.experiment.registry import recipe


@recipe
def invert_pocket_noise() -> NoisePenalties:
    """Compare penalties on the noise and on the image while the noise of the pocket latent model is optimised."""
    return NoisePenalties()


@recipe
def invert_pocket_noise_tiny() -> NoisePenalties:
    """Compare two penalties on a few images in seconds, for tests and to see what a run folder holds."""
    return NoisePenalties(penalties=("none", "both"), pairs=2, seeds=1, steps=2, sampling_steps=2, pictures=8)
