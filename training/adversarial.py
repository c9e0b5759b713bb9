"""The settings of adversarial tuning, without importing torch, so that recipes are listed and shown at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from dreamsim_guidance.evaluation.robustness.attack import Attack, Norm

__all__ = ["Adversarial"]

Kind = Literal["distance", "features"]


@dataclass(frozen=True)
class Adversarial:
    """Tune on pictures that an adversary changes at every step; `adversarial_loss.py` has the equations.

    The weights of the last step are kept: those with the lowest loss on clean pictures would be hardly robust.
    """

    kind: Kind = "distance"
    """"distance": the adversary changes both candidates so as to raise the loss on votes. "features": it moves the embedding of
    each picture as far as possible from what it was before tuning, without any votes."""
    norm: Norm = "linf"
    radius: float = 4 / 255
    """Largest change, in units of [0, 1]."""
    steps: int = 2
    """Gradient steps of the adversary from a random start; each costs as much as a step of training."""
    step_size: float | None = None
    """Length of a gradient step; by default 2.5 radius / steps, and 1.25 radius for a single one."""
    weight: float = 1.0
    """Weight of the loss on changed pictures."""
    clean_weight: float = 1.0
    """Weight of the loss on votes for the pictures as they are. 0 ignores the votes if kind is "features"."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"unknown kind of adversarial tuning '{self.kind}'; known: {', '.join(get_args(Kind))}.")
        for name in ("weight", "clean_weight"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)) or (name == "weight" and value == 0):
                least = "positive" if name == "weight" else "not negative"
                raise ValueError(f"{name} of adversarial tuning must be {least} and finite, got {value}.")
        _ = self.attack  # checks the other fields

    @property
    def attack(self) -> Attack:
        """The adversary's norm, radius and steps."""
        step = 1.25 * self.radius if self.step_size is None and self.steps == 1 else self.step_size
        return Attack(self.norm, self.radius, self.steps, step)
