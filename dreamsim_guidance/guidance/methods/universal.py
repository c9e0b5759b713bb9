"""Universal guidance: forward, backward, and self-recurrence.

Forward: the gradient through the denoiser enters as a score. Backward: a few gradient steps on the clean estimate alone find
what the loss would rather see, and the predicted noise follows. Every step is made several times, noised back in between.

    x0 <- x0 - strength n (s^2/a) J^T grad loss(x0)              forward
    x0 <- x0 - backward n lvl grad loss(x0)     m times          backward

Bansal et al., Universal Guidance for Diffusion Models, CVPR workshops 2023 and ICLR 2024, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dreamsim_guidance.guidance.method import Method
from dreamsim_guidance.guidance.step import Step

__all__ = ["UniversalGuidance"]


@dataclass(frozen=True)
class UniversalGuidance(Method):
    """Forward and backward guidance with self-recurrence.

    strength: of the forward part, in nats per unit of loss and element.
    backward: of each backward step, as a factor on the strength; backward_steps: how many.
    recurrence: how often each step is made.
    cap: bound of each part's move in units of the noise level; None for none.
    A step costs `recurrence` denoiser forwards and backwards, each with `backward_steps` + 1 decoder backwards.
    """

    strength: int | float = 0.03
    backward: int | float = 1.0
    backward_steps: int = 2
    recurrence: int = 2
    cap: int | float | None = 0.5

    @property
    def through_denoiser(self) -> bool:
        return True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(isinstance(self.recurrence, int) and self.recurrence >= 1, "a whole recurrence, at least 1")
        self._check(isinstance(self.backward_steps, int), "a whole number of backward_steps")

    def __call__(self, step: Step) -> Tensor:
        forward = -self.strength * step.level.s**2 / step.level.signal * step.pull_back(step.gradient())
        d = step.limit(forward, self.cap)
        x0 = step.x0.detach()  # backward guidance does not pass through the denoiser
        for _ in range(self.backward_steps):
            d = d + step.descent(step.gradient(x0 + d), self.backward * self.strength, self.cap)
        return step.with_state_kept(d)

    def repeats(self, progress: float) -> int:
        return self.recurrence
