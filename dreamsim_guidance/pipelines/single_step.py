"""One evaluation of a pipeline's denoiser at a noise level of its own schedule, with everything that belongs to its call.

The loop of a pipeline knows prompts, guidance, conditioning and packing. It is called with a schedule cut to one step and a
state of our choice, and left when it hands the denoiser's output to the scheduler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from dreamsim_guidance.pipelines.differentiable import differentiable
from dreamsim_guidance.pipelines.levels import Level
from dreamsim_guidance.pipelines.repeated_call import RepeatedCall
from dreamsim_guidance.pipelines.scheduler import level_of

__all__ = ["SingleStep"]


class SingleStep:
    """Clean estimates at the steps of a pipeline's call; differentiable where autograd is on.

    call: decides prompts, guidance and number of steps. It is run once, to read the levels of its steps.
    """

    def __init__(self, call: RepeatedCall) -> None:
        self.call = call
        self.levels: list[Level] = []
        scheduler = call.pipe.scheduler

        def step(original: Callable[..., Any], model_output: Tensor, timestep: Any, *args: Any, **kwargs: Any) -> Any:
            self.levels.append(level_of(scheduler, timestep))
            return original(model_output, timestep, *args, **kwargs)

        call.run({**call.arguments(call.like), "output_type": "latent"}, (scheduler, "step", step))

    def __call__(self, x0: Tensor, noise: Tensor, index: int) -> Tensor:
        """The clean estimate of `x0` with `noise` added at the level of step `index`, in at least float32.

        x0, noise: `(n, ...)` in the sampler's shape; n is the number of prompts, or any for one prompt.
        """
        pipe, level = self.call.pipe, self.levels[index]
        scheduler = pipe.scheduler
        state = level.state(x0, noise).to(self.call.like)
        timesteps: list[Tensor] = []

        def prepare(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            return (state, *result[1:]) if isinstance(result, tuple) else state

        def cut(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            timesteps.append(scheduler.timesteps)
            scheduler.timesteps = scheduler.timesteps[index : index + 1]
            return result

        def bar(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            """The last call before the loop: the scheduler gets its own timesteps back, at the position of the step."""
            scheduler.timesteps = timesteps[-1]
            if hasattr(scheduler, "_step_index"):
                scheduler._step_index = index
            return original(*args, **kwargs)

        def step(original: Callable[..., Any], model_output: Tensor, *args: Any, **kwargs: Any) -> Any:
            raise _Reached(model_output)

        try:
            with differentiable(pipe):
                self.call.run(
                    {**self.call.arguments(state.detach()), "output_type": "latent"},
                    (pipe, "prepare_latents", prepare),
                    (pipe, "progress_bar", bar),
                    (scheduler, "set_timesteps", cut),
                    (scheduler, "step", step),
                )
        except _Reached as reached:
            return level.clean(reached.model_output, state)
        raise ValueError(f"{type(pipe).__name__} made no step at {scheduler.timesteps} of its own schedule.")


class _Reached(Exception):
    """Ends a call of a pipeline where the denoiser's output is known."""

    def __init__(self, model_output: Tensor) -> None:
        super().__init__()
        self.model_output = model_output
