"""Guidance of an unmodified pipeline: one line around the call.

    with guide(pipe, DreamSim().target(reference), MPGD(strength=0.03)) as log:
        image = pipe("a photo of a cat on a sofa").images[0]

The loss is any function from images in [0, 1] to one value per image; the method decides how its gradient enters the
sampler's steps. Nothing of the pipeline is copied or subclassed; what is replaced on its instances is put back at the end,
whatever happens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from dreamsim_guidance.guidance.judges import judges_of
from dreamsim_guidance.guidance.log import Entry, Log
from dreamsim_guidance.guidance.method import Method
from dreamsim_guidance.guidance.methods.mpgd import MPGD
from dreamsim_guidance.guidance.run import SAVINGS, Run
from dreamsim_guidance.guidance.views import Views
from dreamsim_guidance.pipelines.frozen import checkpointed, frozen, refuse_inference_tensors
from dreamsim_guidance.pipelines.interception import Interception, scheduler_of

__all__ = ["Guide", "default_method", "guide"]

_LATENT_STRENGTH = 0.03
"""Of MPGD, measured on the pocket latent model (recipe strength-sweep); 0.005 is that of pixels."""


def default_method(pipe: Any) -> MPGD:
    """What guides a pipeline where nothing is chosen: `MPGD`, with 0.03 where there is an autoencoder, else with 0.005.

    Both were measured under DreamSim's distance on the small models that ship with this package, not on large ones.
    """
    return MPGD() if getattr(pipe, "vae", None) is None else MPGD(_LATENT_STRENGTH)


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
) -> Guide:
    """Guide every call of a diffusers pipeline in the `with` block by a loss on its images; yields the `Log`.

    pipe: any pipeline whose loop calls `pipe.scheduler.step`, classic or modular.
    loss: from images `(b, 3, h, w)` in [0, 1] (they may overshoot a little) to one value for each, `(b,)`, smaller is better:
        `DreamSim().target(reference)`, a sum of losses, any function. Weights that are scheduled inside follow the step.
    method: by default `default_method(pipe)`, which needs no backward pass through the denoiser. Strength 0 leaves the output
        bit for bit as it was.
    window: shares of the run between which to guide; every: guide each k-th step of them, from the first on.
    schedule: from the share of the run that is done, in [0, 1), to a factor on the strength.
    until: stop guiding an image once its distance is at or below this, and leave the rest to the prompt.
    vae: decodes for the guidance instead of the pipeline's own, e.g. an AutoencoderTiny (TAESD) made for it; the delivered
        image is still the pipeline's own.
    decode: a function from the sampler's clean estimate to images, for pipelines whose latents are unknown.
    views: how often the loss is taken, each time under the `augmentation` (by default random cutouts, changes of colour, noise,
        once there is more than one view), against adversarial gradients. One backward of the decoder for all.
    judges: functions like `loss` that take no part, shown beside the distance; by default RMS and 1 - SSIM to the
        references, where the loss has some (a DreamSim target does).
    baseline: the log of the same call without guidance, to tell whether guide and judges part.
    checkpointing: save memory for time: activations of denoiser and decoder are recomputed, images decoded one by one.
    images_per_reference: how many images in a row belong to one reference, if the loss has one for each prompt; by default the
        pipeline's `num_images_per_prompt`, or 1 if the loss takes no less than all images.
    callback: called after each guided step with its `Entry` and the clean estimates' images in [0, 1], for previews. (In the
        pipeline's own `callback_on_step_end`, latents carry a gradient under methods that go through the denoiser; detach
        them before they become numbers or change in place.)

    Raises `ValueError` for a pipeline without scheduler or with latents that cannot be decoded, `RuntimeError` under
    `torch.inference_mode()`, `torch.OutOfMemoryError` with what would help.
    """
    if not callable(loss):
        hint = "; bind a metric to its reference, metric.target(image)" if hasattr(loss, "target") else ""
        raise TypeError(f"loss must be callable on images, got {type(loss).__name__}{hint}.")
    if hasattr(loss, "target") and not hasattr(loss, "at"):
        raise TypeError("loss compares two images; bind it to its reference first, metric.target(image).")
    method = default_method(pipe) if method is None else method
    if not isinstance(method, Method):
        raise TypeError(f"method must be a guidance method such as MPGD(strength=0.005), got {method!r}.")
    try:
        first, last = window
        in_order = 0 <= first <= last <= 1
    except (TypeError, ValueError):
        in_order = False
    if not in_order:
        raise ValueError(f"window must be two shares of the run in order, such as (0.0, 0.8), got {window}.")
    for name, function in (("schedule", schedule), ("augmentation", augmentation), ("callback", callback)):
        if function is not None and not callable(function):
            raise TypeError(f"{name} must be a function, got {type(function).__name__}.")
    if judges is not None and not isinstance(judges, Mapping):
        raise TypeError(f"judges must be functions by name, such as {{'lpips': lpips}}, got {type(judges).__name__}.")
    for name, value in (("every", every), ("views", views), ("images_per_reference", images_per_reference or 1)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}.")
    if until is not None and not (isinstance(until, int | float) and math.isfinite(until)):
        raise ValueError(f"until must be a distance, got {until}.")
    if vae is not None and decode is not None:
        raise ValueError("give vae= or decode=, not both.")
    scheduler_of(pipe)

    def run(log: Log) -> Run:
        return Run(
            pipe=pipe,
            loss=Views(loss, views, augmentation),
            method=method,
            window=window,
            every=every,
            schedule=schedule,
            until=until,
            vae=vae,
            decode=decode,
            judges=judges_of(loss) if judges is None else judges,
            checkpointing=checkpointing,
            images_per_reference=images_per_reference,
            callback=callback,
            log=log,
        )

    return Guide(pipe, run, baseline, checkpointing)


_active: dict[int, list[Run]] = {}
"""By scheduler: the runs that are nested around it."""


class Guide:
    """The context manager that `guide` makes. It can be entered again, and inside others' blocks."""

    def __init__(self, pipe: Any, run: Callable[[Log], Run], baseline: Log | None, checkpointing: bool) -> None:
        self._pipe, self.run, self._baseline, self._checkpointing = pipe, run, baseline, checkpointing
        self._stacks: list[ExitStack] = []

    def __enter__(self) -> Log:
        refuse_inference_tensors(self._pipe)
        log = Log(baseline=self._baseline)
        run = self.run(log)
        with ExitStack() as stack:
            interception = Interception(self._pipe, run)
            interception.open()
            stack.callback(interception.close)
            run.interception = interception
            around = _active.setdefault(id(self._pipe.scheduler), [])
            if around and any(_is_alone(one.method) for one in [*around, run]):
                raise ValueError(
                    "guides can be nested only if none goes through the denoiser or repeats steps; guide once, by the sum of "
                    "the losses."
                )
            around.append(run)
            stack.callback(_forget, self._pipe.scheduler, run)
            if run.method.through_denoiser and run.method.strength > 0:
                stack.push(_tell_what_saves_memory)
                stack.enter_context(frozen(self._pipe))
            if self._checkpointing:
                stack.enter_context(checkpointed(self._pipe))
            self._stacks.append(stack.pop_all())
        return log

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stacks.pop().__exit__(kind, error, traceback)


def _tell_what_saves_memory(
    kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
) -> None:
    """Where the denoiser's graph is kept, its own forward and backward may be what does not fit."""
    if isinstance(error, torch.OutOfMemoryError) and SAVINGS not in str(error):
        raise torch.OutOfMemoryError(
            f"{error} The guidance keeps the denoiser's activations for its gradient. {SAVINGS}"
        ) from error


def _is_alone(method: Method) -> bool:
    """Whether other guides find nothing to stand on beside it."""
    return method.strength > 0 and (method.through_denoiser or method.repeats(0.5) > 1)


def _forget(scheduler: Any, run: Run) -> None:
    _active[id(scheduler)].remove(run)
    if not _active[id(scheduler)]:
        del _active[id(scheduler)]
