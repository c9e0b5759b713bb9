"""Adam or AdamW, with a learning rate that is a function of the step, so that checkpoints need no scheduler state."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Optimiser"]


@dataclass(frozen=True)
class Optimiser:
    """Optimiser and learning rate; the defaults are the original's."""

    kind: Literal["adam", "adamw"] = "adam"
    learning_rate: float = 3e-4
    betas: tuple[float, float] = (0.5, 0.999)
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """After the warm-up; cosine and linear end at zero."""
    warmup: int = 0
    """Steps of linear growth from zero."""
    clip: float | None = None
    """Largest norm of the gradient over all trained parameters. None: no bound."""

    def __post_init__(self) -> None:
        for name, choices in (("kind", ("adam", "adamw")), ("schedule", ("constant", "cosine", "linear"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"unknown {name} '{getattr(self, name)}'; known: {', '.join(choices)}.")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ValueError(f"learning_rate must be a positive number, got {self.learning_rate}.")
        if self.weight_decay < 0 or self.warmup < 0 or (self.clip is not None and self.clip <= 0):
            raise ValueError(
                "weight_decay and warmup must not be negative, clip must be positive or None, got "
                f"{self.weight_decay}, {self.warmup}, {self.clip}."
            )

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of step `step`, counted from 0, of a run of `steps` steps."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        t = (step - self.warmup) / max(1, steps - self.warmup)
        shape = {"constant": 1.0, "linear": 1 - t, "cosine": 0.5 * (1 + math.cos(math.pi * t))}
        return self.learning_rate * shape[self.schedule]

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Build the optimiser for those parameters that require a gradient. AdamW decays matrices only."""
        import torch  # here, so that recipes are listed without it

        trained = [parameter for parameter in parameters if parameter.requires_grad]
        if self.kind == "adam":
            return torch.optim.Adam(trained, self.learning_rate, self.betas, weight_decay=self.weight_decay)
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW([group for group in groups if group["params"]], self.learning_rate, self.betas)
