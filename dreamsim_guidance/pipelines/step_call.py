"""One step of a sampler, opened up: its clean estimate, the way back through the denoiser, and the step itself.

`StepCall` is the one interface through which anything is done to a step. `SchedulerCall` is a call of `scheduler.step` that
can be made with other arguments; callers that see less of a step (a guider, a callback) have subclasses of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dreamsim_guidance.pipelines.host_numbers import number
from dreamsim_guidance.pipelines.levels import Level, wide
from dreamsim_guidance.pipelines.noise import Generators, draw_noise, generator_states, set_generator_states
from dreamsim_guidance.pipelines.scheduler import level_after, level_of, restore, second_stage, snapshot

__all__ = ["SchedulerCall", "StepCall", "first_of", "others_of", "with_first"]


@dataclass
class StepCall:
    """What is known of one step, and what can be done to it. Subclasses define `advance`.

    x_t: the noisy state `(b, ...)` that the step starts from.
    model_output: the denoiser's output for it, after classifier-free guidance.
    level: noise level of `x_t`, which turns the output into a clean estimate.
    timestep: as the scheduler counts them.
    generator: the run's random numbers.
    inputs: what went into the denoiser, as leaves of its graph, where that graph does not reach back to `x_t`.
    """

    x_t: Tensor
    model_output: Tensor
    level: Level
    timestep: float
    generator: Generators = None
    inputs: Sequence[Tensor] = ()

    def clean(self) -> Tensor:
        """The clean estimate, float32 or wider; part of the denoiser's graph where there is one."""
        return self.level.clean(self.model_output, self.x_t)

    def pull_back(self, x0: Tensor, gradient: Tensor) -> Tensor:
        """J^T g for the Jacobian J of the clean estimate `x0` (from `clean`) in the state."""
        if not self.inputs:
            return torch.autograd.grad(x0, self.x_t, gradient.to(x0.dtype), retain_graph=True)[0]
        through = (self.level.q * gradient).to(self.model_output.dtype)
        slopes = torch.autograd.grad(self.model_output, list(self.inputs), through, retain_graph=True)
        pulled = self.level.p * gradient
        for denoiser_input, slope in zip(self.inputs, slopes, strict=True):
            pulled = pulled + _folded(denoiser_input, slope, self.x_t).to(gradient.dtype)
        return pulled

    def advance(self, x0: Tensor | None = None, x_t: Tensor | None = None) -> tuple[Tensor, Level]:
        """Make the sampler's step from this clean estimate and this state; return the next state and its level.

        With no arguments the step is the sampler's own, bit for bit.
        """
        raise NotImplementedError(f"{type(self).__name__} must define advance(x0, x_t) -> next state, its level")

    def separate(self) -> tuple[Tensor, Tensor]:
        """The mean of the sampler's own step and the noise that it is going to add to it.

        Raises `ValueError` if the two cannot be told apart.
        """
        raise ValueError("the noise of a step is not accessible here; only calls of `scheduler.step` can be separated.")


