"""Code that the losses on pairs of images share: checks, the common dtype, and binding to a reference."""

from __future__ import annotations

import torch
from torch import Tensor

from dreamsim_guidance.loss import Loss, PairLoss
from dreamsim_guidance.preprocess import check_candidate, check_images
from dreamsim_guidance.types import Image

__all__ = ["bind", "check_agreement", "check_pair", "common_pair"]


def bind(pair: PairLoss, reference: Image | None) -> Loss | PairLoss:
    """The loss towards `reference`, or the pair loss itself where it is None."""
    return pair if reference is None else pair.against(reference)


def check_pair(pred: Tensor, target: Tensor) -> None:
    """Raise TypeError or ValueError unless both are batches in [0, 1] of the same size; the target's batch may be 1."""
    check_images(pred, "pred")
    check_images(target, "target")
    check_agreement(pred, tuple(target.shape))
    if pred.device != target.device:
        raise ValueError(
            f"pred and target must be on one device, got {pred.device} and {target.device}; "
            "use target.to(pred.device), or loss.to(device) for a loss that holds its reference."
        )
    check_candidate(pred, "pred", overshoot=True)
    check_candidate(target, "target")


def check_agreement(pred: Tensor, target: tuple[int, ...]) -> None:
    """Raise ValueError unless `pred` fits a target of this shape: the same size, and the same batch or a batch of 1."""
    if tuple(pred.shape[-2:]) != target[-2:] or target[0] not in (1, pred.shape[0]):
        raise ValueError(
            f"pred and target must have one size, and target the same batch or one image, got {tuple(pred.shape)} and "
            f"{target}; dreamsim_guidance.preprocess.resize(images, (height, width)) changes the size."
        )


def common_pair(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both batches, checked, in their common dtype, at least float32 because half-precision differences are coarse."""
    check_pair(pred, target)
    dtype = torch.promote_types(torch.promote_types(pred.dtype, target.dtype), torch.float32)
    return pred.to(dtype), target.to(dtype).expand_as(pred)
