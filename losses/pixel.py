"""Differences of pixels: L1, MSE, Charbonnier, and the total variation of one image.

Each is a mean over the pixels and channels of an image, so that its scale does not depend on the resolution:

    L1 = mean |x - y|,   MSE = mean (x - y)^2,   Charbonnier = mean sqrt((x - y)^2 + eps^2) - eps

`L1(image)` is a loss towards that image, `L1()` is a loss on pairs `(pred, target)`.

Charbonnier et al., Two deterministic half-quadratic regularization algorithms, ICIP 1994.
Rudin, Osher, Fatemi, Nonlinear total variation based noise removal algorithms, Physica D 1992 (here anisotropic).
"""

from __future__ import annotations

from typing import overload

import torch
from jaxtyping import Float
from torch import Tensor

from dreamsim_guidance.loss import Loss, PairLoss
from dreamsim_guidance.losses.pair import bind, common_pair
from dreamsim_guidance.preprocess import check_candidate, check_images
from dreamsim_guidance.types import Distance, Image

__all__ = ["L1", "L2", "MSE", "Charbonnier", "TotalVariation", "psnr"]


@overload
def L1(reference: Image) -> Loss: ...
@overload
def L1(reference: None = None) -> PairLoss: ...
def L1(reference: Image | None = None) -> Loss | PairLoss:
    """Mean absolute difference of images in [0, 1], one value per image in [0, 1]."""
    return bind(_L1(), reference)


@overload
def MSE(reference: Image) -> Loss: ...
@overload
def MSE(reference: None = None) -> PairLoss: ...
def MSE(reference: Image | None = None) -> Loss | PairLoss:
    """Mean squared difference of images in [0, 1], one value per image in [0, 1]. The PSNR is `-10 log10` of it."""
    return bind(_MSE(), reference)


L2 = MSE
"""The former name of `MSE`."""


@overload
def Charbonnier(reference: Image, *, eps: float = 1e-3) -> Loss: ...
@overload
def Charbonnier(reference: None = None, *, eps: float = 1e-3) -> PairLoss: ...
def Charbonnier(reference: Image | None = None, *, eps: float = 1e-3) -> Loss | PairLoss:
    """A smooth L1 of images in [0, 1], one value per image in [0, 1), exactly 0 for equal images.

    eps: difference below which the loss is about quadratic, positive.
    """
    return bind(_Charbonnier(eps), reference)


class TotalVariation(Loss):
    """Mean absolute difference of vertical neighbours plus that of horizontal ones, `(b,)` in [0, 2]; 0 for flat images."""

    name = "tv"
    capturable = True

    def forward(self, images: Image) -> Distance:
        from kornia.losses import total_variation

        check_images(images)
        check_candidate(images, overshoot=True)
        dtype = torch.promote_types(images.dtype, torch.float32)
        return total_variation(images.to(dtype), reduction="mean").mean(1)


class _L1(PairLoss):
    name = "l1"
    capturable = True

    def forward(self, pred: Image, target: Float[Tensor, "#b 3 h w"]) -> Distance:
        x, y = common_pair(pred, target)
        return (x - y).abs().flatten(1).mean(1)


class _MSE(PairLoss):
    name = "mse"
    capturable = True

    def forward(self, pred: Image, target: Float[Tensor, "#b 3 h w"]) -> Distance:
        x, y = common_pair(pred, target)
        return (x - y).square().flatten(1).mean(1)


class _Charbonnier(PairLoss):
    name = "charbonnier"
    capturable = True

    def __init__(self, eps: float) -> None:
        super().__init__()
        if not eps > 0:
            raise ValueError(f"eps must be positive, got {eps}; for a plain absolute difference use L1.")
        self.eps = eps

    def forward(self, pred: Image, target: Float[Tensor, "#b 3 h w"]) -> Distance:
        x, y = common_pair(pred, target)
        d2 = (x - y).square()
        # sqrt(d2 + eps^2) - eps without cancellation
        return (d2 / ((d2 + self.eps**2).sqrt() + self.eps)).flatten(1).mean(1)


def psnr(images: Image, reference: Image) -> Distance:
    """Peak signal-to-noise ratio of images in [0, 1] to their references, in dB, `(b,)`; larger is more alike."""
    return -10 * (images.to(reference) - reference).square().flatten(1).mean(1).log10()