class SchedulerCall(StepCall):
    """A call of `scheduler.step` that has been intercepted.

    ask: the scheduler's own `step` as a function of model output and state, the other arguments of the call filled in.
    next_timestep: of the step after this one, None for the last.
    Other arguments: as for `StepCall`. A variance that the model has learned is split off its output.
    """

    def __init__(
        self,
        scheduler: Any,
        ask: Callable[[Tensor, Tensor], Any],
        model_output: Tensor,
        timestep: Any,
        x_t: Tensor,
        next_timestep: float | None = None,
        generator: Generators = None,
        inputs: Sequence[Tensor] = (),
    ) -> None:
        self._variance: Tensor | None = None
        learned = str(getattr(scheduler.config, "variance_type", "")).startswith("learned")
        if learned and model_output.shape[1] == 2 * x_t.shape[1]:
            model_output, self._variance = model_output.chunk(2, dim=1)
        super().__init__(x_t, model_output, level_of(scheduler, timestep), number(timestep), generator, inputs)
        self.scheduler, self._ask, self._next_timestep = scheduler, ask, next_timestep
        self.result: Any = None
        """What the scheduler returned, after `advance`."""

    def advance(self, x0: Tensor | None = None, x_t: Tensor | None = None) -> tuple[Tensor, Level]:
        self.result = self._call(x0, x_t)
        return first_of(self.result), level_after(self.scheduler, self._next_timestep)

    def separate(self) -> tuple[Tensor, Tensor]:
        """The mean of the sampler's own step and the noise that it is going to add; scheduler and generator stay as they are.

        The scheduler is asked twice with known noises z and z'. The results differ by sigma (z - z'), which gives sigma and,
        if sampler and noise are what they seem, nothing else. Raises `ValueError` if they are not.
        """
        before_step, device = snapshot(self.scheduler), self.x_t.device
        before = generator_states(self.generator, device)
        first_draw = draw_noise(self.model_output, self.generator).float()
        between = generator_states(self.generator, device)
        second_draw = draw_noise(self.model_output, self.generator).float()
        results = []
        for states in (before, between):
            set_generator_states(self.generator, device, states)
            results.append(first_of(self._call(None, None)).float())
            restore(self.scheduler, before_step)
        set_generator_states(self.generator, device, before)
        difference, noises = results[0] - results[1], first_draw - second_draw
        sigma = float((difference * noises).mean() / noises.square().mean())
        residual = float((difference - sigma * noises).square().mean().sqrt())
        if residual > 1e-2 * (abs(sigma) + 1e-5):
            raise ValueError(
                f"the noise that {type(self.scheduler).__name__} adds cannot be separated from its step; DDPM, DDIM with eta=1 "
                "and Euler ancestral can be."
            )
        noise = sigma * first_draw if abs(sigma) > 1e-6 else torch.zeros_like(first_draw)
        return results[0] - noise, noise

    def noised_back(self, x_prev: Tensor) -> Tensor:
        """Time travel: x_t = r x_prev + sqrt(s^2 - (r s_prev)^2) z, r = a / a_prev, for every kind of noise schedule."""
        before = level_after(self.scheduler, self._next_timestep)
        ratio = self.level.a / before.signal
        spread = max(0.0, self.level.s**2 - (ratio * before.s) ** 2) ** 0.5
        return ratio * x_prev + spread * draw_noise(x_prev, self.generator)

    def _call(self, x0: Tensor | None, x_t: Tensor | None) -> Any:
        state, output = self.x_t, self.model_output
        if x0 is not None:
            # the second half of a second-order step goes on from the state that its first half stored
            if x_t is not None and not second_stage(self.scheduler):
                state = x_t.to(state.dtype)
            output = self.level.model_output(x0, state).to(output.dtype)
        if self._variance is not None:
            output = torch.cat([output, self._variance], dim=1)
        with torch.no_grad():
            return self._ask(output.detach(), state.detach())


def _folded(denoiser_input: Tensor, gradient: Tensor, x_t: Tensor) -> Tensor:
    """From the gradient in the denoiser's input, copies of c x_t one after another, to that in x_t."""
    copies = len(denoiser_input) // len(x_t)
    state = wide(x_t.detach())
    channels = state.shape[1]  # inpainting models have further channels behind those of the state
    total = torch.zeros_like(state)
    for part, slope in zip(wide(denoiser_input.detach()).chunk(copies), wide(gradient).chunk(copies), strict=True):
        part, slope = part[:, :channels], slope[:, :channels]
        scale = float((part * state).sum() / state.square().sum())
        if part.shape != state.shape or not torch.allclose(part, scale * state, atol=1e-2 * float(part.abs().max())):
            raise RuntimeError(
                "the denoiser's input is not a multiple of the sampler's state here, so no gradient can be passed from the "
                "denoiser to the state; use a method that does not differentiate the denoiser."
            )
        total = total + scale * slope
    return total


def first_of(result: Any) -> Tensor:
    """The next state in what a scheduler returned."""
    return result[0] if isinstance(result, tuple) else result.prev_sample


def others_of(result: Any) -> list[Any]:
    """Everything else that a scheduler returned, such as LCM's denoised sample, which the pipeline decodes."""
    return list(result[1:]) if isinstance(result, tuple) else list(result.values())[1:]


def with_first(result: Any, x_prev: Tensor) -> Any:
    """The same result with another next state."""
    if isinstance(result, tuple):
        return (x_prev, *result[1:])
    result["prev_sample"] = x_prev
    return result
