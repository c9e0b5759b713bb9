"""A pipeline's own denoising loop in which every timestep can be evaluated several times, forwards or backwards.

The loop of a pipeline knows prompts, classifier-free guidance, conditioning and packing. It is called once with each of its
scheduler's timesteps repeated, and with `scheduler.step` replaced: a subclass chooses which state the loop evaluates next.
Once a step needs no more evaluations, the denoiser is not called for the repetitions that remain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from dreamsim_guidance.pipelines.first_state import FirstState
from dreamsim_guidance.pipelines.frozen import denoiser_of, frozen
from dreamsim_guidance.pipelines.lock import lock_of
from dreamsim_guidance.pipelines.patches import Patches
from dreamsim_guidance.pipelines.scheduler import restore, scheduler_of, snapshot
from dreamsim_guidance.pipelines.start import starting_from
from dreamsim_guidance.pipelines.step_call import with_first

__all__ = ["RepeatedLoop"]


class RepeatedLoop(FirstState):
    """Runs a pipeline's loop step by step. Subclasses define `observe`, and where needed `first` and `denoise`.

    pipe: a diffusers pipeline with a deterministic scheduler.
    repeats: how often the denoiser is evaluated at each step at most, at least 1.
    backwards: go from the sampler's last step to its first.
    gradients: record the graph of every evaluation; the networks are frozen meanwhile.
    """

    def __init__(self, pipe: Any, repeats: int, backwards: bool = False, gradients: bool = False) -> None:
        super().__init__(pipe)
        self.repeats, self.backwards, self.gradients = repeats, backwards, gradients
        self.scheduler = scheduler_of(pipe)
        self.finished = False
        """Whether the rest of the current step's repetitions is passed over."""
        self._timesteps: Tensor | None = None
        self._position = 0
        self._output: Any = None
        self._next: Tensor
        self._scheduler_step: Callable[[int, Tensor, Tensor, bool], Any]

    def denoise(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One call of the denoiser; by default the original one."""
        return original(*args, **kwargs)

    def observe(self, x_t: Tensor, model_output: Tensor) -> tuple[Tensor, bool]:
        """Receive the denoiser's output at a state of step `self.index`.

        Returns the state to evaluate next, and whether it belongs to the next step, with which the loop then goes on.
        """
        raise NotImplementedError(f"{type(self).__name__} must define observe(x_t, model_output) -> x, finished")

    def ask(self, index: int, model_output: Tensor, x_t: Tensor, resume: bool = False) -> Any:
        """The result of the scheduler's own step of this index; `resume` keeps what it remembers of the step before."""
        return self._scheduler_step(index, model_output, x_t, resume)

    @property
    def index(self) -> int:
        """The step that is evaluated, counted in the sampler's order."""
        last = (1 if self._timesteps is None else len(self._timesteps)) - 1
        done = min(self._position // self.repeats, last)
        return last - done if self.backwards else done

    def go_to(self, index: int) -> None:
        """Put the scheduler before its step of this index."""
        restore(self.scheduler, self._before_steps)
        if hasattr(self.scheduler, "_step_index"):
            self.scheduler._step_index = index

    def run(self, call: Mapping[str, Any]) -> None:
        """Call the pipeline with these arguments; all its methods are restored at the end."""
        lock = lock_of(self.scheduler)
        lock.acquire()
        try:
            with ExitStack() as stack:
                patches = stack.enter_context(Patches())
                patches.replace(self.pipe, "prepare_latents", self._prepare_latents)
                patches.replace(self.pipe, "progress_bar", self._progress_bar)
                patches.replace(self.scheduler, "set_timesteps", self._set_timesteps)
                patches.replace(self.scheduler, "step", self._step)
                patches.replace(denoiser_of(self.pipe), "forward", self._denoise)
                if self.gradients:
                    stack.enter_context(frozen(self.pipe))
                if not hasattr(self.pipe, "prepare_latents"):
                    stack.enter_context(starting_from(self.pipe, self.first))
                # pixels have no other form than that of images
                self.pipe(**{**call, "output_type": "latent" if hasattr(self.pipe, "prepare_latents") else "pt"})
        finally:
            self.own_timesteps()
            lock.release()

    # The replacements; each receives the original method first.

    def _set_timesteps(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        self._timesteps = self.scheduler.timesteps
        ordered = self._timesteps.flip(0) if self.backwards else self._timesteps
        self.scheduler.timesteps = ordered.repeat_interleave(self.repeats)
        return result

    def _progress_bar(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        timesteps = self.own_timesteps()
        self._before_steps = snapshot(self.scheduler)
        self.go_to(self.index)
        if kwargs.get("total") is not None:
            kwargs["total"] = len(timesteps) * self.repeats
        if self.gradients:
            torch.set_grad_enabled(True)  # until the pipeline's call ends, whose decorator restores the mode
        return original(*args, **kwargs)

    def _denoise(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self.finished:
            self._output = self.denoise(original, args, kwargs)
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
        timesteps = self.own_timesteps()

        def scheduler_step(index: int, output: Tensor, state: Tensor, resume: bool) -> Any:
            if not resume:
                self.go_to(index)
            return original(output, timesteps[index], state, *rest, **keywords)

        self._scheduler_step = scheduler_step
        if not self.finished:
            self._next, self.finished = self.observe(sample, model_output)
        result = self.ask(self.index, model_output.detach(), sample)
        self._position += 1
        if self._position % self.repeats == 0:
            self.finished = False
        self.go_to(self.index)
        return with_first(result, self._next.detach())

    def own_timesteps(self) -> Tensor:
        """The scheduler gets its own timesteps back, which are returned."""
        if self._timesteps is not None:
            self.scheduler.timesteps = self._timesteps
        return self.scheduler.timesteps
