"""Metrics whose sensitivities are known by construction, as callables (images, images) -> (b,)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)


def mean_colour(x: Tensor, y: Tensor) -> Tensor:
    """The mean colour and nothing else."""
    return (x.mean((2, 3)) - y.mean((2, 3))).norm(dim=1)


def histogram(x: Tensor, y: Tensor) -> Tensor:
    """Colours wherever they are."""
    return (bins(x) - bins(y)).norm(dim=1)


def luminance(x: Tensor, y: Tensor) -> Tensor:
    """Where it is light and where dark, without colour."""
    return (coarse_luma(x) - coarse_luma(y)).norm(dim=1)


def mean_luma(x: Tensor, y: Tensor) -> Tensor:
    """The mean luma; blind to hue and to places."""
    return (luma(x).mean((1, 2, 3)) - luma(y).mean((1, 2, 3))).abs()


def centre(x: Tensor, y: Tensor) -> Tensor:
    """The middle quarter of the picture only."""
    return _within(x, y, inside=True)


def surroundings(x: Tensor, y: Tensor) -> Tensor:
    """All but the middle quarter of the picture."""
    return _within(x, y, inside=False)


def spectrum(x: Tensor, y: Tensor) -> Tensor:
    """Amplitudes of the Fourier transform, which do not change when a picture is shifted around."""
    a, b = (torch.fft.rfft2(luma(z)).abs().flatten(1) / z[0, 0].numel() for z in (x, y))
    return (a - b).norm(dim=1)


def nothing(x: Tensor, y: Tensor) -> Tensor:
    return torch.zeros(len(x))


def noise(x: Tensor, y: Tensor) -> Tensor:
    """Numbers without any relation to the pictures, the same for the same pair."""
    seeds = ((x * 251.7).double().flatten(1).sum(1) + 3 * (y * 113.3).double().flatten(1).sum(1)) * 1e4
    return (torch.sin(seeds) * 43758.5453).frac().abs().float()


def corners(x: Tensor, y: Tensor) -> Tensor:
    """The colour in the corners: mostly background."""
    ends = torch.tensor([0, 1, 2, -3, -2, -1])
    a, b = (z[:, :, ends][:, :, :, ends].mean((2, 3)) for z in (x, y))
    return (a - b).norm(dim=1)


def luma(x: Tensor) -> Tensor:
    return (x * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def coarse_luma(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(luma(x), (8, 8)).flatten(1)


def bins(x: Tensor) -> Tensor:
    centres = torch.linspace(0, 1, 8)
    r, g, b = ((1 - (x[:, c].flatten(1)[:, :, None] - centres).abs() * 7).clamp(min=0) for c in range(3))
    return (torch.einsum("npi,npj,npk->nijk", r, g, b).flatten(1) / x[0, 0].numel()).sqrt()


def _within(x: Tensor, y: Tensor, inside: bool) -> Tensor:
    height, width = x.shape[-2:]
    kept = torch.zeros(1, 1, height, width)
    kept[:, :, height // 4 : height - height // 4, width // 4 : width - width // 4] = 1
    kept = kept if inside else 1 - kept
    return ((x - y) * kept).square().mean((1, 2, 3))
