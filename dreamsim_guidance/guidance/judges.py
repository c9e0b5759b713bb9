"""Held-out judges: what of the gain is seen by others than the guide.

The two that need no weights stand here: L2 (root mean square difference) and 1 - SSIM to the references.

Wang et al., Image quality assessment: from error visibility to structural similarity, IEEE TIP 2004.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dreamsim_guidance.preprocess import resize

__all__ = ["judges_of"]


def judges_of(loss: Any) -> dict[str, Callable[[Tensor], Tensor]]:
    """Judges towards the pictures that a loss is bound to (its `references`), by name; none where it has none."""
    parts = loss.modules() if isinstance(loss, nn.Module) else [loss]
    found: list[Any] = [part for part in parts if isinstance(getattr(part, "references", None), Tensor)]
    if not found:
        return {}
    references, reduction = found[0].references, getattr(found[0], "reduction", None)

    def compare(judge: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def distance(images: Tensor) -> Tensor:
            own = references.to(images.device, images.dtype)
            images = resize(images, (own.shape[-2], own.shape[-1])).clamp(0, 1)
            if reduction is not None:  # every image meets every reference
                values = torch.stack([judge(images, one.expand_as(images)) for one in own])
                return values.amin(0) if reduction == "min" else values.mean(0)
            return judge(images, own.repeat_interleave(max(1, len(images) // len(own)), dim=0))

        return distance

    return {"l2": compare(_l2), "1 - ssim": compare(_dissimilarity)}


def _l2(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).square().flatten(1).mean(1).sqrt()


def _dissimilarity(x: Tensor, y: Tensor) -> Tensor:
    from kornia.metrics import ssim

    window = min(11, *x.shape[-2:])
    return 1 - ssim(x, y, window - 1 + window % 2).flatten(1).mean(1)
