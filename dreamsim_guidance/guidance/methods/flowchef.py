"""FlowChef: steering a flow along its straight paths.

The velocity is held fixed while the state moves down the gradient at the flow's end point, without the denoiser's Jacobian:

    x0 = x_t - sigma v;   x_t <- x_t - lr grad_{x0} loss(x0)   `iterations` times, v fixed

Moving the state by d with v fixed moves the end point by d as well and, unlike with the noise fixed, the whole of d reaches
the next state. Other families' states have another scale: there the next state moves by (a_prev + s_prev) d, which is d
for a flow.

Patel et al., Steering Rectified Flow Models in the Vector Field for Controlled Image Generation, ICCV 2025, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dreamsim_guidance.guidance.method import Method
from dreamsim_guidance.guidance.step import Step

__all__ = ["FlowChef"]


@dataclass(frozen=True)
class FlowChef(Method):
    """Gradient steps on the end point of the flow; made for flow-matching models, defined for all families.

    strength: of a move, in noise levels per unit of n * gradient, as for `MPGD`.
    iterations: number of gradient steps, each with a forward and backward pass of the decoder.
    cap: bound of each move in units of the noise level; None for no bound.
    """

    strength: int | float = 0.005
    iterations: int = 1
    cap: int | float | None = 0.5

    def __post_init__(self) -> None:
        self._check_numbers("strength", "cap")
        self._check_counts("iterations")

    def __call__(self, step: Step) -> Tensor:
        x0 = step.x0
        d = x0 * 0
        for _ in range(self.iterations):
            d = d + step.descent(step.gradient(x0 + d), self.strength, self.cap)
        step.moved(d)
        x_prev = step.sample()
        return x_prev + (step.next_level.a + step.next_level.s) * d
