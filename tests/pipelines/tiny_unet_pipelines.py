"""Pixel diffusion, Stable Diffusion 1, 2 and XL with inpainting, ControlNet and others, LCM and AnimateDiff: tiny, random."""

from __future__ import annotations

from typing import Any

import torch
from tiny_networks import (
    TEXT,
    TOKENS,
    clip_text_encoder,
    clip_tokenizer,
    controlnet,
    kl_autoencoder,
    latent_unet,
    pixel_unet,
    text_and_time,
)
from tiny_pipeline import SIZE, TinyPipeline, embeddings, picture, quiet

BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
"""The noise schedule of Stable Diffusion."""

PROMPTS = ("a cat on a sofa", "red houses", "a boat", "two dogs run")


def ddpm() -> TinyPipeline:
    from diffusers import DDPMPipeline, DDPMScheduler

    return TinyPipeline("ddpm", quiet(DDPMPipeline(pixel_unet(), DDPMScheduler())), pixel_inputs)


def ddpm_learned_variance() -> TinyPipeline:
    """The network also predicts the variance, so the scheduler receives twice the channels."""
    from diffusers import DDPMPipeline, DDPMScheduler

    scheduler = DDPMScheduler(variance_type="learned_range")
    return TinyPipeline("ddpm-learned-variance", quiet(DDPMPipeline(pixel_unet(3, 6), scheduler)), pixel_inputs)


def ddim() -> TinyPipeline:
    from diffusers import DDIMPipeline, DDIMScheduler

    return TinyPipeline("ddim", quiet(DDIMPipeline(pixel_unet(), DDIMScheduler())), pixel_inputs)


def pixel_inputs(batch: int) -> dict[str, Any]:
    return {"batch_size": batch, "output_type": "np"}


def sd() -> TinyPipeline:
    """With a tokenizer and a text encoder, so that prompts are passed as text."""
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    tokenizer = clip_tokenizer()
    scheduler = PNDMScheduler(skip_prk_steps=True, steps_offset=1, **BETAS)
    pipe = StableDiffusionPipeline(
        text_encoder=clip_text_encoder(len(tokenizer)), tokenizer=tokenizer, **sd_parts(scheduler)
    )
    return TinyPipeline("sd", quiet(pipe), lambda batch: {"prompt": [*PROMPTS[:batch]], **SIZE})


def sd_v() -> TinyPipeline:
    from diffusers import StableDiffusionPipeline

    scheduler = ddim_scheduler(prediction_type="v_prediction")
    pipe = StableDiffusionPipeline(text_encoder=None, tokenizer=None, **sd_parts(scheduler))
    return TinyPipeline("sd-v", quiet(pipe), lambda batch: {**text(batch), **SIZE})


def sd_img2img() -> TinyPipeline:
    from diffusers import StableDiffusionImg2ImgPipeline

    pipe = StableDiffusionImg2ImgPipeline(text_encoder=None, tokenizer=None, **sd_parts(ddim_scheduler()))
    return TinyPipeline("sd-img2img", quiet(pipe), lambda batch: {**text(batch), "image": picture(5, batch)})


def sd_inpaint(channels: int = 9) -> TinyPipeline:
    """With 9 channels the network receives the mask; with 4, for any model, the known region is pasted after each step."""
    from diffusers import StableDiffusionInpaintPipeline

    parts = sd_parts(ddim_scheduler(), in_channels=channels)
    pipe = StableDiffusionInpaintPipeline(text_encoder=None, tokenizer=None, **parts)

    def inputs(batch: int) -> dict[str, Any]:
        masked = {"image": picture(5, batch), "mask_image": mask(batch), "strength": 1.0}
        return {**text(batch), **masked, **SIZE}

    return TinyPipeline(f"sd-inpaint-{channels}", quiet(pipe), inputs)


def sd_controlnet() -> TinyPipeline:
    from diffusers import StableDiffusionControlNetPipeline

    parts = sd_parts(ddim_scheduler())
    pipe = StableDiffusionControlNetPipeline(text_encoder=None, tokenizer=None, controlnet=controlnet(), **parts)
    return TinyPipeline("sd-controlnet", quiet(pipe), lambda batch: {**text(batch), "image": picture(6, batch)})


def sd_ip_adapter() -> TinyPipeline:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline(text_encoder=None, tokenizer=None, **sd_parts(ddim_scheduler()))
    pipe.unet._load_ip_adapter_weights([ip_adapter(pipe.unet)])

    def inputs(batch: int) -> dict[str, Any]:
        image_embeds = torch.cat([torch.zeros(1, 1, TEXT), embeddings(7, 1, 1, TEXT)])  # without and with the picture
        return {**text(batch), "ip_adapter_image_embeds": [image_embeds], **SIZE}

    return TinyPipeline("sd-ip-adapter", quiet(pipe), inputs)


def sdxl() -> TinyPipeline:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    scheduler = EulerDiscreteScheduler(steps_offset=1, timestep_spacing="leading", **BETAS)
    pipe = StableDiffusionXLPipeline(**sdxl_parts(scheduler), add_watermarker=False)
    return TinyPipeline("sdxl", quiet(pipe), lambda batch: {**pooled_text(batch), **SIZE})


