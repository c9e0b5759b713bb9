"""FLUX.1 and FLUX.2, tiny and random: packed latents, and guidance as an input of the network or classifier-free."""

from __future__ import annotations

from typing import Any

import torch
from tiny_networks import TEXT, TOKENS, kl_autoencoder, with_contrast
from tiny_pipeline import SIZE, TinyPipeline, embeddings, picture, quiet
from tiny_unet_pipelines import pooled_text, text


def flux_dev() -> TinyPipeline:
    """The guidance scale is an input of the network; the schedule depends on the size of the image."""
    from diffusers import FluxPipeline

    return TinyPipeline("flux-dev", quiet(FluxPipeline(**flux_parts())), flux_inputs)


def flux_schnell() -> TinyPipeline:
    from diffusers import FluxPipeline

    pipe = FluxPipeline(**flux_parts(distilled=True))
    return TinyPipeline("flux-schnell", quiet(pipe), lambda batch: {**flux_inputs(batch), "guidance_scale": 0.0})


def flux_true_cfg() -> TinyPipeline:
    from diffusers import FluxPipeline

    def inputs(batch: int) -> dict[str, Any]:
        return {**pooled_text(batch), "true_cfg_scale": 3.0, **SIZE}

    return TinyPipeline("flux-true-cfg", quiet(FluxPipeline(**flux_parts())), inputs)


def flux_img2img() -> TinyPipeline:
    from diffusers import FluxImg2ImgPipeline

    pipe = FluxImg2ImgPipeline(**flux_parts())
    return TinyPipeline(
        "flux-img2img",
        quiet(pipe),
        lambda batch: {**flux_inputs(batch), "image": picture(5, batch), "strength": 0.8},
    )


def flux_inputs(batch: int) -> dict[str, Any]:
    return {key: value for key, value in pooled_text(batch).items() if not key.startswith("negative")} | SIZE


def flux_parts(distilled: bool = False) -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=TEXT,
        pooled_projection_dim=TEXT,
        guidance_embeds=not distilled,
        axes_dims_rope=(4, 2, 2),
    ).eval()
    shift: dict[str, Any] = {"shift": 1.0} if distilled else {"shift": 3.0, "use_dynamic_shifting": True}
    encoders = {f"{kind}{n}": None for kind in ("text_encoder", "tokenizer") for n in ("", "_2")}
    vae = kl_autoencoder(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False)
    return {"transformer": transformer, "vae": vae, "scheduler": FlowMatchEulerDiscreteScheduler(**shift), **encoders}


def flux2() -> TinyPipeline:
    """Latents are packed, and normalised by the running statistics of the autoencoder's batch norm."""
    from diffusers import FlowMatchEulerDiscreteScheduler, Flux2Pipeline

    pipe = Flux2Pipeline(
        transformer=flux2_transformer(),
        vae=flux2_autoencoder(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        text_encoder=None,
        tokenizer=None,
    )
    return TinyPipeline(
        "flux2", quiet(pipe), lambda batch: {"prompt_embeds": embeddings(2, batch, TOKENS, TEXT), **SIZE}
    )


def flux2_klein() -> TinyPipeline:
    """With classifier-free guidance."""
    from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline

    pipe = Flux2KleinPipeline(
        transformer=flux2_transformer(guidance_embeds=False),
        vae=flux2_autoencoder(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        text_encoder=None,
        tokenizer=None,
    )
    return TinyPipeline("flux2-klein", quiet(pipe), lambda batch: {**text(batch), **SIZE})


def flux2_transformer(guidance_embeds: bool = True) -> Any:
    from diffusers import Flux2Transformer2DModel

    return Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance_embeds,
    ).eval()


def flux2_autoencoder() -> Any:
    from diffusers import AutoencoderKLFlux2

    vae = AutoencoderKLFlux2(
        block_out_channels=(4, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=32,
    ).eval()
    vae.bn.running_mean.copy_(torch.linspace(-0.5, 0.5, 16))
    vae.bn.running_var.copy_(torch.linspace(0.5, 2.0, 16))
    return with_contrast(vae, vae.decoder.conv_out, 4)
