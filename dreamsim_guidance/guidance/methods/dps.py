"""Diffusion posterior sampling.

The likelihood of the noisy state is taken to be that of its clean estimate, and its gradient passes through the
denoiser. It enters as a score, which is Tweedie's formula in every parametrisation:

    x0 <- x0 - strength n (s^2/a) J^T grad_{x0} loss(x0),   J = d x0 / d x_t

The paper subtracts zeta grad_{x_t} ||y - A(x0)|| from the next state instead: the same direction with another weight
over time, whose size depends on the sampler's scaling. In this form the strength means the same in every family, and
for a linear loss under a Gaussian prior the sampler converges to the exact posterior. For other losses the estimate ignores
that the clean image is uncertain (Jensen's gap), and steps are unstable while strength n lvl^2 times the loss's
curvature exceeds about one: hence the cap.

Chung et al., Diffusion Posterior Sampling for General Noisy Inverse Problems, ICLR 2023, eq. 16.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dreamsim_guidance.guidance.method import Method
from dreamsim_guidance.guidance.step import Step

__all__ = ["DPS"]


@dataclass(frozen=True)
class DPS(Method):
    """Follow the gradient of the clean estimate's loss through the denoiser.

    strength: nats per unit of loss and element.
    cap: bound of a move in units of the noise level; None for no bound, as exact comparisons need.
    Cost of a step: one backward pass of the denoiser, and one forward and backward pass of the decoder.
    """

    strength: int | float = 0.03
    cap: int | float | None = 0.5

    through_denoiser = True
    through_guider = True

    def __post_init__(self) -> None:
        self._check_numbers("strength", "cap")

    def __call__(self, step: Step) -> Tensor:
        d = -self.strength * step.level.s**2 / step.level.signal * step.pull_back(step.gradient())
        return step.with_state_kept(step.limit(d, self.cap))
