"""Guidance of an unmodified pipeline: one line around the call.

    with guide(pipe, DreamSim().target(reference), MPGD(strength=0.03)) as log:
        image = pipe("a photo of a cat on a sofa").images[0]

The loss is any function from images in [0, 1] to one value per image; the method decides how its gradient enters the
sampler's steps. Nothing of the pipeline is copied or subclassed. A few methods are replaced on its instances, and restored
when the block ends, also by an error; a deep copy of the pipeline made inside the block is an unguided pipeline.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from dreamsim_guidance.capture import Recorder
from dreamsim_guidance.guidance.captured import Capture, CapturedGradient
from dreamsim_guidance.guidance.judges import judges_of
from dreamsim_guidance.guidance.log import Entry, Log
from dreamsim_guidance.guidance.method import Method
from dreamsim_guidance.guidance.methods.mpgd import MPGD
from dreamsim_guidance.guidance.run import SAVINGS, Guidance
from dreamsim_guidance.guidance.timing import Timing
from dreamsim_guidance.loss import unbound_arguments
from dreamsim_guidance.pipelines.differentiable import differentiable  # part of the public names of guidance
from dreamsim_guidance.pipelines.frozen import (
    checkpointed,
    frozen,
    networks_of,
    refuse_inference_tensors,
    refuse_meta_tensors,
)
from dreamsim_guidance.pipelines.interception import Interception
from dreamsim_guidance.pipelines.scheduler import scheduler_of

__all__ = ["Guide", "default_method", "differentiable", "guide"]


def default_method(pipe: Any) -> MPGD:
    """The default method for a pipeline: `MPGD`, with strength 0.03 on latents and 0.005 on pixels.

    Both strengths were measured under DreamSim's distance on the small models that ship with this package, not on large ones.
    """
    return MPGD().suited_to(pipe)


def guide(
    pipe: Any,
    loss: Callable[[Tensor], Tensor],
    method: Method | None = None,
    *,
    window: tuple[int | float, int | float] = (0.0, 1.0),
    every: int = 1,
    schedule: Callable[[float], int | float] | None = None,
    until: int | float | None = None,
    vae: nn.Module | None = None,
    decode: Callable[[Tensor], Tensor] | None = None,
    views: int = 1,
    augmentation: Callable[[Tensor], Tensor] | None = None,
    judges: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    baseline: Log | None = None,
    checkpointing: bool = False,
    images_per_reference: int | None = None,
    callback: Callable[[Entry, Tensor], None] | None = None,
    capture: Capture = "auto",
) -> Guide:
    """Guide every call of a diffusers pipeline in the `with` block by a loss on its images; yields the `Log`.

    pipe: any pipeline whose loop calls `pipe.scheduler.step`, classic or modular.
    loss: from images `(b, 3, h, w)` in [0, 1] (they may overshoot a little) to one value for each, `(b,)`, smaller is better:
        `DreamSim().target(reference)`, a sum of losses, any function. Scheduled weights of a `Loss` follow the step.
    method: by default `default_method(pipe)`, which needs no backward pass through the denoiser. Strength 0 leaves the output
        bit for bit as it was.
    window: first and last share of the run between which to guide, in [0, 1]. every: guide each k-th step of the window,
        beginning with its first.
    schedule: from the share of the run that is done, in [0, 1), to a factor on the strength, at least 0.
    until: stop guiding an image once its distance is at or below this value, and leave the rest to the prompt.
    vae: decodes for the guidance instead of the pipeline's own, e.g. an AutoencoderTiny (TAESD) made for it; the delivered
        image is still the pipeline's own.
    decode: a function from the sampler's clean estimate to images in [0, 1], for pipelines whose latents are unknown.
    views: number of evaluations of the loss for each gradient, each under a random `augmentation` (by default cutouts,
        changes of colour and noise, if there is more than one view), against adversarial gradients. The decoder's backward
        pass is made once for all.
    judges: functions like `loss` that do not guide and are reported beside it, by name; by default root mean square difference
        and 1 - SSIM to the references of each DreamSim target in the loss.
    baseline: the log of the same call without guidance, for reporting where the loss improves and judges get worse.
    checkpointing: save memory for time: activations of denoiser and decoder are recomputed, images decoded one by one.
    images_per_reference: how many images in a row belong to one reference, if the loss has one for each prompt; by default the
        pipeline's `num_images_per_prompt`, or 1 if the loss accepts nothing less than all images.
    callback: called after each guided step with its `Entry` and the clean estimates' images in [0, 1], for previews. (In the
        pipeline's own `callback_on_step_end`, latents carry a gradient under methods that go through the denoiser; detach
        them before they are converted to numbers or changed in place.)
    capture: run decoder, loss and their gradient as CUDA graphs, which are recorded at the first guided step of each size and
        replayed afterwards, without the time of launching hundreds of kernels. "auto" does so on a CUDA device where the
        decoder is an AutoencoderTiny or AutoencoderKL or there is none, all terms of the loss are declared `capturable`, and
        nothing is offloaded or checkpointed. True also records other decoders and losses: what they read must not change but
        in place. False never does. The graphs hold the memory that one evaluation needs until the block ends. What cannot be
        recorded runs as it is, and a log line at warning level gives the reason. Results are the same but for rounding.
        Recording takes the time of about five evaluations, once for each `with` block and size. An AutoencoderKL in float16
        that diffusers upcasts is copied, and recorded anew, at every call of the pipeline.

    Raises `TypeError` for a loss that needs more than images and for arguments of a wrong type; `ValueError` for arguments out
    of range, for a pipeline without scheduler or with latents that cannot be decoded, and for a loss whose value does not
    depend on the images; `RuntimeError` under `torch.inference_mode()` and for networks on the meta device;
    `torch.OutOfMemoryError` with advice. Warns if half of a run's gradients or more are not finite.
    """
    if not callable(loss):
        raise TypeError(f"loss must be callable on images, got {type(loss).__name__}.")
    if unbound := unbound_arguments(loss):
        raise TypeError(
            f"loss is called with images alone, and {_name(loss)} needs {' and '.join(unbound)} as well; bind it "
            "first: a metric by metric.target(image), a pair loss by pair_loss.against(image), a function by functools.partial."
        )
    method = default_method(pipe) if method is None else method
    if not isinstance(method, Method):
        raise TypeError(f"method must be a guidance method such as MPGD(strength=0.005), got {method!r}.")
    timing = Timing(window, every, schedule)
    for name, function in (("augmentation", augmentation), ("callback", callback)):
        if function is not None and not callable(function):
            raise TypeError(f"{name} must be a function, got {type(function).__name__}.")
    if judges is not None and not isinstance(judges, Mapping):
        raise TypeError(f"judges must be functions by name, such as {{'lpips': lpips}}, got {type(judges).__name__}.")
    for name, value in (("views", views), ("images_per_reference", images_per_reference or 1)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}.")
    if until is not None and not (isinstance(until, int | float) and math.isfinite(until)):
        raise ValueError(f"until must be a distance, got {until}.")
    if not isinstance(capture, bool | Recorder) and capture != "auto":
        raise ValueError(f"capture must be True, False or 'auto', got {capture!r}.")
    if checkpointing and capture not in (False, "auto"):
        raise ValueError("capture=True keeps the memory that checkpointing=True saves; choose one of them.")
    if vae is not None and decode is not None:
        raise ValueError("give vae= or decode=, not both.")
    scheduler_of(pipe)
    guidance = Guidance(
        pipe=pipe,
        loss=loss,
        method=method,
        timing=timing,
        until=until,
        vae=vae,
        decode=decode,
        views=views,
        augmentation=augmentation,
        judges=judges_of(loss) if judges is None else judges,
        checkpointing=checkpointing,
        images_per_reference=images_per_reference,
        callback=callback,
        captured=CapturedGradient(loss, False if checkpointing else capture),
    )
    return Guide(guidance, baseline)


_active: dict[int, list[Guidance]] = {}
"""By scheduler: the guides that are nested around it."""


class Guide:
    """The context manager that `guide` returns. It can be entered several times, and inside other guides' blocks.

    guidance: what was asked for. baseline: the log of an unguided run.
    """

    def __init__(self, guidance: Guidance, baseline: Log | None = None) -> None:
        self._guidance, self._baseline = guidance, baseline
        self._stacks: list[ExitStack] = []

    def guidance(self) -> Guidance:
        """What was asked for, with a new log."""
        return replace(self._guidance, log=Log(baseline=self._baseline))

    def __enter__(self) -> Log:
        guidance = self.guidance()
        pipe, method = guidance.pipe, guidance.method
        refuse_inference_tensors(pipe)
        loss = [guidance.loss] if isinstance(guidance.loss, nn.Module) else []
        refuse_meta_tensors([*networks_of(pipe), *loss])
        with ExitStack() as stack:
            interception = Interception(pipe, guidance)
            interception.open()
            stack.callback(interception.close)
            around = _active.setdefault(id(pipe.scheduler), [])
            if around and any(_is_alone(other.method) for other in [*around, guidance]):
                raise ValueError(
                    "guides can be nested only if none goes through the denoiser or repeats steps; guide once, by the sum of "
                    "the losses."
                )
            around.append(guidance)
            stack.callback(_forget, pipe.scheduler, guidance)
            through_denoiser = method.through_denoiser and method.strength > 0
            stack.push(partial(_advise_on_memory, lambda: through_denoiser or guidance.captured.recorded))
            if through_denoiser:
                stack.enter_context(frozen(pipe))
            if guidance.checkpointing:
                stack.enter_context(checkpointed(pipe))
            self._stacks.append(stack.pop_all())
        return guidance.log

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._stacks.pop().__exit__(kind, error, traceback)
        finally:
            if not self._stacks:
                self._guidance.captured.release()


def _advise_on_memory(
    keeps: Callable[[], bool],
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
) -> None:
    """Add advice to a lack of memory of the pipeline itself, where the guidance `keeps` memory between its own steps."""
    if keeps() and isinstance(error, torch.OutOfMemoryError) and SAVINGS not in str(error):
        raise torch.OutOfMemoryError(
            f"{error} The guidance keeps activations for its gradient, of the denoiser or in CUDA graphs. {SAVINGS}"
        ) from error


def _is_alone(method: Method) -> bool:
    """Whether a method changes steps in a way that no other guide can share."""
    return method.strength > 0 and (method.through_denoiser or method.recurrent)


def _forget(scheduler: Any, guidance: Guidance) -> None:
    guides = _active[id(scheduler)]
    guides[:] = [other for other in guides if other is not guidance]
    if not guides:
        del _active[id(scheduler)]


def _name(loss: Any) -> str:
    return getattr(loss, "__name__", type(loss).__name__)
