"""Inversion of flow-matching pipelines by explicit second-order samplers, run from the clean latents to the noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dreamsim_guidance.inversion.solving import clean_latents
from dreamsim_guidance.pipelines.first_state import FirstState
from dreamsim_guidance.pipelines.lock import lock_of
from dreamsim_guidance.pipelines.patches import Patches
from dreamsim_guidance.pipelines.reversed_loop import refuse_sampler

__all__ = ["FLOW_METHODS", "FlowInversion", "sampling_with"]

FLOW_METHODS = ("rf-solver", "fireflow")


class FlowInversion(FirstState):
    """Inverts a flow-matching pipeline; see `invert_trajectory` for the arguments.

    After `run`: `states`, from the clean latents to the initial noise; `evaluations` of the denoiser; `x0`, the clean latents,
    and `round_trip`, their image, None where no image was given. `sampler` is the scheduler to sample again with. `residuals`
    and `tolerance` are NaN, since no equation is solved.

    Raises ValueError for pipelines whose scheduler is not `FlowMatchEulerDiscreteScheduler`, or adds noise.
    """

    def __init__(self, pipe: Any, image: Tensor | None, latents: Tensor | None, method: str) -> None:
        super().__init__(pipe)
        self._image, self._latents = image, latents
        self.sampler, self._reversed = _scheduler(pipe, method), _scheduler(pipe, method)
        refuse_sampler(pipe)
        self._reversed.backwards = True
        self.states: list[Tensor] = []
        self.residuals: list[Tensor] = []
        self.tolerance = float("nan")
        self.evaluations = 0

    def first(self, noise: Tensor) -> Tensor:
        self.x0, self.round_trip = clean_latents(self, self._image, self._latents, noise)
        self.states = [self.x0]
        return self.x0

    def run(self, call: Mapping[str, Any]) -> None:
        """Call the pipeline with these arguments; it is left as it was."""
        with sampling_with(self.pipe, self._reversed), Patches() as patches:
            patches.replace(self.pipe, "prepare_latents", self._prepare_latents)
            patches.replace(self._reversed, "step", self._step)
            self.pipe(**{**call, "output_type": "latent"})

    def _step(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        ends_step = not self._reversed.state_in_first_order
        result = original(*args, **kwargs)
        self.evaluations += 1
        if ends_step:
            self.states.append(self._reversed.start.to(self.x0))
            self.residuals.append(torch.full_like(self.x0.flatten(1)[:, 0], torch.nan))
        return result


@contextmanager
def sampling_with(pipe: Any, scheduler: Any | None) -> Iterator[None]:
    """Give the pipeline another scheduler inside the block; with None it keeps its own."""
    own = pipe.scheduler
    if scheduler is None or own is scheduler:
        yield
        return
    lock = lock_of(own)
    lock.acquire()
    try:
        pipe.scheduler = scheduler
        yield
    finally:
        pipe.scheduler = own
        lock.release()


def _scheduler(pipe: Any, method: str) -> Any:
    """The sampler of this method with the settings of the pipeline's own scheduler."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    from dreamsim_guidance.inversion import flow_schedulers

    own = pipe.scheduler
    if not isinstance(own, FlowMatchEulerDiscreteScheduler) or own.config.stochastic_sampling:
        name = type(own).__name__ + (" with stochastic_sampling" if hasattr(own.config, "stochastic_sampling") else "")
        raise ValueError(
            f"'{method}' is for flow-matching pipelines with a FlowMatchEulerDiscreteScheduler without stochastic sampling, "
            f"not for {name}; use method='anderson', which solves the steps of the pipeline's own sampler."
        )
    scheduler = {
        "rf-solver": flow_schedulers.FlowMatchRFSolverScheduler,
        "fireflow": flow_schedulers.FlowMatchFireFlowScheduler,
    }[method].from_config(own.config)
    scheduler.set_shift(own.shift)
    return scheduler
