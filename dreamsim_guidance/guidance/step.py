"""One step of a sampler as a guidance method sees it.

A method reads the noisy state and the clean estimate, asks for gradients of the loss, and says where the sampler's own
step shall start and what it shall believe. It can change a step in three ways:

    sample(x0 + d, state(x0 + d, eps))  state: the noise is kept, the state moves along     x_prev += a_prev d (first order)
    sample(x0 + d)                      score: the state is kept, the estimate moves        x_prev += (a_prev - a s_prev/s) d
    sample() + d                        prev:  the result moves

Exact guidance of a density p(x0) exp(-E(x0)) is score injection of d = (s^2/a) grad_{x_t} log E[exp(-E(x0)) | x_t]
(Tweedie's formula), for every parametrisation x_t = a x0 + s eps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dreamsim_guidance.pipelines.levels import Level
from dreamsim_guidance.pipelines.noise import Generators, draw_noise

__all__ = ["Step", "dot", "rms"]


@dataclass
class Step:
    """The state of one step, and what a method may do with it. All tensors have shape `(b, ...)`."""

    x_t: Tensor
    """The noisy state that the scheduler is about to take; part of the graph for methods through the denoiser."""
    x0: Tensor
    """The clean estimate, float32 or wider; differentiable in `x_t` for methods through the denoiser."""
    level: Level
    progress: float
    """Share of the run that is done, 0 at the first step."""
    generator: Generators
    """For a method's own random numbers; the sampler's are left to the sampler."""
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]] = field(repr=False)
    """From a clean estimate to the distance `(b,)` and its gradient, of the estimate's shape."""
    advance: Callable[[Tensor | None, Tensor | None], tuple[Tensor, Level]] = field(repr=False)
    """The scheduler's step from a clean estimate and a state; for methods, `sample`."""
    pull: Callable[[Tensor, Tensor], Tensor] = field(repr=False)
    """From a gradient in the clean estimate to that in the state; for methods, `pull_back`."""
    separate: Callable[[], tuple[Tensor, Tensor]] = field(repr=False)
    """The mean of the scheduler's step and the noise that it will draw; for methods, `mean_and_noise`."""
    distance: Tensor = field(default_factory=lambda: torch.zeros(0))
    """Of the last gradient's clean estimate, `(b,)`."""
    next_level: Level | None = None
    """The level of what `sample` returned; None before it was called."""
    move: Tensor | None = None
    """What the method added to the clean estimate, for the log."""
    gradient_length: Tensor | None = None
    """Euclidean norm `(b,)` of the first gradient, for the log."""

    @property
    def elements(self) -> int:
        """n, the number of elements of one clean estimate."""
        return self.x0[0].numel()

    def gradient(self, x0: Tensor | None = None) -> Tensor:
        """n grad_{x0} loss(decode(x0)): the gradient of the energy n * loss, without the denoiser.

        Rows are zero where the gradient is not finite and where the target distance has been reached.
        """
        at = self.x0 if x0 is None else x0
        # the denoiser's graph is cut here; `pull_back` is the way through it
        self.distance, gradient = self.evaluate(at.detach())
        if self.gradient_length is None:
            self.gradient_length = gradient.flatten(1).norm(dim=1)
        return self.elements * gradient

    def pull_back(self, gradient: Tensor) -> Tensor:
        """J^T g, J the Jacobian of the clean estimate in the noisy state: one backward through the denoiser."""
        scale = rms(gradient).clamp_min(1e-30)  # half precision: what is pulled back has entries of about 1
        pulled = self.pull(self.x0, gradient / scale).to(gradient.dtype) * scale
        return pulled.nan_to_num()  # too large is as large as can be; a trust region bounds it

    def noise(self) -> Tensor:
        """eps, the noise that `x_t` has beside the clean estimate."""
        return self.level.noise(self.x0, self.x_t).detach()

    def sample(self, x0: Tensor | None = None, x_t: Tensor | None = None) -> Tensor:
        """The sampler's own step, from this clean estimate and this state; by default the step's own."""
        x_prev, self.next_level = self.advance(x0, x_t)
        return x_prev

    def mean_and_noise(self) -> tuple[Tensor, Tensor]:
        """The mean of the sampler's own step and the noise that it adds, scaled; zero for deterministic samplers.

        Raises `ValueError` if the sampler adds its noise in a way that cannot be taken apart.
        """
        return self.separate()

    def with_noise_kept(self, d: Tensor) -> Tensor:
        """State injection: the clean estimate moves by `d`, the noise stays."""
        x0 = self.x0.detach() + d
        self.moved(d)
        return self.sample(x0, self.level.state(x0, self.noise()))

    def with_state_kept(self, d: Tensor) -> Tensor:
        """Score injection: the clean estimate moves by `d`, the noisy state stays."""
        self.moved(d)
        return self.sample(self.x0.detach() + d)

    def limit(self, d: Tensor, cap: int | float | None) -> Tensor:
        """The trust region: `d`, no longer (root mean square, by sample) than `cap` times the relative noise level."""
        if cap is None:
            return d
        return d * (cap * self.level.relative / rms(d).clamp_min(1e-30)).clamp_max(1.0)

    def descent(self, gradient: Tensor, strength: int | float, cap: int | float | None) -> Tensor:
        """A move of the clean estimate down its own gradient, -strength lvl gradient, within the trust region."""
        return self.limit(-strength * self.level.relative * gradient, cap)

    def moved(self, d: Tensor) -> None:
        """Write down a move of the clean estimate."""
        self.move = d if self.move is None else self.move + d

    def draw(self, like: Tensor) -> Tensor:
        """Standard normal noise of the method's own."""
        return draw_noise(like, self.generator)


def rms(x: Tensor) -> Tensor:
    """Root mean square over all but the batch, with the batch's shape for broadcasting."""
    largest = x.abs().flatten(1).amax(1).clamp_min(1e-30).view(-1, *[1] * (x.ndim - 1))
    scaled = x / largest  # squares of what is very large or very small are no numbers
    return largest * dot(scaled, scaled).div(x[0].numel()).sqrt()


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Inner product over all but the batch, `(b, 1, ...)`."""
    return (x * y).flatten(1).sum(1).view(-1, *[1] * (x.ndim - 1))
