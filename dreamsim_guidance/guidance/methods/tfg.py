"""TFG: a unified form of training-free guidance.

Two moves, one through the denoiser and one on the clean estimate, of a loss smoothed by noise, in steps that may be repeated:

    Delta_t = -rho  n (s^2/a) J^T grad Ltilde(x0)
    Delta_0 = -mu   n lvl     sum over `iterations` of grad Ltilde(x0 + Delta_0)
    Ltilde(x0) = -1/(strength n) log mean_i exp(-strength n loss(x0 + sigma lvl z_i))

Delta_t enters as a score, Delta_0 with the noise kept. DPS is rho = 1, mu = 0; LGD adds sigma and samples; MPGD is rho = 0,
mu = 1, iterations = 1; FreeDoM's time travel and universal guidance's inner steps are `recurrence` and `iterations`. The
paper states both moves for the variance-preserving case; in this form they have the same unit for all families.

Ye et al., TFG: Unified Training-Free Guidance for Diffusion Models, NeurIPS 2024, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from dreamsim_guidance.guidance.method import Method
from dreamsim_guidance.guidance.methods.lgd import smoothed_gradient
from dreamsim_guidance.guidance.step import Step

__all__ = ["TFG"]


Course = Literal["constant", "increase", "decrease"]


@dataclass(frozen=True)
class TFG(Method):
    """Both moves, smoothed and repeated; DPS, LGD and MPGD are special cases.

    strength: as for `DPS` and `MPGD`; rho and mu are factors on it for the two moves.
    sigma: noise of the smoothed loss in units of the noise level, with `samples` draws; 0 for the loss itself.
    iterations: gradient steps of the second move. recurrence: how often each step is made.
    rho_course, mu_course: how the factors change over the run, "constant", "increase" or "decrease", each with mean 1.
    cap: bound of each move in units of the noise level; None for no bound.
    Cost of a step: `recurrence` times a forward pass of the denoiser, a backward pass if rho > 0, and `samples` x (1 +
    `iterations`) forward and backward passes of the decoder.
    """

    strength: int | float = 0.01
    rho: int | float = 0.5
    mu: int | float = 0.5
    sigma: int | float = 0.1
    samples: int = 1
    iterations: int = 2
    recurrence: int = 1
    rho_course: Course = "constant"
    mu_course: Course = "constant"
    cap: int | float | None = 0.5

    through_guider = True

    def __post_init__(self) -> None:
        self._check_numbers("strength", "rho", "mu", "sigma", "cap")
        self._check_counts("samples", "iterations", "recurrence")
        for course in (self.rho_course, self.mu_course):
            self._check(course in get_args(Course), f"courses out of {', '.join(get_args(Course))}")
        self._check(self.rho + self.mu > 0, "rho or mu above zero")

    @property
    def through_denoiser(self) -> bool:
        return self.rho > 0

    def __call__(self, step: Step) -> Tensor:
        x0 = step.x0.detach()  # `pull_back` brings gradients through the denoiser
        smoothed = partial(smoothed_gradient, step, strength=self.strength, samples=self.samples, spread=self.sigma)
        through, alone = torch.zeros_like(x0), torch.zeros_like(x0)
        if self.rho > 0:
            weight = self.strength * self.rho * _factor(self.rho_course, step.progress)
            through = -weight * step.level.s**2 / step.level.signal * step.pull_back(smoothed(x0))
            through = step.limit(through, self.cap)
        if self.mu > 0:
            weight = self.strength * self.mu * _factor(self.mu_course, step.progress)
            for _ in range(self.iterations):
                alone = alone + step.descent(smoothed(x0 + alone), weight, self.cap)
        step.moved(through + alone)
        return step.sample(x0 + through + alone, step.x_t.detach() + step.level.a * alone)

    def repeats(self, progress: float) -> int:
        return self.recurrence


def _factor(course: Course, progress: float) -> float:
    return {"constant": 1.0, "increase": 2 * progress, "decrease": 2 * (1 - progress)}[course]
