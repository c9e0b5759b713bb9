"""Guidance through diffusers' own extension points, with nothing replaced on the pipeline.

`LossGuidance` is a guider of Modular Diffusers: it sees the denoiser's inputs and combines its predictions, so it can move the
clean estimate (score injection) and leaves the state alone. `GuidanceCallback` is a callback at the end of each step: from two
states in a row of a deterministic first-order sampler follow the clean estimate and the noise,

    x0 = (s' x_t - s x_t') / (a s' - a' s)

and the later state can be moved. Both are made of the same parts as `guide`, which can do more. This is the one file of the
package that imports diffusers for guidance.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.callbacks import PipelineCallback
from torch import Tensor, nn

from dreamsim_guidance.guidance.guide import guide
from dreamsim_guidance.guidance.log import Log
from dreamsim_guidance.guidance.method import Method
from dreamsim_guidance.guidance.run import Run
from dreamsim_guidance.pipelines.caller import argument_of_call, images_per_prompt
from dreamsim_guidance.pipelines.decoder import Geometry
from dreamsim_guidance.pipelines.frozen import without_gradients
from dreamsim_guidance.pipelines.interception import refuse_inference_mode
from dreamsim_guidance.pipelines.levels import Level
from dreamsim_guidance.pipelines.scheduler import level_after
from dreamsim_guidance.pipelines.step_call import StepCall

try:
    from diffusers.guiders import BaseGuidance, ClassifierFreeGuidance
except ImportError:  # diffusers before 0.35
    BaseGuidance = ClassifierFreeGuidance = None

__all__ = ["GuidanceCallback", "LossGuidance"]

_FIRST_ORDER = ("DDIMScheduler", "EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler")
_SCORE_METHODS = ("MPGD", "DPS", "LGD", "MMPS", "TFG", "UniversalGuidance")


class LossGuidance(BaseGuidance or object):  # type: ignore[misc]
    """A guider that adds a loss on the images to another guider: `pipe.update_components(guider=LossGuidance(pipe, loss))`.

    loss, method, options: as for `guide`; methods that change the state itself (FreeDoM, DSG, FlowChef, recurrence) are not
        possible here, and MPGD takes its score form. `log` tells what happened in the last run.
    guider: combines the denoiser's predictions; the pipeline's own by default.
    size: height and width of the images, for families that pack their latents.
    Raises `ImportError` before diffusers 0.35, which has no guiders, and `ValueError` for other methods.
    """

    inner: Any

    def __init__(
        self,
        pipe: Any,
        loss: Callable[[Tensor], Tensor],
        method: Method | None = None,
        *,
        guider: Any = None,
        size: tuple[int, int] | None = None,
        **options: Any,
    ) -> None:
        if BaseGuidance is None:
            raise ImportError("guiders came with diffusers 0.35; update diffusers, or use guide(pipe, loss).")
        inner = guider or getattr(pipe, "guider", None) or ClassifierFreeGuidance()
        while guider is None and isinstance(inner, LossGuidance):  # the one that this replaces
            inner = inner.inner
        self._input_predictions = inner._input_predictions
        super().__init__()
        self.register_to_config()
        self.pipe, self.inner = pipe, inner
        self.log = Log()
        self._run = _run(pipe, loss, method, size, self.log, options)
        if type(self._run.method).__name__ not in _SCORE_METHODS or self._run.method.repeats(0.5) > 1:
            raise ValueError(
                f"a guider can only move the clean estimate, which {self._run.method} does not keep to; use guide(pipe, loss, "
                f"method), or one of {', '.join(_SCORE_METHODS)} without recurrence."
            )
        self._inputs: list[Tensor] = []
        self._hook: Any = None

    def set_state(self, step: int, num_inference_steps: int, timestep: Any) -> None:
        super().set_state(step, num_inference_steps, timestep)
        self.inner.set_state(step=step, num_inference_steps=num_inference_steps, timestep=timestep)
        self._inputs = []
        if step == 0:
            refuse_inference_mode()
            self._run.interception.images_per_prompt = images_per_prompt(self.pipe)
            self._run.begin(num_inference_steps)

    def prepare_inputs(self, data: Any) -> Any:
        return self.inner.prepare_inputs(data)

    def prepare_inputs_from_block_state(self, data: Any, input_fields: Any) -> Any:
        return self.inner.prepare_inputs_from_block_state(data, input_fields)

    def prepare_models(self, denoiser: nn.Module) -> None:
        self.inner.prepare_models(denoiser)
        self._hook = denoiser.register_forward_pre_hook(self._take_input, with_kwargs=True)

    def cleanup_models(self, denoiser: nn.Module) -> None:
        self._hook.remove()
        self.inner.cleanup_models(denoiser)

    def forward(self, **predictions: Tensor) -> Any:
        output = self.inner.forward(**predictions)
        scheduler, step, total = self.pipe.scheduler, self._step, max(1, self._num_inference_steps)
        given = self._inputs[0].detach()
        ones = torch.ones(1, dtype=torch.float32, device=given.device)
        scale = (
            float(scheduler.scale_model_input(ones, self._timestep)) if hasattr(scheduler, "scale_model_input") else 1.0
        )
        x_t = given[: len(output.pred)] / scale
        through = self._run.wants_graph(step, step / total)
        call = _ScoreCall(scheduler, output.pred, self._timestep, x_t, self._inputs if through else ())
        with without_gradients([self.pipe.transformer if hasattr(self.pipe, "transformer") else self.pipe.unet]):
            self._run.step(call, step, step / total)
        if call.moved is not None:
            output.pred = call.level.model_output(call.moved, x_t).to(output.pred.dtype)
        else:
            output.pred = output.pred.detach()
        return output

    @property
    def is_conditional(self) -> bool:
        return self.inner.is_conditional

    @property
    def num_conditions(self) -> int:
        return self.inner.num_conditions

    def _take_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = next((name for name in ("sample", "hidden_states", "x") if name in kwargs), "")
        given = args[0] if args else kwargs[name]
        if self._run.wants_graph(self._step, self._step / max(1, self._num_inference_steps)):
            torch.set_grad_enabled(True)  # until the denoising block ends, whose decorator puts it back
            given = given.detach().requires_grad_()  # a leaf: gradients are led from here to the state by hand
        self._inputs.append(given)
        return ((given, *args[1:]), kwargs) if args else (args, {**kwargs, name: given})


class GuidanceCallback(PipelineCallback):  # type: ignore[misc]
    """A callback that guides: `pipe(prompt, callback_on_step_end=GuidanceCallback(pipe, loss))`.

    loss, method, options: as for `guide`, with methods that do not go through the denoiser. The first step is not guided.
    size: height and width of the images, for families that pack their latents.
    Raises `ValueError` for samplers other than DDIM (eta 0), Euler and flow-matching Euler, and for other methods.
    """

    def __init__(
        self,
        pipe: Any,
        loss: Callable[[Tensor], Tensor],
        method: Method | None = None,
        *,
        size: tuple[int, int] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.log = Log()
        self._run = _run(pipe, loss, method, size, self.log, options)
        _check_sampler(pipe)
        if self._run.method.through_denoiser or self._run.method.repeats(0.5) > 1:
            raise ValueError(
                f"a callback comes after the denoiser: {self._run.method} needs guide(pipe, loss, method)."
            )
        self._before: tuple[Tensor, Level] | None = None

    @property
    def tensor_inputs(self) -> list[str]:
        return ["latents"]

    def callback_fn(
        self, pipeline: Any, step_index: int, timesteps: Any, callback_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        scheduler = pipeline.scheduler
        x_after = callback_kwargs["latents"]
        places = (scheduler.timesteps == timesteps).nonzero().flatten().tolist()
        following = places[-1] + 1
        total = len(scheduler.timesteps)
        after = level_after(scheduler, scheduler.timesteps[following] if following < total else None)
        if step_index == 0:
            refuse_inference_mode()
            _check_sampler(pipeline)
            self._before = None
            self._run.interception.images_per_prompt = images_per_prompt(pipeline)
            self._run.begin(getattr(pipeline, "num_timesteps", total))
        if self._before is not None:
            call = _StateCall(*self._before, x_after, after, timesteps)
            x_after = self._run.step(call, step_index, step_index / self._run.total).to(x_after.dtype)
            callback_kwargs["latents"] = x_after
        self._before = (x_after, after)
        return callback_kwargs


def _check_sampler(pipe: Any) -> None:
    """Raise `ValueError` for a sampler whose states do not tell the clean estimate."""
    name = type(pipe.scheduler).__name__
    if name not in _FIRST_ORDER or getattr(pipe.scheduler.config, "stochastic_sampling", False):
        raise ValueError(
            f"a callback sees states only, and those of {name} do not tell the clean estimate; use one of "
            f"{', '.join(_FIRST_ORDER)}, or guide(pipe, loss)."
        )
    if eta := argument_of_call(pipe, "eta"):
        raise ValueError(f"a callback can follow deterministic samplers only, got eta={eta}; use guide(pipe, loss).")


class _ScoreCall(StepCall):
    """A step of which only the clean estimate can be changed."""

    def __init__(self, scheduler: Any, pred: Tensor, timestep: Any, x_t: Tensor, inputs: Any) -> None:
        super().__init__(scheduler, _no_step, pred, timestep, x_t, ((), {}), None, None, inputs)
        self.moved: Tensor | None = None

    def advance(self, x0: Tensor | None = None, x_t: Tensor | None = None) -> tuple[Tensor, Level]:
        self.moved = x0
        return self.x_t, self.level


class _StateCall(StepCall):
    """A step that has been made, of which only the result can be changed."""

    def __init__(self, x_t: Tensor, level: Level, x_after: Tensor, after: Level, timestep: Any) -> None:
        self.x_t, self.level, self.timestep, self.generator = x_t, level, timestep, None
        self._x_after, self._after = x_after, after
        x, x_next = x_t.float(), x_after.float()
        self._x0 = (
            x_next if after.s == 0 else (after.s * x - level.s * x_next) / (level.a * after.s - after.a * level.s)
        )
        self.model_output = self._x0

    def clean(self) -> Tensor:
        return self._x0

    def advance(self, x0: Tensor | None = None, x_t: Tensor | None = None) -> tuple[Tensor, Level]:
        moved = self._x_after if x0 is None else self._x_after + self._after.a * (x0 - self._x0)
        return moved, self._after


def _run(pipe: Any, loss: Any, method: Method | None, size: tuple[int, int] | None, log: Log, options: Any) -> Run:
    run = guide(pipe, loss, method, **options).run(log)
    height, width = size or (None, None)
    run.interception = SimpleNamespace(geometry=Geometry(height, width), images_per_prompt=1, bar=None)
    return run


def _no_step(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("this is not possible without standing in the scheduler's place; use guide(pipe, loss, method).")
