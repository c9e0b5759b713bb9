"""All families of pipelines that guidance supports, as tiny offline pipelines of the real diffusers classes, random weights.

    tiny = build("flux-dev")
    images = tiny.call(seed=0, steps=4)         # (b, 3, h, w) in [0, 1], the same for the same seed

Each is built in less than a second and makes four steps in a fraction of a second. Prompts are passed as embeddings, except for
`sd`, which has a tokenizer and a text encoder.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import tiny_flux_pipelines as flux
import tiny_modular_pipelines as modular
import tiny_transformer_pipelines as transformer
import tiny_unet_pipelines as unet
import torch
from tiny_pipeline import TinyPipeline
from tiny_schedulers import CONFIGURATIONS, scheduler

FAMILIES: dict[str, Callable[[], TinyPipeline]] = {
    "ddpm": unet.ddpm,
    "ddpm-learned-variance": unet.ddpm_learned_variance,
    "ddim": unet.ddim,
    "sd": unet.sd,
    "sd-v": unet.sd_v,
    "sd-img2img": unet.sd_img2img,
    "sd-inpaint-4": partial(unet.sd_inpaint, 4),
    "sd-inpaint-9": unet.sd_inpaint,
    "sd-controlnet": unet.sd_controlnet,
    "sd-ip-adapter": unet.sd_ip_adapter,
    "sdxl": unet.sdxl,
    "sdxl-img2img": unet.sdxl_img2img,
    "sdxl-inpaint": unet.sdxl_inpaint,
    "sdxl-refiner": unet.sdxl_refiner,
    "sdxl-turbo": unet.sdxl_turbo,
    "sd3": transformer.sd3,
    "sd3-img2img": transformer.sd3_img2img,
    "flux-dev": flux.flux_dev,
    "flux-schnell": flux.flux_schnell,
    "flux-true-cfg": flux.flux_true_cfg,
    "flux-img2img": flux.flux_img2img,
    "flux2": flux.flux2,
    "flux2-klein": flux.flux2_klein,
    "qwen-image": transformer.qwen_image,
    "z-image": transformer.z_image,
    "sana": transformer.sana,
    "pixart-alpha": transformer.pixart_alpha,
    "pixart-sigma": transformer.pixart_sigma,
    "lcm": unet.lcm,
    "animatediff": unet.animatediff,
    "modular-sd3": modular.modular_sd3,
    "modular-sdxl": modular.modular_sdxl,
}


def build(family: str, seed: int = 0) -> TinyPipeline:
    """The pipeline of this family with weights drawn from `seed`; skips the test if diffusers is too old to have it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            return FAMILIES[family]()
        except ImportError as error:
            import diffusers

            pytest.skip(f"diffusers {diffusers.__version__}: {error}")


def build_with_scheduler(name: str) -> TinyPipeline:
    """A pipeline of the family that uses the scheduler of this name, with that scheduler."""
    tiny = build(CONFIGURATIONS[name].family)
    tiny.pipe.scheduler = scheduler(name)
    if name.endswith("-x"):
        make_prediction_depend_on_the_state(tiny)
    return tiny


def make_prediction_depend_on_the_state(tiny: TinyPipeline) -> None:
    """Let nine tenths of the predicted sample be `a x_t`, the exact prediction for white data.

    With a random network that predicts the sample, the result would depend on the last step alone, and guiding the earlier
    steps would have no effect.
    """
    alphas_cumprod = tiny.pipe.scheduler.alphas_cumprod

    def blend(module: torch.nn.Module, args: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        signal = alphas_cumprod[int(args[1])].sqrt().to(args[0].dtype)
        return (0.9 * signal * args[0] + 0.1 * output[0],)

    tiny.denoiser.register_forward_hook(blend)
