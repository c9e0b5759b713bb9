"""A convolutional network on fixed noise as the parametrisation of an image.

    image = network_w(z),   z fixed,   w: the weights, which are optimised

A small network with skip connections fits natural images long before it fits noise. Its structure is the prior: no training
is needed, and stopping early leaves out what is not image-like.

Ulyanov, Vedaldi, Lempitsky, Deep image prior, CVPR 2018: their hourglass with skip connections, narrower, with instance
normalisation (which batch normalisation is for their single image) and bilinear upsampling.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamsim_guidance.types import Image

__all__ = ["DeepImagePrior"]


class DeepImagePrior:
    """Images as the weights of a network of their own, for `invert`: `invert(loss, DeepImagePrior(64), steps=500)`.

    Each sample has its own network, and all start from the same weights and the same noise z, so that a batch gives what
    single runs give. More steps fit more detail, and in the end noise too.

    height, width: size of the images in pixels, at least 2 ** (number of resolutions); a square by default.
    batch: number of images.
    channels: of the network at each resolution, each half the one before.
    skip: channels of each skip connection.
    generator: a CPU generator that decides weights and noise; by default one with seed 0.
    device: where the weights are, by default the CPU.

    `init` holds the weights of all networks by name, `(batch, ...)` each, in float32. Raises ValueError for sizes below 1 and
    images that are too small.
    """

    lr = 0.01
    """Step size of Adam that suits the weights, the paper's."""
    value_range = (0.0, 1.0)

    def __init__(
        self,
        height: int,
        width: int | None = None,
        batch: int = 1,
        channels: Sequence[int] = (16, 32, 64, 64),
        skip: int = 4,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        width = height if width is None else width
        if not channels or min(batch, skip, *channels) < 1:
            raise ValueError(f"batch, skip and channels must be at least 1, got {batch}, {skip}, {tuple(channels)}.")
        if min(height, width) < 2 ** len(channels):
            raise ValueError(
                f"{len(channels)} resolutions need images of at least {2 ** len(channels)} pixels, got {height} x {width}; "
                "give fewer channels."
            )
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        network = _Hourglass(tuple(channels), skip)
        for parameter in network.parameters():
            if parameter.ndim == 4:
                deviation = (2 / parameter[0].numel()) ** 0.5
                parameter.data = deviation * torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
        self.network = network.requires_grad_(False).to(device)
        self.noise = (0.1 * torch.rand(1, _NOISE, height, width, generator=generator, dtype=torch.float32)).to(device)
        self.init = {
            name: value.detach().expand(batch, *value.shape).clone() for name, value in self.network.named_parameters()
        }

    def __call__(self, **weights: Tensor) -> Image:
        """The images of the networks with these weights, `(b, 3, height, width)` in (0, 1)."""

        def image(own_weights: dict[str, Tensor]) -> Tensor:
            return torch.func.functional_call(self.network, own_weights, (self.noise,))[0]

        return torch.vmap(image)(weights)


_NOISE = 32
"""Channels of the noise, uniform in [0, 0.1], as in the paper."""


class _Hourglass(nn.Module):
    def __init__(self, channels: tuple[int, ...], skip: int) -> None:
        super().__init__()
        before = (_NOISE, *channels[:-1])
        self.down = nn.ModuleList(
            nn.Sequential(_convolution(a, b, stride=2), _convolution(b, b))
            for a, b in zip(before, channels, strict=True)
        )
        self.skip = nn.ModuleList(_convolution(a, skip, side=1) for a in before)
        below = (*channels[1:], channels[-1])
        self.up = nn.ModuleList(
            nn.Sequential(_Norm(), _convolution(a + skip, b), _convolution(b, b, side=1))
            for a, b in zip(below, channels, strict=True)
        )
        self.last = nn.Conv2d(channels[0], 3, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        skipped = []
        for down, skip in zip(self.down, self.skip, strict=True):
            skipped.append(skip(x))
            x = down(x)
        for up, side in zip(reversed(self.up), reversed(skipped), strict=True):
            x = F.interpolate(x, side.shape[-2:], mode="bilinear", align_corners=False)
            x = up(torch.cat([x, side], dim=1))
        return self.last(x).sigmoid()


class _Norm(nn.Module):
    """Mean 0 and variance 1 of each channel of each image."""

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean((2, 3), keepdim=True)
        return centred * (centred.square().mean((2, 3), keepdim=True) + 1e-5).rsqrt()


class _Affine(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale[:, None, None] + self.shift[:, None, None]


def _convolution(before: int, after: int, side: int = 3, stride: int = 1) -> nn.Sequential:
    padding = side // 2
    return nn.Sequential(
        nn.ReflectionPad2d(padding) if padding else nn.Identity(),
        nn.Conv2d(before, after, side, stride, bias=False),
        _Norm(),
        _Affine(after),
        nn.LeakyReLU(0.2),
    )
