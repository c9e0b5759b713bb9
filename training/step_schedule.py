"""Steps and learning rate of a pocket model's training; this module imports no torch, for recipes."""

from __future__ import annotations

from dataclasses import dataclass

from dreamsim_guidance.training.optimiser import Optimiser

__all__ = ["Schedule"]


@dataclass(frozen=True)
class Schedule:
    """Steps and learning rate of a run: linear warm-up, then a cosine down to zero; AdamW."""

    steps: int
    learning_rate: float
    warmup: int
    weight_decay: float
    save_every: int = 100
    log_every: int = 20

    @property
    def optimiser(self) -> Optimiser:
        return Optimiser("adamw", self.learning_rate, (0.9, 0.98), self.weight_decay, "cosine", self.warmup)
