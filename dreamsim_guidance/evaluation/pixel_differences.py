"""The pixel metrics of the paper's table, as distances: lower is more alike.

    l2       mean (x - y)^2 at 64 x 64
    psnr     10 log10 mean (x - y)^2, the negative PSNR; equal pictures count as 100 dB
    ssim     1 - SSIM, 11 x 11 Gaussian window of sigma 1.5
    ms-ssim  1 - MS-SSIM, five scales

at the pictures' own size except for l2, as the original's evaluation did; SSIM is kornia's, MS-SSIM that of torchmetrics.

Wang, Bovik, Sheikh, Simoncelli, Image quality assessment, IEEE TIP 2004; Wang, Simoncelli, Bovik, Multiscale structural
similarity for image quality assessment, Asilomar 2003.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from torch import Tensor

from dreamsim_guidance.evaluation.weights_access import MetricUnavailableError

__all__ = ["l2", "ms_ssim", "psnr", "ssim", "torchmetrics"]

_LEAST_ERROR = 1e-10


def l2(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).square().flatten(1).mean(1)


def psnr(x: Tensor, y: Tensor) -> Tensor:
    return 10 * l2(x, y).clamp(min=_LEAST_ERROR).log10()


def ssim(x: Tensor, y: Tensor) -> Tensor:
    from kornia.metrics import ssim as similarity

    _check_size("ssim", x, 11)
    # eps 0: the denominator is positive already, and kornia's eps would make equal black pictures differ
    return 1 - similarity(x, y, 11, eps=0.0, padding="valid").flatten(1).mean(1)


def ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    _check_size("ms-ssim", x, 161)  # four halvings must leave the window
    image = torchmetrics("ms-ssim", "torchmetrics.functional.image")
    found = image.multiscale_structural_similarity_index_measure(
        x, y, data_range=1.0, reduction="none", normalize="relu"
    )
    return 1 - found.reshape(len(x))


def torchmetrics(name: str, module: str) -> ModuleType:
    """A module of torchmetrics; MetricUnavailableError with the line that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MetricUnavailableError(
            f'{name} needs torchmetrics, which is not installed; pip install "dreamsim-guidance[losses]".'
        ) from error


def _check_size(name: str, x: Tensor, least: int) -> None:
    height, width = x.shape[-2:]
    if min(height, width) < least:
        raise ValueError(f"{name} needs pictures of at least {least} x {least} pixels, got {height} x {width}.")
