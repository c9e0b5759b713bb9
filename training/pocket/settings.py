"""The settings of the trainings of the pocket models, one dataclass for each.

This module imports no torch, so that recipes are listed and shown at once; each `run` imports the module that does the work.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dreamsim_guidance.training.fit_settings import FitSettings
from dreamsim_guidance.training.tuning import Tuning

__all__ = [
    "Autoencoder",
    "Contrastive",
    "Distillation",
    "PretrainPocket",
    "TextEncoder",
    "TrainFactorAdapters",
    "TrainPocketGAN",
    "TrainPocketJudge",
    "TrainPocketLatents",
    "TrainPocketPixels",
    "TunePocket",
]


@dataclass(frozen=True)
class Contrastive:
    """Training of a CLIP-like branch."""

    manner: Literal["sentence", "tags"]
    """Form of the captions, see `data.scenes.captions`."""
    batch: int
    """Scenes in a batch, with two drawings each."""
    tau: float
    """Factor distance at which the target of a pair falls to 1/e."""
    schedule: FitSettings


@dataclass(frozen=True)
class Distillation:
    """Training of the DINO-like branch."""

    batch: int
    """Pairs of pictures in a batch."""
    photograph_crops: int
    """Those of them that are crops of photographs."""
    names: int
    """Number of names that pictures can get."""
    local_views: int
    """Small views of each pair, which only the student sees."""
    schedule: FitSettings


@dataclass(frozen=True)
class PretrainPocket:
    """Pre-training of the pocket ensemble, from drawing its scenes to writing `pocket.safetensors`."""

    seed: int
    scenes: int
    """Number of scenes of the split "train", drawn twice each."""
    family: int
    """Consecutive scenes that share all but a few factors: hard negatives of each other in a contrastive batch."""
    width: int
    """Width of the three towers."""
    depth: int
    """Blocks of each tower."""
    heads: int
    """Attention heads of each block."""
    projection: int
    """Width of the CLIP-like branches' embeddings."""
    photographs: bool
    """Whether to train on crops of the photographs bundled with scikit-image as well."""
    dino: Distillation
    clip: Contrastive
    open_clip: Contrastive
    triplets: int
    """Number of held-out triplets (split "test") of the final report."""

    def __post_init__(self) -> None:
        batch = min(self.clip.batch, self.open_clip.batch, self.scenes)
        if not 1 <= self.family <= batch:
            raise ValueError(f"family must lie between 1 and the scenes and batches, {batch}, got {self.family}.")

    def run(self, folder: Path) -> dict[str, Any]:
        """Train from the checkpoints in `folder` on; return the held-out agreement of ensemble, branches, MSE and SSIM.

        Writes pocket.safetensors, scenes.png (examples of the scenes), and training.png (loss and agreement by step).
        """
        from dreamsim_guidance.training.pocket.ensemble import pretrain

        return pretrain(self, folder)


@dataclass(frozen=True)
class TunePocket:
    """Draw triplets, tune the pocket ensemble, and compare it with the un-tuned one and with MSE on held-out scenes."""

    tuning: Tuning
    """Its `data` is the folder of the triplets; missing ones are drawn."""
    triplets: int
    """Number of training triplets."""
    seed: int
    """Seed of the triplets."""
    workers: int = 2
    """Processes that draw the triplets."""
    attacks: tuple[str, ...] = ()
    """Attacks such as "linf:4/255" under which the results and the shipped "pocket" are judged too."""
    attacked: int = 200
    """Number of triplets of the split "test" that are attacked."""

    def run(self, folder: Path) -> dict[str, Any]:
        """Write the files of `Tuning.run`; return its figures, and the agreement before and after on two test splits.

        The split "test" has new scenes; in "test_held_out" the answers depend on factors that no training triplet varies.
        """
        from dreamsim_guidance.training.pocket.adapter import tune_pocket

        return tune_pocket(self, folder)


@dataclass(frozen=True)
class TrainPocketPixels:
    """Training of the unconditional pixel model, from drawing its scenes to writing the folder `pocket_pixels`."""

    seed: int
    scenes: int
    """Number of scenes of the split "train"."""
    size: int
    """Width and height of the images in pixels."""
    channels: tuple[int, ...]
    """Channels of the network at each resolution, each half the one before; attention at the two lowest."""
    batch: int
    """Pictures in a batch."""
    average: float
    """Momentum of the average of the weights."""
    schedule: FitSettings
    samples: int
    """Number of images sampled at the end and compared with as many held-out scenes."""

    def run(self, folder: Path) -> dict[str, Any]:
        """Train from the checkpoint in `folder` on; write the pipeline and samples.png; return losses and distances."""
        from dreamsim_guidance.training.pocket.pixels import train_pixels

        return train_pixels(self, folder)


