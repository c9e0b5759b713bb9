"""Pipelines of diffusers with an exact denoiser: it computes the score of a Gaussian mixture at every noise level.

Samples of these pipelines differ from the mixture only by the sampler's discretisation; guided samples differ from the
posterior by that and by the method. Schedulers and pipelines are diffusers' own, unmodified; `PixelPipeline` serves the
samplers for which diffusers has no pipeline without a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import (
    ConfigMixin,
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    ImagePipelineOutput,
    ModelMixin,
    UniPCMultistepScheduler,
)
from diffusers.models.unets.unet_2d import UNet2DOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from dreamsim_guidance.known_answers.gaussian_mixture import GaussianMixture

__all__ = ["SAMPLERS", "ExactDenoiser", "PixelPipeline", "exact_pipeline", "final_state"]

PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow_prediction")


class ExactDenoiser(ModelMixin, ConfigMixin):
    """The ideal denoiser of a mixture, for states `(b, *shape)`.

    prior: the mixture of clean states; its dimension is the product of `shape`, which is channels, height and width.
    prediction: epsilon, v_prediction or sample (variance preserving, at the levels of `alphas_cumprod`), or
        flow_prediction (x_t = (1 - t/1000) x0 + t/1000 eps).
    alphas_cumprod: a^2 at each timestep; by default DDPM's linear schedule.

    At a timestep that is not a whole number, sigma = s / a is interpolated linearly, as schedulers do. Raises ValueError if
    `shape` does not fit the mixture, and for an unknown prediction.
    """

    config_name = "config.json"

    def __init__(
        self,
        prior: GaussianMixture,
        shape: tuple[int, int, int],
        prediction: str = "epsilon",
        alphas_cumprod: Tensor | None = None,
    ) -> None:
        super().__init__()
        channels, height, width = shape
        if channels * height * width != prior.dimension:
            raise ValueError(f"the shape {shape} must have the prior's {prior.dimension} elements.")
        if prediction not in PREDICTIONS:
            raise ValueError(f"unknown prediction '{prediction}'; known: {', '.join(PREDICTIONS)}.")
        self.register_to_config(sample_size=(height, width), in_channels=channels)
        self.prior, self.prediction = prior, prediction
        alphas = DDPMScheduler().alphas_cumprod if alphas_cumprod is None else alphas_cumprod
        self.register_buffer("sigmas", ((1 - alphas.double()) / alphas.double()).sqrt().float())

    def level(self, timestep: float | int) -> tuple[float, float]:
        """The factors a and s of x_t = a x0 + s eps at a timestep."""
        if self.prediction == "flow_prediction":
            return 1 - timestep / len(self.sigmas), timestep / len(self.sigmas)
        below = min(int(timestep), len(self.sigmas) - 1)
        above = min(below + 1, len(self.sigmas) - 1)
        sigma = float(torch.lerp(self.sigmas[below].double(), self.sigmas[above].double(), timestep - below))
        length = (1 + sigma**2) ** 0.5
        return 1 / length, sigma / length

    def forward(
        self, sample: Tensor, timestep: Tensor | float | int, return_dict: bool = True
    ) -> UNet2DOutput | tuple[Tensor]:
        a, s = self.level(float(timestep))
        x0, noise = self.prior.to(sample.device).denoise(sample.flatten(1).double(), a, s)
        predicted = {
            "epsilon": lambda: noise,
            "v_prediction": lambda: a * noise - s * x0,
            "sample": lambda: x0,
            "flow_prediction": lambda: noise - x0,
        }[self.prediction]()
        output = predicted.to(sample.dtype).view_as(sample)
        return UNet2DOutput(sample=output) if return_dict else (output,)


class PixelPipeline(DiffusionPipeline):
    """The smallest loop that serves all schedulers. It returns images as tensors, where [0, 1] is the range but no limit."""

    def __init__(self, unet: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    def prepare_latents(self, batch_size: int, generator: torch.Generator | None) -> Tensor:
        """The first state, pure noise."""
        shape = (batch_size, self.unet.config.in_channels, *self.unet.config.sample_size)
        noise = randn_tensor(shape, generator=generator, device=self._execution_device, dtype=self.unet.dtype)
        return noise * getattr(self.scheduler, "init_noise_sigma", 1.0)

    @torch.no_grad()
    def __call__(
        self, batch_size: int = 1, generator: torch.Generator | None = None, num_inference_steps: int = 50
    ) -> ImagePipelineOutput:
        self.scheduler.set_timesteps(num_inference_steps, device=self._execution_device)
        x_t = self.prepare_latents(batch_size, generator)
        options = (
            {"generator": generator} if type(self.scheduler).__name__.startswith(("Euler", "DDPM", "DDIM")) else {}
        )
        for t in self.progress_bar(self.scheduler.timesteps):
            scaled = self.scheduler.scale_model_input(x_t, t) if hasattr(self.scheduler, "scale_model_input") else x_t
            x_t = self.scheduler.step(self.unet(scaled, t).sample, t, x_t, **options).prev_sample
        return ImagePipelineOutput(images=x_t / 2 + 0.5)


Sampler = Callable[[ExactDenoiser, str], tuple[Any, dict[str, Any]]]
"""From a denoiser and the name of its prediction to a pipeline and the arguments of its call."""


def _ddim(eta: float) -> Sampler:
    def make(unet: ExactDenoiser, prediction: str) -> tuple[Any, dict[str, Any]]:
        scheduler = DDIMScheduler(prediction_type=prediction, clip_sample=False, timestep_spacing="trailing")
        return DDIMPipeline(unet, scheduler), {"eta": eta, "output_type": "pt"}

    return make


def _ddpm(unet: ExactDenoiser, prediction: str) -> tuple[Any, dict[str, Any]]:
    scheduler = DDPMScheduler(prediction_type=prediction, clip_sample=False, timestep_spacing="trailing")
    return DDPMPipeline(unet, scheduler), {"output_type": "pt"}


def _dpmpp(unet: ExactDenoiser, prediction: str) -> tuple[Any, dict[str, Any]]:
    scheduler = DPMSolverMultistepScheduler(prediction_type=prediction, timestep_spacing="trailing", **_LINEAR)
    return DDPMPipeline(unet, scheduler), {"output_type": "pt"}


def _of(scheduler: type[Any], **settings: Any) -> Sampler:
    def make(unet: ExactDenoiser, prediction: str) -> tuple[Any, dict[str, Any]]:
        chosen = settings if prediction == "flow_prediction" else {"prediction_type": prediction, **_LINEAR, **settings}
        return PixelPipeline(unet, scheduler(**chosen)), {}

    return make


_LINEAR = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}

SAMPLERS: dict[str, Sampler] = {
    "ddim": _ddim(0.0),
    "ddim-eta1": _ddim(1.0),
    "ddpm": _ddpm,
    "dpm++2m": _dpmpp,
    "euler": _of(EulerDiscreteScheduler, timestep_spacing="trailing"),
    "euler-ancestral": _of(EulerAncestralDiscreteScheduler, timestep_spacing="trailing"),
    "unipc": _of(UniPCMultistepScheduler, timestep_spacing="trailing"),
    "flow": _of(FlowMatchEulerDiscreteScheduler),
}
"""By name. ddim-eta1, ddpm and euler-ancestral add noise at each step, the others are deterministic."""


def exact_pipeline(
    prior: GaussianMixture, shape: tuple[int, int, int], sampler: str = "ddim", prediction: str = "epsilon"
) -> tuple[Any, dict[str, Any]]:
    """A pipeline that samples `prior` in states `(b, *shape)`, and the arguments of its call other than batch and steps.

    sampler: one of `SAMPLERS`.
    prediction: what the denoiser predicts, see `ExactDenoiser`; "flow" always predicts the flow.

    Raises ValueError for an unknown sampler or prediction.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler '{sampler}'; known: {', '.join(SAMPLERS)}.")
    prediction = "flow_prediction" if sampler == "flow" else prediction
    pipe, arguments = SAMPLERS[sampler](ExactDenoiser(prior, shape, prediction), prediction)
    pipe.set_progress_bar_config(disable=True)
    return pipe, arguments


@contextmanager
def final_state(scheduler: Any) -> Iterator[list[Tensor]]:
    """Yield a list that holds the last state which the scheduler returned; pipelines clamp their images to [0, 1].

    Enter it inside `guide`, so that it sees the state after guidance.
    """
    attribute = vars(scheduler).get("step")
    original = scheduler.step
    states: list[Tensor] = []

    def step(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        states[:] = [result[0].detach()]
        return result

    scheduler.step = step
    try:
        yield states
    finally:
        if attribute is None:
            del scheduler.step
        else:
            scheduler.step = attribute
