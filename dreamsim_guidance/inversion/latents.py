"""The latents of an autoencoder of diffusers as a generator of images, starting from an image's own latents."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dreamsim_guidance.preprocess import check_images, check_range
from dreamsim_guidance.types import Image

__all__ = ["Latents"]


class Latents:
    """The decoder of an autoencoder, `latents (b, c, h, w) -> images`, for `invert`.

    The latents are those that `vae.decode` takes, not scaled as a sampler has them, so that `vae.decode(leaf)` gives the
    result again. A vector-quantised autoencoder quantises them; its gradient passes straight through.

    vae: an autoencoder of images from diffusers: AutoencoderKL, AutoencoderTiny, VQModel or one with the same `encode` and
        `decode`. Its weights get no gradient.
    image: where to start, `(b, 3, h, w)` in [0, 1], in sizes that the autoencoder takes, which it encodes. Without an image,
        `size` is needed.
    size: (height, width) of images whose latents are drawn from a normal distribution instead, so that `invert` searches.

    `scale` is the standard deviation of the latents according to the autoencoder's `scaling_factor`.
    Raises ValueError unless one of `image` and `size` is given, and for an image out of range.
    """

    value_range = (-1.0, 1.0)

    def __init__(self, vae: nn.Module, image: Image | None = None, size: tuple[int, int] | None = None) -> None:
        if (image is None) == (size is None):
            raise ValueError("give either an image to start from or the size (height, width) of the images.")
        self.vae: Any = vae
        parameter = next(vae.parameters())
        self.dtype, self.device = parameter.dtype, parameter.device
        self.scale = 1 / float(getattr(self.vae.config, "scaling_factor", None) or 1.0)
        if image is None:
            assert size is not None
            self._shape = self.encode(torch.full((1, 3, *size), 0.5)).shape[1:]
            self.init: Any = self.sample
        else:
            check_images(image, "image")
            check_range(image, "image")
            self.init = self.encode(image)

    @torch.no_grad()
    def encode(self, image: Image) -> Tensor:
        """The latents of images in [0, 1], `(b, c, h, w)` in float32; of a distribution, its mode."""
        encoded = self.vae.encode(image.to(self.device, self.dtype) * 2 - 1)
        latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        return latents.float()

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n latents from a normal distribution of deviation `scale`."""
        return self.scale * torch.randn(n, *self._shape, generator=generator).to(self.device)

    def __call__(self, latents: Tensor) -> Tensor:
        decoded = self.vae.decode(latents.to(self.dtype), return_dict=False)[0]
        return decoded.float()
