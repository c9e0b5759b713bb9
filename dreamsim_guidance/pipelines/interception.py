"""Interception: the only place where a running pipeline is changed and restored.

Every pipeline of diffusers passes the model's output, after classifier-free guidance, to `pipe.scheduler.step`. That bound
method and a few around it are replaced on the instances for as long as an interception lasts:

    scheduler.step              makes the step with the arguments that the visitor chooses
    scheduler.set_timesteps,    the plan of steps. A step that is to be repeated occurs in it several times, and the scheduler
    pipe.get_timesteps          gets its own plan back before it looks anything up
    pipe.progress_bar           called inside the pipeline's `no_grad`, before the loop: autograd is switched on for that frame
    pipe.prepare_latents        makes the first latents a leaf of the graph and reads their size
    denoiser.forward            the same leaf, for pipelines without `prepare_latents`; its first call with a graph is watched
                                for parts that have no backward
    vae.decode                  reads what the pipeline finally decodes, and the images; other decoding is not changed

No class of diffusers is imported here: what counts is which methods a pipeline has.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dreamsim_guidance.pipelines import caller
from dreamsim_guidance.pipelines.decoder import Geometry
from dreamsim_guidance.pipelines.denoiser_input import leaf_of_input, state_among
from dreamsim_guidance.pipelines.frozen import denoiser_of
from dreamsim_guidance.pipelines.gradient_path import refusing_cut_gradients, requires_grad
from dreamsim_guidance.pipelines.host_numbers import number
from dreamsim_guidance.pipelines.levels import wide
from dreamsim_guidance.pipelines.lock import lock_of
from dreamsim_guidance.pipelines.noise import Generators
from dreamsim_guidance.pipelines.patches import Patches
from dreamsim_guidance.pipelines.scheduler import restore, scheduler_of, snapshot
from dreamsim_guidance.pipelines.step_call import SchedulerCall, first_of, others_of, with_first
from dreamsim_guidance.pipelines.step_plan import StepPlan
from dreamsim_guidance.pipelines.visitor import Sampling, Visit, Visitor

__all__ = ["Interception", "refuse_inference_mode"]


class Interception:
    """Stands between a pipeline and its scheduler from `open` to `close`.

    pipe: any pipeline whose loop calls `pipe.scheduler.step`. visitor: what decides about the steps.
    Raises `ValueError` if the pipeline has no scheduler.
    """

    def __init__(self, pipe: Any, visitor: Visitor) -> None:
        self.pipe, self.visitor = pipe, visitor
        self.scheduler = scheduler_of(pipe)
        self.bar: Any = None
        """The progress bar of the running call, once its loop has begun."""
        self._patches = Patches()
        self._foreign = False
        self._geometry = Geometry()
        self._generator: Generators = None
        self._mode: bool | None = None
        self._own_timesteps: Tensor | None = None
        self._watched = False
        self._new_run(StepPlan())

    def open(self) -> None:
        """Replace the methods; waits while another thread works with the same scheduler."""
        self._lock = lock_of(self.scheduler)
        self._lock.acquire()
        self._mode_outside = torch.is_grad_enabled()
        try:
            replace = self._patches.replace
            replace(self.scheduler, "step", self._step)
            replace(self.scheduler, "set_timesteps", self._set_timesteps)
            for name in ("scale_model_input", "add_noise", "scale_noise", "index_for_timestep"):
                replace(self.scheduler, name, self._with_own_timesteps)
            replace(self.pipe, "get_timesteps", self._get_timesteps)
            replace(self.pipe, "progress_bar", self._progress_bar)
            replace(self.pipe, "prepare_latents", self._prepare_latents)
            replace(getattr(self.pipe, "vae", None), "decode", self._decode)
            for block in _loops_of(self.pipe):
                replace(block, "progress_bar", self._block_progress_bar)
            replace(denoiser_of(self.pipe), "forward", self._watch)
            if not hasattr(self.pipe, "prepare_latents"):
                replace(denoiser_of(self.pipe), "forward", self._denoise)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Restore all methods."""
        self._patches.undo()
        self._hand_back()
        torch.set_grad_enabled(self._mode_outside)
        self._mode = self.bar = None
        self._new_run(StepPlan())
        self._lock.release()

    def _new_run(self, plan: StepPlan) -> None:
        self._plan = plan
        self._visit: Visit | None = None
        self._before_step: dict[str, Any] = {}
        self._inputs: list[Tensor] = []
        self._results: list[Tensor] = []
        self._decoded = 0
        self._call: tuple[int, bool] | None = None

    def _wants_graph(self) -> bool:
        return not self._plan.done and self.visitor.wants_graph(self._plan.index, len(self._plan))

    # The replacements; each receives the original method first.

    def _set_timesteps(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        refuse_inference_mode()
        self._foreign = caller.is_of_another_pipeline(self.pipe, self.scheduler)
        if self._foreign:
            return original(*args, **kwargs)
        self._hand_back()
        result = original(*args, **kwargs)
        timesteps = self.scheduler.timesteps
        if hasattr(self.pipe, "get_timesteps"):  # which cuts the plan, and is where steps are repeated
            self._new_run(StepPlan(timesteps))
        else:
            repeated = self._with_repeats(timesteps)
            if repeated is not timesteps:
                self._own_timesteps, self.scheduler.timesteps = timesteps, repeated
        return result

    def _get_timesteps(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        timesteps, *others = original(*args, **kwargs)
        return (self._with_repeats(timesteps), *others)

    def _with_repeats(self, timesteps: Tensor) -> Tensor:
        plan, repeated = StepPlan.repeated(timesteps, self.visitor.repeats)
        self._new_run(plan)
        return repeated

    def _with_own_timesteps(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._hand_back()
        return original(*args, **kwargs)

    def _prepare_latents(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._refuse_another_scheduler()
        result = original(*args, **kwargs)
        arguments = inspect.signature(original).bind(*args, **kwargs).arguments
        self._generator = arguments.get("generator")
        latents, *extras = result if isinstance(result, tuple) else (result,)
        self._geometry = Geometry.prepared(arguments, extras)
        if isinstance(latents, Tensor) and latents.is_floating_point() and self._wants_graph_at_first():
            latents = latents.detach().requires_grad_()  # a leaf of our own: the caller's tensor stays as it is
        return (latents, *extras) if isinstance(result, tuple) else latents

    def _wants_graph_at_first(self) -> bool:
        return self.visitor.wants_graph(0, max(1, len(self._plan)))

    def _progress_bar(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._refuse_another_scheduler()
        self._hand_back()
        if kwargs.get("total") is not None and len(self._plan):
            kwargs["total"] = max(kwargs["total"], sum(self._plan.copies))
        # read before the loop: until Python 3.12 a frame keeps the variables that were read, later on with a step's graph
        self._call = self._read_call()
        self.bar = original(*args, **kwargs)
        self._mode = torch.is_grad_enabled()
        torch.set_grad_enabled(self._mode or self._wants_graph_at_first())
        return self.bar

    def _block_progress_bar(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.bar = original(*args, **kwargs)
        return self.bar

    def _denoise(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Pipelines without `prepare_latents`: pixels reach the denoiser as they are, and blocks have a no_grad each."""
        wanted = self._wants_graph() if len(self._plan) else self._wants_graph_at_first()
        if not wanted:
            return original(*args, **kwargs)
        state = state_among(args, kwargs)
        if isinstance(state, Tensor) and state.is_floating_point():
            if torch.is_grad_enabled() and not self._inputs:
                if self._visit is None and state.is_leaf:
                    state.requires_grad_()
            else:
                args, kwargs, leaf = leaf_of_input(args, kwargs)
                self._inputs.append(leaf)
        return original(*args, **kwargs)

    def _watch(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        denoiser = denoiser_of(self.pipe)
        if self._watched or denoiser is None or not torch.is_grad_enabled() or not requires_grad((args, kwargs)):
            return original(*args, **kwargs)
        self._watched = True
        with refusing_cut_gradients(denoiser):
            return original(*args, **kwargs)

    def _step(
        self,
        original: Callable[..., Any],
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        *rest: Any,
        **keywords: Any,
    ) -> Any:
        refuse_inference_mode()
        if self._foreign:
            return original(model_output, timestep, sample, *rest, **keywords)
        self._hand_back()
        now = number(timestep)
        visit = self._visit or self._begin(now)
        plan = self._plan
        if plan.repeats and now != plan.timesteps[plan.index]:
            raise RuntimeError(_off_plan(self.pipe, now, plan.timesteps[plan.index]))
        if plan.repeats and plan.repetition == 0:
            self._before_step = snapshot(self.scheduler)
        generator = keywords.get("generator")
        call = SchedulerCall(
            self.scheduler,
            lambda output, state: original(output, timestep, state, *rest, **keywords),
            model_output,
            timestep,
            sample,
            plan.following,
            self._generator if generator is None else generator,
            self._inputs,
        )
        self._inputs = []
        x_prev = visit.step(call, plan.index)
        if call.result is None:
            raise RuntimeError(f"{type(visit).__name__}.step must call `call.advance()` once.")
        if plan.move_on():
            x_prev = call.noised_back(x_prev)
            restore(self.scheduler, self._before_step)
        graph = self._wants_graph()
        if plan.done:
            self._restore_grad_mode()
        elif self._mode is not None:
            torch.set_grad_enabled(self._mode or graph)
        x_prev = x_prev.to(first_of(call.result).dtype).detach()  # each step has a graph of its own
        self._results = [x_prev, *(x for x in others_of(call.result) if isinstance(x, Tensor))]
        self._decoded = 0
        return with_first(call.result, x_prev.requires_grad_() if graph else x_prev)

    def _begin(self, timestep: float) -> Visit:
        """The first step of a run: find it in the plan, which image-to-image pipelines enter in the middle."""
        images_per_prompt, own_callback = self._call or self._read_call()
        if not len(self._plan):
            self._new_run(StepPlan(self.scheduler.timesteps))
        if self._plan.timesteps[0] != timestep:
            if timestep not in self._plan.timesteps or self._plan.repeats:
                raise RuntimeError(_off_plan(self.pipe, timestep, self._plan.timesteps[0]))
            self._new_run(self._plan.starting_at(timestep))
        self._visit = self.visitor.begin(
            Sampling(
                steps=len(self._plan),
                geometry=self._geometry,
                images_per_prompt=images_per_prompt,
                own_callback=own_callback,
                bar=self.bar,
            )
        )
        return self._visit

    def _read_call(self) -> tuple[int, bool]:
        """The images per prompt of the running call, and whether it has a callback of its own."""
        callback = caller.argument_of_call(self.pipe, "callback_on_step_end", "callback")
        return caller.images_per_prompt(self.pipe), callback is not None

    def _decode(self, original: Callable[..., Any], z: Tensor, *args: Any, **kwargs: Any) -> Any:
        result = original(z, *args, **kwargs)
        if self._visit is not None and self._plan.done and caller.calls_itself(self.pipe):
            images = result[0] if isinstance(result, tuple) else result.sample
            self._visit.images(z, wide(images.detach()) / 2 + 0.5, self._results, self._decoded)
            self._decoded += len(z)
        return result

    def _refuse_another_scheduler(self) -> None:
        if self.pipe.scheduler is not self.scheduler:
            raise RuntimeError(
                f"the scheduler of {type(self.pipe).__name__} was replaced by {type(self.pipe.scheduler).__name__} inside the "
                "`with` block, whose work is done on the scheduler from before; replace it before the block."
            )

    def _hand_back(self) -> None:
        """The scheduler gets its own timesteps back."""
        if self._own_timesteps is not None:
            self.scheduler.timesteps, self._own_timesteps = self._own_timesteps, None

    def _restore_grad_mode(self) -> None:
        if self._mode is not None:
            torch.set_grad_enabled(self._mode)
            self._mode = None


def _loops_of(block: Any) -> list[Any]:
    """The blocks of a modular pipeline that have a progress bar."""
    inner = [part for sub in getattr(block, "sub_blocks", {}).values() for part in _loops_of(sub)]
    direct = [block] if hasattr(block, "progress_bar") and hasattr(block, "sub_blocks") else []
    outer = getattr(block, "_blocks", None)
    return direct + inner + (_loops_of(outer) if outer is not None else [])


def refuse_inference_mode() -> None:
    """Raise `RuntimeError` under `torch.inference_mode()`, where no gradient can be computed."""
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "gradients are needed here, and torch.inference_mode() rules them out; run the pipeline under torch.no_grad(), or "
            "without any such context."
        )


def _off_plan(pipe: Any, timestep: float, planned: float) -> str:
    return (
        f"{type(pipe).__name__} is at timestep {timestep:g} where its scheduler planned {planned:g}, so steps cannot be "
        "repeated here; use a method that makes each step once."
    )
