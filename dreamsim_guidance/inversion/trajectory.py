"""Exact inversion of diffusion sampling: the noise from which the user's own pipeline and scheduler make an image.

A step of a deterministic sampler, x_prev = F(x_t, m(x_t)) with the model output m, is an implicit equation for x_t. Plain DDIM
inversion replaces m(x_t) by m(x_prev), an error of first order in the step size. Here the equation is solved,

    x_t <- x_t + (x_prev - F(x_t, m(x_t))) / (dF/dx_t),

by Anderson acceleration, and the relative length of the remaining correction is reported for every step: a certificate, since
the step from the returned state ends at x_prev up to that residual. F is the pipeline's `scheduler.step` itself and m its
denoiser with classifier-free guidance, so DDIM, Euler, flow-matching Euler and other deterministic schedulers without memory
are inverted.

Song et al., Denoising Diffusion Implicit Models, ICLR 2021 (plain inversion); Pan et al., Effective Real Image Editing with
Accelerated Iterative Diffusion Inversion, ICCV 2023, and Garibi et al., ReNoise, ECCV 2024 (fixed points); Walker and Ni, SIAM
Journal on Numerical Analysis 49(4), 2011 (Anderson acceleration); Miyake et al., Negative-Prompt Inversion, 2023.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from dreamsim_guidance.inversion.flow_inversion import FLOW_METHODS, FlowInversion, sampling_with
from dreamsim_guidance.inversion.null_text import NullText, null_text
from dreamsim_guidance.inversion.solving import StepSolver
from dreamsim_guidance.losses.pixel import psnr
from dreamsim_guidance.pipelines.interception import Interception, refuse_inference_mode
from dreamsim_guidance.pipelines.start import starting_from
from dreamsim_guidance.pipelines.step_call import StepCall
from dreamsim_guidance.pipelines.visitor import Sampling, Visit, Visitor
from dreamsim_guidance.preprocess import check_images, check_range

__all__ = ["Reconstruction", "Trajectory", "invert_trajectory"]

METHODS = ("anderson", "fixed-point", "ddim", *FLOW_METHODS)

REFUSED = {
    *("latents", "output_type", "return_dict", "callback", "callback_on_step_end"),
    # what these do depends on the position in the loop, which is another one here
    *("denoising_start", "denoising_end", "control_guidance_start", "control_guidance_end", "skip_guidance_layers"),
}
"""Arguments of pipelines that an inversion sets itself or that cannot be inverted."""

NEGATIVE = {
    name: f"negative_{name}"
    for name in (
        *("prompt", "prompt_2", "prompt_3", "prompt_embeds", "prompt_embeds_2", "pooled_prompt_embeds"),
        *("prompt_attention_mask", "prompt_embeds_mask", "ip_adapter_image_embeds"),
    )
}
"""Arguments that describe the image, and the pipeline's arguments for what guidance leads away from."""


@dataclass(frozen=True)
class Reconstruction:
    """An image sampled again from its inverted noise, beside what the autoencoder alone does to it.

    images: `(b, 3, h, w)` in [0, 1], as the pipeline delivers them.
    x0: the sampler's final latents. latent_error: their relative distance to the latents that were inverted, `(b,)`.
    psnr, floor: peak signal-to-noise ratio to the given image in dB, `(b,)`, of `images` and of the autoencoder's own round
        trip, which exact inversion reaches (infinite for models of pixels); None where latents were inverted and no image.
    """

    images: Tensor = field(repr=False)
    x0: Tensor = field(repr=False)
    latent_error: Tensor
    psnr: Tensor | None
    floor: Tensor | None


