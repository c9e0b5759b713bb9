"""`Latents`: any autoencoder of images from diffusers as a generator, from an image's own latents or from the prior."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, VQModel
from torch import nn

from dreamsim_guidance import Latents, invert
from dreamsim_guidance.losses import MSE
from dreamsim_guidance.pipelines.decoder import bounded


def autoencoder(kind: str) -> nn.Module:
    if kind == "tiny":
        blocks = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
        channels = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
        return AutoencoderTiny(latent_channels=4, **blocks, **channels).eval()
    blocks = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (8, 8),
        "norm_num_groups": 4,
    }
    if kind == "kl":
        return AutoencoderKL(latent_channels=4, scaling_factor=0.5, **blocks).eval()
    return VQModel(latent_channels=4, num_vq_embeddings=32, **blocks).eval()


KINDS = pytest.mark.parametrize("kind", ["kl", "tiny", "vq"])


@KINDS
def test_the_start_is_the_round_trip_of_the_autoencoder(kind: str) -> None:
    vae, photo = autoencoder(kind), torch.rand(2, 3, 16, 24)
    result = invert(MSE(photo), Latents(vae, photo), steps=0, progress=False)
    with torch.no_grad():
        encoded = vae.encode(2 * photo - 1)
        latents = encoded.latent_dist.mode() if kind == "kl" else encoded.latents
        expected = vae.decode(latents).sample / 2 + 0.5
    assert torch.allclose(result.images, bounded(expected), atol=1e-6)
    assert torch.allclose(vae.decode(result.leaves["leaf"]).sample / 2 + 0.5, expected, atol=1e-6)


@KINDS
def test_optimised_latents_are_closer_than_the_round_trip(kind: str) -> None:
    vae, photo = autoencoder(kind), torch.rand(1, 3, 16, 16)
    result = invert(MSE(photo), Latents(vae, photo), steps=40, progress=False)
    assert result.loss < 0.9 * result.history["loss"][0]
    assert all(parameter.grad is None for parameter in vae.parameters())


def test_without_an_image_latents_of_the_prior_are_searched() -> None:
    latents = Latents(autoencoder("kl"), size=(16, 24))
    assert latents.scale == 2.0
    drawn = latents.sample(500, torch.Generator().manual_seed(0))
    assert drawn.shape == (500, 4, 8, 12) and abs(drawn.std() - 2) < 0.02
    photo = torch.rand(1, 3, 16, 24)
    result = invert(MSE(photo), latents, steps=10, search=8, progress=False)
    assert result.images.shape == photo.shape


def test_image_and_size_exclude_each_other_and_the_image_is_checked() -> None:
    vae = autoencoder("tiny")
    for options in ({}, {"image": torch.rand(1, 3, 16, 16), "size": (16, 16)}):
        with pytest.raises(ValueError, match="either an image to start from or the size"):
            Latents(vae, **options)
    with pytest.raises(ValueError, match=r"image must lie in \[0, 1\]"):
        Latents(vae, 2 * torch.rand(1, 3, 16, 16) - 1)
