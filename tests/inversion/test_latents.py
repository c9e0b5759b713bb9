"""`Latents`: any autoencoder of images from diffusers as a generator, from an image's own latents or from the prior."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    AutoencoderTiny,
    VQModel,
)
from torch import Tensor, nn

from dreamsim_guidance import Latents, invert
from dreamsim_guidance.losses import MSE
from dreamsim_guidance.pipelines.decoder import bounded


def autoencoder(kind: str) -> nn.Module:
    if kind == "tiny":
        blocks = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
        channels = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
        return AutoencoderTiny(latent_channels=4, **blocks, **channels).eval()
    if kind in ("wan", "qwen-image"):
        video: Any = AutoencoderKLWan if kind == "wan" else AutoencoderKLQwenImage
        sizes = {"base_dim": 4, "z_dim": 4, "dim_mult": [1, 1], "num_res_blocks": 1, "temperal_downsample": [False]}
        return video(latents_mean=MEANS, latents_std=DEVIATIONS, **sizes).eval()
    if kind == "dc":
        halves = {
            f"{part}_{name}": value
            for part in ("encoder", "decoder")
            for name, value in {
                "block_types": "ResBlock",
                "block_out_channels": (8, 8),
                "layers_per_block": (1, 1),
                "qkv_multiscales": ((), ()),
            }.items()
        }
        return AutoencoderDC(latent_channels=4, scaling_factor=0.5, **halves).eval()
    blocks = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (8, 8),
        "norm_num_groups": 4,
    }
    if kind == "kl":
        return AutoencoderKL(latent_channels=4, scaling_factor=0.5, shift_factor=0.1, **blocks).eval()
    if kind == "flux2":
        vae = AutoencoderKLFlux2(latent_channels=4, layers_per_block=1, **blocks).eval()
        vae.bn.running_mean.copy_(torch.arange(16.0))
        vae.bn.running_var.copy_(torch.arange(16.0) + 1)
        return vae
    return VQModel(latent_channels=4, num_vq_embeddings=32, **blocks).eval()


MEANS, DEVIATIONS = [0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0]
KINDS = pytest.mark.parametrize("kind", ["kl", "tiny", "vq", "wan", "qwen-image", "flux2", "dc"])


def latents_of(kind: str, vae: Any, pixels: Tensor) -> Tensor:
    """What the autoencoder itself makes of images in [-1, 1], or of a video of one frame."""
    encoded = vae.encode(pixels[:, :, None] if kind in ("wan", "qwen-image") else pixels)
    if kind in ("tiny", "vq"):
        return encoded.latents
    return encoded.latent if kind == "dc" else encoded.latent_dist.mode()


def decoded(kind: str, vae: Any, latents: Tensor) -> Tensor:
    """The images that the autoencoder itself decodes, in [0, 1] but for overshoots."""
    images = vae.decode(latents).sample / 2 + 0.5
    return images[:, :, 0] if kind in ("wan", "qwen-image") else images


@KINDS
def test_the_start_is_the_round_trip_of_the_autoencoder(kind: str) -> None:
    vae, photo = autoencoder(kind), torch.rand(2, 3, 16, 24)
    result = invert(MSE(photo), Latents(vae, photo), steps=0, progress=False)
    with torch.no_grad():
        expected = decoded(kind, vae, latents_of(kind, vae, 2 * photo - 1))
        assert torch.allclose(result.images, bounded(expected), atol=1e-6)
        assert torch.allclose(decoded(kind, vae, result.leaves["leaf"]), expected, atol=1e-6)


@KINDS
def test_optimised_latents_are_closer_than_the_round_trip(kind: str) -> None:
    vae, photo = autoencoder(kind), torch.rand(1, 3, 16, 16)
    if kind in ("wan", "qwen-image"):  # with random weights, their images are too smooth to come closer to noise
        with torch.no_grad():
            photo = decoded(kind, vae, torch.randn(1, 4, 1, 8, 8)).clamp(0, 1)
    result = invert(MSE(photo), Latents(vae, photo), steps=40, progress=False)
    assert result.loss < 0.9 * result.history["loss"][0]
    assert all(parameter.grad is None for parameter in vae.parameters())


def test_without_an_image_latents_of_the_prior_are_searched() -> None:
    latents = Latents(autoencoder("kl"), size=(16, 24))
    assert (latents.centre, latents.scale) == (0.1, 2.0)
    drawn = latents.sample(500, torch.Generator().manual_seed(0))
    assert drawn.shape == (500, 4, 8, 12) and abs(drawn.std() - 2) < 0.02 and abs(drawn.mean() - 0.1) < 0.02
    photo = torch.rand(1, 3, 16, 24)
    result = invert(MSE(photo), latents, steps=10, search=8, progress=False)
    assert result.images.shape == photo.shape


@pytest.mark.parametrize("kind", ["wan", "qwen-image"])
def test_autoencoders_of_videos_have_a_prior_for_each_channel(kind: str) -> None:
    latents = Latents(autoencoder(kind), size=(16, 24))
    drawn = latents.sample(200, torch.Generator().manual_seed(0))
    assert drawn.shape == (200, 4, 1, 8, 12)
    assert torch.allclose(drawn.mean((0, 2, 3, 4)), torch.tensor(MEANS), atol=0.12)
    assert torch.allclose(drawn.std((0, 2, 3, 4)), torch.tensor(DEVIATIONS), rtol=0.03)
    photo = torch.rand(2, 3, 16, 24)
    result = invert(MSE(photo), latents, steps=4, batch=2, search=4, restarts=2, progress=False)
    assert result.images.shape == photo.shape and result.leaves["leaf"].shape == (2, 4, 1, 8, 12)


def test_flux2_has_a_prior_for_each_place_of_a_square() -> None:
    """The statistics are of squares of 2 x 2 latents, as FLUX.2's own pipeline takes them apart."""
    from diffusers import Flux2Pipeline

    vae: Any = autoencoder("flux2")
    latents = Latents(vae, size=(16, 24))
    assert isinstance(latents.centre, Tensor) and isinstance(latents.scale, Tensor)
    shape = (1, 16, 4, 6)
    for ours, theirs in ((latents.centre, vae.bn.running_mean), (latents.scale, vae.bn.running_var.add(1e-4).sqrt())):
        expected = Flux2Pipeline._unpatchify_latents(theirs.view(1, -1, 1, 1).expand(shape))[0]
        assert torch.allclose(ours, expected)


