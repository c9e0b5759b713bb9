"""What a method asks for in one step: found out by letting it make a step of a handful of numbers, and counting.

No method is known here by name; one of your own is counted alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamsim_guidance.guidance.method import Method
from dreamsim_guidance.guidance.step import Step
from dreamsim_guidance.pipelines.levels import Level, level_from

__all__ = ["Demand", "demand_of"]


@dataclass(frozen=True)
class Demand:
    """gradients: of the loss at a clean estimate; pull_backs: of such a gradient through the denoiser."""

    gradients: int
    pull_backs: int


def demand_of(method: Method, progress: float) -> Demand:
    """What `method` asks for at this share of the run, each time the step is made."""
    level = level_from(0.8, 0.6, "epsilon")
    counts = {"gradients": 0, "pull_backs": 0}
    random = torch.Generator().manual_seed(0)
    x_t, x0, noise = (torch.randn(1, 8, generator=random) for _ in range(3))

    def evaluate(x0: Tensor) -> tuple[Tensor, Tensor]:
        counts["gradients"] += 1
        return x0.square().mean(1), x0 / 4

    def advance(x0: Tensor | None, x_t: Tensor | None) -> tuple[Tensor, Level]:
        return noise, level

    def pull(x0: Tensor, gradient: Tensor) -> Tensor:
        counts["pull_backs"] += 1
        return gradient

    step = Step(
        x_t=x_t,
        x0=x0,
        level=level,
        progress=progress,
        generator=random,
        evaluate=evaluate,
        advance=advance,
        pull=pull,
        separate=lambda: (x_t, noise),
    )
    with torch.no_grad():
        method(step)
    return Demand(**counts)
