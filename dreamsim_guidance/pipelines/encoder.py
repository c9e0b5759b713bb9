"""From images to the clean latents that a sampler ends with: the inverse of `Decoder.vae_input` after the autoencoder.

Every family packs, scales and shifts its latents in its own way, but always by an affine map V(x) = S P x + c with a
permutation P and a diagonal S, which `Decoder` knows. Its inverse needs no knowledge of the family:

    x = P^T S (z - c) / (P^T S^2 P 1)

where products with P^T S are the vector-Jacobian products of V.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dreamsim_guidance.pipelines.decoder import Decoder
from dreamsim_guidance.pipelines.frozen import without_gradients

__all__ = ["encode"]


def encode(decoder: Decoder, images: Tensor, like: Tensor) -> Tensor:
    """The clean estimate of these images, in the shape, dtype and device of `like`, with the images' gradient.

    decoder: of a pipeline with an autoencoder, or of one that samples pixels in [-1, 1].
    images: `(b, 3, h, w)` in [0, 1]. like: any state of the sampler.
    The mode of the autoencoder's posterior is taken, so nothing is random. Raises ValueError if the pipeline has no
    autoencoder, or if the encoded images do not fit the sampler's states.
    """
    module: Any = decoder.network
    if decoder.pixels:
        if images.shape != like.shape:
            raise ValueError(
                f"{type(decoder.pipe).__name__} samples images {tuple(like.shape)}, got {tuple(images.shape)}; their number "
                "must be that of the pipeline's call, and their size the model's."
            )
        return (2 * images - 1).to(like)
    if module is None or decoder.own is None:
        raise ValueError(f"{type(decoder.pipe).__name__} has no autoencoder (`vae`) to encode images with.")
    with torch.no_grad():
        zero = torch.zeros_like(like)
        expected = decoder.vae_input(zero)
        slope = decoder.vae_input(torch.ones_like(like)) - expected
    with without_gradients([module]):
        parameter = next(module.parameters())
        pixels = (2 * images - 1).to(parameter.device, parameter.dtype)
        if expected.ndim == 5:  # autoencoders of videos
            pixels = pixels[:, :, None]
        # the class's function: an interception may have replaced the instance's methods
        result = type(module).encode(module, pixels)
        encoded = result.latent_dist.mode() if hasattr(result, "latent_dist") else result[0]
        if encoded.shape != expected.shape:
            raise ValueError(
                f"the autoencoder makes latents {tuple(encoded.shape)} of the images {tuple(images.shape)}, and "
                f"{type(decoder.pipe).__name__} samples latents {tuple(expected.shape)}; the number of images must be that of "
                "the prompts, and their size that of the pipeline's call."
            )
    offset = encoded.to(expected) - expected
    with torch.enable_grad():
        leaf = zero.requires_grad_()
        outputs = decoder.vae_input(leaf)
        (squares,) = torch.autograd.grad(outputs, leaf, slope, retain_graph=True)
        (unscaled,) = torch.autograd.grad(outputs, leaf, offset, create_graph=offset.requires_grad)
    return unscaled / squares
