"""One call of `scheduler.step`, opened up: read, changed, made, or taken apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dreamsim_guidance.pipelines.levels import Level, wide
from dreamsim_guidance.pipelines.noise import Generators, draw_noise, generator_states, set_generator_states
from dreamsim_guidance.pipelines.scheduler import level_after, level_of, restore, second_stage, snapshot

__all__ = ["StepCall"]


class StepCall:
    """What a pipeline asked its scheduler to do.

    original: the scheduler's own `step`.
    next_timestep: of the step after this one, None for the last.
    generator: of the run, where the call itself brings none.
    inputs: what went into the denoiser, as leaves of its graph, where the pipeline's own graph does not reach back to `x_t`.
    """

    def __init__(
        self,
        scheduler: Any,
        original: Callable[..., Any],
        model_output: Tensor,
        timestep: Any,
        x_t: Tensor,
        rest: tuple[tuple[Any, ...], dict[str, Any]],
        next_timestep: Any | None,
        generator: Generators,
        inputs: Sequence[Tensor] = (),
    ) -> None:
        self.scheduler, self._original, self.timestep, self.x_t = scheduler, original, timestep, x_t
        self._positional, self._keywords = rest
        self._next_timestep, self._inputs = next_timestep, inputs
        given = self._keywords.get("generator")
        self.generator: Generators = generator if given is None else given
        self.level = level_of(scheduler, timestep)
        self._variance: Tensor | None = None
        learned = str(getattr(scheduler.config, "variance_type", "")).startswith("learned")
        if learned and model_output.shape[1] == 2 * x_t.shape[1]:
            model_output, self._variance = model_output.chunk(2, dim=1)
        self.model_output = model_output
        self.result: Any = None
        """What the scheduler returned, once it was asked."""

    def clean(self) -> Tensor:
        """The clean estimate."""
        return self.level.clean(self.model_output, self.x_t)

    def pull_back(self, x0: Tensor, gradient: Tensor) -> Tensor:
        """J^T g for the Jacobian J of the clean estimate `x0` in the state."""
        if not self._inputs:
            return torch.autograd.grad(x0, self.x_t, gradient.to(x0.dtype), retain_graph=True)[0]
        through = (self.level.q * gradient).to(self.model_output.dtype)
        parts = torch.autograd.grad(self.model_output, list(self._inputs), through, retain_graph=True)
        pulled = self.level.p * gradient
        for given, part in zip(self._inputs, parts, strict=True):
            pulled = pulled + _folded(given, part, self.x_t).to(gradient.dtype)
        return pulled

    def advance(self, x0: Tensor | None = None, x_t: Tensor | None = None) -> tuple[Tensor, Level]:
        """The scheduler's step; with untouched arguments where nothing is given. The next state and its level."""
        self.result = self._call(x0, x_t)
        return first_of(self.result), level_after(self.scheduler, self._next_timestep)

    def separate(self) -> tuple[Tensor, Tensor]:
        """The mean of the untouched step and the noise that it is going to add; nothing remembers the question.

        The scheduler is asked twice with noises that are known, z and z'. The results differ by sigma (z - z'), which gives
        sigma and, if sampler and noise are what they seem, nothing else. Raises `ValueError` if they are not.
        """
        kept, device = snapshot(self.scheduler), self.x_t.device
        before = generator_states(self.generator, device)
        known = draw_noise(self.model_output, self.generator).float()
        between = generator_states(self.generator, device)
        other_known = draw_noise(self.model_output, self.generator).float()
        results = []
        for states in (before, between):
            set_generator_states(self.generator, device, states)
            results.append(first_of(self._call(None, None)).float())
            restore(self.scheduler, kept)
        set_generator_states(self.generator, device, before)
        difference, noises = results[0] - results[1], known - other_known
        sigma = float((difference * noises).mean() / noises.square().mean())
        rest = float((difference - sigma * noises).square().mean().sqrt())
        if rest > 1e-2 * (abs(sigma) + 1e-5):
            raise ValueError(
                f"{type(self.scheduler).__name__} draws its noise in a way that cannot be taken apart; choose DDPM, DDIM with "
                "eta=1 or Euler ancestral, or another guidance method, e.g. MPGD()."
            )
        noise = sigma * known if abs(sigma) > 1e-6 else torch.zeros_like(known)
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
            return self._original(output.detach(), self.timestep, state.detach(), *self._positional, **self._keywords)


def _folded(given: Tensor, gradient: Tensor, x_t: Tensor) -> Tensor:
    """From the gradient in the denoiser's input, copies of c x_t one after another, to that in x_t."""
    copies = len(given) // len(x_t)
    state = wide(x_t.detach())
    channels = state.shape[1]  # inpainting models get more behind them
    total = torch.zeros_like(state)
    for part, slope in zip(wide(given.detach()).chunk(copies), wide(gradient).chunk(copies), strict=True):
        part, slope = part[:, :channels], slope[:, :channels]
        scale = float((part * state).sum() / state.square().sum())
        if part.shape != state.shape or not torch.allclose(part, scale * state, atol=1e-2 * float(part.abs().max())):
            raise RuntimeError(
                "the denoiser's input is not a multiple of the sampler's state here, so no gradient can be led back; use a "
                "method that does not go through the denoiser, e.g. MPGD()."
            )
        total = total + scale * slope
    return total


def first_of(result: Any) -> Tensor:
    """The next state in what a scheduler returned."""
    return result[0] if isinstance(result, tuple) else result.prev_sample


def others_of(result: Any) -> list[Any]:
    """What else it returned: LCM's denoised sample, which the pipeline decodes."""
    return list(result[1:]) if isinstance(result, tuple) else list(result.values())[1:]


def with_first(result: Any, x_prev: Tensor) -> Any:
    """The same with another next state."""
    if isinstance(result, tuple):
        return (x_prev, *result[1:])
    result["prev_sample"] = x_prev
    return result
