"""Held-out judges: what of the gain is seen by others than the guide.

The two that need no weights stand here: L2 (root mean square difference) and 1 - SSIM to the references, under the mask,
weights and reduction of the target; where a loss has several targets, their mean.

Wang et al., Image quality assessment: from error visibility to structural similarity, IEEE TIP 2004.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dreamsim_guidance.preprocess import resize

__all__ = ["judges_of"]

Judge = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From images, as many references, and a mask `(1 or b, 1, h, w)` to one value for each."""


def judges_of(loss: Any) -> dict[str, Callable[[Tensor], Tensor]]:
    """Judges towards the pictures that a loss is bound to (its `references`), by name; none where it has none."""
    parts = loss.modules() if isinstance(loss, nn.Module) else [loss]
    found: list[Any] = [part for part in parts if isinstance(getattr(part, "references", None), Tensor)]
    if not found:
        return {}

    def of(judge: Judge) -> Callable[[Tensor], Tensor]:
        return lambda images: torch.stack([_towards(target, judge, images) for target in found]).mean(0)

    return {"l2": of(_l2), "1 - ssim": of(_dissimilarity)}


def _towards(target: Any, judge: Judge, images: Tensor) -> Tensor:
    """What a judge says of images `(b, 3, h, w)` and a target's references, `(b,)`."""
    own = target.references.to(images.device, images.dtype)
    images = resize(images, (own.shape[-2], own.shape[-1])).clamp(0, 1)
    mask, reduction = getattr(target, "mask", None), getattr(target, "reduction", None)
    where = torch.ones_like(images[:1, :1])
    if mask is not None:
        mask = mask[:, None] if mask.ndim == 3 else mask
        where = resize(mask.expand(-1, 3, -1, -1).to(images), (own.shape[-2], own.shape[-1])).clamp(0, 1)[:, :1]
    where = where.repeat_interleave(max(1, len(images) // len(where)), dim=0)
    if reduction is None:
        return judge(images, own.repeat_interleave(max(1, len(images) // len(own)), dim=0), where)
    values = torch.stack(
        [judge(images, one.expand_as(images), where) for one in own]
    )  # every image meets every reference
    if reduction == "min":
        return values.amin(0)
    weights = getattr(target, "weights_of_references", None)
    return values.mean(0) if weights is None else (values * weights.to(values)[:, None]).sum(0)


def _l2(x: Tensor, y: Tensor, where: Tensor) -> Tensor:
    return _mean((x - y).square(), where).sqrt()


def _dissimilarity(x: Tensor, y: Tensor, where: Tensor) -> Tensor:
    from kornia.metrics import ssim

    window = min(11, *x.shape[-2:])
    return 1 - _mean(ssim(x, y, window - 1 + window % 2), where)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Over the pixels of the mask, `(b,)`."""
    weights = where.expand_as(values)
    return (values * weights).flatten(1).sum(1) / weights.flatten(1).sum(1).clamp_min(1e-12)
