"""Guidance through diffusers' own extension points, with nothing replaced on the pipeline.

`LossGuidance` is a guider of Modular Diffusers: it sees the denoiser's inputs and combines its predictions, so it can move the
clean estimate (score injection) and leaves the state alone. `GuidanceCallback` is a callback at the end of each step: two
consecutive states of a deterministic first-order sampler determine the clean estimate and the noise,

    x0 = (s' x_t - s x_t') / (a s' - a' s)

and the later state can be moved. Both run the same `GuidedRun` as `guide`, with a `StepCall` of their own; `guide` can do more.
This is the one file of the package that imports diffusers for guidance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.callbacks import PipelineCallback
from torch import Tensor, nn

from dreamsim_guidance.guidance.guiding import guide
from dreamsim_guidance.guidance.method import Method
from dreamsim_guidance.guidance.methods import METHODS, method_class
from dreamsim_guidance.guidance.run import GuidedRun
from dreamsim_guidance.pipelines.caller import argument_of_call, images_per_prompt
from dreamsim_guidance.pipelines.decoder import Geometry
from dreamsim_guidance.pipelines.denoiser_input import leaf_of_input, state_among
from dreamsim_guidance.pipelines.frozen import denoiser_of, without_gradients
from dreamsim_guidance.pipelines.host_numbers import number
from dreamsim_guidance.pipelines.interception import refuse_inference_mode
from dreamsim_guidance.pipelines.levels import Level
from dreamsim_guidance.pipelines.scheduler import level_after, level_of
from dreamsim_guidance.pipelines.step_call import StepCall
from dreamsim_guidance.pipelines.visitor import Sampling

try:
    from diffusers.guiders import BaseGuidance, ClassifierFreeGuidance
except ImportError:  # diffusers before 0.35
    BaseGuidance = ClassifierFreeGuidance = None

__all__ = ["GuidanceCallback", "LossGuidance"]

_FIRST_ORDER = ("DDIMScheduler", "EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler")


class LossGuidance(BaseGuidance or object):  # type: ignore[misc]
    """A guider that adds a loss on the images to another guider: `pipe.update_components(guider=LossGuidance(pipe, loss))`.

    loss, method, options: as for `guide`; methods that declare `through_guider` and make each step once. MPGD takes its score
        form, in which the state stays.
    guider: combines the denoiser's predictions; the pipeline's own by default.
    size: height and width of the images in pixels, for families that pack their latents.
    `log` is the log of the last run.
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
        self._guidance = guide(pipe, loss, method, **options).guidance()
        self.log, self._geometry = self._guidance.log, Geometry(*(size or ()))
        if not self._guidance.method.through_guider or self._guidance.method.recurrent:
            suitable = [kind.__name__ for kind in map(method_class, METHODS) if kind.through_guider]
            raise ValueError(
                f"a guider can only move the clean estimate, which {self._guidance.method} does not keep to; use guide(pipe, "
                f"loss, method), or one of {', '.join(suitable)} without recurrence."
            )
        self._run: GuidedRun | None = None
        self._inputs: list[Tensor] = []
        self._hook: Any = None

    def release(self) -> None:
        """Drop recorded CUDA graphs (`capture=`) and their memory; the next call of the pipeline records anew."""
        self._guidance.captured.release()

    def set_state(self, step: int, num_inference_steps: int, timestep: Any) -> None:
        super().set_state(step, num_inference_steps, timestep)
        self.inner.set_state(step=step, num_inference_steps=num_inference_steps, timestep=timestep)
        self._inputs = []
        if step == 0:
            refuse_inference_mode()
            self._run = self._guidance.begin(
                Sampling(num_inference_steps, self._geometry, images_per_prompt(self.pipe))
            )

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
        assert self._run is not None  # set_state has begun it
        scheduler, state = self.pipe.scheduler, self._inputs[0].detach()
        x_t = state[: len(output.pred)]
        if hasattr(scheduler, "scale_model_input"):  # of no dimension, it leaves the state's dtype as it is
            one = torch.ones((), dtype=torch.float32, device=state.device)
            x_t = x_t / scheduler.scale_model_input(one, self._timestep)
        call = _ScoreCall(
            x_t,
            output.pred,
            level_of(scheduler, self._timestep),
            number(self._timestep),
            inputs=self._inputs if self._wants_graph() else (),
        )
        denoiser = denoiser_of(self.pipe)
        with without_gradients([] if denoiser is None else [denoiser]):
            self._run.step(call, self._step)
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

    def _wants_graph(self) -> bool:
        return self._guidance.wants_graph(self._step, max(1, self._num_inference_steps))

    def _take_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self._wants_graph():
            self._inputs.append(state_among(args, kwargs))
            return args, kwargs
        args, kwargs, leaf = leaf_of_input(args, kwargs)  # from which gradients are led to the state by hand
        self._inputs.append(leaf)
        return args, kwargs


