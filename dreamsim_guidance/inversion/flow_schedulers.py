"""Second-order samplers for flow-matching pipelines: RF-Solver and FireFlow as schedulers.

A flow-matching model predicts the velocity v(x, t) of the path x(t) between data (t = 0) and noise (t = 1). Both samplers go
from x_k at t_k to x_{k+1} at t_{k+1} = t_k + h, where h may have either sign, through a midpoint:

    x_mid   = x_k + (h / 2) v_k
    x_{k+1} = x_k + h v(x_mid, t_k + h / 2)

RF-Solver evaluates v_k = v(x_k, t_k), so N steps need 2 N evaluations. The paper writes the step as a Taylor expansion with
v' = (v_mid - v_k) / (h / 2), x_{k+1} = x_k + h v_k + (h^2 / 2) v', which is the same number. FireFlow reuses the midpoint
velocity of the step before as v_k, and evaluates v(x_0, t_0) only at the first step: N + 1 evaluations. The error of both is of
second order in h.

Wang et al., Taming Rectified Flow for Inversion and Editing, 2024 (RF-Solver); Deng et al., FireFlow: Fast Inversion of
Rectified Flow for Image Semantic Editing, 2024.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteSchedulerOutput
from torch import Tensor

from dreamsim_guidance.pipelines.levels import wide

__all__ = ["FlowMatchFireFlowScheduler", "FlowMatchRFSolverScheduler"]


class FlowMatchRFSolverScheduler(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """RF-Solver in place of the Euler steps of a flow-matching pipeline, with two evaluations of the denoiser for each step.

    `pipe.scheduler = FlowMatchRFSolverScheduler.from_config(pipe.scheduler.config)` is all that a pipeline needs. The noise
    levels of the steps are those of `FlowMatchEulerDiscreteScheduler` for the same settings; `timesteps` and `sigmas` list
    every evaluation, midpoints included.

    backwards: an attribute, False by default. True goes from clean latents to noise, which inverts sampling approximately.
    """

    order = 2
    reuses_midpoints = False
    backwards = False
    sigmas: Tensor
    timesteps: Tensor
    _start: Tensor | None = None

    @property
    def state_in_first_order(self) -> bool:
        """Whether the next evaluation is that of a step's first state, not of its midpoint."""
        index = self.step_index or 0
        return bool(index == 0 if self.reuses_midpoints else index % 2 == 0)

    @property
    def start(self) -> Tensor | None:
        """The state at the beginning of the current step, at least float32; after the last step, the final state."""
        return self._start

    @wraps(FlowMatchEulerDiscreteScheduler.set_timesteps, assigned=("__name__", "__qualname__"))
    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        """Plan the evaluations. Takes the arguments of `FlowMatchEulerDiscreteScheduler.set_timesteps`."""
        super().set_timesteps(*args, **kwargs)
        last = self._sigma_to_t(self.sigmas[-1:]).to(self.timesteps)
        self._levels = self.sigmas.flip(0) if self.backwards else self.sigmas
        timesteps = torch.cat([self.timesteps, last])
        self.timesteps = self._evaluated(timesteps.flip(0) if self.backwards else timesteps)
        self.sigmas = torch.cat([self._evaluated(self._levels), self._levels[-1:]])
        self._start = None

    def _evaluated(self, ends: Tensor) -> Tensor:
        """From the ends of the steps to where the denoiser is evaluated."""
        middles = (ends[:-1] + ends[1:]) / 2
        if self.reuses_midpoints:
            return torch.cat([ends[:1], middles])
        return torch.stack([ends[:-1], middles], dim=1).flatten()

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> Any:
        """The state to evaluate next: the midpoint of a step, or its end.

        model_output: velocity `(b, ...)` at the state `sample`. timestep: the one of `timesteps` that was evaluated.
        generator: not used; nothing is random.
        """
        if self.step_index is None:
            self._init_step_index(timestep)
        velocity, levels = wide(model_output), self._levels
        first = self.state_in_first_order
        step = max(self._step_index - 1, 0) if self.reuses_midpoints else self._step_index // 2
        if first or self._start is None:
            self._start = wide(sample)
        if not first:
            self._start = self._start + (levels[step + 1] - levels[step]) * velocity
            step += 1
        state = self._start
        if first or (self.reuses_midpoints and step < len(levels) - 1):
            state = state + (levels[step + 1] - levels[step]) / 2 * velocity
        self._step_index += 1
        state = state.to(model_output.dtype)
        return FlowMatchEulerDiscreteSchedulerOutput(prev_sample=state) if return_dict else (state,)


class FlowMatchFireFlowScheduler(FlowMatchRFSolverScheduler):
    """FireFlow in place of the Euler steps of a flow-matching pipeline, with one evaluation more than there are steps.

    Used like `FlowMatchRFSolverScheduler`. After the first evaluation, the denoiser is evaluated at midpoints only.
    """

    reuses_midpoints = True
