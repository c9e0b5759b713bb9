"""What a method asks for in one step, found by letting it make a step on random numbers and counting.

No method is known here by name; a method of your own is counted alike.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dreamsim_guidance.guidance.method import Method
from dreamsim_guidance.guidance.planning.cost import Meter
from dreamsim_guidance.guidance.step import Step
from dreamsim_guidance.pipelines.levels import Level
from dreamsim_guidance.pipelines.step_call import StepCall

__all__ = ["Demand", "demand_of"]


@dataclass(frozen=True)
class Demand:
    """The work of one step in addition to the denoiser's forward pass.

    gradients: evaluations of the loss's gradient at a clean estimate.
    pull_backs: backward passes of such a gradient through the denoiser.
    operations: of the method's own arithmetic on states and estimates, which are small but launched one by one.
    """

    gradients: int
    pull_backs: int
    operations: int = field(default=0, compare=False)


def demand_of(method: Method, progress: float, shape: tuple[int, ...] = (4, 8, 8)) -> Demand:
    """Count what `method` asks for in a step, each time the step is made.

    progress: share of the run that is done, in [0, 1). shape: of one clean estimate, without the batch.
    """
    random = torch.Generator().manual_seed(0)
    x_t, x0, x_prev = (torch.randn(1, *shape, generator=random, dtype=torch.float32) for _ in range(3))
    call = _CountedCall(x_t, x0, Level(0.8, 0.6, 0.0, 1.0), timestep=500.0, generator=random)
    call.x_prev = x_prev
    gradients = 0
    slope = torch.randn(1, *shape, generator=random, dtype=torch.float32)

    def evaluate(x0: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal gradients
        gradients += 1
        return slope.flatten(1)[:, 0], slope

    with torch.no_grad(), Meter() as meter:
        method(Step(call, evaluate, progress, random))
    return Demand(gradients, call.pull_backs, sum(meter.operations.values()))


class _CountedCall(StepCall):
    """A step whose answers are random numbers; the model's output is the clean estimate."""

    x_prev: Tensor
    pull_backs = 0

    def pull_back(self, x0: Tensor, gradient: Tensor) -> Tensor:
        self.pull_backs += 1
        return gradient

    def advance(self, x0: Tensor | None = None, x_t: Tensor | None = None) -> tuple[Tensor, Level]:
        return self.x_prev, self.level

    def separate(self) -> tuple[Tensor, Tensor]:
        return self.x_t, self.x_prev
