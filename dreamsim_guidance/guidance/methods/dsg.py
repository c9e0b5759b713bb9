"""Diffusion with spherical Gaussian constraint.

A stochastic sampler's noise lies, in high dimension, on a sphere around the step's mean. The next state is taken on that
sphere, turned from the drawn noise towards the direction that lowers the loss:

    x_prev = mean + sqrt(n) sigma * unit(noise + strength (best - noise)),   best = -sqrt(n) sigma unit(grad_{x_t} loss(x0))

No step size is left to choose. It needs noise to turn: deterministic samplers have none.

Yang et al., Guidance with Spherical Gaussian Constraint for Conditional Diffusion, ICML 2024, eq. 12 and 13.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamsim_guidance.guidance.method import Method
from dreamsim_guidance.guidance.step import Step, dot

__all__ = ["DSG"]


@dataclass(frozen=True)
class DSG(Method):
    """Turn the sampler's noise towards the reference.

    strength: share of the way from the drawn noise to the best direction, in [0, 1] (the paper's g_r, 0.1 to 0.2).
    Raises `ValueError` for deterministic samplers: use DDPM, Euler ancestral, LCM, or DDIM with `eta=1`.
    One denoiser backward and one decoder backward for each step, and the scheduler's step twice.
    """

    strength: int | float = 0.1

    @property
    def through_denoiser(self) -> bool:
        return True

    def __call__(self, step: Step) -> Tensor:
        g = step.pull_back(step.gradient())
        mean, noise = step.mean_and_noise()
        unguided = step.sample()  # the scheduler and the generator go on as without guidance
        assert step.next_level is not None  # sample() has set it
        radius = dot(noise, noise).sqrt()
        if not bool((radius > 0).all()):
            if step.next_level.s == 0:
                return unguided  # the last step of a stochastic sampler adds no noise
            raise ValueError(
                "DSG turns the noise that a sampler adds, and this one adds none; use a stochastic sampler (DDPM, Euler "
                "ancestral, DDIM with eta=1) or another method, e.g. MPGD()."
            )
        length = dot(g, g).sqrt()
        best = -radius * g / length.clamp_min(1e-30)
        # where there is no gradient (not finite, or the target is reached) the drawn noise stays
        turned = noise + torch.where(length > 0, min(self.strength, 1.0) * (best - noise), 0.0)
        turned = radius * turned / dot(turned, turned).sqrt().clamp_min(1e-30)
        step.moved(turned - noise)
        return mean + turned
