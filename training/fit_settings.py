"""The settings of `fit`. This module imports no torch, so that recipes which use it are listed and shown at once."""

from __future__ import annotations

from dataclasses import dataclass

from dreamsim_guidance.training.optimiser import Optimiser

__all__ = ["FitSettings"]


@dataclass(frozen=True)
class FitSettings:
    """Length, learning rate and checkpoints of a pocket model's training: AdamW, a linear warm-up, then a cosine to zero."""

    steps: int
    learning_rate: float
    """The highest, after the warm-up."""
    warmup: int
    """Steps of linear growth from zero."""
    weight_decay: float
    """Of matrices; biases and norms are not decayed."""
    save_every: int = 100
    """Steps between checkpoints; the last step writes one in any case."""
    log_every: int = 20
    """Steps between reports of the loss."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Of AdamW; for adversarial training the first is 0."""

    @property
    def optimiser(self) -> Optimiser:
        return Optimiser("adamw", self.learning_rate, self.betas, self.weight_decay, "cosine", self.warmup)
