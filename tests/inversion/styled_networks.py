"""Small networks with the interface of NVIDIA's StyleGANs: any size, labels, noise added in place to each sample's features."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Mapping(nn.Module):
    """As NVIDIA's, it moves its running mean whenever it is called in training mode."""

    def __init__(self, z_dim: int, c_dim: int, w_dim: int, num_ws: int | None, average: bool) -> None:
        super().__init__()
        self.c_dim, self.num_ws = c_dim, num_ws
        self.first, self.second = nn.Linear(z_dim + c_dim, w_dim), nn.Linear(w_dim, w_dim)
        self.first.weight.data.normal_(0, 1.5 * (z_dim + c_dim) ** -0.5)
        if average:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z: Tensor, c: Tensor | None, truncation_psi: float = 1.0) -> Tensor:
        if self.c_dim:
            assert c is not None and c.shape == (len(z), self.c_dim)
            z = torch.cat([z, 2 * c], 1)
        w = self.second(F.leaky_relu(self.first(z), 0.2))
        if self.training and hasattr(self, "w_avg"):
            self.w_avg.copy_(w.detach().mean(0).lerp(self.w_avg, 0.9))
        return w if self.num_ws is None else w[:, None].repeat(1, self.num_ws, 1)


class Layer(nn.Module):
    def __init__(self, w_dim: int, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size, self.affine = size, nn.Linear(w_dim, channels)
        self.weight = nn.Parameter(torch.randn(channels, channels, 3, 3) / (3 * channels**0.5))
        self.register_buffer("noise_const", torch.randn(size))
        self.noise_strength = nn.Parameter(torch.tensor(0.2))

    def forward(self, x: Tensor, w: Tensor, noise_mode: str = "random") -> Tensor:
        x = F.interpolate(x, self.size, mode="bilinear", align_corners=False) * (1 + self.affine(w))[:, :, None, None]
        x = F.conv2d(x, self.weight, padding=1)
        assert noise_mode == "const"  # any other would make each evaluation a different one
        x = x.add_((self.noise_const * self.noise_strength).to(x.dtype))
        return F.leaky_relu(1.4 * x, 0.2)


class Synthesis(nn.Module):
    def __init__(self, w_dim: int, channels: int, sizes: list[tuple[int, int]]) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.randn(1, channels, *sizes[0]))
        for i, size in enumerate(sizes):
            setattr(self, f"b{i}", Layer(w_dim, channels, size))
        self.count, self.num_ws, self.rgb = len(sizes), len(sizes), nn.Conv2d(channels, 3, 1)

    def forward(self, ws: Tensor, **layer_options: Any) -> Tensor:
        assert ws.shape[1] == self.num_ws
        x = self.constant.expand(len(ws), -1, -1, -1)
        for i in range(self.count):
            x = getattr(self, f"b{i}")(x, ws[:, i], **layer_options)
        return self.rgb(x).tanh()


class Styled(nn.Module):
    """A network whose images are `levels` doublings of `start` pixels, in (-1, 1)."""

    def __init__(
        self,
        z_dim: int = 8,
        c_dim: int = 0,
        w_dim: int = 12,
        channels: int = 8,
        start: tuple[int, int] = (4, 4),
        levels: int = 2,
        average: bool = True,
        broadcast: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sizes = [(start[0] * 2**level, start[1] * 2**level) for level in range(levels + 1)]
            self.z_dim, self.c_dim, self.w_dim, self.num_ws = z_dim, c_dim, w_dim, len(sizes)
            self.mapping = Mapping(z_dim, c_dim, w_dim, self.num_ws if broadcast else None, average)
            self.synthesis = Synthesis(w_dim, channels, sizes)

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        w = self.mapping(z, c)
        return self.synthesis(w if w.ndim == 3 else w[:, None].repeat(1, self.num_ws, 1), noise_mode="const")


class Plain(nn.Module):
    """A network with G(z) only, or G(z, c) for labels, whose z is `(b, z_dim, 1, 1)`; with a batch norm."""

    def __init__(self, z_dim: int = 6, labels: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.embedding = nn.Linear(labels, z_dim, bias=False) if labels else None
            self.layers = nn.Sequential(
                nn.ConvTranspose2d(z_dim, 8, 4),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.ConvTranspose2d(8, 3, 4, 2, 1),
                nn.Tanh(),
            )

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        if self.embedding is not None:
            assert c is not None
            z = z + self.embedding(c)[:, :, None, None]
        return self.layers(z)
