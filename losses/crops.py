"""Distances of crops, for detail that a metric of fixed input size cannot see.

DreamSim resizes every picture to 224 x 224. A mean over the whole picture and its crops compares each part at that size:

    d(x, y) = sum_k w_k d(crop_k x, crop_k y) / sum_k w_k

Boxes are fractions of height and width, so that image and reference may have different resolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dreamsim_guidance.loss import Loss
from dreamsim_guidance.preprocess import check_images, check_range
from dreamsim_guidance.types import Distance, Image
from dreamsim_guidance.views import FULL, Box, cut, grid

__all__ = ["FULL", "Box", "MultiCrop", "grid", "target_of"]


def MultiCrop(
    metric: Any, reference: Image, crops: Sequence[Box] | None = None, weights: Sequence[int | float] | None = None
) -> Loss:
    """Weighted mean of a metric's distances to crops of the reference; a term called "crops".

    metric: anything that can be bound to a reference: a `DreamSim` (`.target`) or a pair loss (`.against`).
    reference: `(1 or b, 3, h, w)` in [0, 1].
    crops: boxes (top, left, bottom, right) in [0, 1], by default the whole picture and a 2 x 2 grid.
    weights: one number per crop, with a positive sum; equal by default.

    Costs one pass of the metric per crop. Raises ValueError for a crop outside the image or without a pixel.
    """
    crops = (FULL, *grid(2)) if crops is None else tuple(crops)
    weights = (1.0,) * len(crops) if weights is None else tuple(weights)
    if not crops or len(weights) != len(crops):
        raise ValueError(f"at least one crop and one weight per crop are needed, got {len(crops)} and {len(weights)}.")
    if not sum(weights) > 0:
        raise ValueError(f"the weights of the crops must have a positive sum, got {weights}.")
    check_images(reference, "reference")
    check_range(reference, "reference")
    parts = [
        weight / sum(weights) * _Crop(target_of(metric, cut(reference, box)), box)
        for weight, box in zip(weights, crops, strict=True)
    ]
    return sum(parts[1:], start=parts[0]).named("crops")


def target_of(metric: Any, reference: Image) -> Any:
    """The metric's loss towards `reference`: `metric.target(reference)` or `metric.against(reference)`."""
    for method in ("target", "against"):
        if callable(getattr(metric, method, None)):
            return getattr(metric, method)(reference)
    raise TypeError(f"a metric with .target(image), or a pair loss with .against(image), is needed, got {metric!r}.")


def target_at(target: Any, step: int | float) -> Any:
    """The bound loss with its scheduled weights fixed at their value for `step`, if it has any."""
    return target.at(step) if isinstance(target, Loss) else target


class _Crop(Loss):
    name = "crop"
    capturable = True

    def __init__(self, target: Any, box: Box) -> None:
        super().__init__()
        self.target = target
        self.box = box

    def forward(self, images: Image) -> Distance:
        check_images(images)
        return self.target(cut(images, self.box))

    def at(self, step: int | float) -> Loss:
        fixed = target_at(self.target, step)
        return self if fixed is self.target else _Crop(fixed, self.box)
