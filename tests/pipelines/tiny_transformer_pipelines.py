"""Stable Diffusion 3, Qwen-Image, Z-Image, Sana and PixArt, tiny and random."""

from __future__ import annotations

from typing import Any

import torch
from tiny_networks import TEXT, TOKENS, kl_autoencoder, with_contrast
from tiny_pipeline import SIZE, TinyPipeline, picture, quiet
from tiny_unet_pipelines import BETAS, pooled_text, text


def sd3() -> TinyPipeline:
    from diffusers import StableDiffusion3Pipeline

    pipe = StableDiffusion3Pipeline(**sd3_parts())
    return TinyPipeline("sd3", quiet(pipe), lambda batch: {**pooled_text(batch), **SIZE})


def sd3_img2img() -> TinyPipeline:
    from diffusers import StableDiffusion3Img2ImgPipeline

    pipe = StableDiffusion3Img2ImgPipeline(**sd3_parts())
    return TinyPipeline(
        "sd3-img2img", quiet(pipe), lambda batch: {**pooled_text(batch), "image": picture(5, batch), **SIZE}
    )


def sd3_parts() -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

    transformer = SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=TEXT,
        caption_projection_dim=16,
        pooled_projection_dim=TEXT,
        out_channels=4,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),  # as in 3.5
        qk_norm="rms_norm",
    ).eval()
    encoders = {f"{kind}{n}": None for kind in ("text_encoder", "tokenizer") for n in ("", "_2", "_3")}
    vae = kl_autoencoder(scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False)
    return {"transformer": transformer, "vae": vae, "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0), **encoders}


def qwen_image() -> TinyPipeline:
    """A video autoencoder with one frame and statistics per channel, and classifier-free guidance that preserves norms."""
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImagePipeline,
        QwenImageTransformer2DModel,
    )

    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT,
        axes_dims_rope=(4, 6, 6),
    ).eval()
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[-0.5, 0.2, 0.1, 0.6],
        latents_std=[0.8, 1.4, 2.0, 1.2],
    ).eval()
    pipe = QwenImagePipeline(
        transformer=transformer,
        vae=with_contrast(vae, vae.decoder.conv_out, 4, 1),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=True, shift_terminal=0.02),
        text_encoder=None,
        tokenizer=None,
    )

    def inputs(batch: int) -> dict[str, Any]:
        words = torch.ones(batch, TOKENS, dtype=torch.long)
        masks = {"prompt_embeds_mask": words, "negative_prompt_embeds_mask": words}
        return {**text(batch), **masks, "true_cfg_scale": 3.0, **SIZE}

    return TinyPipeline("qwen-image", quiet(pipe), inputs)


def z_image() -> TinyPipeline:
    """The pipeline flips the sign of the network's output before the step."""
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel

    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=16,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=TEXT,
        axes_dims=[4, 2, 2],
        axes_lens=[64, 16, 16],
    ).eval()
    for token in (transformer.x_pad_token, transformer.cap_pad_token):
        torch.nn.init.normal_(token, std=0.02)  # the class leaves them uninitialised
    vae = kl_autoencoder(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = ZImagePipeline(scheduler=scheduler, vae=vae, text_encoder=None, tokenizer=None, transformer=transformer)

    def inputs(batch: int) -> dict[str, Any]:
        lists = {key: list(value) for key, value in text(batch).items()}
        return {**lists, "guidance_scale": 4.0, **SIZE}

    return TinyPipeline("z-image", quiet(pipe), inputs)


def sana() -> TinyPipeline:
    """A deep-compression autoencoder, linear attention, and a multistep solver for flows."""
    from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel

    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=TEXT,
        sample_size=8,
    ).eval()
    sides = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in {
            "block_types": ("ResBlock", "ResBlock", "EfficientViTBlock"),
            "block_out_channels": (8, 8, 8),
            "qkv_multiscales": ((), (), (5,)),
            "layers_per_block": (1, 1, 1),
        }.items()
    }
    vae = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=4,
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        scaling_factor=0.41407,
        **sides,
    ).eval()
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    pipe = SanaPipeline(
        transformer=transformer,
        vae=with_contrast(vae, vae.decoder.conv_out, 4),
        scheduler=scheduler,
        text_encoder=None,
        tokenizer=None,
    )
    return TinyPipeline("sana", quiet(pipe), masked_text)


def pixart_alpha() -> TinyPipeline:
    """The network also predicts the variance, which the pipeline discards."""
    from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline

    scheduler = DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear")
    pipe = PixArtAlphaPipeline(**pixart_parts(), scheduler=scheduler)
    return TinyPipeline("pixart-alpha", quiet(pipe), masked_text)


def pixart_sigma() -> TinyPipeline:
    from diffusers import EulerDiscreteScheduler, PixArtSigmaPipeline

    pipe = PixArtSigmaPipeline(**pixart_parts(), scheduler=EulerDiscreteScheduler(**BETAS))
    return TinyPipeline("pixart-sigma", quiet(pipe), masked_text)


def pixart_parts() -> dict[str, Any]:
    from diffusers import PixArtTransformer2DModel

    transformer = PixArtTransformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=TEXT,
        cross_attention_dim=16,
    ).eval()
    return {"transformer": transformer, "vae": kl_autoencoder(), "text_encoder": None, "tokenizer": None}


def masked_text(batch: int) -> dict[str, Any]:
    words = torch.ones(batch, TOKENS, dtype=torch.long)
    masks = {"prompt_attention_mask": words, "negative_prompt_attention_mask": words}
    # by default the pipelines set a negative prompt, which cannot be combined with its embedding
    return {**text(batch), **masks, "negative_prompt": None, "use_resolution_binning": False, **SIZE}
