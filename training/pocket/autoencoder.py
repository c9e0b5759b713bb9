"""The small autoencoder of the pocket latent model: from images of 64 x 64 pixels to latents of 16 x 16 x 4 and back.

    loss = 2 (d(z) - x)^2 + |d(z) - x| / 2 + w_e |grad d(z) - grad x| + w_kl KL(q(z | x) || N(0, 1)),   z ~ q(z | x),

where all terms are means over elements. The squared term learns colours, the others sharp edges. After training, the channels
of the latents are centred and scaled to one common spread. The encoder's last convolution does it and the decoder's first one
undoes it, so that reconstructions do not change, and one `scaling_factor` gives every channel unit variance.

Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, CVPR 2022.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from dreamsim_guidance.training.fit import Learner
from dreamsim_guidance.training.pocket.settings import Autoencoder
from dreamsim_guidance.types import Image

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

__all__ = ["AutoencoderLearner", "PixelsAndEdges", "autoencoder", "encode", "reconstruct", "rms", "standardise"]


def autoencoder(settings: Autoencoder, size: int) -> AutoencoderKL:
    """An autoencoder with random weights, of convolutions only, for images of `size` x `size` pixels."""
    from diffusers import AutoencoderKL

    levels = len(settings.channels)
    network = AutoencoderKL(
        sample_size=size,
        latent_channels=settings.latent_channels,
        block_out_channels=settings.channels,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        mid_block_add_attention=False,
        norm_num_groups=2,
        scaling_factor=1.0,
    )
    _initialise(network, settings.latent_channels)
    return network.to(memory_format=torch.channels_last)


class AutoencoderLearner(Learner):
    """The autoencoder, trained on the given pictures and on crops of them.

    reconstruction: from decoded and original images in [-1, 1] to a scalar, added to the divergence; by default that of the
        model that ships, `PixelsAndEdges`.
    """

    def __init__(
        self,
        network: AutoencoderKL,
        pictures: UInt8[Tensor, "n 3 h w"],
        settings: Autoencoder,
        reconstruction: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.network, self.pictures, self.settings = network, pictures, settings
        self.reconstruction = PixelsAndEdges(settings.edges) if reconstruction is None else reconstruction

    def loss(self, generator: torch.Generator, progress: float) -> Tensor:
        x = self._batch(generator, progress < self.settings.crops)
        posterior = self.network.encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator, dtype=x.dtype)
        y = self.network.decode(posterior.mean + posterior.std * noise).sample
        divergence = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        return self.reconstruction(y, x) + self.settings.kl * divergence

    def _batch(self, generator: torch.Generator, crops: bool) -> Tensor:
        """A batch of pictures in [-1, 1], or of twice as many crops of half the width and height."""
        chosen = torch.randint(len(self.pictures), ((1 + crops) * self.settings.batch,), generator=generator)
        pictures = self.pictures[chosen]
        if crops:
            half = pictures.shape[-1] // 2
            corners = torch.randint(half + 1, (len(chosen), 2), generator=generator).tolist()
            cropped = [p[:, y : y + half, x : x + half] for p, (y, x) in zip(pictures, corners, strict=True)]
            pictures = torch.stack(cropped)
        return (pictures.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


class PixelsAndEdges(nn.Module):
    """The first three terms of the loss above; `edges` is w_e."""

    def __init__(self, edges: float) -> None:
        super().__init__()
        self.edges = edges

    def forward(self, decoded: Tensor, images: Tensor) -> Tensor:
        difference = decoded - images
        edges = difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
        pixels = 2 * difference.square().mean() + 0.5 * difference.abs().mean()
        return pixels + self.edges * edges


@torch.no_grad()
def encode(network: AutoencoderKL, pictures: UInt8[Tensor, "n 3 h w"], batch: int = 64) -> Float[Tensor, "n c _ _"]:
    """Means of the latents of 8-bit pictures, without the scaling factor, computed `batch` pictures at a time."""
    parts = [network.encode(part.float() / 127.5 - 1).latent_dist.mean for part in pictures.split(batch)]
    return torch.cat(parts)


@torch.no_grad()
def standardise(network: AutoencoderKL, pictures: UInt8[Tensor, "n 3 h w"]) -> None:
    """Centre the channels of the latents, give them one spread, and set `scaling_factor`; reconstructions do not change."""
    latents = encode(network, pictures)
    mean, spread = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    common = float(latents.var((0, 2, 3)).mean().sqrt())
    factor = common / spread
    first, last = network.quant_conv, network.post_quant_conv
    channels = len(mean)
    # quant_conv gives means, then log variances
    first.weight[:channels] *= factor.view(-1, 1, 1, 1)
    first.bias[:channels] = (first.bias[:channels] - mean) * factor
    first.bias[channels:] += 2 * factor.log()
    last.bias += (last.weight[:, :, 0, 0] * mean).sum(1)
    last.weight /= factor.view(1, -1, 1, 1)
    network.register_to_config(scaling_factor=round(1 / common, 5))


@torch.no_grad()
def reconstruct(network: AutoencoderKL, images: Image) -> Image:
    """Encode images in [0, 1] to the mean of their latents and decode them again."""
    decoded = network.decode(network.encode(2 * images - 1).latent_dist.mean).sample
    return (decoded / 2 + 0.5).clamp(0, 1)


def rms(x: Tensor, y: Tensor) -> float:
    """Root mean squared difference over all elements."""
    return float((x - y).square().mean().sqrt())


@torch.no_grad()
def _initialise(network: AutoencoderKL, latent_channels: int) -> None:
    """Initialise the network as an almost linear function with little noise in its latents.

    PyTorch's default weights reduce the signal: a network this narrow then gives grey images for thousands of steps.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if name.endswith("conv2"):  # the last of a residual block
                module.weight *= 0.1
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    network.quant_conv.bias[latent_channels:] = -5.0
