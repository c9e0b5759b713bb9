"""Loss-guided diffusion with Monte Carlo estimates.

At a noisy state the clean image is uncertain. The likelihood is averaged over a white distribution around its estimate, with
the variance of the posterior for data of unit variance:

    log p(y | x_t) = log 1/k sum_i exp(-strength n loss(x0 + r z_i)),   r = s / sqrt(a^2 + s^2)

Its gradient is the mean of the samples' gradients under the weights of a softmax, pulled back through the denoiser once. It is
exact for white Gaussian data as k grows.

Song et al., Loss-Guided Diffusion Models for Plug-and-Play Controllable Generation, ICML 2023, eq. 8.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamsim_guidance.guidance.method import Method
from dreamsim_guidance.guidance.step import Step

__all__ = ["LGD", "smoothed_gradient"]


@dataclass(frozen=True)
class LGD(Method):
    """DPS with the loss averaged over `samples` noisy copies of the clean estimate.

    strength: nats per unit of loss and element.
    samples: k, the number of noisy copies; each costs one forward and backward pass of the decoder.
    spread: factor on the paper's r; 0 makes it DPS.
    cap: bound of a move in units of the noise level; None for no bound.
    """

    strength: int | float = 0.03
    samples: int = 4
    spread: int | float = 1.0
    cap: int | float | None = 0.5

    through_denoiser = True
    through_guider = True

    def __post_init__(self) -> None:
        self._check_numbers("strength", "spread", "cap")
        self._check_counts("samples")

    def __call__(self, step: Step) -> Tensor:
        x0 = step.x0.detach()  # the samples' gradients are taken at x0; `pull_back` brings them to x_t
        g = smoothed_gradient(step, x0, self.strength, self.samples, self.spread)
        d = -self.strength * step.level.s**2 / step.level.signal * step.pull_back(g)
        return step.with_state_kept(step.limit(d, self.cap))


def smoothed_gradient(step: Step, x0: Tensor, strength: int | float, samples: int, spread: int | float) -> Tensor:
    """n times the gradient in `x0` of -1/(strength n) log mean_i exp(-strength n loss(x0 + spread lvl z_i))."""
    if spread == 0:
        return step.gradient(x0)
    distances, gradients = [], []
    for _ in range(samples):
        gradients.append(step.gradient(x0 + spread * step.level.relative * step.draw(x0)))
        distances.append(step.distance)
    energies = strength * step.elements * torch.stack(distances)
    # a copy whose loss is not finite has no weight; without any finite one there is no gradient
    weights = (-energies.nan_to_num(torch.inf)).softmax(0).nan_to_num(0.0).unsqueeze(-1)
    mean = (weights * torch.stack(gradients).flatten(2)).sum(0)
    return mean.view_as(x0)
