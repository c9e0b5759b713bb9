"""Moment matching posterior sampling, for any loss.

The clean image given the noisy state has the covariance C = (s^2/a) J (Tweedie's second formula). If it is taken to be Gaussian
with that covariance and the loss is expanded to second order (gradient g, curvature H of the energy), the average of
exp(-energy) has the closed form whose gradient is

    x0 <- x0 - C u,    (I + H C) u = g

solved by a few steps of GMRES; products with C are backward passes through the denoiser, products with H differences of
gradients. For quadratic losses under a Gaussian prior this is the exact posterior.

Rozet et al., Learning Diffusion Priors from Observations by Expectation Maximization, NeurIPS 2024, section 4.1 (for linear
observations, with conjugate gradients); Saad and Schultz, GMRES, SIAM J. Sci. Stat. Comput. 1986.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamsim_guidance.guidance.method import Method
from dreamsim_guidance.guidance.step import Step, dot, length, rms

__all__ = ["MMPS"]


@dataclass(frozen=True)
class MMPS(Method):
    """DPS that accounts for how uncertain the clean estimate is, and in which directions.

    strength: nats per unit of loss and element.
    solves: steps of GMRES; each costs a backward pass of the denoiser and two forward and backward passes of the decoder. The
        solution is exact after as many steps as the loss's curvature has directions.
    cap: bound of a move in units of the noise level; None for no bound, as exact comparisons need.
    """

    strength: int | float = 0.03
    solves: int = 3
    cap: int | float | None = 0.5

    through_denoiser = True
    through_guider = True

    def __post_init__(self) -> None:
        self._check_numbers("strength", "cap")
        self._check_counts("solves")

    def __call__(self, step: Step) -> Tensor:
        x0 = step.x0.detach()  # expanded around here; `pull_back` keeps the denoiser's graph
        g = self.strength * step.gradient(x0)

        def covariance(v: Tensor) -> Tensor:
            return step.level.s**2 / step.level.signal * step.pull_back(v)

        def curvature(v: Tensor) -> Tensor:
            reach = 0.1 * max(step.level.relative, 0.1) / rms(v).clamp_min(1e-30)
            return self.strength * (step.gradient(x0 + reach * v) - step.gradient(x0 - reach * v)) / (2 * reach)

        u = _gmres(lambda v: v + curvature(covariance(v)), g, self.solves)
        return step.with_state_kept(step.limit(-covariance(u), self.cap))


def _gmres(operator: Callable[[Tensor], Tensor], b: Tensor, steps: int) -> Tensor:
    """Solve operator(x) = b for every sample of the batch, starting at zero."""
    size = length(b)
    basis = [b / size.clamp_min(1e-30)]
    hessenberg = torch.zeros(len(b), steps + 1, steps, dtype=b.dtype, device=b.device)
    for k in range(steps):
        w = operator(basis[k])
        for _ in range(2):  # a second time against rounding errors
            for i, v in enumerate(basis):
                share = dot(w, v)
                hessenberg[:, i, k] += share.flatten()
                w = w - share * v
        residual = length(w)
        hessenberg[:, k + 1, k] = residual.flatten()
        # once all directions are used, the residual has length zero: a zero vector in the basis changes nothing
        basis.append(
            torch.where(
                residual > 1e-6 * hessenberg[:, :, k].norm(dim=1).view_as(residual), w / residual.clamp_min(1e-30), 0.0
            )
        )
    goal = torch.zeros(len(b), steps + 1, 1, dtype=b.dtype, device=b.device)
    goal[:, 0] = size.view(-1, 1)
    # directions of the null space (a sample without gradient) get no weight
    weights = torch.linalg.pinv(hessenberg, rtol=1e-6) @ goal
    shape = [-1] + [1] * (b.ndim - 1)
    return sum(weights[:, k].view(shape) * basis[k] for k in range(steps))  # type: ignore[return-value]
