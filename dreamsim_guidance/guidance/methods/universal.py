"""Universal guidance: forward, backward, and self-recurrence.

Forward: the gradient through the denoiser enters as a score. Backward: a few gradient steps on the clean estimate alone lower
the loss further, and the predicted noise follows. Every step is made several times, noised back in between.

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
    backward: of each backward step, as a factor on the strength. backward_steps: their number, at least 0.
    recurrence: how often each step is made, at least 1.
    cap: bound of each part's move in units of the noise level; None for no bound.
    Cost of a step: `recurrence` forward and backward passes of the denoiser, each with `backward_steps` + 1 of the decoder.
    """

    strength: int | float = 0.03
    backward: int | float = 1.0
    backward_steps: int = 2
    recurrence: int = 2
    cap: int | float | None = 0.5

    through_denoiser = True
    through_guider = True

    def __post_init__(self) -> None:
        self._check_numbers("strength", "backward", "cap")
        self._check_counts("recurrence")
        self._check_counts("backward_steps", least=0)

    def __call__(self, step: Step) -> Tensor:
        forward = -self.strength * step.level.s**2 / step.level.signal * step.pull_back(step.gradient())
        d = step.limit(forward, self.cap)
        x0 = step.x0.detach()  # backward guidance does not pass through the denoiser
        for _ in range(self.backward_steps):
            d = d + step.descent(step.gradient(x0 + d), self.backward * self.strength, self.cap)
        return step.with_state_kept(d)

    def repeats(self, progress: float) -> int:
        return self.recurrence
