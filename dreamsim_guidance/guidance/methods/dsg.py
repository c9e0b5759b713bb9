"""Diffusion with spherical Gaussian constraint.

A stochastic sampler's noise lies, in high dimension, on a sphere around the step's mean. The next state is taken on that
sphere, turned from the drawn noise towards the direction that lowers the loss:

    x_prev = mean + sqrt(n) sigma * unit(noise + strength (best - noise)),   best = -sqrt(n) sigma unit(grad_{x_t} loss(x0))

No step size has to be chosen. The sampler must add noise: deterministic samplers have none to turn.

Yang et al., Guidance with Spherical Gaussian Constraint for Conditional Diffusion, ICML 2024, eq. 12 and 13.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamsim_guidance.guidance.method import Method
from dreamsim_guidance.guidance.step import Step, length

__all__ = ["DSG"]


@dataclass(frozen=True)
class DSG(Method):
    """Turn the sampler's noise towards the reference.

    strength: share of the way from the drawn noise to the best direction, in [0, 1] (the paper's g_r, 0.1 to 0.2).
    Raises `ValueError` for deterministic samplers: use DDPM, Euler ancestral, LCM, or DDIM with `eta=1`.
    Cost of a step: one backward pass of the denoiser, one forward and backward pass of the decoder, and the scheduler's step
    three times.
    """

    strength: int | float = 0.1

    through_denoiser = True
    needs_noise = True
    strength_is_energy = False

    def __call__(self, step: Step) -> Tensor:
        g = step.pull_back(step.gradient())
        mean, noise = step.mean_and_noise()
        unguided = step.sample()  # scheduler and generator advance as without guidance
        radius = length(noise)
        if not bool((radius > 0).all()):
            if step.next_level.s == 0:
                return unguided  # the last step of a stochastic sampler adds no noise
            raise ValueError(
                "DSG turns the noise that a sampler adds, and this one adds none; use a stochastic sampler (DDPM, Euler "
                "ancestral, DDIM with eta=1) or another method, e.g. MPGD()."
            )
        size = length(g)
        best = -radius * (g / size.clamp_min(1e-30))
        # where there is no gradient (not finite, or the target is reached) the drawn noise stays
        turned = noise + torch.where(size > 0, min(self.strength, 1.0) * (best - noise), 0.0)
        turned = radius * turned / length(turned).clamp_min(1e-30)
        step.moved(turned - noise)
        return mean + turned
