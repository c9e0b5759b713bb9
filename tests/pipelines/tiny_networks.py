"""Networks of the real diffusers classes with random weights, as narrow as the classes accept.

An image of 32 x 32 pixels has 8 x 8 latents. The last layer of each decoder is scaled so that unit Gaussian latents give images
with contrast: a freshly initialised decoder gives uniform grey, in which guidance would have hardly any effect.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

TEXT = 16  # width of the text embeddings
TOKENS = 4  # length of the prompts
CONTRAST = 0.4  # standard deviation of the images in [-1, 1] from unit Gaussian latents


def pixel_unet(channels: int = 3, out_channels: int = 3) -> Any:
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=16,
        in_channels=channels,
        out_channels=out_channels,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ).eval()


UNET: dict[str, Any] = {
    "block_out_channels": (4, 8),
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "cross_attention_dim": TEXT,
    "attention_head_dim": 2,
}
UP_BLOCKS = ("CrossAttnUpBlock2D", "UpBlock2D")


def latent_unet(**options: Any) -> Any:
    """The U-Net of Stable Diffusion, or with the options of `text_and_time` that of SDXL."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**{**UNET, "sample_size": 8, "up_block_types": UP_BLOCKS, **options}).eval()


def text_and_time(ids: int = 6) -> dict[str, Any]:
    """Options for SDXL's U-Net, which also takes pooled text and `ids` numbers about image sizes (5 for the refiner)."""
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 4 * ids + TEXT,
        "use_linear_projection": True,
    }


def controlnet(**options: Any) -> Any:
    from diffusers import ControlNetModel

    net = ControlNetModel(**{**UNET, "conditioning_embedding_out_channels": (4, 8, 8), **options}).eval()
    for block in [*net.controlnet_down_blocks, net.controlnet_mid_block]:
        torch.nn.init.normal_(block.weight, std=0.3)  # initialised to zero, the condition would have no effect
    torch.nn.init.normal_(net.controlnet_cond_embedding.conv_out.weight, std=0.3)
    return net


def kl_autoencoder(latent_channels: int = 4, scaling_factor: float = 0.18215, **options: Any) -> Any:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        block_out_channels=(4, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=latent_channels,
        norm_num_groups=2,
        sample_size=32,
        scaling_factor=scaling_factor,
        **options,
    )
    return with_contrast(vae.eval(), vae.decoder.conv_out, latent_channels)


def tiny_autoencoder(latent_channels: int = 4) -> Any:
    """An autoencoder of TAESD's class, which takes latents in the scale of the sampler."""
    from diffusers import AutoencoderTiny

    vae = AutoencoderTiny(
        encoder_block_out_channels=(4, 4, 4),
        decoder_block_out_channels=(4, 4, 4),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
        latent_channels=latent_channels,
    )
    return with_contrast(vae.eval(), vae.decoder.layers[-1], latent_channels)


def with_contrast(vae: Any, last: Any, *shape: int) -> Any:
    """`vae` with its last convolution scaled so that latents of `(1, *shape, 8, 8)` give images of contrast `CONTRAST`."""
    with torch.no_grad():
        image = vae.decode(torch.randn(1, *shape, 8, 8), return_dict=False)[0]
        last.weight.mul_(CONTRAST / image.std())
    return vae


def clip_tokenizer() -> Any:
    """CLIP's tokenizer with single letters as its vocabulary."""
    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
        (folder / "merges.txt").write_text("#version: 0.2\n")
        return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)


def clip_text_encoder(vocabulary: int) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=TEXT,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    return CLIPTextModel(config).eval()
