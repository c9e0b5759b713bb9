"""A pipeline's own denoising loop, run from the clean end to the noisy one, and the scheduler's steps as affine maps."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dreamsim_guidance.pipelines.repeated_loop import RepeatedLoop
from dreamsim_guidance.pipelines.scheduler import level_of
from dreamsim_guidance.pipelines.step_call import first_of

__all__ = ["ReversedLoop", "StepMap", "refuse_sampler"]


@dataclass(frozen=True)
class StepMap:
    """One step of a sampler, x_prev = F(x_t, m), affine in the state x_t and the model output m.

    ask: the scheduler's own step as a function of model output and state; it can be called any number of times.
    scale: the derivative of x_prev in x_t, not 0: for a fixed model output, or, for models that predict the clean sample,
        for the output that would be exact for white data.
    """

    ask: Callable[[Tensor, Tensor], Tensor]
    scale: float

    def correction(self, model_output: Tensor, x_t: Tensor, x_prev: Tensor) -> Tensor:
        """What must be added to x_t so that the step with this model output ends at x_prev: (x_prev - F(x_t, m)) / scale."""
        return (x_prev - self.ask(model_output, x_t)) / self.scale


class ReversedLoop(RepeatedLoop):
    """Runs a pipeline's loop backwards. Subclasses define `first`, which returns clean latents, and `observe`.

    pipe: a diffusers pipeline whose initial state can be chosen, with a deterministic scheduler without memory.
    repeats: how often the denoiser is evaluated at each step at most, at least 1.
    """

    def __init__(self, pipe: Any, repeats: int) -> None:
        super().__init__(pipe, repeats, backwards=True)
        refuse_sampler(pipe)
        self._maps: list[StepMap] = []

    def steps(self, like: Tensor) -> list[StepMap]:
        """The sampler's steps in its own order, for states like this one; to be called in `observe`."""
        if not self._maps:
            self._maps = _affine_steps(self, like)
        return self._maps


def _affine_steps(loop: ReversedLoop, like: Tensor) -> list[StepMap]:
    """All steps of a scheduler, found out by asking it. Raises ValueError if it adds noise, remembers or forgets."""
    scheduler, ask, timesteps = loop.scheduler, loop.ask, loop.own_timesteps()
    count = len(timesteps)
    zero, one = torch.zeros_like(like), torch.ones_like(like)
    if any(first_of(ask(index, zero, zero)).abs().max() > 1e-6 for index in range(count)):
        raise ValueError(_refusal(scheduler, "its steps add noise"))
    after = []
    for output, state in ((zero, one), (one, one), (zero, zero)) if count > 1 else ():
        ask(0, output, state)
        after.append(first_of(ask(1, zero, one, resume=True)))
    if not all(torch.equal(after[0], x) for x in after):
        raise ValueError(_refusal(scheduler, "its steps depend on earlier steps"))
    steps = []
    for index in range(count):
        scale = float(first_of(ask(index, zero, one)).flatten()[0])
        if getattr(scheduler.config, "prediction_type", None) == "sample":
            # the last step returns the prediction itself, so only the prediction depends on the state
            loop.go_to(index)
            level = level_of(scheduler, timesteps[index])
            scale += float(first_of(ask(index, one, zero)).flatten()[0]) * level.a / (level.a**2 + level.s**2)
        if abs(scale) < 1e-6:
            raise ValueError(_refusal(scheduler, f"the result of step {index} does not depend on the state before it"))
        steps.append(StepMap(lambda m, x_t, index=index: first_of(ask(index, m, x_t)), scale))  # type: ignore[misc]
    return steps


def refuse_sampler(pipe: Any) -> None:
    """Raise ValueError for pipelines whose loop cannot be reversed, and schedulers that clip."""
    parameters = inspect.signature(type(pipe).__call__).parameters
    pixels = not any(hasattr(pipe, name) for name in ("vae", "prepare_latents")) and "batch_size" in parameters
    if not pixels and (not {"latents", "output_type"} <= set(parameters) or not hasattr(pipe, "prepare_latents")):
        raise ValueError(
            f"{type(pipe).__name__} takes no `latents`, the noise that inversion finds; a pipeline with `latents=` is needed."
        )
    if "strength" in parameters:
        raise ValueError(
            f"{type(pipe).__name__} starts from an image and not from noise; use the text-to-image pipeline with the same "
            "components, e.g. AutoPipelineForText2Image.from_pipe(pipe)."
        )
    config = pipe.scheduler.config
    clipping = [name for name in ("clip_sample", "thresholding") if getattr(config, name, False)]
    if clipping:
        scheduler = type(pipe.scheduler).__name__
        raise ValueError(
            f"{scheduler} clips its clean estimates ({', '.join(clipping)}), which cannot be undone; use "
            f"pipe.scheduler = {scheduler}.from_config(pipe.scheduler.config, "
            f"{', '.join(f'{name}=False' for name in clipping)})."
        )


def _refusal(scheduler: Any, reason: str) -> str:
    return (
        f"{type(scheduler).__name__} cannot be inverted here: {reason}. Sample with a deterministic one-step scheduler, e.g. "
        "pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False), EulerDiscreteScheduler, or "
        "FlowMatchEulerDiscreteScheduler for flow models; with DDIM also eta=0."
    )
