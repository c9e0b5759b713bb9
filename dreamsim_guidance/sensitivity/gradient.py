"""Where a small change of a picture would change its distance most: the smoothed gradient of the distance.

    g(p) = 1/n sum_i sum_channels |grad_x d(reference, x)(p)| at x = clip(picture + noise_i)

with n noisy copies (standard deviation 0.05, seed fixed), then a Gaussian of one hundredth of the shorter side. Single
gradients of deep networks look like noise; the mean over noisy copies shows what they have in common.

Smilkov et al., SmoothGrad: removing noise by adding noise, 2017.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from dreamsim_guidance.evaluation.metrics.differentiable import ImageMetric
from dreamsim_guidance.preprocess import resize
from dreamsim_guidance.types import Image

__all__ = ["COPIES", "NOISE", "gradient_map"]

COPIES, NOISE, _BLUR = 8, 0.05, 0.01


def gradient_map(metric: ImageMetric, reference: Image, picture: Image, seed: int = 0) -> NDArray[np.float64]:
    """Return how strongly the distance depends on each pixel of `picture`, `(h, w)`, at least 0.

    reference, picture: `(1, 3, h, w)` in [0, 1], of one size if the metric reads pictures at their own size.

    Raises ValueError for a metric without a gradient, or one that is zero everywhere (as for equal pictures) or not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(picture.shape[-2:], dtype=torch.float64)
    square = None if metric.size is None else (metric.size, metric.size)
    compare = metric.towards(_sized(reference.to(metric.device), square))
    for _ in range(COPIES):
        noise = NOISE * torch.randn(picture.shape, generator=generator)
        x = (picture + noise).clamp(0, 1).to(metric.device).requires_grad_()
        with torch.enable_grad():
            distance = compare(_sized(x, square))
            if not distance.requires_grad:
                raise ValueError(
                    "the metric has no gradient: its distance does not depend on the pixels through torch."
                )
            (gradient,) = torch.autograd.grad(distance.sum(), x, allow_unused=True)
        if gradient is None:
            raise ValueError("the metric has no gradient: its distance does not depend on the pixels through torch.")
        total += gradient.detach().double().abs().sum(1)[0].cpu() / COPIES
    values = total.numpy()
    if not np.isfinite(values).all():
        raise ValueError("the gradient of the distance is not finite.")
    if not values.any():
        raise ValueError("the gradient of the distance is zero at every pixel.")
    return gaussian_filter(values, _BLUR * min(values.shape))


def _sized(images: Tensor, square: tuple[int, int] | None) -> Tensor:
    return images if square is None else resize(images, square)
