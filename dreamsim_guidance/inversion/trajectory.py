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
Journal on Numerical Analysis 49(4), 2011 (Anderson acceleration).
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dreamsim_guidance.inversion.anderson import FixedPoint
from dreamsim_guidance.pipelines.decoder import Decoder, Geometry
from dreamsim_guidance.pipelines.encoder import encode
from dreamsim_guidance.pipelines.interception import Interception, refuse_inference_mode
from dreamsim_guidance.pipelines.levels import wide
from dreamsim_guidance.pipelines.reversed_loop import ReversedLoop
from dreamsim_guidance.pipelines.step_call import StepCall
from dreamsim_guidance.pipelines.visitor import Sampling, Visit, Visitor

__all__ = ["Reconstruction", "Trajectory", "invert_trajectory"]

METHODS = ("anderson", "fixed-point", "ddim")

REFUSED = {
    *("latents", "output_type", "return_dict", "callback", "callback_on_step_end"),
    # what these do depends on the position in the loop, which is another one here
    *("denoising_start", "denoising_end", "control_guidance_start", "control_guidance_end", "skip_guidance_layers"),
}
"""Arguments of pipelines that an inversion sets itself or that cannot be inverted."""


@dataclass(frozen=True)
class Reconstruction:
    """An image sampled again from its inverted noise, beside what the autoencoder alone does to it.

    images: `(b, 3, h, w)` in [0, 1], as the pipeline delivers them.
    x0: the sampler's final latents. latent_error: their relative distance to the latents that were inverted, `(b,)`.
    psnr, floor: peak signal-to-noise ratio to the given image in dB, `(b,)`, of `images` and of the autoencoder's own round
        trip, which exact inversion reaches; None where latents were inverted instead of an image.
    """

    images: Tensor = field(repr=False)
    x0: Tensor = field(repr=False)
    latent_error: Tensor
    psnr: Tensor | None
    floor: Tensor | None


@dataclass(frozen=True)
class Trajectory:
    """The initial noise of an image, and how exactly each step was inverted.

    noise: initial latents in the pipeline's own shape; `pipe(**call)` samples the image again.
    residuals: relative residual of each step, `(b, steps)`, in the sampler's order, noisiest step first.
    tolerance: what the residuals were to reach.
    evaluations: how often the denoiser was evaluated, with classifier-free guidance counted once.
    x0: the clean latents that were inverted.
    image, round_trip: the given image and its decoded latents, `(b, 3, h, w)` in [0, 1]; None where latents were given.
    call: the arguments of the pipeline's call, `latents=noise` included; with another prompt, `pipe(**call | {"prompt": ...})`.
    """

    noise: Tensor = field(repr=False)
    residuals: Tensor
    tolerance: float
    evaluations: int
    x0: Tensor = field(repr=False)
    image: Tensor | None = field(repr=False)
    round_trip: Tensor | None = field(repr=False)
    call: dict[str, Any] = field(repr=False)
    pipe: Any = field(repr=False)

    @property
    def converged(self) -> Tensor:
        """Whether all steps of a sample reached the tolerance, `(b,)`."""
        return (self.residuals <= self.tolerance).all(dim=1)

    def reconstruct(self) -> Reconstruction:
        """Sample again from the noise, and compare with what was inverted."""
        last = _LastState()
        interception = Interception(self.pipe, last)
        interception.open()
        try:
            images = self.pipe(**self.call | {"output_type": "pt"}).images
        finally:
            interception.close()
        x0 = last.state
        error = (x0 - self.x0).flatten(1).norm(dim=1) / self.x0.flatten(1).norm(dim=1)
        if self.image is None or self.round_trip is None:
            return Reconstruction(images, x0, error, None, None)
        return Reconstruction(images, x0, error, _psnr(images, self.image), _psnr(self.round_trip, self.image))


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

    pipe: a diffusers text-to-image pipeline with `latents=`: Stable Diffusion 1 to 3, SDXL, FLUX.1 and others, with a
        deterministic scheduler without memory, such as DDIM, Euler and flow-matching Euler.
    image: `(b, 3, h, w)` in [0, 1], one for each prompt; encoded by the pipeline's autoencoder.
    x0: in place of an image, final latents of the sampler (what it returns for `output_type="latent"`).
    method: "anderson"; "fixed-point", the plain iteration; "ddim", one plain step, with a second evaluation that only measures
        its residual.
    evaluations: of the denoiser for each step at most, at least 2, with classifier-free guidance counted once; 10 by default.
    tolerance: relative residual at which a step is done; by default 16 times the precision of the latents' dtype.
    call: arguments of the pipeline's call, such as `prompt`, `num_inference_steps` and `guidance_scale`. Height and width are
        the image's by default. The noise belongs to this call: the same prompt, guidance, number of steps and scheduler.

    With strong classifier-free guidance or few steps a step may have no or several solutions; then the iterate with the
    smallest residual is returned, and the residuals say so. For reconstruction use a guidance of 1.

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
        _check(image)
        sizes = set(inspect.signature(type(pipe).__call__).parameters) & {"height", "width"}
        call = {"height": image.shape[-2], "width": image.shape[-1]} | call if len(sizes) == 2 else call
    inversion = _Inversion(pipe, image, x0, method, 2 if method == "ddim" else evaluations, tolerance)
    inversion.run(call)
    noise = inversion.state / inversion.noise_scale
    return Trajectory(
        noise=noise,
        residuals=torch.stack(inversion.residuals[::-1], dim=1),
        tolerance=inversion.tolerance,
        evaluations=inversion.evaluations,
        x0=inversion.x0,
        image=image,
        round_trip=inversion.round_trip,
        call={**call, "latents": noise},
        pipe=pipe,
    )


