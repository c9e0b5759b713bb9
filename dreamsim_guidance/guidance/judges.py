"""Held-out judges: what of the gain is seen by others than the guide.

Two need no weights: the root mean square difference (RMS) and 1 - SSIM to the references, under the mask,
weights and reduction of the target; where a loss has several targets, their mean.

Wang et al., Image quality assessment: from error visibility to structural similarity, IEEE TIP 2004.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dreamsim_guidance.preprocess import resize
from dreamsim_guidance.types import Distance, Image, Mask

__all__ = ["dissimilarity", "judges_of", "rms"]

Judge = Callable[[Tensor, Tensor, Mask | None], Tensor]
"""From images, as many references, and a mask to one value for each."""


def rms(x: Image, y: Image, mask: Mask | None = None) -> Distance:
    """Root mean square difference of pixels in [0, 1], each weighted by the mask."""
    return _mean((x - y).square(), mask).sqrt()


def dissimilarity(x: Image, y: Image, mask: Mask | None = None) -> Distance:
    """1 - SSIM, the mean over the pixels weighted by the mask; the window is 11 pixels wide, or what the images hold."""
    from kornia.metrics import ssim

    window = min(11, *x.shape[-2:])
    return 1 - _mean(ssim(x, y, window - 1 + window % 2), mask)


def judges_of(loss: Any) -> dict[str, Callable[[Tensor], Tensor]]:
    """Judges towards the pictures that a loss is bound to (its `references`), by name; none where it has none."""
    parts = loss.modules() if isinstance(loss, nn.Module) else [loss]
    found: list[Any] = [part for part in parts if isinstance(getattr(part, "references", None), Tensor)]
    if not found:
        return {}

    def of(judge: Judge) -> Callable[[Tensor], Tensor]:
        return lambda images: torch.stack([_towards(target, judge, images) for target in found]).mean(0)

    return {"rms": of(rms), "1 - ssim": of(dissimilarity)}


def _towards(target: Any, judge: Judge, images: Tensor) -> Tensor:
    """What a judge says of images `(b, 3, h, w)` and a target's references, `(b,)`."""
    own = target.references.to(images.device, images.dtype)
    images = resize(images, (own.shape[-2], own.shape[-1])).clamp(0, 1)
    mask, reduction = getattr(target, "mask", None), getattr(target, "reduction", None)
    if mask is not None:
        mask = mask.to(images).repeat_interleave(max(1, len(images) // len(mask)), dim=0)
    if reduction is None:
        return judge(images, own.repeat_interleave(max(1, len(images) // len(own)), dim=0), mask)
    # every image meets every reference
    values = torch.stack([judge(images, one.expand_as(images), mask) for one in own])
    if reduction == "min":
        return values.amin(0)
    weights = getattr(target, "weights_of_references", None)
    return values.mean(0) if weights is None else (values * weights.to(values)[:, None]).sum(0)


def _mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Over channels and pixels, `(b,)`; a mask of another size is brought to the values'."""
    if mask is None:
        return values.flatten(1).mean(1)
    share = F.interpolate(mask.float(), values.shape[-2:], mode="bilinear", antialias=True).expand_as(values)
    return (values * share).flatten(1).sum(1) / share.flatten(1).sum(1).clamp_min(1e-12)