class GuidanceCallback(PipelineCallback):  # type: ignore[misc]
    """A callback that guides: `pipe(prompt, callback_on_step_end=GuidanceCallback(pipe, loss))`.

    loss, method, options: as for `guide`, with methods that do not go through the denoiser and make each step once. The first
        step is not guided.
    size: height and width of the images in pixels, for families that pack their latents.
    `log` is the log of the last run.
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
        self._guidance = guide(pipe, loss, method, **options).guidance()
        self.log, self._geometry = self._guidance.log, Geometry(*(size or ()))
        _check_sampler(pipe)
        if self._guidance.method.through_denoiser or self._guidance.method.recurrent:
            raise ValueError(
                f"a callback comes after the denoiser: {self._guidance.method} needs guide(pipe, loss, method)."
            )
        self._run: GuidedRun | None = None
        self._before: tuple[Tensor, Level] | None = None

    def release(self) -> None:
        """Drop recorded CUDA graphs (`capture=`) and their memory; the next call of the pipeline records anew."""
        self._guidance.captured.release()

    @property
    def tensor_inputs(self) -> list[str]:
        return ["latents"]

    def callback_fn(
        self, pipeline: Any, step_index: int, timesteps: Any, callback_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        scheduler = pipeline.scheduler
        x_after = callback_kwargs["latents"]
        now, total = number(timesteps), len(scheduler.timesteps)
        following = max(i for i in range(total) if number(scheduler.timesteps[i]) == now) + 1
        after = level_after(scheduler, scheduler.timesteps[following] if following < total else None)
        if step_index == 0:
            refuse_inference_mode()
            _check_sampler(pipeline)
            steps = getattr(pipeline, "num_timesteps", total)
            self._run = self._guidance.begin(Sampling(steps, self._geometry, images_per_prompt(pipeline)))
        elif self._run is not None and self._before is not None:
            call = _state_call(*self._before, x_after, after, now)
            x_after = self._run.step(call, step_index).to(x_after.dtype)
            callback_kwargs["latents"] = x_after
        self._before = (x_after, after)
        return callback_kwargs


def _check_sampler(pipe: Any) -> None:
    """Raise `ValueError` for a sampler whose states do not determine the clean estimate."""
    name = type(pipe.scheduler).__name__
    if name not in _FIRST_ORDER or getattr(pipe.scheduler.config, "stochastic_sampling", False):
        raise ValueError(
            f"a callback sees states only, and those of {name} do not determine the clean estimate; use one of "
            f"{', '.join(_FIRST_ORDER)}, or guide(pipe, loss)."
        )
    if eta := argument_of_call(pipe, "eta"):
        raise ValueError(f"a callback can follow deterministic samplers only, got eta={eta}; use guide(pipe, loss).")


class _ScoreCall(StepCall):
    """A step of which only the clean estimate can be changed."""

    moved: Tensor | None = None
    """The clean estimate that the method chose; None for the denoiser's own."""

    def advance(self, x0: Tensor | None = None, x_t: Tensor | None = None) -> tuple[Tensor, Level]:
        self.moved = x0
        return self.x_t, self.level


class _StateCall(StepCall):
    """A step that has been made, of which only the result can be changed."""

    x_after: Tensor
    after: Level

    def advance(self, x0: Tensor | None = None, x_t: Tensor | None = None) -> tuple[Tensor, Level]:
        moved = self.x_after if x0 is None else self.x_after + self.after.a * (x0 - self.clean())
        return moved, self.after


def _state_call(x_t: Tensor, level: Level, x_after: Tensor, after: Level, timestep: float) -> _StateCall:
    """The step between two states, whose clean estimate takes the place of the model's output."""
    x, x_next = x_t.float(), x_after.float()
    x0 = x_next if after.s == 0 else (after.s * x - level.s * x_next) / (level.a * after.s - after.a * level.s)
    call = _StateCall(x_t, x0, Level(level.a, level.s, 0.0, 1.0), timestep)
    call.x_after, call.after = x_after, after
    return call
