"""Judges: distances to the references that take no part in the guidance, and show whether its gain is real.

Two judges need no weights: the root mean square difference (RMS) and 1 - SSIM to the references, with the mask, weights and
reduction of the target. Where a loss has several targets, a judge is the mean over them.

Wang et al., Image quality assessment: from error visibility to structural similarity, IEEE TIP 2004.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dreamsim_guidance.metric.target import Target
from dreamsim_guidance.preprocess import resize
from dreamsim_guidance.types import Distance, Image, Mask

__all__ = ["dissimilarity", "judges_of", "rms"]

PairJudge = Callable[[Tensor, Tensor, Mask | None], Tensor]
"""From images, as many references, and a mask to one value for each pair."""


def rms(x: Image, y: Image, mask: Mask | None = None) -> Distance:
    """Root mean square difference of images in [0, 1], one value per pair; pixels are weighted by the mask."""
    return _mean((x - y).square(), mask).sqrt()


def dissimilarity(x: Image, y: Image, mask: Mask | None = None) -> Distance:
    """1 - SSIM of images in [0, 1], one value per pair; pixels are weighted by the mask.

    The window is 11 pixels wide, or the largest odd number that the images have room for.
    """
    from kornia.metrics import ssim

    window = min(11, *x.shape[-2:])
    return 1 - _mean(ssim(x, y, window - 1 + window % 2), mask)


def judges_of(loss: Any) -> dict[str, Callable[[Tensor], Tensor]]:
    """The judges "rms" and "1 - ssim" towards the reference pictures of a loss, by name.

    Pictures are those of the `Target`s (from `DreamSim.target`) in the loss that keep theirs, the loss itself or any module
    inside it. Attributes of other losses are never taken for pictures, whatever their name. Empty if there are none.
    """
    parts = loss.modules() if isinstance(loss, nn.Module) else ()
    targets = [part for part in parts if isinstance(part, Target) and part.references is not None]
    if not targets:
        return {}

    def towards_all(judge: PairJudge) -> Callable[[Tensor], Tensor]:
        return lambda images: torch.stack([_towards(target, judge, images) for target in targets]).mean(0)

    return {"rms": towards_all(rms), "1 - ssim": towards_all(dissimilarity)}


def _towards(target: Target, judge: PairJudge, images: Tensor) -> Tensor:
    """A judge's values `(b,)` for images `(b, 3, h, w)` and a target's references."""
    assert target.references is not None  # `judges_of` has looked
    references = target.references.to(images.device, images.dtype)
    images = resize(images, (references.shape[-2], references.shape[-1])).clamp(0, 1)
    mask, weights = target.mask, target.weights_of_references
    if mask is not None:
        mask = mask.to(images).repeat_interleave(max(1, len(images) // len(mask)), dim=0)
    if target.reduction is None:
        return judge(images, references.repeat_interleave(max(1, len(images) // len(references)), dim=0), mask)
    # every image meets every reference
    values = torch.stack([judge(images, reference.expand_as(images), mask) for reference in references])
    if target.reduction == "min":
        return values.amin(0)
    return values.mean(0) if weights is None else (values * weights.to(values)[:, None]).sum(0)


def _mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Weighted mean over channels and pixels, `(b,)`; a mask of another size is resized to the values'."""
    if mask is None:
        return values.flatten(1).mean(1)
    share = F.interpolate(mask.float(), values.shape[-2:], mode="bilinear", antialias=True).expand_as(values)
    return (values * share).flatten(1).sum(1) / share.flatten(1).sum(1).clamp_min(1e-12)
