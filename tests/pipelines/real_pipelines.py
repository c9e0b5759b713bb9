"""Pipelines of the published architectures at their full size, without the published weights.

    pipe, call = build("sd15", device="meta")       # takes no memory: for plans
    pipe, call = build("sdxl", device="cuda")       # random weights: for timing

The configurations are those of the models' repositories; prompts are passed as embeddings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tiny_pipeline import quiet
from torch import nn

Built = tuple[Any, dict[str, Any]]
Make = Callable[..., nn.Module]


def build(name: str, device: str = "meta", dtype: torch.dtype = torch.bfloat16) -> Built:
    """Return the pipeline, and the arguments of a call for one image at the model's usual size."""

    def make(network: Callable[..., nn.Module], *arguments: Any, **options: Any) -> nn.Module:
        with torch.device(device):
            return nn.Module.to(network(*arguments, **options).eval(), dtype)

    pipe, call = PIPELINES[name](make, dtype)
    return quiet(pipe), {"num_inference_steps": 20, **call}


def sd15(make: Make, dtype: torch.dtype) -> Built:
    """Stable Diffusion 1.5 at 512 pixels."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    unet = make(UNet2DConditionModel, sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    pipe = StableDiffusionPipeline(
        vae=make(autoencoder),
        unet=unet,
        scheduler=DDIMScheduler(**BETAS, steps_offset=1, clip_sample=False, set_alpha_to_one=False),
        **NO_TEXT,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipe, {**words(77, 768, dtype), "height": 512, "width": 512}


def sdxl(make: Make, dtype: torch.dtype) -> Built:
    """Stable Diffusion XL at 1024 pixels."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    unet = make(
        UNet2DConditionModel,
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    pipe = StableDiffusionXLPipeline(
        vae=make(autoencoder, scaling_factor=0.13025, force_upcast=False),
        unet=unet,
        scheduler=EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading"),
        **NO_TEXT,
        text_encoder_2=None,
        tokenizer_2=None,
        add_watermarker=False,
    )
    return pipe, {**words(77, 2048, dtype), **pooled(1280, dtype), "height": 1024, "width": 1024}


def sd35(make: Make, dtype: torch.dtype) -> Built:
    """Stable Diffusion 3.5 medium at 1024 pixels."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    transformer = make(
        SD3Transformer2DModel,
        sample_size=128,
        num_layers=24,
        attention_head_dim=64,
        num_attention_heads=24,
        joint_attention_dim=4096,
        caption_projection_dim=1536,
        pooled_projection_dim=2048,
        pos_embed_max_size=384,
        dual_attention_layers=tuple(range(13)),
        qk_norm="rms_norm",
    )
    pipe = StableDiffusion3Pipeline(
        transformer=transformer,
        vae=make(autoencoder, 16, scaling_factor=1.5305, shift_factor=0.0609, **UNQUANTISED),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        **NO_TEXT,
        text_encoder_2=None,
        tokenizer_2=None,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    return pipe, {**words(333, 4096, dtype), **pooled(2048, dtype), "height": 1024, "width": 1024}


def flux(make: Make, dtype: torch.dtype) -> Built:
    """FLUX.1 dev at 1024 pixels."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    pipe = FluxPipeline(
        transformer=make(FluxTransformer2DModel, guidance_embeds=True),
        vae=make(autoencoder, 16, scaling_factor=0.3611, shift_factor=0.1159, **UNQUANTISED),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        **NO_TEXT,
        text_encoder_2=None,
        tokenizer_2=None,
    )
    prompt = {"prompt_embeds": torch.zeros(1, 512, 4096, dtype=dtype)}
    return pipe, {**prompt, "pooled_prompt_embeds": torch.zeros(1, 768, dtype=dtype), "height": 1024, "width": 1024}


PIPELINES: dict[str, Callable[[Make, torch.dtype], Built]] = {"sd15": sd15, "sdxl": sdxl, "sd35": sd35, "flux": flux}

BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
NO_TEXT: dict[str, Any] = {"text_encoder": None, "tokenizer": None}
UNQUANTISED = {"use_quant_conv": False, "use_post_quant_conv": False}


def autoencoder(latent_channels: int = 4, **options: Any) -> Any:
    """The KL autoencoder of Stable Diffusion, its successors and FLUX.1, which differ in the channels of the latents."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=latent_channels,
        sample_size=512,
        **options,
    )


def tiny_autoencoder(latent_channels: int = 4) -> Any:
    """The architecture of TAESD and its variants for other latents."""
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(latent_channels=latent_channels)


def words(tokens: int, width: int, dtype: torch.dtype) -> dict[str, Any]:
    names = ("prompt_embeds", "negative_prompt_embeds")
    return {name: torch.zeros(1, tokens, width, dtype=dtype) for name in names}


def pooled(width: int, dtype: torch.dtype) -> dict[str, Any]:
    names = ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    return {name: torch.zeros(1, width, dtype=dtype) for name in names}
