"""The pixel metrics of the paper's table as distances: lower means more similar.

    mse      mean (x - y)^2 at 64 x 64
    psnr     10 log10 mean (x - y)^2, the negative PSNR; equal pictures count as 100 dB
    ssim     1 - mean l cs
    ms-ssim  1 - (mean l_5 cs_5)^w_5 prod_(i < 5) (mean cs_i)^w_i, over five scales, each half of the one before

    l = (2 mu_x mu_y + c1) / (mu_x^2 + mu_y^2 + c1),   cs = (2 sigma_xy + c2) / (sigma_x^2 + sigma_y^2 + c2)

with moments under an 11 x 11 Gaussian window of sigma 1.5 inside the picture, c1 = 0.01^2, c2 = 0.03^2; a mean below zero
counts as zero. Pictures are compared at their own size except for mse, as in the original's evaluation. Its package
(torchmetrics), unlike the authors of SSIM, also places windows across the border of a mirrored picture, which changes the
third digit of SSIM.

All functions take two batches `(b, 3, h, w)` in [0, 1] and return one value per pair, `(b,)`.

Wang, Bovik, Sheikh, Simoncelli, Image quality assessment, IEEE TIP 2004; Wang, Simoncelli, Bovik, Multiscale structural
similarity for image quality assessment, Asilomar 2003.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ms_ssim", "mse", "psnr", "ssim"]

_LEAST_ERROR = 1e-10
_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2
_SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def mse(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared difference, in [0, 1]."""
    return (x - y).square().flatten(1).mean(1)


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Negative peak signal-to-noise ratio in decibels, at least -100."""
    return 10 * mse(x, y).clamp(min=_LEAST_ERROR).log10()


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """1 - SSIM, in [0, 2]. Raises ValueError for pictures smaller than the window."""
    _check_size("ssim", x, _WINDOW)
    luminance, structure = _terms(x, y)
    return 1 - _mean(luminance * structure)


def ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    """1 - MS-SSIM, in [0, 1]. Raises ValueError for pictures whose fifth scale is smaller than the window."""
    _check_size("ms-ssim", x, _WINDOW << (len(_SCALES) - 1))
    product = x.new_ones(len(x))
    for i, weight in enumerate(_SCALES):
        luminance, structure = _terms(x, y)
        last = i == len(_SCALES) - 1
        product = product * _mean(luminance * structure if last else structure).clamp(min=0) ** weight
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return 1 - product


def _terms(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The terms l and cs at every position of the window."""
    from kornia.filters import filter2d_separable, get_gaussian_kernel1d

    window = get_gaussian_kernel1d(_WINDOW, _SIGMA, device=x.device, dtype=x.dtype)
    # the CPU's convolutions are several times faster in this layout
    products = torch.cat([x, y, x * x, y * y, x * y]).contiguous(memory_format=torch.channels_last)
    mx, my, xx, yy, xy = filter2d_separable(products, window, window, padding="valid").chunk(5)
    luminance = (2 * mx * my + _C1) / (mx * mx + my * my + _C1)
    structure = (2 * (xy - mx * my) + _C2) / (xx - mx * mx + yy - my * my + _C2)
    return luminance, structure


def _mean(values: Tensor) -> Tensor:
    return values.flatten(1).mean(1)


def _check_size(name: str, x: Tensor, least: int) -> None:
    height, width = x.shape[-2:]
    if min(height, width) < least:
        raise ValueError(f"{name} needs pictures of at least {least} x {least} pixels, got {height} x {width}.")