def sdxl_turbo() -> TinyPipeline:
    """One to four steps, no classifier-free guidance, an ancestral sampler."""
    from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionXLPipeline

    scheduler = EulerAncestralDiscreteScheduler(timestep_spacing="trailing", **BETAS)
    pipe = StableDiffusionXLPipeline(**sdxl_parts(scheduler), add_watermarker=False)

    def inputs(batch: int) -> dict[str, Any]:
        return {**pooled_text(batch), "guidance_scale": 0.0, **SIZE}

    return TinyPipeline("sdxl-turbo", quiet(pipe), inputs)


def sdxl_img2img() -> TinyPipeline:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLImg2ImgPipeline

    scheduler = EulerDiscreteScheduler(steps_offset=1, timestep_spacing="leading", **BETAS)
    pipe = StableDiffusionXLImg2ImgPipeline(**sdxl_parts(scheduler), add_watermarker=False)
    return TinyPipeline(
        "sdxl-img2img", quiet(pipe), lambda b: {**pooled_text(b), "image": picture(5, b), "strength": 0.8}
    )


def sdxl_refiner() -> TinyPipeline:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLImg2ImgPipeline

    scheduler = EulerDiscreteScheduler(steps_offset=1, timestep_spacing="leading", **BETAS)
    parts = sdxl_parts(scheduler, ids=5)
    pipe = StableDiffusionXLImg2ImgPipeline(**parts, requires_aesthetics_score=True, add_watermarker=False)
    return TinyPipeline(
        "sdxl-refiner", quiet(pipe), lambda b: {**pooled_text(b), "image": picture(5, b), "strength": 0.6}
    )


def sdxl_inpaint() -> TinyPipeline:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLInpaintPipeline

    scheduler = EulerDiscreteScheduler(steps_offset=1, timestep_spacing="leading", **BETAS)
    pipe = StableDiffusionXLInpaintPipeline(**sdxl_parts(scheduler), add_watermarker=False)

    def inputs(batch: int) -> dict[str, Any]:
        masked = {"image": picture(5, batch), "mask_image": mask(batch), "strength": 0.9}
        return {**pooled_text(batch), **masked, **SIZE}

    return TinyPipeline("sdxl-inpaint", quiet(pipe), inputs)


def lcm() -> TinyPipeline:
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler

    parts = sd_parts(LCMScheduler(**BETAS), time_cond_proj_dim=8)
    pipe = LatentConsistencyModelPipeline(text_encoder=None, tokenizer=None, **parts)

    def inputs(batch: int) -> dict[str, Any]:
        return {"prompt_embeds": text(batch)["prompt_embeds"], **SIZE}

    return TinyPipeline("lcm", quiet(pipe), inputs)


def animatediff() -> TinyPipeline:
    from diffusers import AnimateDiffPipeline, MotionAdapter

    adapter = MotionAdapter(
        block_out_channels=(4, 8),
        motion_layers_per_block=1,
        motion_norm_num_groups=2,
        motion_num_attention_heads=2,
    )
    scheduler = ddim_scheduler(beta_schedule="linear")
    pipe = AnimateDiffPipeline(
        text_encoder=None,
        tokenizer=None,
        vae=kl_autoencoder(),
        unet=latent_unet(),
        motion_adapter=adapter.eval(),
        scheduler=scheduler,
    )
    return TinyPipeline("animatediff", quiet(pipe), lambda batch: {**text(batch), "num_frames": 2, **SIZE})


def ddim_scheduler(**options: Any) -> Any:
    """DDIM with the usual configuration for Stable Diffusion."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(**{**BETAS, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, **options})


def sd_parts(scheduler: Any, **unet: Any) -> dict[str, Any]:
    checks = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return {"vae": kl_autoencoder(), "unet": latent_unet(**unet), "scheduler": scheduler, **checks}


def sdxl_parts(scheduler: Any, ids: int = 6) -> dict[str, Any]:
    encoders = {"text_encoder": None, "tokenizer": None, "text_encoder_2": None, "tokenizer_2": None}
    vae = kl_autoencoder(scaling_factor=0.13025)
    return {"vae": vae, "unet": latent_unet(**text_and_time(ids)), "scheduler": scheduler, **encoders}


def text(batch: int) -> dict[str, Any]:
    return {
        "prompt_embeds": embeddings(2, batch, TOKENS, TEXT),
        "negative_prompt_embeds": embeddings(3, 1, TOKENS, TEXT).repeat(batch, 1, 1),
    }


def pooled_text(batch: int) -> dict[str, Any]:
    pooled = embeddings(4, batch, TEXT)
    return {**text(batch), "pooled_prompt_embeds": pooled, "negative_pooled_prompt_embeds": torch.zeros_like(pooled)}


def mask(batch: int) -> torch.Tensor:
    """A mask for inpainting, 1 in the right half, which is painted anew."""
    right = torch.zeros(batch, 1, 32, 32)
    right[..., 16:] = 1
    return right


def ip_adapter(unet: Any) -> dict[str, Any]:
    """Random weights of an IP-Adapter for each cross-attention of `unet`, in the published format."""
    weights: dict[str, Any] = {}
    cross = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    for i, name in enumerate(cross):
        width = unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
        for part in ("to_k_ip", "to_v_ip"):
            weights[f"{2 * i + 1}.{part}.weight"] = torch.randn(width, TEXT) * TEXT**-0.5
    projection = {
        "proj.weight": torch.randn(4 * TEXT, TEXT) * TEXT**-0.5,
        "proj.bias": torch.zeros(4 * TEXT),
        "norm.weight": torch.ones(TEXT),
        "norm.bias": torch.zeros(TEXT),
    }
    return {"image_proj": projection, "ip_adapter": weights}