@dataclass(frozen=True)
class Trajectory:
    """The initial noise of an image, and how exactly each step was inverted.

    noise: initial latents in the layout in which the pipeline takes them; `pipe(**call)` samples the image again, except for
        models of pixels, which take no latents, and for the methods "rf-solver" and "fireflow", whose sampler is not the
        pipeline's own: use `reconstruct` and `edit`, or set `pipe.scheduler = trajectory.scheduler` first.
    residuals: relative residual of each step, `(b, steps)`, noisiest step first. tolerance: what they were to reach. Both NaN
        for "rf-solver" and "fireflow", which solve no equation: their error is the `latent_error` of `reconstruct()`.
    evaluations: how often the denoiser was evaluated, with classifier-free guidance counted once.
    states: the sampler's states from the noise to the clean latents, `(steps + 1, b, ...)`.
    image, round_trip: the given image and its decoded latents, `(b, 3, h, w)` in [0, 1]; None where latents were given.
    call: the arguments of the pipeline's call, `latents=noise` included.
    scheduler: the sampler that belongs to the noise where it is not the pipeline's own, else None.
    """

    noise: Tensor = field(repr=False)
    residuals: Tensor
    tolerance: float
    evaluations: int
    states: Tensor = field(repr=False)
    image: Tensor | None = field(repr=False)
    round_trip: Tensor | None = field(repr=False)
    call: dict[str, Any] = field(repr=False)
    pipe: Any = field(repr=False)
    scheduler: Any = field(default=None, repr=False)

    @property
    def x0(self) -> Tensor:
        """The clean latents that were inverted."""
        return self.states[-1]

    @property
    def converged(self) -> Tensor:
        """Whether all steps of a sample reached the tolerance, `(b,)`; False for "rf-solver" and "fireflow"."""
        return (self.residuals <= self.tolerance).all(dim=1)

    def reconstruct(self) -> Reconstruction:
        """Sample again from the noise, and compare with what was inverted."""
        last = _LastState()
        with sampling_with(self.pipe, self.scheduler):
            interception = Interception(self.pipe, last)
            interception.open()
            try:
                images = self.edit()
            finally:
                interception.close()
        x0 = last.state
        error = (x0 - self.x0).flatten(1).norm(dim=1) / self.x0.flatten(1).norm(dim=1)
        if self.image is None or self.round_trip is None:
            return Reconstruction(images, x0, error, None, None)
        return Reconstruction(images, x0, error, psnr(images, self.image), psnr(self.round_trip, self.image))

    def edit(self, **changes: Any) -> Tensor:
        """Sample from the noise with other arguments, such as another prompt; return images `(b, 3, h, w)` in [0, 1].

        changes: arguments of the pipeline's call that replace those of the inversion; with none, the image is reconstructed.
        Inside `with guide(pipe, loss)` the edit is guided, for example towards the image that was inverted. After "rf-solver"
        and "fireflow", set `pipe.scheduler = trajectory.scheduler` before that block.
        """
        with sampling_with(self.pipe, self.scheduler), self._start():
            return self.pipe(**{**self.call, **changes, "output_type": "pt"}).images

    def _start(self) -> AbstractContextManager[None]:
        if "latents" in self.call:
            return nullcontext()
        return starting_from(self.pipe, lambda _: self.noise)

    def negative_prompt(self, guidance_scale: float) -> Trajectory:
        """The same trajectory to be edited at this guidance scale, which then leads away from the image's own prompt.

        guidance_scale: of classifier-free guidance, above 1. With the prompt of the inversion (at guidance 1), conditional and
            unconditional prediction are equal, so the image is reconstructed at every scale; with another prompt, guidance
            amplifies the difference between the two prompts. Costs nothing.

        Raises ValueError if the pipeline has no negative prompt, or none was used in the inversion.

        Miyake et al., Negative-Prompt Inversion: Fast Image Inversion for Editing with Text-guided Diffusion Models, 2023.
        """
        negative = {
            NEGATIVE[name]: value for name, value in self.call.items() if name in NEGATIVE and value is not None
        }
        parameters = inspect.signature(type(self.pipe).__call__).parameters
        scale = next((name for name in ("true_cfg_scale", "guidance_scale") if name in parameters), None)
        if not negative or scale is None or not set(negative) <= set(parameters):
            raise ValueError(
                f"{type(self.pipe).__name__} was not inverted with a prompt for which it takes a negative one; negative-prompt "
                "inversion needs classifier-free guidance and `prompt=` or `prompt_embeds=` in the call of the inversion."
            )
        without = {key: value for key, value in self.call.items() if key not in NEGATIVE.values()}
        return replace(self, call={**without, **negative, scale: guidance_scale})

    def null_text(
        self,
        guidance_scale: float = 7.5,
        loss: Callable[[Tensor], Tensor] | None = None,
        *,
        inner_steps: int = 10,
        lr: float = 1e-2,
        stop_below: float | None = None,
    ) -> NullText:
        """Optimise an unconditional embedding for each step, so that guided sampling follows this trajectory.

        For pipelines with classifier-free guidance on a doubled batch: Stable Diffusion 1 to 3, SDXL and others. The trajectory
        should be one of guidance 1.

        guidance_scale: of classifier-free guidance, above 1; 7.5 by default.
        loss: a function from images `(b, 3, h, w)` in [0, 1] to one value per image, applied to the decoded clean estimate of
            each step; by default the mean squared distance of the latents to the trajectory.
        inner_steps: steps of Adam for each step of the sampler at most, at least 1; the best embedding is kept.
        lr: step size of Adam at the first step, which falls to its half at the last one.
        stop_below: value of the loss at which a step is done; by default 1e-5 + 1e-3 i / n at step i of n for latents (the
            paper's at 50 steps) and 0 for a loss of images.

        Raises ValueError for a pipeline without such guidance, a guidance scale of 1 or less, and "rf-solver" or "fireflow".

        Mokady et al., Null-text Inversion for Editing Real Images using Guided Diffusion Models, CVPR 2023.
        """
        refuse_inference_mode()
        if not guidance_scale > 1:
            raise ValueError(
                f"guidance_scale must be above 1, where there is guidance to follow, got {guidance_scale}."
            )
        if self.scheduler is not None:
            raise ValueError("null_text follows the pipeline's own sampler; invert with method='anderson'.")
        if inner_steps < 1:
            raise ValueError(f"inner_steps must be at least 1, got {inner_steps}.")
        if "guidance_scale" not in inspect.signature(type(self.pipe).__call__).parameters:
            raise ValueError(f"{type(self.pipe).__name__} takes no guidance_scale; null-text inversion needs one.")
        return null_text(self, {**self.call, "guidance_scale": guidance_scale}, loss, inner_steps, lr, stop_below)


