"""Training of the pocket diffusion models and of their judge, all of which ship with this package."""

from __future__ import annotations

from dataclasses import replace

from dreamsim_guidance.experiment.registry import recipe
from dreamsim_guidance.training.fit_settings import FitSettings
from dreamsim_guidance.training.pocket.loss_ablation import AblateAutoencoderLoss
from dreamsim_guidance.training.pocket.settings import (
    Autoencoder,
    TextEncoder,
    TrainPocketJudge,
    TrainPocketLatents,
    TrainPocketPixels,
)


@recipe
def train_pocket_pixels() -> TrainPocketPixels:
    """Train the unconditional pixel diffusion model of easy scenes at 32 px and write it as a DDIMPipeline.

    This made the model that ships, in 95 minutes on one core of an AMD EPYC that had other work. Its loss on held-out scenes
    is 0.059; the Frechet distance of 512 samples (50 steps of DDIM) to 512 held-out scenes is 104.0, that of 512 other
    held-out scenes 30.0.
    """
    return TrainPocketPixels(
        seed=0,
        scenes=30_000,
        size=32,
        channels=(24, 48, 96, 96),
        batch=16,
        average=0.999,
        schedule=FitSettings(
            steps=7000, learning_rate=1.5e-3, warmup=200, weight_decay=0.01, save_every=500, log_every=50
        ),
        samples=512,
    )


@recipe
def train_pocket_latents() -> TrainPocketLatents:
    """Train the text-conditioned latent diffusion model of easy scenes at 64 px and write it as a StableDiffusionPipeline.

    This made the model that ships, in about two and a half hours on one core of an AMD EPYC that had other work, training of
    the autoencoder included. Its loss on held-out scenes is 0.254; the Frechet distance of 512 samples (50 steps, guidance
    scale 4) to 512 held-out scenes is 113.5, that of 512 other held-out scenes 29.5; the root mean square error of the
    autoencoder is 0.042. The length of that run was changed twice: its learning rate followed the cosine of 4000 steps up to
    step 4000, that of 14,000 steps up to step 5000, and then that of 10,000 steps.
    """
    return TrainPocketLatents(
        seed=0,
        scenes=16_000,
        size=64,
        autoencoder=Autoencoder(
            channels=(16, 24, 48),
            latent_channels=4,
            edges=0.25,
            kl=5e-4,
            batch=8,
            crops=0.7,
            schedule=FitSettings(steps=1200, learning_rate=2e-3, warmup=50, weight_decay=0.0, save_every=100),
        ),
        text=TextEncoder(width=96, depth=2, heads=3),
        channels=(48, 96, 96),
        batch=16,
        dropout=0.1,
        average=0.999,
        schedule=FitSettings(
            steps=10_000, learning_rate=1.5e-3, warmup=200, weight_decay=0.01, save_every=1000, log_every=50
        ),
        samples=512,
    )


@recipe
def train_pocket_judge() -> TrainPocketJudge:
    """Train the small convolutional network that reads the factors of a scene and write pocket_judge.safetensors.

    The judge that ships reads on 2000 held-out easy scenes: shape 95.6 %, colour 91.3 %, count 99.7 %, layout 99.8 %,
    background 93.0 %, colour of the background 92.5 %, style 93.1 %, scale 80.8 %.
    """
    return TrainPocketJudge(
        seed=0,
        scenes=24_000,
        width=24,
        features=96,
        batch=64,
        schedule=FitSettings(
            steps=1500, learning_rate=2e-3, warmup=100, weight_decay=0.05, save_every=250, log_every=50
        ),
        held_out=2000,
    )


@recipe
def train_pocket_pixels_tiny() -> TrainPocketPixels:
    """Train a far smaller pixel model in seconds, for tests and to see what a run folder holds."""
    schedule = FitSettings(steps=4, learning_rate=1e-3, warmup=2, weight_decay=0.0, save_every=2, log_every=1)
    return replace(train_pocket_pixels(), scenes=24, size=16, channels=(12, 24), batch=4, schedule=schedule, samples=8)


@recipe
def train_pocket_latents_tiny() -> TrainPocketLatents:
    """Train a far smaller latent model in seconds, for tests and to see what a run folder holds."""
    full = train_pocket_latents()
    schedule = FitSettings(steps=4, learning_rate=1e-3, warmup=2, weight_decay=0.0, save_every=2, log_every=1)
    return replace(
        full,
        scenes=24,
        size=32,
        autoencoder=replace(full.autoencoder, channels=(8, 8), batch=2, schedule=schedule),
        text=TextEncoder(width=32, depth=1, heads=2),
        channels=(16, 32),
        batch=4,
        schedule=schedule,
        samples=8,
    )


@recipe
def train_pocket_judge_tiny() -> TrainPocketJudge:
    """Train a far smaller judge in seconds, for tests and to see what a run folder holds."""
    schedule = FitSettings(steps=4, learning_rate=1e-3, warmup=2, weight_decay=0.0, save_every=2, log_every=1)
    return replace(train_pocket_judge(), scenes=30, width=4, features=8, batch=8, schedule=schedule, held_out=20)


@recipe
def ablate_autoencoder_loss() -> AblateAutoencoderLoss:
    """Train the pocket autoencoder with L2, + SSIM, + LPIPS and + DreamSim, and compare the curves on unseen scenes.

    With DreamSim of weight 0.03 beside L2, the distance of a held-out branch is 0.0027 instead of 0.0032 and PSNR 24.80
    instead of 24.63 dB; all rows are in docs/results.md. It took 70 minutes on one core of an AMD EPYC that had other work.
    """
    full = train_pocket_latents().autoencoder
    schedule = FitSettings(steps=300, learning_rate=2e-3, warmup=40, weight_decay=0.0, save_every=100)
    return AblateAutoencoderLoss(replace(full, crops=0.5, schedule=schedule), balanced=(0.1, 0.5))


@recipe
def ablate_autoencoder_loss_tiny() -> AblateAutoencoderLoss:
    """Compare two losses on small pictures in seconds, for tests and to see what a run folder holds."""
    tiny = train_pocket_latents_tiny().autoencoder
    return AblateAutoencoderLoss(
        tiny, size=32, scenes=24, held_out=8, ssim=(), lpips=(), dreamsim=(0.03,), balanced=(0.5,), seeds=(0,)
    )