def test_centre_like_is_where_a_search_without_an_image_would_start() -> None:
    latents = Latents(autoencoder("wan"), torch.rand(2, 3, 16, 16))
    centre = latents.centre_like(latents.init)
    assert centre.shape == latents.init.shape == (2, 4, 1, 8, 8)
    assert torch.allclose(centre.mean((0, 2, 3, 4)), torch.tensor(MEANS))


def test_image_and_size_exclude_each_other_and_the_image_is_checked() -> None:
    vae = autoencoder("tiny")
    for options in ({}, {"image": torch.rand(1, 3, 16, 16), "size": (16, 16)}):
        with pytest.raises(ValueError, match="either an image to start from or the size"):
            Latents(vae, **options)
    with pytest.raises(ValueError, match=r"image must lie in \[0, 1\]"):
        Latents(vae, 2 * torch.rand(1, 3, 16, 16) - 1)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("size", [(0, 8), (8,), (8, 8, 8)])
def test_a_size_that_is_not_height_and_width_is_refused(size: Any) -> None:
    with pytest.raises(ValueError, match=r"size must be \(height, width\)"):
        Latents(AutoencoderTiny(), size=size)


@pytest.mark.parametrize("model", [nn.Linear(2, 2), nn.Identity()])
def test_a_model_that_does_not_encode_and_decode_is_refused(model: nn.Module) -> None:
    with pytest.raises(TypeError, match=r"vae must be an autoencoder, such as pipe\.vae of a pipeline, got"):
        Latents(model, torch.rand(1, 3, 8, 8))