def invert_trajectory(
    pipe: Any,
    image: Tensor | None = None,
    *,
    x0: Tensor | None = None,
    method: str = "anderson",
    evaluations: int = 10,
    tolerance: float | None = None,
    **call: Any,
) -> Trajectory:
    """Find the initial noise from which a pipeline samples an image.

    pipe: a diffusers text-to-image pipeline with `latents=` (Stable Diffusion 1 to 3, SDXL, FLUX and others) or an
        unconditional sampler of pixels (`DDIMPipeline`), with a deterministic scheduler without memory, such as DDIM, Euler
        and flow-matching Euler.
    image: `(b, 3, h, w)` in [0, 1], one for each prompt; encoded by the pipeline's autoencoder.
    x0: in place of an image, final latents of the sampler (what it returns for `output_type="latent"`).
    method: "anderson"; "fixed-point", the plain iteration; "ddim", one plain step, with a second evaluation that only measures
        its residual; for flow-matching pipelines also "rf-solver" (Wang et al., 2024) and "fireflow" (Deng et al., 2024), which
        sample with a second-order method in both directions, see `FlowMatchRFSolverScheduler`. They change the sampler: N
        steps take 2 N and N + 1 evaluations, and `evaluations` and `tolerance` do not apply.
    evaluations: of the denoiser for each step at most, at least 2, with classifier-free guidance counted once; 10 by default.
    tolerance: relative residual at which a step is done; by default 16 times the precision of the latents' dtype.
    call: arguments of the pipeline's call, such as `prompt`, `num_inference_steps` and `guidance_scale`. Height and width, or
        the batch size of a pipeline without prompts, are the image's by default. The noise belongs to this call: the same
        prompt, guidance, number of steps and scheduler.

    With strong classifier-free guidance or few steps a step may have no or several solutions; then the iterate with the
    smallest residual is returned, and the residuals say so. For reconstruction use a guidance of 1, and for editing at a
    larger one `Trajectory.negative_prompt` or `null_text`.

    Raises ValueError for pipelines and schedulers that cannot be inverted (ancestral, stochastic, multistep, clipping), an
    image that is outside [0, 1] or does not fit, and an unknown method; RuntimeError under `torch.inference_mode()`.
    """
    refuse_inference_mode()
    if method not in METHODS:
        raise ValueError(f"unknown method '{method}'; known: {', '.join(METHODS)}.")
    if evaluations < 2:
        raise ValueError(f"evaluations must be at least 2, the second of which measures, got {evaluations}.")
    if (image is None) == (x0 is None):
        raise ValueError("either an image or x0, the sampler's final latents, is needed.")
    refused = sorted(REFUSED & set(call))
    if refused:
        raise ValueError(f"the pipeline is called without {', '.join(refused)} during an inversion; leave that out.")
    if image is not None:
        check_images(image, "image")
        check_range(image, "image")
    call = _sizes(pipe, image, x0) | call
    flow, limit = method in FLOW_METHODS, 2 if method == "ddim" else evaluations
    solver = FlowInversion(pipe, image, x0, method) if flow else StepSolver(pipe, image, x0, method, limit, tolerance)
    solver.run(call)
    noise = solver.as_argument(solver.states[-1])
    takes_latents = "latents" in inspect.signature(type(pipe).__call__).parameters
    return Trajectory(
        noise=noise,
        residuals=torch.stack(solver.residuals[::-1], dim=1),
        tolerance=solver.tolerance,
        evaluations=solver.evaluations,
        states=torch.stack(solver.states[::-1]),
        image=image,
        round_trip=solver.round_trip,
        call={**call, "latents": noise} if takes_latents else call,
        pipe=pipe,
        scheduler=solver.sampler,
    )


def _sizes(pipe: Any, image: Tensor | None, x0: Tensor | None) -> dict[str, Any]:
    """Arguments of the pipeline's call that follow from what is inverted."""
    parameters = set(inspect.signature(type(pipe).__call__).parameters)
    if "batch_size" in parameters and "prompt" not in parameters:
        batch = image if image is not None else x0
        return {} if batch is None else {"batch_size": len(batch)}
    if image is None or not {"height", "width"} <= parameters:
        return {}
    return {"height": image.shape[-2], "width": image.shape[-1]}


class _LastState(Visitor, Visit):
    """Keeps the state that the last step returns."""

    state: Tensor

    def begin(self, sampling: Sampling) -> Visit:
        return self

    def step(self, call: StepCall, index: int) -> Tensor:
        self.state = call.advance()[0]
        return self.state
