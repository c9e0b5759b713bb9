"""FreeDoM: training-free guidance with time travel.

The next state moves along the gradient through the denoiser, by a fixed share of its noise. In the middle of the run, where the
contents of the image are decided, each step is made several times, its result noised back in between:

    x_prev <- x_prev - strength a_prev lvl g / rms(g),   g = J^T grad_{x0} loss(x0)
    x_t    <- (a / a_prev) x_prev + sqrt(s^2 - (a s_prev / a_prev)^2) z

The paper's step sizes change with the task; for text-to-image models they scale the gradient by the ratio of root mean
squares as well.

Yu et al., FreeDoM: Training-Free Energy-Guided Conditional Diffusion Model, ICCV 2023, algorithm 2.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dreamsim_guidance.guidance.method import Method
from dreamsim_guidance.guidance.step import Step, rms

__all__ = ["FreeDoM"]


@dataclass(frozen=True)
class FreeDoM(Method):
    """Normalised gradient through the denoiser, with time travel.

    strength: root mean square of a move in units of the noise level.
    recurrence: how often a step in the window is made; each time costs a forward and backward pass of the denoiser.
    recurrence_window: first and last share of the run between which steps are repeated, in order.
    """

    strength: int | float = 0.05
    recurrence: int = 2
    recurrence_window: tuple[int | float, int | float] = (0.3, 0.7)

    through_denoiser = True
    strength_is_energy = False

    def __post_init__(self) -> None:
        self._check_numbers("strength")
        self._check_counts("recurrence")
        window = self.recurrence_window
        numbers = isinstance(window, tuple | list) and all(isinstance(share, int | float) for share in window)
        if not (numbers and len(window) == 2):
            raise TypeError(f"FreeDoM: recurrence_window must be 2 numbers such as (0.3, 0.7), got {window!r}.")
        self._check(
            window[0] <= window[1] <= 1, "a recurrence_window of two shares of the run in order, such as (0.3, 0.7)"
        )

    def __call__(self, step: Step) -> Tensor:
        g = step.pull_back(step.gradient())
        d = -self.strength * step.level.relative * (g / rms(g).clamp_min(1e-30))
        x_prev = step.sample()
        step.moved(d)
        return x_prev + step.next_level.a * d

    def repeats(self, progress: float) -> int:
        first, last = self.recurrence_window
        return self.recurrence if first <= progress < last else 1