class _Inversion(ReversedLoop):
    """Solves one step after another, from the clean latents on."""

    def __init__(
        self, pipe: Any, image: Tensor | None, x0: Tensor | None, method: str, evaluations: int, tolerance: float | None
    ) -> None:
        super().__init__(pipe, evaluations)
        self.image, self.given, self.method, self._tolerance = image, x0, method, tolerance
        self.round_trip: Tensor | None = None
        self.residuals: list[Tensor] = []
        self.evaluations = 0

    def first(self, noise: Tensor, geometry: Geometry) -> Tensor:
        if self.image is not None:
            decoder = Decoder(self.pipe, geometry)
            self.x0 = encode(decoder, self.image.to(noise.device), noise)
            self.round_trip = decoder.shown(decoder(self.x0))
        elif self.given is not None and self.given.shape == noise.shape:
            self.x0 = self.given.detach().to(noise)
        else:
            shape = None if self.given is None else tuple(self.given.shape)
            raise ValueError(f"x0 must have the shape of the pipeline's latents, {tuple(noise.shape)}, got {shape}.")
        if not self.x0.isfinite().all():
            raise ValueError("the clean latents to be inverted are not finite.")
        self.tolerance = 16 * torch.finfo(noise.dtype).eps if self._tolerance is None else self._tolerance
        self.state = self.x0
        """The state after the step that is being solved; the initial noise at last."""
        self._begin_step()
        return self.x0

    def _begin_step(self) -> None:
        self._tried = 0
        self._solver = FixedPoint(history=5 if self.method == "anderson" else 0)

    def observe(self, index: int, x_t: Tensor, model_output: Tensor) -> tuple[Tensor, bool]:
        self.evaluations += 1
        self._tried += 1
        if self.method == "ddim":  # the last iterate is taken, whether or not it is the best
            self._solver = FixedPoint(history=0)
        correction = self.steps[index].correction(model_output, x_t, self.state)
        following = self._solver.observe(wide(x_t), wide(correction)).to(x_t.dtype)
        if self._tried < self.repeats and not bool((self._solver.residual <= self.tolerance).all()):
            return following, False
        self.residuals.append(self._solver.residual)
        self.state = self._solver.best.to(x_t.dtype)
        self._begin_step()
        if index == 0 or self.method == "ddim":
            return self.state, True
        # the model output changes little from one step to the next, so the solution for the old output is a good start
        return self.state + self.steps[index - 1].correction(model_output, self.state, self.state), True


class _LastState(Visitor, Visit):
    """Keeps the state that the last step returns."""

    state: Tensor

    def begin(self, sampling: Sampling) -> Visit:
        return self

    def step(self, call: StepCall, index: int) -> Tensor:
        self.state = call.advance()[0]
        return self.state


def _check(image: Tensor) -> None:
    if image.ndim != 4 or image.shape[1] != 3 or not image.is_floating_point():
        raise ValueError(
            f"image must be (b, 3, h, w) of a floating-point dtype, got {tuple(image.shape)} {image.dtype}."
        )
    low, high = image.aminmax()
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"images must lie in [0, 1], got [{float(low):.2f}, {float(high):.2f}]; use (x + 1) / 2 for images in [-1, 1]."
        )


def _psnr(images: Tensor, reference: Tensor) -> Tensor:
    return -10 * (images.to(reference) - reference).square().flatten(1).mean(1).log10()
