"""Interception: the one place where a running pipeline is touched, and put back.

Every pipeline of diffusers hands the model's output, after classifier-free guidance, to `pipe.scheduler.step`. That bound
method, and what happens around it, is replaced on the instances for as long as an interception lasts:

    scheduler.step              the step, with arguments of our own
    scheduler.set_timesteps,    the plan of steps; a step that is to be repeated stands in it several times, and the scheduler
    pipe.get_timesteps          gets its own plan back before it looks anything up
    pipe.progress_bar           called inside the pipeline's `no_grad`, before the loop: autograd is switched on for that frame
    pipe.prepare_latents        marks the first latents, tells their size
    vae.decode                  what the pipeline finally decodes, and the images; what others decode passes untouched

The classes of diffusers are imported nowhere here: what counts is what a pipeline has.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dreamsim_guidance.pipelines import caller
from dreamsim_guidance.pipelines.decoder import Geometry
from dreamsim_guidance.pipelines.frozen import denoiser_of
from dreamsim_guidance.pipelines.levels import wide
from dreamsim_guidance.pipelines.lock import lock_of
from dreamsim_guidance.pipelines.noise import Generators
from dreamsim_guidance.pipelines.patches import Patches
from dreamsim_guidance.pipelines.scheduler import restore, snapshot
from dreamsim_guidance.pipelines.step_call import StepCall, first_of, others_of, with_first
from dreamsim_guidance.pipelines.visitor import Visitor

__all__ = ["Interception", "refuse_inference_mode", "scheduler_of"]


class Interception:
    """Stands between a pipeline and its scheduler from `open` to `close`.

    Raises `ValueError` if the pipeline has no scheduler.
    """

    def __init__(self, pipe: Any, visitor: Visitor) -> None:
        self.pipe, self.visitor = pipe, visitor
        self.scheduler = scheduler_of(pipe)
        self.geometry = Geometry()
        self.images_per_prompt = 1
        self.generator: Generators = None
        self.bar: Any = None
        self._patches = Patches()
        self._hook: Any = None
        self._mode: bool | None = None
        self._own_plan: Tensor | None = None
        self._plan_of([])

    def open(self) -> None:
        """Replace; waits while another thread works with the same scheduler."""
        self._lock = lock_of(self.scheduler)
        self._lock.acquire()
        self._mode_outside = torch.is_grad_enabled()
        try:
            self._patches.replace(self.scheduler, "step", self._step)
            self._patches.replace(self.scheduler, "set_timesteps", self._set_timesteps)
            for name in ("scale_model_input", "add_noise", "scale_noise", "index_for_timestep"):
                self._patches.replace(self.scheduler, name, self._with_own_plan)
            self._patches.replace(self.pipe, "get_timesteps", self._get_timesteps)
            self._patches.replace(self.pipe, "progress_bar", self._progress_bar)
            self._patches.replace(self.pipe, "prepare_latents", self._prepare_latents)
            self._patches.replace(getattr(self.pipe, "vae", None), "decode", self._decode)
            for block in _loops_of(self.pipe):
                self._patches.replace(block, "progress_bar", self._block_progress_bar)
            denoiser = denoiser_of(self.pipe)
            if denoiser is not None and not hasattr(self.pipe, "prepare_latents"):
                self._hook = denoiser.register_forward_pre_hook(self._mark_input, with_kwargs=True)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Put everything back."""
        if self._hook is not None:
            self._hook.remove()
        self._patches.undo()
        self._hand_back()
        torch.set_grad_enabled(self._mode_outside)
        self._mode = self._hook = self.bar = None
        self._results.clear()
        self._lock.release()

    def _plan_of(self, timesteps: list[float], copies: list[int] | None = None) -> None:
        """A new run: its steps, and how often each is made."""
        self._plan = timesteps
        self._copies = copies or [1] * len(timesteps)
        self._index = self._repetition = self._offset = 0
        self._started = False
        self._kept: dict[str, Any] = {}
        self._inputs: list[Tensor] = []
        self._results: list[Tensor] = []

    @property
    def _progress(self) -> float:
        return self._index / max(1, len(self._plan))

    def _expanded(self, timesteps: Tensor) -> Tensor:
        """The plan with every step as often as it shall be made."""
        plan = [float(t) for t in timesteps]
        copies = [self.visitor.repeats(i, i / len(plan)) for i in range(len(plan))]
        self._plan_of(plan, copies)
        if max(copies, default=1) == 1:
            return timesteps
        return timesteps.repeat_interleave(torch.tensor(copies, device=timesteps.device))

    # What stands in place of the pipeline's own methods; each gets the original first.

    def _set_timesteps(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        refuse_inference_mode()
        if caller.is_of_another_pipeline(self.pipe, self.scheduler):
            return original(*args, **kwargs)
        self._hand_back()
        result = original(*args, **kwargs)
        own = self.scheduler.timesteps
        if hasattr(self.pipe, "get_timesteps"):  # which cuts the plan, and is where steps are repeated
            self._plan_of([float(t) for t in own])
        else:
            expanded = self._expanded(own)
            if expanded is not own:
                self._own_plan, self.scheduler.timesteps = own, expanded
        return result

    def _get_timesteps(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        timesteps, *rest = original(*args, **kwargs)
        return (self._expanded(timesteps), *rest)

    def _with_own_plan(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._hand_back()
        return original(*args, **kwargs)

    def _prepare_latents(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._refuse_another_scheduler()
        result = original(*args, **kwargs)
        given = _arguments(original, args, kwargs)
        self.generator = given.get("generator")
        latents, *extras = result if isinstance(result, tuple) else (result,)
        # where tokens have positions, they are returned last
        self.geometry = Geometry(given.get("height"), given.get("width"), tuple(extras[-1:]))
        if isinstance(latents, Tensor) and latents.is_floating_point() and self.visitor.wants_graph(0, 0.0):
            latents = latents.detach().requires_grad_()  # a leaf of our own: the caller's tensor stays as it is
        return (latents, *extras) if isinstance(result, tuple) else latents

    def _progress_bar(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._refuse_another_scheduler()
        self._hand_back()
        if kwargs.get("total") is not None and self._plan:
            kwargs["total"] = max(kwargs["total"], sum(self._copies))
        self.bar = original(*args, **kwargs)
        self._mode = torch.is_grad_enabled()
        torch.set_grad_enabled(self._mode or self.visitor.wants_graph(0, 0.0))
        return self.bar

    def _block_progress_bar(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.bar = original(*args, **kwargs)
        return self.bar

    def _mark_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Pipelines without `prepare_latents`: pixels are handed to the denoiser as they are, blocks have a no_grad each."""
        if not self.visitor.wants_graph(self._index, self._progress):
            return None
        name = next((name for name in ("sample", "hidden_states", "x") if name in kwargs), None)
        given = args[0] if args else kwargs.get(name or "")
        if not (isinstance(given, Tensor) and given.is_floating_point()):
            return None
        if torch.is_grad_enabled() and not self._inputs:
            if not self._started and given.is_leaf:
                given.requires_grad_()
            return None
        torch.set_grad_enabled(True)  # until the block ends, whose decorator puts it back
        leaf = given.detach().requires_grad_()
        self._inputs.append(leaf)
        return ((leaf, *args[1:]), kwargs) if args else (args, {**kwargs, str(name): leaf})

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
        if caller.is_of_another_pipeline(self.pipe, self.scheduler):
            return original(model_output, timestep, sample, *rest, **keywords)
        self._hand_back()
        if not self._started:
            self._start(float(timestep))
        repeated = max(self._copies) > 1
        if repeated and float(timestep) != self._plan[self._index]:
            raise RuntimeError(_off_plan(self.pipe, float(timestep), self._plan[self._index]))
        if repeated and self._repetition == 0:
            self._kept = snapshot(self.scheduler)
        following = self._plan[self._index + 1] if self._index + 1 < len(self._plan) else None
        call = StepCall(
            self.scheduler,
            original,
            model_output,
            timestep,
            sample,
            (rest, keywords),
            following,
            self.generator,
            self._inputs,
        )
        self._inputs = []
        x_prev = self.visitor.step(call, self._index, self._progress)
        if call.result is None:
            raise RuntimeError("a guidance method must call step.sample(), or one of its forms, once in each step.")
        if self._repetition + 1 < self._copies[self._index]:
            x_prev = call.noised_back(x_prev)
            restore(self.scheduler, self._kept)
            self._repetition += 1
        else:
            self._index, self._repetition = self._index + 1, 0
        graph = self._index < len(self._plan) and self.visitor.wants_graph(self._index, self._progress)
        if self._index == len(self._plan):
            self._restore_grad_mode()
        elif self._mode is not None:
            torch.set_grad_enabled(self._mode or graph)
        x_prev = x_prev.to(first_of(call.result).dtype).detach()  # each step has a graph of its own
        self._results = [x_prev, *(x for x in others_of(call.result) if isinstance(x, Tensor))]
        self._offset = 0
        return with_first(call.result, x_prev.requires_grad_() if graph else x_prev)

    def _start(self, timestep: float) -> None:
        """The first step of a run: find it in the plan, into which image-to-image pipelines enter in the middle."""
        if not self._plan:
            self._plan_of([float(t) for t in self.scheduler.timesteps])
        if self._plan[0] != timestep:
            if timestep not in self._plan or max(self._copies) > 1:
                raise RuntimeError(_off_plan(self.pipe, timestep, self._plan[0]))
            self._plan_of(self._plan[self._plan.index(timestep) :])
        self._started = True
        self.images_per_prompt = caller.images_per_prompt(self.pipe)
        self.visitor.begin(len(self._plan))

    def _decode(self, original: Callable[..., Any], z: Tensor, *args: Any, **kwargs: Any) -> Any:
        result = original(z, *args, **kwargs)
        if self._started and self._index == len(self._plan) and caller.calls_itself(self.pipe):
            images = result[0] if isinstance(result, tuple) else result.sample
            self.visitor.images(z, wide(images.detach()) / 2 + 0.5, self._results, self._offset)
            self._offset += len(z)
        return result

    def _refuse_another_scheduler(self) -> None:
        if self.pipe.scheduler is not self.scheduler:
            raise RuntimeError(
                f"the scheduler of {type(self.pipe).__name__} was replaced by {type(self.pipe.scheduler).__name__} after the "
                "guide had been entered, and would not be guided; replace it before `with guide(...)`."
            )

    def _hand_back(self) -> None:
        if self._own_plan is not None:
            self.scheduler.timesteps, self._own_plan = self._own_plan, None

    def _restore_grad_mode(self) -> None:
        if self._mode is not None:
            torch.set_grad_enabled(self._mode)
            self._mode = None


def scheduler_of(pipe: Any) -> Any:
    """The pipeline's scheduler; raises `ValueError` if it has none."""
    scheduler = getattr(pipe, "scheduler", None)
    if not callable(getattr(scheduler, "step", None)):
        raise ValueError(
            f"{type(pipe).__name__} has no scheduler with a `step`, so there is nothing to guide; a diffusers pipeline with a "
            "`scheduler` is needed."
        )
    return scheduler


def _loops_of(block: Any) -> list[Any]:
    """The blocks of a modular pipeline that have a progress bar."""
    inner = [part for sub in getattr(block, "sub_blocks", {}).values() for part in _loops_of(sub)]
    own = [block] if hasattr(block, "progress_bar") and hasattr(block, "sub_blocks") else []
    outer = getattr(block, "_blocks", None)
    return own + inner + (_loops_of(outer) if outer is not None else [])


def _arguments(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    return dict(inspect.signature(function).bind(*args, **kwargs).arguments)


def refuse_inference_mode() -> None:
    """Raise `RuntimeError` where no gradient can be had."""
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "guidance needs gradients, and torch.inference_mode() forbids them for good; run the pipeline under "
            "torch.no_grad(), or under nothing at all."
        )


def _off_plan(pipe: Any, timestep: float, planned: float) -> str:
    return (
        f"{type(pipe).__name__} is at timestep {timestep:g} where its scheduler planned {planned:g}, so steps cannot be "
        "repeated here; use a method without recurrence."
    )
