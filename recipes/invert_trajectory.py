"""Inversion of samplers: the noise from which a pipeline makes an image, and edits that start from it."""

from __future__ import annotations

from dreamsim_guidance.comparisons.guided_sheet import GuidedSheet
from dreamsim_guidance.comparisons.trajectories import Trajectories
from dreamsim_guidance.experiment.registry import recipe


@recipe
def invert_pocket_trajectory() -> Trajectories:
    """Invert held-out scenes through the pocket latent model, reconstruct them and change their colour by the prompt.

    On four scenes the worst residual is 0.0041 with Anderson acceleration and 0.036 with DDIM inversion; the reconstruction has
    29.2 dB, as has the autoencoder alone, and 19.2 dB with DDIM inversion. 60 seconds of one core of an AMD EPYC.
    """
    return Trajectories()


@recipe
def invert_pocket_trajectory_tiny() -> Trajectories:
    """Invert one scene in two steps, for tests and to see what a run folder holds."""
    return Trajectories(n=1, steps=2, evaluations=2, inner_steps=1)


@recipe
def invert_flux_trajectory() -> Trajectories:
    """Invert a photograph of a cat through FLUX.1 dev and edit it; needs downloads and a large GPU; not run yet."""
    return Trajectories(
        model="flux",
        prompts=("a photo of a cat",),
        edits=("a photo of a dog",),
        steps=28,
        cfg=1.0,
        null_text=False,
    )


@recipe
def invert_pocket_guided() -> GuidedSheet:
    """Lead the unconditional pocket pixel model to a held-out scene by guidance alone (FreeDoM), judged by rms and SSIM.

    The guide's distance falls from 0.344 to 0.068, and 1 - SSIM only from 0.818 to 0.773: guidance alone does not reconstruct.
    """
    return GuidedSheet(model="pocket-pixels", n=4, method="freedom", steps=25)
