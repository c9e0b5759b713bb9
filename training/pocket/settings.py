"""The settings of the trainings that make the pocket models, one dataclass for each.

This module imports no torch, so that recipes are listed and shown at once; each `run` imports the work that it names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dreamsim_guidance.training.step_schedule import Schedule
from dreamsim_guidance.training.tuning import Tuning

__all__ = [
    "Autoencoder",
    "Contrastive",
    "Distillation",
    "PretrainPocket",
    "TextEncoder",
    "TrainPocketJudge",
    "TrainPocketLatents",
    "TrainPocketPixels",
    "TunePocket",
]


@dataclass(frozen=True)
class Contrastive:
    """How a CLIP-like branch is trained."""

    manner: Literal["sentence", "tags"]
    """Of the captions, see `data.scenes.captions`."""
    batch: int
    """Scenes in a batch, each in two drawings."""
    tau: float
    """Factor distance at which the target of a pair has fallen to 1/e."""
    schedule: Schedule


@dataclass(frozen=True)
class Distillation:
    """How the DINO-like branch is trained."""

    batch: int
    photograph_crops: int
    names: int
    local_views: int
    schedule: Schedule


@dataclass(frozen=True)
class PretrainPocket:
    """Pre-training of the pocket ensemble, from drawing its scenes to the file `pocket.safetensors`."""

    seed: int
    scenes: int
    """How many scenes of the split "train" are drawn, twice each."""
    family: int
    """Scenes that share all but a few factors: each other's hard negatives in a contrastive batch."""
    width: int
    depth: int
    heads: int
    projection: int
    photographs: bool
    """Whether crops of the photographs bundled with scikit-image are mixed in."""
    dino: Distillation
    clip: Contrastive
    open_clip: Contrastive
    triplets: int
    """Held-out triplets (split "test") of the final report."""

    def __post_init__(self) -> None:
        batch = min(self.clip.batch, self.open_clip.batch, self.scenes)
        if not 1 <= self.family <= batch:
            raise ValueError(f"family must lie between 1 and the scenes and batches, {batch}, got {self.family}.")

    def run(self, folder: Path) -> dict[str, Any]:
        """Train what `folder` does not hold yet; return the held-out agreement of ensemble, branches, MSE and SSIM.

        Beside the model the folder gets scenes.png (what is drawn) and training.png (loss and agreement by step).
        """
        from dreamsim_guidance.training.pocket.ensemble import pretrain

        return pretrain(self, folder)


@dataclass(frozen=True)
class TunePocket:
    """Draw triplets, tune, and compare with the un-tuned ensemble and with pixels on scenes that were never seen."""

    tuning: Tuning
    """Its `data` is where the triplets are; what is missing there is drawn."""
    triplets: int
    seed: int
    """Of the triplets."""
    workers: int = 2
    """Processes that draw."""

    def run(self, folder: Path) -> dict[str, Any]:
        """Leaves what `Tuning.run` leaves; returns its figures, and agreement before and after on two test splits.

        "test" has new scenes; in "test_held_out" factors decide that no training triplet varies.
        """
        from dreamsim_guidance.training.pocket.adapter import tune_pocket

        return tune_pocket(self, folder)


@dataclass(frozen=True)
class TrainPocketPixels:
    """Training of the unconditional pixel model, from drawing its scenes to the folder `pocket_pixels`."""

    seed: int
    scenes: int
    """How many scenes of the split "train" are drawn."""
    size: int
    channels: tuple[int, ...]
    """Of the network at each resolution, each half the one before; attention at the two lowest."""
    batch: int
    average: float
    """Decay of the running average of the weights."""
    schedule: Schedule
    samples: int
    """Pictures that are drawn at the end and compared with as many held-out scenes."""

    def run(self, folder: Path) -> dict[str, Any]:
        """Train from the checkpoint in `folder` on; write the pipeline and samples.png; return losses and distances."""
        from dreamsim_guidance.training.pocket.pixels import train_pixels

        return train_pixels(self, folder)


@dataclass(frozen=True)
class Autoencoder:
    """How the autoencoder is built and trained."""

    channels: tuple[int, ...]
    """At each resolution, each half the one before."""
    latent_channels: int
    edges: float
    kl: float
    batch: int
    """Whole pictures in a batch; of crops, half as wide, twice as many."""
    crops: float
    """Share of the steps, from the first on, that train on crops, which take half the time."""
    schedule: Schedule


@dataclass(frozen=True)
class TextEncoder:
    """Size of the text encoder."""

    width: int
    depth: int
    heads: int


@dataclass(frozen=True)
class TrainPocketLatents:
    """Training of the latent model, from drawing its scenes to the folder `pocket_latents`."""

    seed: int
    scenes: int
    """How many scenes of the split "train" are drawn."""
    size: int
    autoencoder: Autoencoder
    text: TextEncoder
    channels: tuple[int, ...]
    """Of the denoiser at each resolution, each half the one before; all but the first attend to the words."""
    batch: int
    dropout: float
    """Share of empty captions."""
    average: float
    schedule: Schedule
    samples: int
    """Pictures that are drawn at the end and compared with as many held-out scenes."""

    def run(self, folder: Path) -> dict[str, Any]:
        """Train from the checkpoints in `folder` on; write the pipeline, samples.png and autoencoder.png.

        Returns errors and distances; samples.png has one picture for each of the captions in samples.txt.
        """
        from dreamsim_guidance.training.pocket.latents import train_latents

        return train_latents(self, folder)


@dataclass(frozen=True)
class TrainPocketJudge:
    """Training of the judge, from drawing its scenes to the file `pocket_judge.safetensors`."""

    seed: int
    scenes: int
    """How many are drawn: two in three are easy scenes, one in three is a full one."""
    width: int
    features: int
    batch: int
    schedule: Schedule
    held_out: int
    """Scenes, of each kind, of the final accuracies."""

    def run(self, folder: Path) -> dict[str, Any]:
        """Train from the checkpoint in `folder` on; return the accuracy per factor on held-out scenes of both kinds."""
        from dreamsim_guidance.training.pocket.judge import train_judge

        return train_judge(self, folder)
