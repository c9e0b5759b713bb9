"""One step of a sampler as a guidance method sees it.

A method reads the noisy state and the clean estimate, asks for gradients of the loss, and decides from which state and which
clean estimate the sampler's own step is made. It can change a step in three ways:

    sample(x0 + d, state(x0 + d, eps))  state: the noise is kept, the state moves along     x_prev += a_prev d (first order)
    sample(x0 + d)                      score: the state is kept, the estimate moves        x_prev += (a_prev - a s_prev/s) d
    sample() + d                        prev:  the result moves

Exact guidance of a density p(x0) exp(-E(x0)) is score injection of d = (s^2/a) grad_{x_t} log E[exp(-E(x0)) | x_t]
(Tweedie's formula), for every parametrisation x_t = a x0 + s eps.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dreamsim_guidance.pipelines.levels import Level
from dreamsim_guidance.pipelines.noise import Generators, draw_noise
from dreamsim_guidance.pipelines.step_call import StepCall

__all__ = ["Evaluate", "Step", "dot", "length", "rms"]

_NO_DISTANCE = torch.zeros(0, dtype=torch.float32)

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From a clean estimate `(b, ...)` to the distance `(b,)` and its gradient, of the estimate's shape."""


class Step:
    """The state of one step, and what a method may do with it. All tensors have shape `(b, ...)` unless said otherwise.

    call: the sampler's step.
    evaluate: distance and gradient of the loss at a clean estimate.
    progress: share of the run that is done, in [0, 1), 0 at the first step.
    generator: for the method's own random numbers; the sampler's are left to the sampler.
    """

    def __init__(self, call: StepCall, evaluate: Evaluate, progress: float = 0.0, generator: Generators = None) -> None:
        self._call, self._evaluate = call, evaluate
        self.progress, self.generator = progress, generator
        self.x_t = call.x_t
        """The noisy state from which the scheduler steps; part of the graph for methods through the denoiser."""
        self.x0 = call.clean()
        """The clean estimate, float32 or wider; differentiable in `x_t` for methods through the denoiser."""
        self.level: Level = call.level
        """The noise level of `x_t`."""
        self._next_level: Level | None = None
        self.distance = _NO_DISTANCE
        """The loss `(b,)` at the clean estimate of the last gradient."""
        self.move: Tensor | None = None
        """What the method added to the clean estimate, for the log."""
        self.gradient_length: Tensor | None = None
        """Euclidean norm `(b,)` of the first gradient, for the log."""
        self.broken: Tensor | None = None
        """Whether any gradient of a sample was not finite, `(b,)`; None before the first gradient."""

    @property
    def elements(self) -> int:
        """n, the number of elements of one clean estimate."""
        return self.x0[0].numel()

    @property
    def sampled(self) -> bool:
        """Whether the sampler's step has been made."""
        return self._next_level is not None

    @property
    def next_level(self) -> Level:
        """The noise level of the next state. Raises `RuntimeError` before `sample` was called."""
        if self._next_level is None:
            raise RuntimeError("the next level is known after step.sample(), or one of its forms, was called.")
        return self._next_level

    def gradient(self, x0: Tensor | None = None) -> Tensor:
        """n grad_{x0} loss(decode(x0)): the gradient of the energy n * loss, without the denoiser.

        x0: where to take it, by default the step's own clean estimate.
        Rows are zero where loss or gradient are not finite, and where the target distance has been reached.
        """
        at = self.x0 if x0 is None else x0
        # the denoiser's graph is cut here; `pull_back` is the way through it
        self.distance, gradient = self._evaluate(at.detach())
        gradient = self._finite(gradient, self.distance)
        if self.gradient_length is None:
            self.gradient_length = length(gradient).flatten()
        return (self.elements * gradient).nan_to_num()  # infinite only by the factor n: the largest number instead

    def pull_back(self, gradient: Tensor) -> Tensor:
        """J^T g, J the Jacobian of the clean estimate in the noisy state: one backward pass through the denoiser.

        Rows are zero where the result is not finite.
        """
        scale = rms(gradient).clamp_min(1e-30)  # half precision: what is pulled back has entries of about 1
        pulled = self._finite(self._call.pull_back(self.x0, gradient / scale))
        return (pulled.to(gradient.dtype) * scale).nan_to_num()  # as in `gradient`

    def noise(self) -> Tensor:
        """eps, the noise in `x_t` according to the clean estimate."""
        return self.level.noise(self.x0, self.x_t).detach()

    def sample(self, x0: Tensor | None = None, x_t: Tensor | None = None) -> Tensor:
        """Make the sampler's own step and return the next state. To be called once in each step.

        x0, x_t: clean estimate and state to start from, by default the step's own.
        """
        x_prev, self._next_level = self._call.advance(x0, x_t)
        return x_prev

    def mean_and_noise(self) -> tuple[Tensor, Tensor]:
        """The mean of the sampler's own step and the noise that it adds, scaled; zero for deterministic samplers.

        Raises `ValueError` if the sampler adds its noise in a way that cannot be separated.
        """
        return self._call.separate()

    def with_noise_kept(self, d: Tensor) -> Tensor:
        """State injection: move the clean estimate by `d`, keep the noise, and make the sampler's step."""
        x0 = self.x0.detach() + d
        self.moved(d)
        return self.sample(x0, self.level.state(x0, self.noise()))

    def with_state_kept(self, d: Tensor) -> Tensor:
        """Score injection: move the clean estimate by `d`, keep the noisy state, and make the sampler's step."""
        self.moved(d)
        return self.sample(self.x0.detach() + d)

    def limit(self, d: Tensor, cap: int | float | None) -> Tensor:
        """The trust region: shorten `d` where its root mean square exceeds `cap` times the relative noise level."""
        if cap is None:
            return d
        d = d.nan_to_num()
        return d * (cap * self.level.relative / rms(d).clamp_min(1e-30)).clamp_max(1.0)

    def descent(self, gradient: Tensor, strength: int | float, cap: int | float | None) -> Tensor:
        """A move of the clean estimate down its own gradient, -strength lvl gradient, within the trust region."""
        return self.limit(-strength * self.level.relative * gradient, cap)

    def moved(self, d: Tensor) -> None:
        """Record a move of the clean estimate for the log."""
        self.move = d if self.move is None else self.move + d

    def draw(self, like: Tensor) -> Tensor:
        """Standard normal noise from the method's own generator."""
        return draw_noise(like, self.generator)

    def _finite(self, gradient: Tensor, distance: Tensor | None = None) -> Tensor:
        """The gradient with zero rows where it or the distance is not finite; these rows are recorded as broken."""
        largest = gradient.abs().flatten(1).amax(1)  # not finite if any entry is not: fewer launches than `isfinite`
        if distance is not None:
            largest = torch.maximum(largest, distance.abs())
        finite = largest < math.inf
        self.broken = ~finite if self.broken is None else self.broken | ~finite
        return torch.where(finite.view(-1, *[1] * (gradient.ndim - 1)), gradient, 0.0)


def rms(x: Tensor) -> Tensor:
    """Root mean square over all dimensions but the batch, `(b, 1, ...)`, without overflow or underflow of the squares."""
    largest = x.abs().flatten(1).amax(1).clamp_min(1e-30).view(-1, *[1] * (x.ndim - 1))
    scaled = x / largest
    return largest * dot(scaled, scaled).div(x[0].numel()).sqrt()


def length(x: Tensor) -> Tensor:
    """Euclidean norm over all dimensions but the batch, `(b, 1, ...)`."""
    return rms(x) * math.sqrt(x[0].numel())


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Inner product over all dimensions but the batch, `(b, 1, ...)`."""
    return (x * y).flatten(1).sum(1).view(-1, *[1] * (x.ndim - 1))
