"""A StyleGAN-like generator with random weights: a mapping network, modulated convolutions, 16 x 16 images in [0, 1]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 24


class Layer(nn.Module):
    """A modulated and demodulated convolution."""

    def __init__(self, channels: int, upsample: bool) -> None:
        super().__init__()
        self.style, self.upsample = nn.Linear(WIDTH, channels), upsample
        self.weight = nn.Parameter(torch.randn(channels, channels, 3, 3) / (3 * channels**0.5))
        self.bias = nn.Parameter(0.2 * torch.randn(channels, 1, 1))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        if self.upsample:
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        style = 1 + self.style(w)
        norm = (self.weight[None] * style[:, None, :, None, None]).square().sum((2, 3, 4)).add(1e-8).rsqrt()
        x = F.conv2d(x * style[:, :, None, None], self.weight, padding=1) * norm[:, :, None, None]
        return F.leaky_relu(2 * x + self.bias, 0.2)


class StyleGAN(nn.Module):
    """Calling it with w `(b, 24)` gives images."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.mapping = nn.Sequential(*(m for _ in range(3) for m in (nn.Linear(WIDTH, WIDTH), nn.LeakyReLU(0.2))))
            for layer in self.mapping[::2]:
                layer.weight.data = torch.randn(WIDTH, WIDTH) * (2 / WIDTH) ** 0.5
            self.constant = nn.Parameter(torch.randn(1, 16, 4, 4))
            self.layers = nn.ModuleList(Layer(16, upsample) for upsample in (False, True, False, True))
            self.rgb = nn.Conv2d(16, 3, 1)
            z = torch.randn(2000, WIDTH)
        self.requires_grad_(False)
        w = self.mapping(z)
        self.w_avg, self.w_std = w.mean(0), w.std(0).mean()

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return self.mapping(torch.randn(n, WIDTH, generator=generator))

    def forward(self, w: Tensor) -> Tensor:
        x = self.constant.expand(len(w), -1, -1, -1)
        for layer in self.layers:
            x = layer(x, w)
        return self.rgb(x).sigmoid()


class Embedding(nn.Module):
    """Half the squared distance of unit embeddings to those of target images: a random network of two convolutions."""

    def __init__(self, targets: Tensor, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = torch.randn(32, 3, 4, 4, generator=generator) / 7
        self.second = torch.randn(48, 32, 4, 4, generator=generator) / 22
        self.targets = self.embed(targets)

    def embed(self, images: Tensor) -> Tensor:
        x = F.conv2d(4 * images - 2, self.first, stride=2).sin()
        return F.normalize(F.conv2d(x, self.second, stride=2).flatten(1).sin(), dim=1)

    def forward(self, images: Tensor) -> Tensor:
        return (self.embed(images) - self.targets).square().sum(1) / 2
