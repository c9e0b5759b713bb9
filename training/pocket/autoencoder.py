"""The small autoencoder of the pocket latent model: pictures of 64 px to 16 x 16 x 4 latents and back.

    loss = 2 (d(z) - x)^2 + |d(z) - x| / 2 + w_e |grad d(z) - grad x| + w_kl KL(q(z | x) || N(0, 1)),   z ~ q(z | x),

all means over elements; the square finds colours, the others ask for sharp edges. Afterwards the latents' channels are
centred and given one common spread, by the encoder's last and the decoder's first convolution, which undoes it: the
pictures stay the same, and one `scaling_factor` gives every channel unit variance.

Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, CVPR 2022.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from dreamsim_guidance.training.pocket.settings import Autoencoder
from dreamsim_guidance.types import Image

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

__all__ = ["Autoencoder", "AutoencoderLearner", "autoencoder", "encode", "reconstruct", "rms", "standardise"]


def autoencoder(settings: Autoencoder, size: int) -> AutoencoderKL:
    """With fresh weights, convolutions only."""
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


class AutoencoderLearner(nn.Module):
    """The autoencoder and its loss on pictures that were drawn before."""

    def __init__(self, network: AutoencoderKL, pictures: UInt8[Tensor, "n 3 h w"], settings: Autoencoder) -> None:
        super().__init__()
        self.network, self.pictures, self.settings = network, pictures, settings

    def loss(self, generator: torch.Generator, progress: float) -> Tensor:
        x = self._batch(generator, progress < self.settings.crops)
        posterior = self.network.encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator)
        y = self.network.decode(posterior.mean + posterior.std * noise).sample
        difference = y - x
        edges = difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
        divergence = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        pixels = 2 * difference.square().mean() + 0.5 * difference.abs().mean()
        return pixels + self.settings.edges * edges + self.settings.kl * divergence

    def after_step(self, progress: float) -> None:
        pass

    def _batch(self, generator: torch.Generator, crops: bool) -> Tensor:
        """Pictures in [-1, 1], or crops of them."""
        chosen = torch.randint(len(self.pictures), ((1 + crops) * self.settings.batch,), generator=generator)
        pictures = self.pictures[chosen]
        if crops:
            half = pictures.shape[-1] // 2
            places = torch.randint(half + 1, (len(chosen), 2), generator=generator).tolist()
            cut = [p[:, y : y + half, x : x + half] for p, (y, x) in zip(pictures, places, strict=True)]
            pictures = torch.stack(cut)
        return (pictures.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def encode(network: AutoencoderKL, pictures: UInt8[Tensor, "n 3 h w"], batch: int = 64) -> Float[Tensor, "n c _ _"]:
    """The means of the latents, in float32, without the scaling factor."""
    parts = [network.encode(part.float() / 127.5 - 1).latent_dist.mean for part in pictures.split(batch)]
    return torch.cat(parts)


@torch.no_grad()
def standardise(network: AutoencoderKL, pictures: UInt8[Tensor, "n 3 h w"]) -> None:
    """Centre the latents' channels, give them one spread, and set `scaling_factor`; pictures are coded as before."""
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
    """Pictures in [0, 1] through the mean of their latents and back."""
    coded = network.decode(network.encode(2 * images - 1).latent_dist.mean).sample
    return (coded / 2 + 0.5).clamp(0, 1)


def rms(x: Tensor, y: Tensor) -> float:
    """Root mean square difference over all elements."""
    return float((x - y).square().mean().sqrt())


@torch.no_grad()
def _initialise(network: AutoencoderKL, latent_channels: int) -> None:
    """All but linear at first, and with little noise in the latents.

    With PyTorch's own first weights, which shrink what passes, a network this narrow is grey for thousands of steps.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if name.endswith("conv2"):  # the last of a residual block
                module.weight *= 0.1
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    network.quant_conv.bias[latent_channels:] = -5.0
