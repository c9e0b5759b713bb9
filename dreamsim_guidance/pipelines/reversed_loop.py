"""A pipeline's own denoising loop, run from the clean end to the noisy one.

The loop of a pipeline knows prompts, classifier-free guidance, conditioning and packing, but only one direction. It is called
once with its scheduler's timesteps in reverse order, each several times, and with `scheduler.step` replaced: what the loop
takes for the next state is the next guess at the state that a step started from. Once a step needs no more guesses, the
denoiser is not called for the repetitions that remain.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dreamsim_guidance.pipelines.decoder import Geometry
from dreamsim_guidance.pipelines.frozen import denoiser_of
from dreamsim_guidance.pipelines.lock import lock_of
from dreamsim_guidance.pipelines.patches import Patches
from dreamsim_guidance.pipelines.scheduler import restore, scheduler_of, snapshot
from dreamsim_guidance.pipelines.step_call import first_of, with_first

__all__ = ["ReversedLoop", "StepMap"]


@dataclass(frozen=True)
class StepMap:
    """One step of a sampler, x_prev = F(x_t, m), affine in the state x_t and the model output m.

    ask: the scheduler's own step as a function of model output and state; it can be called any number of times.
    scale: the derivative of x_prev in x_t for a fixed output, not 0.
    """

    ask: Callable[[Tensor, Tensor], Tensor]
    scale: float

    def correction(self, model_output: Tensor, x_t: Tensor, x_prev: Tensor) -> Tensor:
        """What must be added to x_t so that the step with this model output ends at x_prev: (x_prev - F(x_t, m)) / scale."""
        return (x_prev - self.ask(model_output, x_t)) / self.scale


class ReversedLoop:
    """Runs a pipeline's loop backwards. Subclasses define `first` and `observe`.

    pipe: a diffusers pipeline with `latents=`, `prepare_latents` and a deterministic scheduler without memory.
    repeats: how often the denoiser is evaluated at each step at most, at least 1.
    """

    def __init__(self, pipe: Any, repeats: int) -> None:
        self.pipe, self.repeats = pipe, repeats
        self.scheduler = scheduler_of(pipe)
        _refuse_pipeline(pipe)
        self.steps: list[StepMap] = []
        """The sampler's steps in its own order, from the first call of `observe` on."""
        self.noise_scale = 1.0
        """By what the pipeline multiplies the `latents` that it is given."""
        self._timesteps: Tensor | None = None
        self._position, self._finished = 0, False
        self._output: Any = None
        self._next: Tensor

    def first(self, noise: Tensor, geometry: Geometry) -> Tensor:
        """The clean latents from which the loop goes backwards.

        noise: the pipeline's own initial latents, for their shape, dtype and device.
        """
        raise NotImplementedError(f"{type(self).__name__} must define first(noise, geometry) -> latents")

    def observe(self, index: int, x_t: Tensor, model_output: Tensor) -> tuple[Tensor, bool]:
        """Receive the output of the denoiser at the current guess at the state that step `index` starts from.

        Returns the next state to evaluate, and whether it belongs to the step before, which the loop then goes on with.
        """
        raise NotImplementedError(f"{type(self).__name__} must define observe(index, x_t, model_output) -> x, finished")

    def run(self, call: Mapping[str, Any]) -> None:
        """Call the pipeline with these arguments; all its methods are restored at the end."""
        lock = lock_of(self.scheduler)
        lock.acquire()
        try:
            with Patches() as patches:
                patches.replace(self.pipe, "prepare_latents", self._prepare_latents)
                patches.replace(self.pipe, "progress_bar", self._progress_bar)
                patches.replace(self.scheduler, "set_timesteps", self._set_timesteps)
                patches.replace(self.scheduler, "step", self._step)
                patches.replace(denoiser_of(self.pipe), "forward", self._denoise)
                self.pipe(**{**call, "output_type": "latent"})
        finally:
            self._hand_back()
            lock.release()

    # The replacements; each receives the original method first.

    def _prepare_latents(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        arguments = inspect.signature(original).bind(*args, **kwargs).arguments
        result = original(*args, **kwargs)
        noise, *extras = result if isinstance(result, tuple) else (result,)
        again = original(**{**arguments, "latents": noise})
        scaled = again[0] if isinstance(again, tuple) else again
        self.noise_scale = float((scaled.double() * noise.double()).sum() / noise.double().square().sum())
        # where tokens have positions, they are returned last
        geometry = Geometry(arguments.get("height"), arguments.get("width"), tuple(extras[-1:]))
        latents = self.first(noise, geometry)
        return (latents, *extras) if isinstance(result, tuple) else latents

    def _set_timesteps(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        self._timesteps = self.scheduler.timesteps
        self.scheduler.timesteps = self._timesteps.flip(0).repeat_interleave(self.repeats)
        return result

    def _progress_bar(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        timesteps = self._hand_back()
        self._before_steps = snapshot(self.scheduler)
        self._go_to(len(timesteps) - 1)
        if kwargs.get("total") is not None:
            kwargs["total"] = len(timesteps) * self.repeats
        return original(*args, **kwargs)

    def _denoise(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self._finished:
            self._output = original(*args, **kwargs)
        return self._output

    def _step(
        self,
        original: Callable[..., Any],
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        *rest: Any,
        **keywords: Any,
    ) -> Any:
        timesteps = self._hand_back()

        def ask(index: int, output: Tensor, state: Tensor, resume: bool = False) -> Any:
            if not resume:
                self._go_to(index)
            return original(output, timesteps[index], state, *rest, **keywords)

        if not self.steps:
            self.steps = _affine_steps(self.scheduler, ask, len(timesteps), sample)
        index = len(timesteps) - 1 - self._position // self.repeats
        if not self._finished:
            self._next, self._finished = self.observe(index, sample, model_output)
        result = ask(index, model_output, sample)
        self._position += 1
        if self._position % self.repeats == 0:
            self._finished, index = False, max(index - 1, 0)
        self._go_to(index)
        return with_first(result, self._next)

    def _hand_back(self) -> Tensor:
        """The scheduler gets its own timesteps back, which are returned."""
        if self._timesteps is not None:
            self.scheduler.timesteps = self._timesteps
        return self.scheduler.timesteps

    def _go_to(self, index: int) -> None:
        """Put the scheduler before its step of this index."""
        restore(self.scheduler, self._before_steps)
        if hasattr(self.scheduler, "_step_index"):
            self.scheduler._step_index = index


def _affine_steps(scheduler: Any, ask: Callable[..., Any], count: int, like: Tensor) -> list[StepMap]:
    """All steps of a scheduler, found out by asking it. Raises ValueError if it adds noise, remembers or forgets."""
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
        if abs(scale) < 1e-6:
            raise ValueError(_refusal(scheduler, f"the result of step {index} does not depend on the state before it"))
        steps.append(StepMap(lambda m, x_t, index=index: first_of(ask(index, m, x_t)), scale))  # type: ignore[misc]
    return steps


def _refuse_pipeline(pipe: Any) -> None:
    """Raise ValueError for pipelines whose loop cannot be reversed, and schedulers that clip."""
    parameters = inspect.signature(type(pipe).__call__).parameters
    if not {"latents", "output_type"} <= set(parameters) or not hasattr(pipe, "prepare_latents"):
        raise ValueError(
            f"{type(pipe).__name__} takes no `latents`, the noise that inversion finds; a pipeline with `latents=` is needed."
        )
    if "strength" in parameters:
        raise ValueError(
            f"{type(pipe).__name__} starts from an image and not from noise; use the text-to-image pipeline with the same "
            "components, e.g. AutoPipelineForText2Image.from_pipe(pipe)."
        )
    if hasattr(pipe, "_unpack_latents_with_ids"):
        raise ValueError(
            f"{type(pipe).__name__} takes `latents` in another layout than its sampler's, which cannot be inverted yet."
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