@dataclass(frozen=True)
class Autoencoder:
    """Sizes and training of the autoencoder."""

    channels: tuple[int, ...]
    """Channels at each resolution, each half the one before."""
    latent_channels: int
    """Channels of the latents."""
    edges: float
    """Weight w_e of the difference between image gradients."""
    kl: float
    """Weight w_kl of the divergence of the latents from a standard normal distribution."""
    batch: int
    """Whole pictures in a batch; a batch of crops of half the width and height has twice as many."""
    crops: float
    """Share of the steps, starting with the first, that train on crops, which takes half the time."""
    schedule: FitSettings


@dataclass(frozen=True)
class TextEncoder:
    """Size of the text encoder."""

    width: int
    depth: int
    heads: int


@dataclass(frozen=True)
class TrainPocketLatents:
    """Training of the latent model, from drawing its scenes to writing the folder `pocket_latents`."""

    seed: int
    scenes: int
    """Number of scenes of the split "train"."""
    size: int
    """Width and height of the images in pixels."""
    autoencoder: Autoencoder
    text: TextEncoder
    channels: tuple[int, ...]
    """Channels of the denoiser at each resolution, each half the one before; all but the first attend to the words."""
    batch: int
    """Latents in a batch."""
    dropout: float
    """Share of empty captions in training."""
    average: float
    """Momentum of the average of the weights."""
    schedule: FitSettings
    samples: int
    """Number of images sampled at the end and compared with as many held-out scenes."""

    def run(self, folder: Path) -> dict[str, Any]:
        """Train from the checkpoints in `folder` on; return losses, errors and distances.

        Writes the pipeline, autoencoder.png, and samples.png with one image for each of the captions in samples.txt.
        """
        from dreamsim_guidance.training.pocket.latents import train_latents

        return train_latents(self, folder)


@dataclass(frozen=True)
class TrainPocketGAN:
    """Training of the small StyleGAN, from drawing its scenes to writing the folder `pocket_gan`."""

    seed: int
    scenes: int
    """Number of scenes of the split "train"."""
    channels: tuple[int, ...]
    """Channels of both networks at each resolution from 4 x 4 pixels on, each twice the one before."""
    z_dim: int
    w_dim: int
    depth: int
    """Layers of the mapping network."""
    batch: int
    """Pictures in a batch, and as many generated images."""
    gamma: float
    """Weight of the penalty of the discriminator's gradient (R1)."""
    penalty_every: int
    """The penalty is computed at one step in so many on average."""
    average: float
    """Momentum of the average of the generator's weights."""
    schedule: FitSettings
    samples: int
    """Number of images generated at the end and compared with as many held-out scenes."""

    def run(self, folder: Path) -> dict[str, Any]:
        """Train from the checkpoint in `folder` on; write the folder pocket_gan and samples.png; return the distances."""
        from dreamsim_guidance.training.pocket.gan import train_gan

        return train_gan(self, folder)


@dataclass(frozen=True)
class TrainPocketJudge:
    """Training of the judge, from drawing its scenes to writing `pocket_judge.safetensors`."""

    seed: int
    scenes: int
    """Number of scenes, of which two in three are easy and one in three is full."""
    width: int
    """Channels of the first layer."""
    features: int
    """Width of the feature that all factors are read from."""
    batch: int
    """Pictures in a batch."""
    schedule: FitSettings
    held_out: int
    """Number of scenes of each kind for the final accuracies."""

    def run(self, folder: Path) -> dict[str, Any]:
        """Train from the checkpoint in `folder` on; return the accuracy by factor on held-out scenes of both kinds."""
        from dreamsim_guidance.training.pocket.judge import train_judge

        return train_judge(self, folder)


@dataclass(frozen=True)
class TrainFactorAdapters:
    """Training of one small adapter of the pocket ensemble for each factor of the drawn scenes."""

    factors: tuple[str, ...]
    """Names of `data.scenes.scene.FACTORS`, each of which gets its own adapter."""
    scenes: int
    """Number of scenes of the split "train", half of them easy ones, as the pocket diffusion models draw them."""
    easy: tuple[str, ...]
    """Factors whose adapters are trained on the easy scenes alone."""
    rank: int
    alpha: float
    """The adapters are scaled by alpha / rank."""
    targets: tuple[str, ...]
    """The layers that are tuned, by the last part of their names."""
    temperature: float
    """Difference of two distances, in units of the batch's mean, at which the nearer one is chosen with odds of e to one."""
    margin: float
    """Difference of the factor that a triplet needs to count."""
    batch: int
    """Scenes in a batch, whose triplets are all compared."""
    schedule: FitSettings
    held_out: int
    """Number of scenes of the split "test", again half of them easy, for the final figures."""
    seed: int

    def run(self, folder: Path) -> dict[str, Any]:
        """Train the adapters one after the other, from the checkpoints in `folder` on.

        Writes adapters/FACTOR, a peft folder each, and table.md. Returns, for each adapter, for the ensemble without adapter
        ("untuned") and for the adapter that ships with it ("people"), and for each factor, the share of triplets of held-out
        scenes that it orders as the factor alone does, with 95 % intervals by reference.
        """
        from dreamsim_guidance.training.pocket.factor_adapters import train_factor_adapters

        return train_factor_adapters(self, folder)
