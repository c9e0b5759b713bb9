"""A whole unmodified pipeline as a differentiable function of its initial latents.

    with differentiable(pipe):
        images = pipe(prompt, latents=z, output_type="pt").images
        loss(images).sum().backward()          # z.grad

Autograd is switched on inside the pipeline's `no_grad` before its latents are prepared, and every call of the denoiser (and
the decoder) is checkpointed: only its inputs and outputs are kept, so that the memory for activations does not grow with the
number of steps. The backward pass runs every call once more, with the networks frozen again, inside the block or after it.

Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016; Wallace et al., End-to-End Diffusion Latent Optimization
Improves Classifier Guidance (DOODL), ICCV 2023 (an application).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from dreamsim_guidance.pipelines.caller import argument_of_call
from dreamsim_guidance.pipelines.frozen import denoiser_of, frozen
from dreamsim_guidance.pipelines.gradient_path import refusing_cut_gradients, requires_grad
from dreamsim_guidance.pipelines.interception import refuse_inference_mode
from dreamsim_guidance.pipelines.patches import Patches
from dreamsim_guidance.pipelines.scheduler import scheduler_of

__all__ = ["differentiable"]


@contextmanager
def differentiable(pipe: Any, checkpointing: bool = True) -> Iterator[None]:
    """Make the pipeline's calls in the block differentiable, from `output_type="pt"` images to the `latents=` argument.

    The networks are frozen in the block, and again while the backward pass repeats their calls. It may therefore run after the
    block, unless the pipeline itself moves or casts a network between its calls (offloading, an autoencoder that is upcast).

    pipe: a diffusers pipeline that takes `latents=`.
    checkpointing: recompute each call of the denoiser in the backward pass (default); False keeps the activations of all
        steps in memory.
    Raises `ValueError` for a pipeline that takes no `latents` or has no scheduler, and inside the block for another
    `output_type` and for a denoiser with a part through which no gradient passes (a quantised layer or an attention kernel
    without a backward), with that part's name; `RuntimeError` under `torch.inference_mode()`.
    """
    scheduler_of(pipe)
    if "latents" not in inspect.signature(type(pipe).__call__).parameters or not hasattr(pipe, "prepare_latents"):
        raise ValueError(
            f"{type(pipe).__name__} takes no `latents`, to which gradients could flow; a pipeline with `latents=` is needed."
        )
    denoiser = denoiser_of(pipe)
    mode, checked = torch.is_grad_enabled(), False

    def switch_on(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        refuse_inference_mode()
        if (kind := argument_of_call(pipe, "output_type")) in ("pil", "np"):
            raise ValueError(
                f'pictures of output_type="{kind}" have no gradient; call the pipeline with output_type="pt".'
            )
        torch.set_grad_enabled(True)  # until the pipeline's call ends, whose decorator restores the mode
        return original(*args, **kwargs)

    def first_checked(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal checked
        if checked or denoiser is None or not requires_grad((args, kwargs)):
            return checkpointed_call(original, *args, **kwargs)
        checked = True
        with refusing_cut_gradients(denoiser):
            return checkpointed_call(original, *args, **kwargs)

    def checkpointed_call(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not (checkpointing and torch.is_grad_enabled()):
            return original(*args, **kwargs)
        return checkpoint(functools.partial(call_frozen, original, **kwargs), *args, use_reentrant=False)

    def call_frozen(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with frozen(pipe):  # the backward pass may repeat the call after the block
            return original(*args, **kwargs)

    with Patches() as patches, frozen(pipe):
        patches.replace(pipe, "prepare_latents", switch_on)
        patches.replace(pipe, "progress_bar", switch_on)
        patches.replace(denoiser, "forward", first_checked)
        patches.replace(getattr(pipe, "vae", None), "decode", checkpointed_call)
        try:
            yield
        finally:
            torch.set_grad_enabled(mode)
