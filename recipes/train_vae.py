"""Fine-tuning of diffusers' autoencoders with DreamSim as a term of the loss."""

from __future__ import annotations

from pathlib import Path

from dreamsim_guidance.experiment.registry import recipe
from dreamsim_guidance.training.vae import TrainVAE


@recipe
def train_vae_with_dreamsim() -> TrainVAE:
    """Fine-tune the decoder of Stable Diffusion's autoencoder on a folder of pictures, with DreamSim beside the pixels.

    Name the folder: `dreamsim-guidance run train-vae-with-dreamsim data=pictures`. It needs downloads and a GPU, and was run
    with small random autoencoders only (tests/training/test_vae.py); its weights are not yet tuned on a real one.
    """
    return TrainVAE(data=Path("pictures"), average=0.999, precision="bf16")
