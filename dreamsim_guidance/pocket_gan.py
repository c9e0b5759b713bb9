"""The pocket GAN's generator: a mapping network, and a synthesis network whose convolutions are modulated by styles.

    w = mapping(z),    x_l = leaky_relu(demodulated_conv(x_(l-1), affine_l(w_l)) + strength_l * noise_l + bias_l)

It has the interface of NVIDIA's generators (`mapping(z, c)`, `synthesis(ws, noise_mode=...)`, `num_ws`, `w_avg`, buffers
`noise_const`), so that whatever inverts a StyleGAN can be tried on it in seconds. Like them it has one w for each convolution
and one for the last colours. Written from the paper; no line is NVIDIA's. A convolution that doubles the size comes before
the doubling here, which saves three quarters of its cost.

Karras et al., Analyzing and improving the image quality of StyleGAN, CVPR 2020.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor, nn

__all__ = ["PocketGenerator", "ScaledLinear", "read_generator"]

_NOISE = 0.1
"""Slows the learning of the noise's strength, which otherwise grows before there is anything to vary."""

NoiseMode = Literal["const", "random", "none"]


class PocketGenerator(nn.Module):
    """Maps z `(b, z_dim)` to images `(b, 3, size, size)`, about in [-1, 1].

    channels: of each resolution from 4 x 4 pixels on, each twice the one before.
    z_dim, w_dim: widths of z and w.
    depth: layers of the mapping network.
    """

    c_dim = 0
    img_channels = 3

    def __init__(self, channels: Sequence[int], z_dim: int = 64, w_dim: int = 64, depth: int = 3) -> None:
        super().__init__()
        self.channels, self.z_dim, self.w_dim, self.depth = tuple(channels), z_dim, w_dim, depth
        self.synthesis = Synthesis(self.channels, w_dim)
        self.num_ws, self.img_resolution = self.synthesis.num_ws, self.synthesis.img_resolution
        self.mapping = Mapping(z_dim, w_dim, depth, self.num_ws)

    def forward(
        self,
        z: Float[Tensor, "b z_dim"],
        c: None = None,
        truncation_psi: float = 1.0,
        noise_mode: NoiseMode = "const",
    ) -> Float[Tensor, "b 3 h w"]:
        """Generate images; `truncation_psi` below 1 moves w towards its mean, for less varied and cleaner images."""
        return self.synthesis(self.mapping(z, c, truncation_psi), noise_mode)


class Mapping(nn.Module):
    """Maps z to w, which is repeated for every layer: `(b, num_ws, w_dim)`."""

    w_avg: Tensor

    def __init__(self, z_dim: int, w_dim: int, depth: int, num_ws: int) -> None:
        super().__init__()
        self.num_ws = num_ws
        widths = [z_dim] + [w_dim] * depth
        self.layers = nn.ModuleList(ScaledLinear(a, b) for a, b in pairwise(widths))
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(
        self, z: Float[Tensor, "b z_dim"], c: None = None, truncation_psi: float = 1.0
    ) -> Float[Tensor, "b num_ws w_dim"]:
        x = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.layers:
            x = math.sqrt(2) * F.leaky_relu(layer(x), 0.2)
        return self.w_avg.lerp(x, truncation_psi)[:, None].expand(-1, self.num_ws, -1)


class Synthesis(nn.Module):
    """Maps w to images. Each resolution adds its colours to the enlarged ones of the resolution before."""

    def __init__(self, channels: Sequence[int], w_dim: int) -> None:
        super().__init__()
        self.w_dim, self.img_resolution = w_dim, 4 * 2 ** (len(channels) - 1)
        self.constant = nn.Parameter(torch.randn(1, channels[0], 4, 4))
        self.layers, self.colours = nn.ModuleList(), nn.ModuleList()
        for level, (before, after) in enumerate(zip([channels[0], *channels], channels, strict=False)):
            if level > 0:
                self.layers.append(StyledConvolution(before, after, w_dim, 4 * 2**level, enlarge=True))
            self.layers.append(StyledConvolution(after, after, w_dim, 4 * 2**level))
            self.colours.append(Colours(after, w_dim))
        self.num_ws = len(self.layers) + 1

    def forward(self, ws: Float[Tensor, "b num_ws w_dim"], noise_mode: NoiseMode = "const") -> Float[Tensor, "b 3 h w"]:
        """Generate images. noise_mode: "const" adds the buffers `noise_const`, "random" fresh noise, "none" nothing."""
        if noise_mode not in ("const", "random", "none"):
            raise ValueError(f"unknown noise_mode '{noise_mode}'; known: const, random, none.")
        x, images = self.constant.expand(len(ws), -1, -1, -1), None
        styles = iter(range(self.num_ws))
        for level, colours in enumerate(self.colours):
            for layer in self.layers[max(0, 2 * level - 1) : 2 * level + 1]:
                x = layer(x, ws[:, next(styles)], noise_mode)
            added = colours(x, ws[:, 2 * level + 1])
            images = added if images is None else _enlarged(images) + added
        assert images is not None
        return images


class StyledConvolution(nn.Module):
    """A convolution whose input channels are scaled by a style, and whose output channels are scaled back on average."""

    noise_const: Tensor

    def __init__(self, inputs: int, outputs: int, w_dim: int, size: int, enlarge: bool = False) -> None:
        super().__init__()
        self.enlarge = enlarge
        self.affine = ScaledLinear(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise_const", torch.randn(size, size))

    def forward(self, x: Tensor, w: Float[Tensor, "b w_dim"], noise_mode: NoiseMode) -> Tensor:
        style, weight = self.affine(w), self.weight / math.sqrt(self.weight[0].numel())
        norm = (style.square() @ weight.square().sum((2, 3)).T + 1e-8).rsqrt()
        x = F.conv2d(x * style[:, :, None, None], weight, padding=1) * norm[:, :, None, None]
        if self.enlarge:
            x = _enlarged(x)
        strength = _NOISE * self.noise_strength
        if noise_mode == "random":
            x = x + strength * torch.randn(len(x), 1, *x.shape[2:], dtype=x.dtype, device=x.device)
        elif noise_mode == "const":
            x = x + strength * self.noise_const
        return math.sqrt(2) * F.leaky_relu(x + self.bias[:, None, None], 0.2)


class Colours(nn.Module):
    """A modulated convolution of one pixel to red, green and blue."""

    def __init__(self, inputs: int, w_dim: int) -> None:
        super().__init__()
        self.affine = ScaledLinear(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(3, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, w: Float[Tensor, "b w_dim"]) -> Tensor:
        return F.conv2d(x * self.affine(w)[:, :, None, None], self.weight / math.sqrt(len(x[0])), self.bias)


class ScaledLinear(nn.Module):
    """A linear layer whose weights are of unit variance and scaled when they are used, so that all learn at one rate."""

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.full((outputs,), bias))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight / math.sqrt(self.weight.shape[1]), self.bias)


def _enlarged(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def read_generator(folder: Path) -> PocketGenerator:
    """Read a generator from the folder that the recipe train-pocket-gan wrote, frozen, in float32 on the CPU."""
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    generator = PocketGenerator(**card["generator"])
    with safe_open(folder / "generator.safetensors", framework="pt", device="cpu") as file:
        weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118  # not a dictionary
    generator.load_state_dict(weights, assign=True)  # in float32, whatever the default dtype is
    return generator.requires_grad_(False).eval()
