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
    result again. A vector-quantised autoencoder quantises them; its gradient passes straight through. Autoencoders of videos
    (Wan, Qwen-Image) see an image as a video of one frame, and their latents are `(b, c, 1, h, w)`.

    vae: an autoencoder from diffusers: AutoencoderKL, AutoencoderTiny, VQModel, AutoencoderDC, AutoencoderKLFlux2,
        AutoencoderKLWan, AutoencoderKLQwenImage, or one with the same `encode` and `decode`; or a `TinyAutoencoder`. Its
        weights get no gradient.
    image: where to start, `(b, 3, h, w)` in [0, 1], in sizes that the autoencoder takes, which it encodes. Without an image,
        `size` is needed.
    size: (height, width) of images whose latents are drawn from a normal distribution instead, so that `invert` searches.

    `centre` and `scale` are mean and standard deviation of the latents, numbers or one for each channel, according to the
    autoencoder's configuration: `latents_mean` and `latents_std`, `scaling_factor` and `shift_factor`, or FLUX.2's statistics.
    Raises ValueError unless one of `image` and `size` is given, and for an image out of range; TypeError for a model that does
    not encode and decode.
    """

    value_range = (-1.0, 1.0)

    def __init__(self, vae: nn.Module, image: Image | None = None, size: tuple[int, int] | None = None) -> None:
        if (image is None) == (size is None):
            raise ValueError("give either an image to start from or the size (height, width) of the images.")
        if not (isinstance(vae, nn.Module) and hasattr(vae, "encode") and hasattr(vae, "decode")):
            raise TypeError(f"vae must be an autoencoder, such as pipe.vae of a pipeline, got {type(vae).__name__}.")
        if size is not None and (not isinstance(size, tuple | list) or len(size) != 2 or min(size) < 1):
            raise ValueError(f"size must be (height, width), both at least 1, got {size}.")
        self.vae: Any = vae
        parameter = next(vae.parameters())
        self.dtype, self.device = parameter.dtype, parameter.device
        self.video = any(isinstance(module, nn.Conv3d) for module in vae.modules())
        if image is not None:
            check_images(image, "image")
            check_range(image, "image")
        encoded = self.encode(torch.full((1, 3, *size), 0.5) if image is None else image)  # type: ignore[misc]
        self._shape = encoded.shape[1:]
        self.init: Any = self.sample if image is None else encoded
        self.centre, self.scale = _prior(self.vae, encoded)
        if image is not None:
            self.lr = 0.05  # the start is near

    @torch.no_grad()
    def encode(self, image: Image) -> Tensor:
        """The latents of images in [0, 1], `(b, c, h, w)` or `(b, c, 1, h, w)` in float32; of a distribution, its mode."""
        pixels = image.to(self.device, self.dtype) * 2 - 1
        encoded = self.vae.encode(pixels[:, :, None] if self.video else pixels)
        if hasattr(encoded, "latent_dist"):
            return encoded.latent_dist.mode().float()
        return (encoded.latents if hasattr(encoded, "latents") else encoded.latent).float()

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n latents from a normal distribution of mean `centre` and deviation `scale`."""
        return self.centre + self.scale * torch.randn(n, *self._shape, generator=generator).to(self.device)

    def centre_like(self, latents: Tensor) -> Tensor:
        """Latents at the centre of the prior, in the shape of others."""
        return torch.zeros_like(latents) + self.centre

    def __call__(self, latents: Tensor) -> Tensor:
        decoded = self.vae.decode(latents.to(self.dtype), return_dict=False)[0]
        return (decoded[:, :, 0] if self.video else decoded).float()


def _prior(vae: Any, latents: Tensor) -> tuple[float | Tensor, float | Tensor]:
    """Mean and standard deviation of the latents that `vae.decode` takes."""
    config, statistics = vae.config, getattr(vae, "bn", None)
    if isinstance(statistics, nn.BatchNorm2d):  # FLUX.2 normalises squares of 2 x 2 latents: channel, row, column
        variance: Any = statistics.running_var
        mean: Any = statistics.running_mean
        return _tiled(mean, latents), _tiled((variance + config.batch_norm_eps).sqrt(), latents)
    scaling = float(getattr(config, "scaling_factor", None) or 1.0)
    means, deviations = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if means is not None and deviations is not None:
        shape = (-1, *[1] * (latents.ndim - 2))
        centre, scale = (torch.as_tensor(x, dtype=latents.dtype).to(latents.device) for x in (means, deviations))
        return centre.view(shape), scale.view(shape) / scaling
    return float(getattr(config, "shift_factor", None) or 0.0), 1 / scaling


def _tiled(values: Tensor, latents: Tensor) -> Tensor:
    """Values of 4c channels, `(4c,)`, at the places of the latents `(b, c, h, w)` from which they were taken."""
    height, width = latents.shape[-2:]
    return values.float().view(-1, 2, 2).repeat(1, height // 2, width // 2)
