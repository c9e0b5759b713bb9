"""Tuning a metric on human judgments: adapters, a head, or all weights.

    minimise  mean over triplets of  loss(d(reference, a), d(reference, b), votes)

on any number of processes through accelerate. A step is decided by the seed and its number (batch, dropout, augmentation),
so a killed run goes on from its last checkpoint to the same parameters, and the number of processes and pieces changes
nothing but rounding (as long as dropout and augmentation are off: each process draws its own).

Fu et al., DreamSim: Learning New Dimensions of Human Visual Similarity using Synthetic Data, NeurIPS 2023, section 4.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dreamsim_guidance.training.augmentation import Augmentation
from dreamsim_guidance.training.loop import Loop
from dreamsim_guidance.training.scratch import Scratch
from dreamsim_guidance.training.vote_loss_config import VoteLossConfig

if TYPE_CHECKING:
    from dreamsim_guidance.metric.dreamsim import DreamSim

__all__ = ["LoRA", "Tuning"]


@dataclass(frozen=True)
class LoRA:
    """A low-rank adapter on the named linear layers of every block; the original's settings of the ensemble."""

    rank: int = 16
    alpha: float = 8.0
    dropout: float = 0.3
    targets: tuple[str, ...] = ("qkv",)
    """Last parts of the layers' names: qkv, attn.proj, fc1, fc2, ..."""

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 <= self.dropout < 1 or not math.isfinite(self.alpha):
            raise ValueError(
                "an adapter needs a rank of at least 1, a finite alpha, and a dropout from 0 to below 1, got "
                f"{self.rank}, {self.alpha}, {self.dropout}."
            )
        if isinstance(self.targets, str) or not self.targets:
            raise ValueError(f"targets are several names, e.g. ('qkv',), got {self.targets!r}.")


@dataclass(frozen=True)
class Tuning:
    """A whole tuning run; what it leaves in its folder is listed at `run`."""

    data: Path
    """Judgments: a folder in NIGHTS' layout, or any other that `data.sets.read_judgments` reads."""
    model: str
    """ensemble, dino_vitb16, ... (published base weights), pocket, modern, a model file (.safetensors) or a run's folder."""
    scratch: Scratch | None = None
    """A small model from nothing, instead of `model`."""
    weights: Path | None = None
    """Folder or zip of the published base weights, instead of the download cache."""
    pretrained: bool = True
    """False starts from random weights: a dry run where nothing can be downloaded."""
    lora: LoRA | None = field(default_factory=LoRA)
    head: int | None = None
    """Hidden width of a residual MLP on the features, the paper's other way of tuning."""
    all_weights: bool = False
    """Train everything, not an adapter or a head only."""
    loss: VoteLossConfig = field(default_factory=VoteLossConfig)
    loop: Loop = field(default_factory=Loop)
    normalize_embeds: bool = False
    """Centre the embedding. The original does so by default when it is used, but not when it is trained. The saved model
    and the figures are those of this setting; an adapter that is loaded elsewhere follows the other's."""
    augmentation: Augmentation | None = None
    kind: str | None = None
    """Format of `data`, one of `data.sets.KINDS`; by default what it looks like."""
    train_split: str = "train"
    val_split: str = "val"
    least_votes: int | None = None
    """Leave out triplets with fewer votes; by default 6 where votes are winners, as in NIGHTS."""
    reading: Literal["upright", "original"] = "upright"
    """How picture files are read: upright and at their full depth, or "original", as the original package does."""
    memory: float = 1.0
    """Gigabytes that decoded pictures may take; sets that fit are decoded once, at the start."""
    save_model: bool = True
    """Write model.safetensors (a gigabyte for the ensemble), not the adapter alone."""
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
        if self.head is not None and self.head < 1:
            raise ValueError(f"head is a width of at least 1, got {self.head}.")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}.")
        if (Path(self.model) / "model.safetensors").is_file():
            object.__setattr__(self, "model", str(Path(self.model, "model.safetensors").absolute()))
        elif self.model.endswith(".safetensors"):  # the run can be resumed from anywhere
            object.__setattr__(self, "model", str(Path(self.model).absolute()))

    def run(self, folder: Path) -> dict[str, Any]:
        """Train what `folder` does not hold yet, and write

        adapter/           the adapter as a peft folder, which the original package loads too (with `lora`)
        model.safetensors  the whole metric, adapter folded, for `DreamSim(...)` and `dreamsim-guidance evaluate --metric`
        curves.png         loss, agreement and learning rate over the steps; the numbers are in history.json
        checkpoints/       the newest ones, and best.pt

        Returns the figures of the best weights on the validation split. Raises what `read_judgments` and
        `check_pictures` raise, before anything is trained.
        """
        from dreamsim_guidance.training.tuning_run import run_tuning  # here, so that recipes are listed without torch

        return run_tuning(self, folder)

    def metric(self) -> DreamSim:
        """What is trained, before the first step."""
        from dreamsim_guidance.training.tuning_run import untrained_metric

        return untrained_metric(self)
