"""A given first state for pipelines that draw their initial noise themselves and take no `latents`.

`DDIMPipeline` and other samplers of pixels draw their noise inside their call. The state that they hand to the denoiser and to
`scheduler.step` for the first time is replaced; from the second step on they continue from what the scheduler returned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from dreamsim_guidance.pipelines.denoiser_input import state_among, with_state
from dreamsim_guidance.pipelines.frozen import denoiser_of
from dreamsim_guidance.pipelines.patches import Patches
from dreamsim_guidance.pipelines.scheduler import scheduler_of

__all__ = ["starting_from"]


@contextmanager
def starting_from(pipe: Any, first: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let one call of the pipeline in the block start from `first(noise)` in place of its own noise.

    pipe: a pipeline that passes its state to the denoiser as it is, without scaling.
    first: receives the noise that the pipeline has drawn and returns a tensor of its shape.
    """
    start: list[Tensor] = []
    steps = 0

    def denoise(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if steps == 0:
            start[:] = start or [first(state_among(args, kwargs))]
            args, kwargs = with_state(args, kwargs, start[0])
        return original(*args, **kwargs)

    def step(
        original: Callable[..., Any], model_output: Any, timestep: Any, sample: Tensor, *rest: Any, **kw: Any
    ) -> Any:
        nonlocal steps
        steps += 1
        return original(model_output, timestep, start[0] if steps == 1 else sample, *rest, **kw)

    with Patches() as patches:
        patches.replace(denoiser_of(pipe), "forward", denoise)
        patches.replace(scheduler_of(pipe), "step", step)
        yield
