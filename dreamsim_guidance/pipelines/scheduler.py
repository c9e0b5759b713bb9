"""The current noise level of a scheduler, for all schedulers of diffusers.

Schedulers store their levels in five ways, recognised by their attributes; the numbers are read at run time, and nothing is
assumed about training. `snapshot` and `restore` undo the changes that a step makes to a scheduler, so that it can be repeated.
"""

from __future__ import annotations

import copy
import math
from typing import Any

from dreamsim_guidance.pipelines.host_numbers import number
from dreamsim_guidance.pipelines.levels import CLEAN, Level, level_from

__all__ = ["level_after", "level_of", "restore", "scheduler_of", "second_stage", "snapshot"]


def scheduler_of(pipe: Any) -> Any:
    """The pipeline's scheduler. Raises `ValueError` if it has none."""
    scheduler = getattr(pipe, "scheduler", None)
    if not callable(getattr(scheduler, "step", None)):
        raise ValueError(
            f"{type(pipe).__name__} has no scheduler with a `step`; a diffusers pipeline with a `scheduler` is needed."
        )
    return scheduler


def level_of(scheduler: Any, timestep: Any) -> Level:
    """The level of the state that `scheduler.step(model_output, timestep, state)` is about to receive.

    Raises `ValueError` if the scheduler has neither sigmas nor cumulative alphas.
    """
    if hasattr(scheduler, "sigmas") and hasattr(scheduler, "step_index"):
        if scheduler.step_index is None and hasattr(scheduler, "_init_step_index"):
            scheduler._init_step_index(timestep)
        return _of_sigma(scheduler, _sigma(scheduler))
    if hasattr(scheduler, "alphas_cumprod"):
        cumulative = number(scheduler.alphas_cumprod[int(number(timestep))])
        return level_from(math.sqrt(cumulative), math.sqrt(1 - cumulative), _prediction(scheduler, "epsilon"))
    if type(scheduler).__name__ == "SCMScheduler":  # an angle on the circle, data of standard deviation sigma_data
        angle = number(timestep)
        a, s = math.cos(angle), math.sin(angle)
        return Level(a, s, a, -s)
    raise ValueError(
        f"{type(scheduler).__name__} has neither `sigmas` with a `step_index` nor `alphas_cumprod`, so its noise levels are "
        "unknown; choose another scheduler, e.g. DDIMScheduler.from_config(pipe.scheduler.config)."
    )


def level_after(scheduler: Any, next_timestep: Any | None) -> Level:
    """The level of the state that a step has just returned; `next_timestep` is None after the last one."""
    if hasattr(scheduler, "sigmas") and hasattr(scheduler, "step_index"):
        if scheduler.step_index is None or scheduler.step_index >= len(scheduler.sigmas):
            return CLEAN
        return _of_sigma(scheduler, _sigma(scheduler))
    if next_timestep is not None:
        return level_of(scheduler, next_timestep)
    final = getattr(scheduler, "final_alpha_cumprod", None)
    if final is None:
        return CLEAN
    return level_from(math.sqrt(number(final)), math.sqrt(1 - number(final)), _prediction(scheduler, "epsilon"))


def second_stage(scheduler: Any) -> bool:
    """Whether the next step is the second half of a second-order one, which begins at a state of its own."""
    return getattr(scheduler, "state_in_first_order", True) is False


def snapshot(scheduler: Any) -> dict[str, Any]:
    """Everything that a step may change in a scheduler: counters, history, stored states."""
    return {
        name: copy.copy(value) if isinstance(value, list | dict) else value for name, value in vars(scheduler).items()
    }


def restore(scheduler: Any, state: dict[str, Any]) -> None:
    """Put a snapshot back; the same snapshot may be used several times."""
    for name in set(vars(scheduler)) - set(state):
        delattr(scheduler, name)
    for name, value in state.items():
        scheduler.__dict__[name] = copy.copy(value) if isinstance(value, list | dict) else value


def _sigma(scheduler: Any) -> float:
    index = min(scheduler.step_index, len(scheduler.sigmas) - 1)
    if second_stage(scheduler) and hasattr(scheduler, "mid_point_sigma"):
        return number(scheduler.mid_point_sigma)
    if second_stage(scheduler) and hasattr(scheduler, "sigmas_interpol"):  # DPM-Solver-2's midpoint
        ancestral = hasattr(scheduler, "sigmas_down")
        return number(scheduler.sigmas_interpol[index - 1 if ancestral else index])
    return number(scheduler.sigmas[index])


def _of_sigma(scheduler: Any, sigma: float) -> Level:
    if hasattr(scheduler, "precondition_outputs"):  # Karras et al. 2022: x0 = c_skip x + c_out F
        data = float(scheduler.config.sigma_data)
        variance = sigma**2 + data**2
        scale = sigma * data / math.sqrt(variance)
        return Level(1.0, sigma, data**2 / variance, -scale if _prediction(scheduler, "") == "v_prediction" else scale)
    if hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
        import torch

        a, s = (float(value) for value in scheduler._sigma_to_alpha_sigma_t(torch.tensor(sigma, dtype=torch.float64)))
        return level_from(a, s, _prediction(scheduler, "epsilon"))
    prediction = _prediction(scheduler, "")
    if type(scheduler).__name__.startswith(("FlowM", "LTXEuler")) or prediction == "flow_prediction":
        return level_from(1 - sigma, sigma, "flow_prediction")
    if not prediction:
        raise ValueError(
            f"{type(scheduler).__name__} does not say what its model predicts (`prediction_type`), so no clean estimate can be "
            "made; choose a scheduler that does, e.g. EulerDiscreteScheduler.from_config(pipe.scheduler.config)."
        )
    return level_from(1.0, sigma, prediction)


def _prediction(scheduler: Any, default: str) -> str:
    return getattr(scheduler.config, "prediction_type", default) or default
